"""What is declared of a database's indexes: named, put in a list, and everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from terrace.contracts import Finding, contract, filled, shown

# The longest name in bytes, and what an index's own ends in: NAMEDATALEN - 1 and ChooseIndexName of PostgreSQL.
NAME_BYTES = 63
LABEL = "idx"
# Names that Terrace itself, and REINDEX CONCURRENTLY, give to indexes that are built or dropped.
OURS = re.compile(r".*(_terrace_(new|old)|_cc(new|old)\d*)")
PARAMETER = re.compile(r"[a-z][a-z0-9_]*")
PARAMETER_VALUE = re.compile(r"[A-Za-z0-9_.+-]+")
OPCLASS = re.compile(r"\w+(\.\w+)?( *\( *\w+ *= *[\w.'-]+( *, *\w+ *= *[\w.'-]+)* *\))?")
# A call of one function is all of an expression that has a name of its own.
CALL = re.compile(r"\s*(?:\w+\.)?(\w+)\s*\(")
# What each method can do. https://www.postgresql.org/docs/17/sql-createindex.html, and pg_indexam_has_property
ORDERED = UNIQUE = ("btree",)
COVERING = ("btree", "gist", "spgist")
ONE_COLUMN = ("hash", "spgist")
# Strings, quoted names, and dollar-quoted strings: what is in them is no SQL.
QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$", re.DOTALL)


def _bytes(text: str) -> int:
    return len(text.encode())


def _cut(text: str, length: int) -> str:
    return text.encode()[:length].decode(errors="ignore")


def derived_name(table: str, index: Mapping[str, Any]) -> str:
    """Return the name that PostgreSQL would give an index: `table_column_column_idx`, cut to 63 bytes.

    Of an expression it takes the function's name where it is one call, else `expr`; the same name twice gets a number.
    See ChooseIndexNameAddition, ChooseIndexColumnNames and makeObjectName in PostgreSQL 17.

    Parameters:
        table: as declared.
        index: with `columns` and `include`, every key filled in.
    """
    parts: list[str] = []
    for column in [*index["columns"], *({"column": name} for name in index["include"])]:
        name = own = column["column"] or _expression_name(column["expression"])
        number = 1
        while name in parts:
            name = f"{own}{number}"
            number += 1
        parts.append(name)
    first, second = table.rpartition(".")[2], ""
    for part in parts:
        second += f"_{part}" if second else part
        if _bytes(second) > NAME_BYTES:
            break
    room = NAME_BYTES - len(LABEL) - 2
    lengths = [_bytes(first), _bytes(second)]
    while sum(lengths) > room:
        lengths[0 if lengths[0] > lengths[1] else 1] -= 1
    return f"{_cut(first, lengths[0])}_{_cut(second, lengths[1])}_{LABEL}"


def _expression_name(expression: str) -> str:
    call = CALL.match(expression)
    bare = QUOTED.sub("''", expression).strip()
    # One call is what ends where its bracket ends.
    return call[1].lower() if call and _depths(bare).count(0) <= bare.index("(") + 1 else "expr"


def _depths(text: str) -> list[int]:
    """Return how many brackets are open after each character."""
    depths, depth = [], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        depths.append(depth)
    return depths


def listed(indexes: Mapping[str, list[Mapping]], place: str) -> list[dict[str, Any]]:
    """Return all indexes of a database in a list, each with its `table`, its `place` and a name.

    Parameters:
        indexes: by table, every key filled in.
        place: where they are declared, such as `services/orders.yml: database.indexes`.
    """
    return [
        {
            **index,
            "table": table,
            "name": index["name"] or derived_name(table, index),
            "place": f"{place}.{table}[{number}]",
        }
        for table, its in indexes.items()
        for number, index in enumerate(its)
    ]


def index_findings(indexes: Mapping[str, list[Mapping]], place: str) -> Iterator[Finding]:
    """Return what is wrong with declared indexes, their types left out.

    Parameters:
        indexes: by table, as declared.
        place: what stands before the tables that are told, such as `database.indexes`.
    """
    options = contract("service")["database"]["options"]["indexes"]["options"]
    taken: dict[tuple[str, str], str] = {}
    for table, its in indexes.items():
        schema, _, own = str(table).rpartition(".")
        if not re.fullmatch(r"[^\s.]([^.]*[^\s.])?(\.[^\s.]([^.]*[^\s.])?)?", str(table)):
            yield f"{place}.{table}", "is no name of a table; write table, or schema.table"
            continue
        if schema == "pg_catalog" or schema.startswith(("pg_toast", "pg_temp")):
            yield f"{place}.{table}", "is PostgreSQL's own; declare indexes of tables of the application"
            continue
        for number, given in enumerate(its):
            where = f"{place}.{table}[{number}]"
            index = filled(given, options)
            wrong = [*_name(index, where), *_shape(index, where)]
            yield from wrong
            if wrong:
                continue
            name = index["name"] or derived_name(own, index)
            key = (schema or "public", name)
            if key in taken:
                text = f"is called {name}, as {taken[key]} is; give one of them another name"
                yield f"{where}.name" if index["name"] else where, text
            taken.setdefault(key, where)


def _name(index: Mapping, where: str) -> Iterator[Finding]:
    name = index["name"]
    if not name and not index["columns"]:
        mend = "give columns" if index["state"] == "present" else "give a name, or the columns that it was made of"
        yield where, f"has neither a name nor columns; {mend}"
    elif not index["columns"] and index["state"] == "present":
        yield f"{where}.columns", "is empty; name at least one column, or an expression"
    if _bytes(name) > NAME_BYTES:
        text = f"has {_bytes(name)} bytes, and PostgreSQL keeps {NAME_BYTES}; choose a shorter one"
        yield f"{where}.name", text
    elif name and (name != name.strip() or "\0" in name or "\n" in name):
        yield f"{where}.name", f"is {shown(name)}; give one without spaces around it"
    elif OURS.fullmatch(name):
        yield f"{where}.name", "ends as those of indexes that are being exchanged do; choose another"


def _shape(index: Mapping, where: str) -> Iterator[Finding]:
    method = index["method"]
    columns = index["columns"]
    for number, column in enumerate(columns):
        yield from _column(column, method, f"{where}.columns[{number}]")
    plain = [column["column"] for column in columns if column["column"]]
    for name in dict.fromkeys(index["include"]):
        if not name.strip():
            yield f"{where}.include", "has an empty name; take it out"
        elif name in plain:
            yield f"{where}.include", f"has {name}, which is among the columns already; take it out here"
        elif index["include"].count(name) > 1:
            yield f"{where}.include", f"has {name} twice; keep one"
    if index["include"] and method not in COVERING:
        yield f"{where}.include", f"is not for {method}; take it out, or choose one of {', '.join(COVERING)}"
    if index["unique"] and method not in UNIQUE:
        yield f"{where}.unique", f"is not for {method}; only a btree can be unique"
    if not index["nulls_distinct"] and not index["unique"]:
        yield f"{where}.nulls_distinct", "is of a unique index; add unique: true, or take it out"
    if len(columns) > 1 and method in ONE_COLUMN:
        yield f"{where}.columns", f"has {len(columns)}, and {method} takes one; make an index of each"
    if len(columns) + len(index["include"]) > 32:
        yield (
            f"{where}.columns",
            "has more than 32 with what is included, which PostgreSQL does not take; take some out",
        )
    if index["where"]:
        yield from _one(index["where"], "where", f"{where}.where")
    for name, value in index["with"].items():
        if not PARAMETER.fullmatch(str(name)):
            yield f"{where}.with.{name}", "is no name of a storage parameter; write it as PostgreSQL does: fillfactor"
        elif not isinstance(value, (str, int, float)) or not PARAMETER_VALUE.fullmatch(str(value)):
            yield f"{where}.with.{name}", f"is {shown(value)}; has to be a word, a number, true or false"


def _column(column: Mapping, method: str, where: str) -> Iterator[Finding]:
    name, expression = column["column"], column["expression"]
    if bool(name.strip()) == bool(expression.strip()):
        yield where, "give either a column or an expression"
    elif expression:
        yield from _one(expression, "expression", f"{where}.expression")
    elif "(" in name or re.search(r"\s(asc|desc|nulls)\b", name, re.IGNORECASE):
        yield (
            where,
            f"is {shown(name)}, which is no column; write {{expression: ...}}, or order and nulls beside column",
        )
    for key in ("order", "nulls"):
        if column[key] and method not in ORDERED:
            yield f"{where}.{key}", f"is not for {method}, which has no order; take it out"
    if column["opclass"] and not OPCLASS.fullmatch(column["opclass"]):
        yield f"{where}.opclass", f"is {shown(column['opclass'])}; write its name, and options as in name(siglen=32)"


def _one(text: str, what: str, where: str) -> Iterator[Finding]:
    """Tell of text that is not one expression: it would end the statement, or add to it."""
    bare = QUOTED.sub("''", text)
    depths = _depths(bare)
    outside = "".join(character for character, depth in zip(bare, depths, strict=True) if depth == 0)
    if not bare.strip():
        yield where, "is empty; write one expression of SQL"
    elif ";" in bare:
        yield where, "has a ; in it; write one expression, without what ends a statement"
    elif "--" in bare or "/*" in bare:
        yield where, "has a comment; take it out"
    elif "'" in bare.replace("''", "") or '"' in bare or "$" in bare:
        yield where, "has a quote that is not closed; close it"
    elif min(depths) < 0 or depths[-1] != 0:
        yield where, "has a bracket without its other one; close each that is opened"
    elif what == "expression" and "," in outside:
        yield where, "is more than one expression; give each as a column of its own"
    elif what == "where" and re.match(r"\s*where\b", bare, re.IGNORECASE):
        yield where, "begins with WHERE, which is added; write the condition alone"
