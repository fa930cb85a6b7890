"""Declared indexes of PostgreSQL: how they are written as SQL, how they differ from real ones, and what has to be done.

Nothing here talks to a database: `postgresql_indexes` asks it, and carries out what is planned here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# The longest name of an index in bytes: NAMEDATALEN - 1 of PostgreSQL.
NAME_BYTES = 63
# What a name ends in while an index is exchanged. No declared name may.
NEW, OLD = "_terrace_new", "_terrace_old"
# What REINDEX CONCURRENTLY leaves behind where it is cut off, with a number where there are several.
# https://www.postgresql.org/docs/17/sql-reindex.html#SQL-REINDEX-CONCURRENTLY
REINDEXED = re.compile(r"_cc(new|old)\d*")

# What PostgreSQL says of an index, of which a difference makes it another one: the column of FACTS, and its name for
# people. All of it is normalised by PostgreSQL itself.
COMPARED = {
    "method": "method",
    "is_unique": "unique",
    "nulls_distinct": "nulls_distinct",
    "key_count": "columns",
    "keys": "columns",
    "order_and_nulls": "order and nulls",
    "opclasses": "operator classes",
    "opclass_options": "operator classes",
    "collations": "collations",
    "predicate": "where",
    "parameters": "with",
}
# Those that are a list with what each column has.
OF_COLUMNS = ("order_and_nulls", "opclasses", "opclass_options", "collations")

# Every index of some tables, and those that have some names: what is compared, and in what state it is.
# Parameters: `tables` (oids), `schemas` and `names` (as many, in pairs).
FACTS = """
SELECT x.oid, s.nspname AS schema, x.relname AS name, i.indrelid AS table_oid, i.indrelid::regclass::text AS table_name,
       am.amname AS method, i.indisunique AS is_unique, NOT i.indnullsnotdistinct AS nulls_distinct,
       i.indnkeyatts AS key_count, i.indoption::int2[] AS order_and_nulls,
       (SELECT array_agg(pg_get_indexdef(x.oid, n, false) ORDER BY n) FROM generate_series(1, i.indnatts) AS n) AS keys,
       (SELECT array_agg(o.opcnamespace::regnamespace || '.' || o.opcname ORDER BY n)
          FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS u (oid, n) JOIN pg_opclass AS o ON o.oid = u.oid)
           AS opclasses,
       (SELECT array_agg(coalesce(array_to_string(a.attoptions, ','), '') ORDER BY a.attnum)
          FROM pg_attribute AS a WHERE a.attrelid = x.oid) AS opclass_options,
       (SELECT array_agg(u.oid::regcollation::text ORDER BY n)
          FROM unnest(i.indcollation::oid[]) WITH ORDINALITY AS u (oid, n)) AS collations,
       pg_get_expr(i.indpred, i.indrelid) AS predicate,
       ARRAY(SELECT unnest(x.reloptions) ORDER BY 1) AS parameters,
       i.indisvalid AND i.indisready AND i.indislive AS is_valid, i.indisreplident AS is_identity,
       pg_get_indexdef(x.oid) AS definition,
       (SELECT c.conname FROM pg_constraint AS c WHERE c.conindid = x.oid ORDER BY c.contype = 'f', c.conname LIMIT 1)
           AS "constraint",
       EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE x.oid = p.index_relid) AS is_under_way
  FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_namespace AS s ON s.oid = x.relnamespace
  JOIN pg_am AS am ON am.oid = x.relam
 WHERE i.indrelid = ANY (%(tables)s::oid[])
    OR (s.nspname, x.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
 ORDER BY x.relname
"""


class IndexesError(Exception):
    """A declared index cannot be; the text is one line, with its place and its mend."""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Parameters:
        kind: `build`, `exchange` or `drop`.
        name: the index that it makes, has take over, or drops.
        statements: what it runs; those of an exchange in one transaction.
    """

    kind: str
    name: str
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """What has to be done for one declared index.

    Parameters:
        outcome: `created`, `changed`, `rebuilt`, `dropped`, or `tidied` where only remains are dropped.
        index: as declared.
        why: in words, what differs.
        steps: in order.
    """

    outcome: str
    index: Mapping[str, Any]
    why: str
    steps: tuple[Step, ...]


def quoted(name: str) -> str:
    """Return an identifier as SQL has it, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def schema_and_table(table: str) -> tuple[str, str]:
    """Return the schema and the name of a declared table; without a schema it is `public`."""
    schema, _, name = table.rpartition(".")
    return schema or "public", name


def qualified(table: str, name: str = "") -> str:
    """Return a declared table, or something of this name in its schema, as SQL has it."""
    schema, own = schema_and_table(table)
    return f"{quoted(schema)}.{quoted(name or own)}"


def interim(name: str, ending: str) -> str:
    """Return the name that an index has while it is exchanged: its own with an ending.

    A longer one is cut and told apart by its checksum: PostgreSQL would cut the ending.

    Parameters:
        name: the declared name.
        ending: NEW or OLD.
    """
    room = NAME_BYTES - len(ending)
    raw = name.encode()
    if len(raw) > room:
        name = raw[: room - 9].decode(errors="ignore") + f"_{zlib.crc32(raw):08x}"
    return name + ending


def create(index: Mapping[str, Any], name: str = "", concurrently: bool = True, on: str = "") -> str:
    """Return the statement that makes a declared index.

    Parameters:
        index: as declared, with every key of the contract; `table` beside them.
        name: another name than its own.
        concurrently: whether the table can be written to meanwhile.
        on: another table than its own, as SQL has it.
    """
    words = ["CREATE"] + ["UNIQUE"] * bool(index["unique"]) + ["INDEX"] + ["CONCURRENTLY"] * concurrently
    words += [quoted(name or index["name"]), "ON", on or qualified(index["table"]), "USING", index["method"]]
    words.append("(" + ", ".join(map(_column, index["columns"])) + ")")
    if index["include"]:
        words.append("INCLUDE (" + ", ".join(map(quoted, index["include"])) + ")")
    if index["unique"] and not index["nulls_distinct"]:
        words.append("NULLS NOT DISTINCT")
    if index["with"]:
        words.append("WITH (" + ", ".join(f"{key} = {_value(value)}" for key, value in index["with"].items()) + ")")
    if index["where"]:
        words.append(f"WHERE ({index['where'].strip()})")
    return " ".join(words)


def _column(column: Mapping[str, Any]) -> str:
    words = [quoted(column["column"]) if column["column"] else f"({column['expression'].strip()})"]
    if column["collation"]:
        words.append(f"COLLATE {quoted(column['collation'])}")
    if column["opclass"]:
        name, bracket, options = column["opclass"].partition("(")
        words.append(".".join(map(quoted, name.strip().split("."))) + (f" ({options}" if bracket else ""))
    if column["order"]:
        words.append(column["order"].upper())
    if column["nulls"]:
        words.append(f"NULLS {column['nulls'].upper()}")
    return " ".join(words)


def _value(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def differences(declared: Mapping[str, Any], real: Mapping[str, Any]) -> list[str]:
    """Return in what two indexes differ, in the words of the contract; nothing where they are the same.

    Parameters:
        declared: what PostgreSQL says (FACTS) of the declared one, made on an empty copy of its table.
        real: what it says of the one that is there.
    """
    differ = [fact for fact in COMPARED if declared[fact] != real[fact]]
    if len(declared["keys"]) != len(real["keys"]):
        # With other columns, all that is told of each is another list, too.
        differ = [fact for fact in differ if fact not in OF_COLUMNS]
    return list(dict.fromkeys(COMPARED[fact] for fact in differ))


def drop(index: Mapping[str, Any], name: str) -> Step:
    """Return the step that drops an index in the schema of a declared one."""
    return Step("drop", name, (f"DROP INDEX CONCURRENTLY IF EXISTS {qualified(index['table'], name)}",))


def build(index: Mapping[str, Any], name: str = "") -> Step:
    """Return the step that builds a declared index, under another name than its own where one is given."""
    return Step("build", name or index["name"], (create(index, name),))


def exchange(index: Mapping[str, Any], there: bool) -> Step:
    """Return the step by which the index that was built anew takes over the name: at no moment is there none.

    Parameters:
        index: as declared.
        there: whether the name is still taken by the one before.
    """
    name = index["name"]
    new, old = interim(name, NEW), interim(name, OLD)
    away = [f"ALTER INDEX {qualified(index['table'], name)} RENAME TO {quoted(old)}"] if there else []
    return Step("exchange", name, (*away, f"ALTER INDEX {qualified(index['table'], new)} RENAME TO {quoted(name)}"))


def remains(index: Mapping[str, Any], real: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what a REINDEX that was cut off left of a declared index: invalid, and nobody builds it."""
    return [
        facts["name"]
        for facts in real
        if facts["name"].startswith(index["name"])
        and REINDEXED.fullmatch(facts["name"].removeprefix(index["name"]))
        and not facts["is_valid"]
        and not facts["is_under_way"]
    ]


def work(
    index: Mapping[str, Any], declared: Mapping[str, Any] | None, real: Mapping[str, Mapping], table: int | None
) -> Work | None:
    """Return what has to be done for a declared index; None where it is as declared.

    Parameters:
        index: as declared.
        declared: what PostgreSQL says of it, made on an empty copy of the table; None where it is to be absent.
        real: by name, what it says of the indexes in the schema that have to do with it.
        table: the oid of its table; None where there is none.
    Errors:
        IndexesError, where it would have to touch what it must not.
    """
    name = index["name"]
    old, new, left = (real.get(each) for each in (name, interim(name, NEW), interim(name, OLD)))
    for facts in filter(None, (old, new, left)):
        _refuse(index, facts, table)
    tidy = [drop(index, each) for each in remains(index, real.values())]
    if index["state"] == "absent":
        return _absent(index, old, [drop(index, facts["name"]) for facts in (old, new, left) if facts] + tidy)
    again = [drop(index, new["name"])] if new else []
    gone = [drop(index, left["name"])] if left else []
    usable = new is not None and new["is_valid"] and not differences(declared, new)
    anew = [] if usable else [*again, build(index, interim(name, NEW))]
    if old is None:
        steps = [exchange(index, there=False)] if usable else [*again, build(index)]
        return Work("created", index, "is missing", (*steps, *gone, *tidy))
    if not old["is_valid"]:
        _held(index, old, "is not valid")
        return Work(
            "rebuilt",
            index,
            "is not valid: its build was cut off",
            (drop(index, name), *again, build(index), *gone, *tidy),
        )
    if differ := differences(declared, old):
        why = f"differs in {', '.join(differ)}"
        _held(index, old, why)
        steps = (*gone, *anew, exchange(index, there=True), drop(index, interim(name, OLD)), *tidy)
        return Work("changed", index, why, steps)
    rest = (*again, *gone, *tidy)
    return Work("tidied", index, "has remains of a run that was cut off", rest) if rest else None


def _absent(index: Mapping[str, Any], old: Mapping | None, steps: list[Step]) -> Work | None:
    if old:
        _held(index, old, "is to be absent")
    if not steps:
        return None
    return Work("dropped" if old else "tidied", index, "is to be absent", tuple(steps))


def _refuse(index: Mapping[str, Any], facts: Mapping, table: int | None) -> None:
    """Refuse to go on where the name is that of something else, or somebody is at it."""
    if facts["table_oid"] != table:
        raise IndexesError(
            f"{index['place']}: {facts['name']} is the name of an index of {facts['table_name']}; give it another one"
        )
    if facts["is_under_way"]:
        raise IndexesError(
            f"{index['place']}: somebody builds {facts['name']} at this moment; run it again when that is done "
            "(pg_stat_progress_create_index shows how far it is)"
        )


def _held(index: Mapping[str, Any], facts: Mapping, why: str) -> None:
    """Refuse to touch an index that something else stands on."""
    name = facts["name"]
    if facts["constraint"]:
        raise IndexesError(
            f"{index['place']}: {name} {why}, and the constraint {facts['constraint']} stands on it, so it is not "
            "touched; change the constraint in a migration, or take the index out here"
        )
    if facts["is_identity"]:
        raise IndexesError(
            f"{index['place']}: {name} {why}, and it is the replica identity of its table, so it is not touched; "
            "give the table another one first: ALTER TABLE ... REPLICA IDENTITY"
        )


def statements(works: Iterable[Work]) -> list[str]:
    """Return all statements of some work, in order, those of an exchange between BEGIN and COMMIT."""
    return [statement for each in works for step in each.steps for statement in _statements(step)]


def _statements(step: Step) -> Iterator[str]:
    yield from ("BEGIN", *step.statements, "COMMIT") if step.kind == "exchange" else step.statements


def undeclared(indexes: Iterable[Mapping[str, Any]], real: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the indexes that tables of declared ones have besides, constraints' left out, by table and name.

    Parameters:
        indexes: all that are declared of a database.
        real: what PostgreSQL says of the indexes of their tables.
    """
    real = list(real)
    known = set()
    for index in indexes:
        schema, _ = schema_and_table(index["table"])
        ours = (index["name"], interim(index["name"], NEW), interim(index["name"], OLD), *remains(index, real))
        known |= {(schema, each) for each in ours}
    return [
        {
            "table": facts["table_name"],
            "name": facts["name"],
            "definition": facts["definition"],
            "valid": facts["is_valid"],
        }
        for facts in sorted(real, key=lambda facts: (facts["table_name"], facts["name"]))
        if (facts["schema"], facts["name"]) not in known and not facts["constraint"]
    ]


def progress(row: Mapping[str, Any]) -> str:
    """Return how far a build is, such as `orders: orders_day_idx: building index: loading tuples in tree, 43 %`.

    Parameters:
        row: one of PROGRESS.
    """
    shares = [
        100 * row[f"{what}_done"] // row[f"{what}_total"]
        for what in ("blocks", "tuples", "lockers")
        if row[f"{what}_total"]
    ]
    text = f"{row['database']}: {row['index'] or row['table']}: {row['phase']}"
    # Later parts of a phase leave what the ones before them counted.
    return f"{text}, {min(shares[-1], 100)} %" if shares and not row["phase"].startswith("waiting") else text


# What is built at this moment in a database, and how far it is.
PROGRESS = """
SELECT current_database() AS database, coalesce(x.relname, '') AS index, p.relid::regclass::text AS "table", p.phase,
       p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total, p.lockers_done, p.lockers_total
  FROM pg_stat_progress_create_index AS p JOIN pg_stat_activity AS a USING (pid)
  LEFT JOIN pg_class AS x ON x.oid = p.index_relid
 WHERE p.datname = current_database() AND a.application_name = %(application)s
"""
