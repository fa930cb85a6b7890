"""Plans of normalised statements: what EXPLAIN (GENERIC_PLAN) says, and what it says with an index that is not there.

No statement is run, so no literal value is needed. hypopg's indexes live in the session that makes them: nothing of
them is on disk, and no other session sees them. So all of this works in read-only transactions, on a replica too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.postgresql_conditions import Predicate, predicates, references, sort_key
from ansible.module_utils.postgresql_text import masked, tokens

CONDITIONS = ("Filter", "Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "One-Time Filter")
# Where rows are made fewer above the scans, what a statement returns says nothing of what it read.
GATHERING = ("Aggregate", "Group", "Unique", "Limit", "SetOp", "Result", "Append", "WindowAgg")

CREATE = "SELECT indexrelid, indexname FROM {schema}.hypopg_create_index(%s)"
DROP = "SELECT {schema}.hypopg_drop_index(%s)"
SIZE = "SELECT {schema}.hypopg_relation_size(%s)"


class PlanError(Exception):
    """A statement could not be planned; the text says why, without a value."""


@dataclass
class Plan:
    """What one plan says.

    Parameters:
        cost: the planner's, of the whole.
        rows: how many it expects to return.
        relations: the tables that it reads, as (schema, name), by their alias.
        predicates: what its conditions say of columns.
        sorts: the keys of each of its sorts, of the groups too, as far as they are of one relation.
        used: the columns that each alias is read for; an index that has all of them needs no table.
        plain: whether what it returns is what its scans found.
        lines: the plan as people read it, without values.
        indexes: the indexes that it uses.
        target: the table that it writes to.
        scans: what reading by each index costs, the table's pages too.
        choices: whether a condition has an OR, of which each side may want an index of its own.
    """

    cost: float
    rows: float
    relations: dict[str, tuple[str, str]] = field(default_factory=dict)
    predicates: list[Predicate] = field(default_factory=list)
    sorts: list[list[Predicate]] = field(default_factory=list)
    used: dict[str, set[str]] = field(default_factory=dict)
    plain: bool = True
    lines: list[str] = field(default_factory=list)
    indexes: set[str] = field(default_factory=set)
    target: tuple[str, str] | None = None
    scans: dict[str, float] = field(default_factory=dict)
    choices: bool = False


def nodes(node: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Return a plan's nodes from the top, each with its depth."""
    yield node, depth
    for inner in node.get("Plans", []):
        yield from nodes(inner, depth + 1)


def line(node: Mapping[str, Any], depth: int) -> str:
    """Return a node as a line that people read; a value in it is hidden."""
    kind = node["Node Type"]
    if kind in ("Hash Join", "Nested Loop", "Merge Join") and node.get("Join Type", "Inner") != "Inner":
        kind = f"{kind} ({node['Join Type'].lower()})"
    if kind == "ModifyTable":
        kind = node.get("Operation", kind)
    words = [kind]
    if "Index Name" in node:
        words.append(f"using {node['Index Name']}")
    if "Relation Name" in node:
        words.append(f"on {node['Relation Name']}")
        if node.get("Alias") not in (None, node["Relation Name"]):
            words.append(node["Alias"])
    text = "  " * depth + " ".join(words) + f"  (cost {node['Total Cost']:,.0f}, rows {node['Plan Rows']:,})"
    for name in (*CONDITIONS, "Sort Key", "Group Key"):
        if name in node:
            value = node[name] if isinstance(node[name], str) else ", ".join(node[name])
            text += f"\n{'  ' * depth}    {name.lower()}: {masked(value)}"
    return text


def read(explained: list[Mapping[str, Any]]) -> Plan:
    """Return what `EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON)` says.

    Parameters:
        explained: the JSON, as data.
    """
    top = explained[0]["Plan"]
    plan = Plan(top["Total Cost"], top["Plan Rows"])
    whole = list(nodes(top))
    for node, _ in whole:
        if "Relation Name" in node and node["Node Type"] != "ModifyTable" and "Alias" in node:
            plan.relations[node["Alias"]] = (node.get("Schema", ""), node["Relation Name"])
        # A bitmap of an index is below the scan of its table.
        own = node if "Index Name" in node and "Relation Name" in node else None
        for inner, _ in nodes(node) if node["Node Type"] == "Bitmap Heap Scan" else ([(own, 0)] if own else []):
            if "Index Name" in inner:
                plan.indexes.add(inner["Index Name"])
                plan.scans[inner["Index Name"]] = max(plan.scans.get(inner["Index Name"], 0), node["Total Cost"])
    aliases = set(plan.relations)
    plan.used = {alias: set() for alias in aliases}
    for node, depth in whole:
        plan.lines += line(node, depth).split("\n")
        plan.plain = plan.plain and node["Node Type"] not in GATHERING
        texts = [node[name] for name in CONDITIONS if name in node]
        for text in texts:
            plan.predicates += predicates(text, aliases)
            plan.choices = plan.choices or any(token.word == "or" for token in tokens(text))
        keys = [*node.get("Sort Key", []), *node.get("Group Key", [])]
        for name in ("Sort Key", "Group Key"):
            _add_sort(plan, node.get(name, []), aliases)
        if node["Node Type"] == "Aggregate":
            for output in node.get("Output", []):
                # PostgreSQL reads a minimum or a maximum from an index's end.
                if output.startswith(("min(", "max(")):
                    # The names of an only relation's columns stand alone.
                    alone = len(aliases) == 1 and "." not in output
                    _add_sort(plan, [f"{next(iter(aliases))}.{output[4:-1]}" if alone else output[4:-1]], aliases)
        scan = "Alias" in node and node["Node Type"] != "ModifyTable"
        # A function, or a list of values, is read by an alias, too.
        if scan and aliases == {node["Alias"]}:
            plan.used[node["Alias"]] |= {word for text in _outputs(top) for word in _words(text)}
        shown = [] if scan and depth else node.get("Output", [])
        for text in [*texts, *keys, *shown]:
            for alias, column in references([t for t in tokens(text) if t.kind != "space"], aliases):
                plan.used[alias].add(column)
    if top["Node Type"] == "ModifyTable":
        scanned = top.get("Plans", [{}])[0]
        plan.rows = scanned.get("Plan Rows", 0)
        plan.target = (top.get("Schema", ""), top.get("Relation Name", ""))
    return plan


def _outputs(top: Mapping[str, Any]) -> list[str]:
    """Return what a plan of one relation hands up."""
    node = top
    while node["Node Type"] in ("Limit", "Gather", "Gather Merge", "LockRows") and node.get("Plans"):
        node = node["Plans"][0]
    return node.get("Output", [])


def _words(text: str) -> list[str]:
    """Return the names in an expression."""
    return [token.text.strip('"') for token in tokens(text) if token.kind in ("word", "identifier")]


def _add_sort(plan: Plan, texts: Iterable[str], aliases: set[str]) -> None:
    """Add the beginning of a sort key that is of one relation: rows that come so ordered are sorted by the rest"
    " only."""
    found: list[Predicate] = []
    for text in texts:
        key = sort_key(text, aliases)
        if not key or (found and key.key.alias != found[0].key.alias):
            break
        found.append(key)
    if found:
        plan.sorts.append(found)


class Session:
    """A session of PostgreSQL that plans, and changes nothing.

    Parameters:
        connection: of psycopg2, as a superuser, to the database of the statements.
        timeout: milliseconds for one plan.
    """

    def __init__(self, connection: Any, timeout: int = 10000) -> None:
        self._connection = connection
        self._connection.autocommit = True
        self._made: dict[str, tuple[int, str]] = {}
        self._run("SET default_transaction_read_only = on")
        self._run(f"SET statement_timeout = {timeout:d}")
        self._run("SET lock_timeout = 1000")
        with suppress(PlanError):
            # What is planned here is not a part of the workload.
            self._run("SET pg_stat_statements.track = 'none'")
        found = self._run(
            "SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace"
            " WHERE extname = 'hypopg'"
        )
        self.schema: str = found[0][0] if found else ""

    def _run(self, statement: str, values: tuple | None = None) -> list[tuple]:
        """Return the rows of a statement; PlanError where it fails."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        except Exception as error:
            code = getattr(error, "pgcode", None)
            if code is None:
                raise
            # PostgreSQL's own words may quote a value.
            raise PlanError(f"{type(error).__name__} ({code})") from error

    def explain(self, statement: str, forced: bool = False) -> Plan:
        """Return the plan of a normalised statement with the hypothetical indexes that there are.

        Parameters:
            statement: of `plannable`.
            forced: whether tables are read whole only where there is no other way.
        Errors:
            PlanError where it cannot be planned.
        """
        if forced:
            self._run("SET enable_seqscan = off")
        try:
            rows = self._run(f"EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) {statement}")
        finally:
            if forced:
                self._run("RESET enable_seqscan")
        return read(rows[0][0])

    def assume(self, definitions: Iterable[str]) -> dict[str, str]:
        """Have exactly these hypothetical indexes, and return the name of each by its CREATE INDEX.

        Errors:
            PlanError where hypopg takes one of them not.
        """
        wanted = list(dict.fromkeys(definitions))
        for definition in [known for known in self._made if known not in wanted]:
            self._run(DROP.format(schema=self.schema), (self._made.pop(definition)[0],))
        for definition in wanted:
            if definition not in self._made:
                made = self._run(CREATE.format(schema=self.schema), (definition,))
                self._made[definition] = made[0]
        return {definition: self._made[definition][1] for definition in wanted}

    def size(self, definition: str) -> int:
        """Return how large an index would be, in bytes, as hypopg estimates it."""
        self.assume([definition])
        return int(self._run(SIZE.format(schema=self.schema), (self._made[definition][0],))[0][0])
