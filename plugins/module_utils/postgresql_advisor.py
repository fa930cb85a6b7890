"""Which indexes a workload lacks: candidates out of its plans, each tried, and the few of them that are worth their
writes.

The time that an index would save is `total time x (1 - cost with it / cost without)`: what the statement has really
taken, and only its change by the planner's word. Chosen is greedily: the best one, then the best beside it, until
what is left is not worth it. The saving of a set of indexes has diminishing returns, for which greedy choice is the
usual answer (Chaudhuri and Narasayya, "An Efficient, Cost-Driven Index Selection Tool for Microsoft SQL Server", VLDB
1997).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ansible.module_utils.postgresql_conditions import (
    ANY,
    CONTAINS,
    EQUAL,
    FALSE,
    NULL,
    PREFIX,
    RANGE,
    TRUE,
    Key,
    Predicate,
)
from ansible.module_utils.postgresql_plans import Plan, PlanError
from ansible.module_utils.postgresql_text import command, plannable, solid

SMALL_PAGES = 16  # a table of so few pages of 8 kB is read whole as quickly as by an index
WORTH = 0.02  # of the time that is left, which an index has to save
HELPS = 0.3  # of a statement's cost that a candidate has to save: the planner's costs are not more exact
# Between two bounds that it does not know, the planner expects 1 row in 200, and most who ask want more: an index has
# to be worth it for 1 row in 20, too.
GUESS = 10
WIDER = 0.1  # more than a narrower one that a wider index has to save
MOST_KEYS = 4
MOST_INCLUDED, MOST_INCLUDED_BYTES = 3, 32
MOST_SIDES = 6  # of an OR, that are tried in pairs
MOST_CANDIDATES = 8  # of one statement that take part in the choice
ENTRY_MS = 0.01  # of one entry into one more index; `bench/run advisor` measures it beside the rest


def quoted(name: str) -> str:
    """Return a name as SQL takes it."""
    plain = name.isidentifier() and name.isascii() and name == name.lower() and name not in RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


# Reserved words of PostgreSQL 17 (manual, appendix C) that tables and columns are likely to be called.
RESERVED = {
    *("all", "analyse", "analyze", "and", "any", "array", "as", "asc", "both", "case", "cast", "check", "collate"),
    *("column", "constraint", "create", "default", "desc", "distinct", "do", "else", "end", "except", "false", "fetch"),
    *("for", "foreign", "from", "grant", "group", "having", "in", "into", "leading", "limit", "not", "null", "offset"),
    *("on", "only", "or", "order", "placing", "primary", "references", "returning", "select", "some", "symmetric"),
    *("table", "then", "to", "trailing", "true", "union", "unique", "user", "using", "variadic", "when", "where"),
    *("window", "with", "current_user", "current_date", "session_user", "localtime", "lateral", "initially"),
}


@dataclass(frozen=True)
class Part:
    """A key of an index: a column's bare name, or an expression in SQL; and how it is ordered."""

    text: str
    expression: bool = False
    descending: bool = False
    nulls_first: bool | None = None

    @property
    def sql(self) -> str:
        """As CREATE INDEX takes it."""
        written = f"({self.text})" if self.expression else quoted(self.text)
        written += " DESC" if self.descending else ""
        if self.nulls_first is not None and self.nulls_first != self.descending:
            written += " NULLS FIRST" if self.nulls_first else " NULLS LAST"
        return written

    @property
    def declared(self) -> str | dict[str, str]:
        """As a service's file takes it."""
        more = {"order": "desc"} if self.descending else {}
        if self.nulls_first is not None and self.nulls_first != self.descending:
            more["nulls"] = "first" if self.nulls_first else "last"
        if self.expression:
            return {"expression": self.text} | more
        return {"column": self.text} | more if more else self.text


@dataclass(frozen=True)
class Index:
    """An index that there might be.

    Parameters:
        table: schema and name.
        parts: its keys.
        include: columns that it only carries.
        where: the condition of the rows that it has; empty for all.
    """

    table: tuple[str, str]
    parts: tuple[Part, ...]
    include: tuple[str, ...] = ()
    where: str = ""

    @property
    def sql(self) -> str:
        """Its CREATE INDEX."""
        table = ".".join(map(quoted, self.table))
        keys = ", ".join(part.sql for part in self.parts)
        included = f" INCLUDE ({', '.join(map(quoted, self.include))})" if self.include else ""
        return f"CREATE INDEX ON {table} ({keys}){included}" + (f" WHERE {self.where}" if self.where else "")

    @property
    def declared(self) -> dict[str, Any]:
        """It, as a service's file takes it."""
        more: dict[str, Any] = {"include": list(self.include)} if self.include else {}
        if self.where:
            more["where"] = self.where
        return {"columns": [part.declared for part in self.parts]} | more

    @property
    def width(self) -> tuple[int, int]:
        """By which of two that save alike the narrower one is known."""
        return len(self.parts) + len(self.include), len(self.include)


@dataclass
class Table:
    """A table, as far as an index's worth depends on it.

    Parameters:
        pages: its size in pages of 8 kB.
        columns: by name `type`, `width` in bytes, and `distinct` values (a count; below 0 a share of the rows, as in
            pg_stats).
        indexes: of each existing index its keys, in SQL; partial ones are left out.
        inserts, updates, hot: rows a second.
        rows: how many there are.
    """

    pages: int
    rows: float
    columns: Mapping[str, Mapping[str, Any]]
    indexes: Sequence[tuple[str, ...]] = ()
    inserts: float = 0.0
    updates: float = 0.0
    hot: float = 0.0

    def distinct(self, column: str) -> float:
        """Return how many different values a column has; 1 where nothing is known."""
        told = float(self.columns.get(column, {}).get("distinct") or 0)
        return -told * self.rows if told < 0 else told or 1.0


@dataclass
class Query:
    """A normalised statement, and what it took.

    Parameters:
        id: pg_stat_statements' queryid.
        text: of `masked`.
        calls, total_ms, rows: how often, how long in all, and how many rows in all.
    """

    id: str
    text: str
    calls: float
    total_ms: float
    rows: float
    statement: str = ""
    plan: Plan | None = None
    failed: str = ""

    @property
    def mean_rows(self) -> float:
        """Rows at a time."""
        return self.rows / self.calls if self.calls else 0.0


class Planner(Protocol):
    """What `postgresql_plans.Session` offers."""

    def explain(self, statement: str, forced: bool = False) -> Plan: ...

    def assume(self, definitions: Iterable[str]) -> dict[str, str]: ...

    def size(self, definition: str) -> int: ...


@dataclass
class Advice:
    """An index that is worth having.

    Parameters:
        saved_ms: what it would have saved of the time that was looked at, beside the others that are advised.
        queries: of each statement that it helps: `id`, `saved_ms`, the planner's cost `before`, and `after` with all
            that is advised.
        bytes: its estimated size.
        entries: that writes would add to it, a second.
        hot_lost: updates a second that can no longer stay on their page (HOT), since they change one of its columns.
        write_ms: what these cost of the time that was looked at.
        replaces: existing indexes (their keys) that it has at its beginning.
        guess: whether it rests on a range of which the planner cannot know how much it selects.
    """

    index: Index
    saved_ms: float
    queries: list[dict[str, Any]]
    bytes: int
    entries: float
    hot_lost: float
    write_ms: float
    replaces: list[tuple[str, ...]] = field(default_factory=list)
    guess: bool = False


def part_of(key: Key, table: Table) -> Part | None:
    """Return a key as one of an index; None where an index cannot have it."""
    if not key.expression:
        return Part(key.text) if key.text in table.columns else None
    kind = str(table.columns.get(key.column, {}).get("type", ""))
    if key.cast == "text" and kind.startswith(("character varying", "text")):
        return Part(key.column)
    return Part(key.text, True) if key.fixed else None


def _unique(found: Iterable[Part | None]) -> list[Part]:
    """Return the keys without those that are none, each once."""
    return list(dict.fromkeys(part for part in found if part))


def sort_parts(sort: Sequence[Predicate], table: Table) -> list[Part]:
    """Return the keys of an index that has rows in this order, or backwards in it."""
    found = []
    for one in sort:
        part = part_of(one.key, table)
        if not part:
            break
        found.append((part, one))
    usual = [one.nulls_first == one.descending for _, one in found]
    if all(usual) and len({one.descending for _, one in found}) == 1:
        return [part for part, _ in found]
    return [replace(part, descending=one.descending, nulls_first=one.nulls_first) for part, one in found]


def candidates(plan: Plan, tables: Mapping[tuple[str, str], Table]) -> list[Index]:
    """Return the indexes that a plan might use, without columns that they only carry.

    Equality comes first, then joins, then one range or the order: by an index's order only what is fixed before it
        can be
    passed over.
    """
    found: list[Index] = []
    for alias, name in plan.relations.items():
        table = tables.get(name)
        if not table or table.pages <= SMALL_PAGES:
            continue
        own = [one for one in plan.predicates if one.key.alias == alias]

        def of(*kinds: str, joined: bool | None = None, own=own, table=table) -> list[Part]:
            return _unique(
                part_of(one.key, table)
                for one in own
                if one.kind in kinds and (joined is None or bool(one.other) == joined)
            )

        flags = {}
        for one in own:
            part = part_of(one.key, table)
            if part and not part.expression and one.kind in (NULL, TRUE, FALSE):
                column = quoted(part.text)
                flags[part] = {NULL: f"{column} IS NULL", TRUE: column, FALSE: f"NOT {column}"}[one.kind]
        equal = sorted(of(EQUAL, ANY, joined=False), key=lambda part: -table.distinct(part.text))
        ranged = of(RANGE, PREFIX)
        joins: dict[str, list[Part]] = {}
        for one in own:
            part = part_of(one.key, table)
            if one.other and one.kind in (EQUAL, ANY) and part and part not in joins.setdefault(one.other, []):
                joins[one.other].append(part)
        sorts = [parts for sort in plan.sorts if sort[0].key.alias == alias if (parts := sort_parts(sort, table))]
        bases: list[tuple[Part, ...]] = [(part,) for part in [*equal, *flags, *ranged]]
        for joined in joins.values():
            bases += [(part,) for part in joined] + [tuple(joined)]
            bases += [(*equal, *joined), (*joined, *equal)]
            bases += [(*start, part) for part in ranged for start in (joined, [*equal, *joined])]
            bases += [(*joined, *sort) for sort in sorts]
        for start in [equal, *([part] for part in equal), *([part, *flags] for part in equal), []]:
            bases += [tuple(start), *((*start, part) for part in ranged), *((*start, *sort) for sort in sorts)]
        bases += [(one, other) for one in equal for other in equal if one != other]
        condition = " AND ".join(flags.values())
        for base in dict.fromkeys(tuple(_distinct(base)) for base in bases):
            if not base or len(base) > MOST_KEYS:
                continue
            found.append(Index(name, base))
            rest = tuple(part for part in base if part not in flags)
            if condition and rest:
                found.append(Index(name, rest, where=condition))
    return [index for index in dict.fromkeys(found) if not known(index, tables[index.table])]


def _distinct(parts: Iterable[Part]) -> Iterator[Part]:
    """Return keys, each text once."""
    seen = set()
    for part in parts:
        if part.text not in seen:
            seen.add(part.text)
            yield part


def known(index: Index, table: Table) -> bool:
    """Tell whether an index that there is begins with all keys of this one."""
    keys = tuple(part.text if part.expression else part.sql for part in index.parts)
    return not index.include and not index.where and any(its[: len(keys)] == keys for its in table.indexes)


def carrying(index: Index, plan: Plan, table: Table) -> Index | None:
    """Return an index with the further columns that its table is read for, where they are few and narrow."""
    aliases = [alias for alias, name in plan.relations.items() if name == index.table]
    if len(aliases) != 1:
        return None
    own = {part.text for part in index.parts}
    more = sorted(column for column in plan.used.get(aliases[0], ()) if column in table.columns and column not in own)
    width = sum(int(table.columns[column].get("width") or 0) for column in more)
    if not more or len(more) > MOST_INCLUDED or width > MOST_INCLUDED_BYTES:
        return None
    return replace(index, include=tuple(more))


def updated(text: str) -> set[str]:
    """Return the columns that an UPDATE sets."""
    found: set[str] = set()
    parts, depth, setting = solid(text), 0, False
    for number, part in enumerate(parts):
        depth += {"(": 1, ")": -1}.get(part.text, 0)
        if depth == 0 and part.word == "set":
            setting = True
        elif depth == 0 and part.word in ("where", "from", "returning"):
            setting = False
        elif setting and part.text in ("=", ")") and number:
            behind = parts[number - 1]
            if part.text == "=" and depth == 0 and behind.kind in ("word", "identifier"):
                found.add(behind.text.strip('"'))
            elif part.text == ")" and depth == 0 and parts[number + 1 : number + 2] and parts[number + 1].text == "=":
                # SET (a, b) = (...)
                opening = max(n for n in range(number) if parts[n].text == "(")
                found |= {p.text.strip('"') for p in parts[opening:number] if p.kind in ("word", "identifier")}
    return found


class Choice:
    """The choice of indexes for the statements of one database.

    Parameters:
        queries: the statements.
        tables: the database's tables by schema and name.
        planner: a session of its database.
        seconds: for how long the statements were counted.
        total_ms: what all statements of the database took, those that are not known by name too.
        budget: for how many seconds indexes may be tried; what comes later counts as no help, and `cut` tells of it.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        tables: Mapping[tuple[str, str], Table],
        planner: Planner,
        seconds: float,
        total_ms: float,
        budget: float = 120.0,
    ) -> None:
        self.queries = list(queries)
        self.tables = tables
        self.planner = planner
        self.seconds = max(seconds, 1.0)
        self.total_ms = total_ms
        self.tried = 0
        self.cut = False
        self._until = time.monotonic() + budget
        self._costs: dict[tuple[str, frozenset[Index]], float] = {}

    def plan(self, assuming: bool = True) -> None:
        """Plan each statement as the database is.

        Parameters:
            assuming: whether the planner knows hypothetical indexes.
        """
        if assuming:
            self.planner.assume([])
        for query in self.queries:
            if command(query.text) not in ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE"):
                query.failed = "a command without a plan"
                continue
            query.statement = plannable(query.text, query.mean_rows)
            try:
                query.plan = self.planner.explain(query.statement)
            except PlanError as error:
                query.failed = str(error)

    @property
    def planned(self) -> list[Query]:
        """The statements that have a plan."""
        return [query for query in self.queries if query.plan]

    def touched(self, index: Index) -> list[Query]:
        """Return the statements that read an index's table."""
        return [query for query in self.planned if index.table in query.plan.relations.values()]

    def guessed(self, query: Query, index: Index) -> bool:
        """Tell whether an index helps a statement by a range alone, of whose bounds the planner knows nothing."""
        equal = {
            part.text
            for one in query.plan.predicates
            if one.kind in (EQUAL, ANY, NULL, TRUE, FALSE)
            and (part := part_of(one.key, self.tables[index.table]))
            and query.plan.relations.get(one.key.alias) == index.table
        }
        ranged = {one.key.text for one in query.plan.predicates if one.kind in (RANGE, PREFIX)}
        return index.parts[0].text not in equal and index.parts[0].text in ranged

    def between(self, query: Query, index: Index) -> bool:
        """Tell whether an index would be read between two bounds of which the planner knows nothing."""
        first = index.parts[0].text
        bounds = [
            one
            for one in query.plan.predicates
            if one.kind == RANGE and one.key.text == first and query.plan.relations.get(one.key.alias) == index.table
        ]
        return len(bounds) > 1 and self.guessed(query, index)

    def cost(self, query: Query, indexes: Iterable[Index]) -> float:
        """Return the planner's cost of a statement with these indexes beside those that there are.

        Where a range's bounds are not known, the planner assumes a third of all rows, or 1 in 200 between two bounds.
        How many rows really came corrects it, where the statement returns what it found.
        """
        own = frozenset(index for index in indexes if index.table in query.plan.relations.values())
        if not own:
            return query.plan.cost
        if (query.id, own) not in self._costs:
            self._costs[query.id, own] = self._tried_cost(query, own)
        return self._costs[query.id, own]

    def _tried_cost(self, query: Query, indexes: frozenset[Index]) -> float:
        before = query.plan.cost
        if time.monotonic() > self._until:
            self.cut = True
            return before
        try:
            made = self.planner.assume([index.sql for index in sorted(indexes, key=lambda i: i.sql)])
            names = set(made.values())
            plan = self.planner.explain(query.statement)
            self.tried += 1
            ratio = self.ratio(query)
            if ratio > 1 and names & plan.indexes:
                return min(before, plan.cost * ratio)
            if ratio == 1:
                for index in indexes:
                    if self.between(query, index):
                        plan.cost += (GUESS - 1) * plan.scans.get(made[index.sql], 0.0)
            if ratio < 0.5 and not names & plan.indexes:
                forced = self.planner.explain(query.statement, forced=True)
                if names & forced.indexes:
                    return min(before, max(forced.cost * ratio, 1.0))
        except PlanError:
            return before
        return min(before, plan.cost)

    def ratio(self, query: Query) -> float:
        """Return by how much more rows came than the planner expected; 1 where it cannot be known, or is no guess."""
        guess = any(one.kind in (RANGE, PREFIX) and not one.other for one in query.plan.predicates)
        if not query.plan.plain or not guess or len(query.plan.relations) > 1 or not query.calls:
            return 1.0
        return max(query.mean_rows, 0.5) / max(query.plan.rows, 1.0)

    def saved(self, query: Query, indexes: Iterable[Index]) -> float:
        """Return the milliseconds that a statement would have taken less with these indexes."""
        return query.total_ms * (1 - self.cost(query, indexes) / query.plan.cost) if query.plan.cost > 0 else 0.0

    def pool(self) -> dict[tuple[Index, ...], float]:
        """Return the candidates that help, each with what it saves alone: an index, or two that help together."""
        found: set[tuple[Index, ...]] = set()
        for query in self.planned:
            tried = candidates(query.plan, self.tables)
            helping = self._helping(query, tried)
            wider = [carrying(index, query.plan, self.tables[index.table]) for index in helping[:4]]
            helping += self._helping(query, [index for index in wider if index and index not in helping])
            best = sorted(helping, key=lambda index: self.cost(query, [index]))[:MOST_CANDIDATES]
            found |= {(index,) for index in best}
            if query.plan.choices:
                least = self.cost(query, best[:1]) * (1 - HELPS)
                single = [index for index in tried if len(index.parts) == 1 and not index.where][:MOST_SIDES]
                found |= {
                    pair
                    for pair in itertools.combinations(single, 2)
                    if pair[0].table == pair[1].table and self.cost(query, pair) < least
                }
        return {each: sum(self.saved(query, each) for query in self.touched(each[0])) for each in found}

    def _helping(self, query: Query, indexes: Iterable[Index]) -> list[Index]:
        costs = {index: self.cost(query, [index]) for index in indexes}
        helping = [index for index, cost in costs.items() if cost < query.plan.cost * (1 - HELPS)]
        return sorted(helping, key=lambda index: (costs[index], index.width, index.sql))

    def writes(self, index: Index) -> tuple[float, float]:
        """Return how many entries a second writes would add to an index, and how many updates would no longer be"
        " HOT."""
        table = self.tables[index.table]
        columns = {part.text for part in index.parts} | set(index.include)
        changed = sum(
            query.rows / self.seconds
            for query in self.planned
            if query.plan.target == index.table and updated(query.text) & columns
        )
        lost = min(changed, table.hot)
        return table.inserts + max(table.updates - table.hot, 0.0) + lost, lost

    def write_ms(self, index: Index) -> float:
        """Return what an index's writes would have cost of the time that was looked at."""
        entries, lost = self.writes(index)
        return (entries + lost * len(self.tables[index.table].indexes)) * self.seconds * ENTRY_MS

    def net(self, chosen: Sequence[Index]) -> float:
        """Return what a set of indexes saves beyond what it costs."""
        tables = {index.table for index in chosen}
        concerned = [query for query in self.planned if tables & set(query.plan.relations.values())]
        return sum(self.saved(query, chosen) for query in concerned) - sum(map(self.write_ms, chosen))

    def worth(self, value: float = 0.0) -> float:
        """Return what an index has to save: a part of the time that is left when others have saved theirs.

        So one statement that is very slow hides nothing that the next report would name.

        Parameters:
            value: what the others save.
        """
        return WORTH * max(self.total_ms - value, 0.0)

    def choose(self) -> list[Advice]:
        """Return the indexes that are worth having, the one that saves most first."""
        hopes = {each: alone - sum(map(self.write_ms, each)) for each, alone in self.pool().items()}
        chosen: list[Index] = []
        value = 0.0

        def width(each: tuple[Index, ...]) -> tuple[int, ...]:
            return tuple(map(sum, zip(*(index.width for index in each), strict=True)))

        while hopes:
            # What one adds hardly ever grows with others beside it, so most need not be tried anew each time.
            fresh: dict[tuple[Index, ...], float] = {}
            for each in sorted(hopes, key=lambda each: (-hopes[each], width(each), str(each))):
                best = max(fresh.values(), default=self.worth(value))
                if hopes[each] < best * (1 - WIDER):
                    break
                fresh[each] = hopes[each] = self.net(self.united(chosen, each)) - value
            good = {each: gain for each, gain in fresh.items() if gain >= self.worth(value)}
            if not good:
                break
            # Alike is what saves alike, whatever the writes cost.
            gross = {each: gain + sum(map(self.write_ms, each)) for each, gain in good.items()}
            alike = [each for each in gross if gross[each] >= max(gross.values()) * (1 - WIDER)]
            taken = min(alike, key=lambda each: (width(each), -gross[each], str(each)))
            chosen = self.united(chosen, taken)
            value = self.net(chosen)
            del hopes[taken]
        kept = self.pruned(chosen)
        return [self.advice(index, kept) for index in kept]

    def joined(self, chosen: list[Index]) -> list[Index]:
        """Return the chosen ones, with one in the place of two where one begins like the other and may carry its"
        " columns, too."""
        kept = list(chosen)
        for one, other in itertools.permutations(chosen, 2):
            same = one in kept and other in kept and (one.table, one.where) == (other.table, other.where)
            if not same or other.parts[: len(one.parts)] != one.parts:
                continue
            own = {part.text for part in other.parts}
            more = tuple(sorted((set(one.include) | set(other.include)) - own))
            if len(more) > MOST_INCLUDED + 1:
                continue
            both = [replace(other, include=more), *(index for index in kept if index not in (one, other))]
            if self.net(both) >= self.net(kept) - self.worth(self.net(kept)):
                kept = both
        return kept

    @staticmethod
    def united(chosen: list[Index], more: Iterable[Index]) -> list[Index]:
        """Return the chosen ones with more of them, each once."""
        return list(dict.fromkeys([*chosen, *more]))

    def narrowed(self, chosen: list[Index]) -> list[Index]:
        """Return the chosen ones without those that only widen another one, and save too little more than that."""
        kept = list(chosen)
        for narrow, wide in itertools.permutations(chosen, 2):
            begins = narrow.table == wide.table and wide.parts[: len(narrow.parts)] == narrow.parts
            if narrow in kept and wide in kept and narrow.where == wide.where and begins and narrow.width < wide.width:
                without = [index for index in kept if index != wide]
                neither = [index for index in without if index != narrow]
                more = 0.0
                for query in self.touched(wide):
                    saved = self.saved(query, kept)
                    gain = saved - self.saved(query, without)
                    more += gain if gain >= WIDER * (saved - self.saved(query, neither)) else 0.0
                if more - self.write_ms(wide) < self.worth(self.net(without)):
                    kept = without
        return kept

    def pruned(self, chosen: list[Index]) -> list[Index]:
        """Return the chosen ones without those that later ones made idle: the beginning of a longer one, say."""
        kept = self.joined(self.narrowed(chosen))
        for index in sorted(kept, key=lambda each: (each.width, each.sql)):
            without = [other for other in kept if other != index]
            if self.net(kept) - self.net(without) < self.worth(self.net(without)):
                kept = without
        return sorted(kept, key=lambda index: self.net([o for o in kept if o != index]))

    def advice(self, index: Index, chosen: Sequence[Index]) -> Advice:
        """Return what is to be said of a chosen index."""
        others = [other for other in chosen if other != index]
        helped = []
        for query in self.touched(index):
            saved = self.saved(query, [index]) if not others else self.saved(query, chosen) - self.saved(query, others)
            if saved > query.total_ms * 0.01:
                helped.append(
                    {
                        "id": query.id,
                        "before": query.plan.cost,
                        "after": self.cost(query, chosen),
                        "saved_ms": saved,
                        "guess": self.guessed(query, index) and self.ratio(query) == 1.0,
                    }
                )
        helped.sort(key=lambda each: -each["saved_ms"])
        entries, lost = self.writes(index)
        keys = tuple(part.sql for part in index.parts)
        table = self.tables[index.table]
        return Advice(
            index,
            sum(each["saved_ms"] for each in helped),
            helped,
            self.planner.size(index.sql),
            entries,
            lost,
            self.write_ms(index),
            [its for its in table.indexes if len(its) < len(keys) and keys[: len(its)] == its],
            bool(helped) and all(each["guess"] for each in helped),
        )

    def untried(self) -> list[dict[str, str]]:
        """Return what a statement might want that hypopg cannot try: `id`, `table`, `text`."""
        found = []
        for query in self.planned:
            for one in query.plan.predicates:
                name = query.plan.relations.get(one.key.alias)
                table = self.tables.get(name)
                if not table or table.pages <= SMALL_PAGES or query.total_ms < self.worth() / 2:
                    continue
                if one.kind == CONTAINS:
                    said = f"an index by gin on {one.key.text}: it answers what a value contains"
                elif one.kind == PREFIX and not one.other:
                    said = (
                        f"an index on {one.key.text} with the operator class text_pattern_ops, if the pattern of"
                        " LIKE begins with what is looked for (with C.UTF-8 a plain one does); by gin_trgm_ops of"
                        " pg_trgm, if not"
                    )
                elif one.kind in (EQUAL, RANGE) and one.key.expression and not one.key.fixed and not one.other:
                    said = f"an index on the expression {one.key.text}, with your own value for $n or ?"
                else:
                    continue
                entry = {"id": query.id, "table": ".".join(name), "text": said}
                if entry not in found:
                    found.append(entry)
        return found


def tables_of(found: Mapping[str, Any], seconds: float) -> dict[tuple[str, str], Table]:
    """Return the tables of a database as `postgresql_statistics.database` tells of it.

    Parameters:
        found: of that function.
        seconds: for how long its statistics were counted.
    """
    indexes: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for index in found["indexes"]:
        if index["method"] == "btree" and index["valid"] and not index["where"]:
            keys = tuple(index["parts"][: index["keys"]])
            indexes.setdefault((index["schema"], index["table"]), []).append(keys)
    seconds = max(seconds, 1.0)
    return {
        (table["schema"], table["name"]): Table(
            pages=int(table["heap_bytes"] or 0) // 8192,
            rows=table["rows"],
            columns=table["columns"],
            indexes=indexes.get((table["schema"], table["name"]), []),
            inserts=(table["inserts"] or 0) / seconds,
            updates=(table["updates"] or 0) / seconds,
            hot=(table["hot"] or 0) / seconds,
        )
        for table in found["tables"]
        # What is declared on a partitioned table is an index of each of its parts: one part says too little of it.
        if table["kind"] != "p" and not table["part"]
    }


def advise(
    planner: Planner,
    found: Mapping[str, Any],
    statements: Mapping[str, Any],
    seconds: float,
    tried: bool,
    budget: float = 120.0,
) -> dict[str, Any]:
    """Return which indexes a database lacks, and the plans of its statements.

    Parameters:
        planner: a session of the database.
        found: of `postgresql_statistics.database`, with `now` and `since`, in seconds since the epoch.
        statements: `total_ms` of the database, and its dearest `statements`.
        seconds: for how long they were counted.
        tried: whether there is hypopg; without it there are plans, and no advice.
        budget: for how many seconds indexes may be tried.
    Returns:
        `advice`, `plans` (by id: `cost`, `lines`), `failed` (by id, why), `untried`, how many plans were `tried`, and
        whether that was `cut` short.
    """
    queries = [
        Query(one["id"], one["text"], one["calls"], one["total_ms"], one["rows"]) for one in statements["statements"]
    ]
    tables = tables_of(found, found["now"] - found["since"])
    choice = Choice(queries, tables, planner, seconds, statements["total_ms"], budget)
    choice.plan(assuming=tried)
    advice = choice.choose() if tried else []
    return {
        "advice": [
            {
                "schema": each.index.table[0],
                "table": each.index.table[1],
                "declared": each.index.declared,
                "sql": each.index.sql,
                "saved_ms": each.saved_ms,
                "queries": each.queries,
                "bytes": each.bytes,
                "entries": each.entries,
                "hot_lost": each.hot_lost,
                "write_ms": each.write_ms,
                "replaces": [", ".join(keys) for keys in each.replaces],
                "guess": each.guess,
            }
            for each in advice
        ],
        "plans": {query.id: {"cost": query.plan.cost, "lines": query.plan.lines} for query in choice.planned},
        "failed": {query.id: query.failed for query in choice.queries if query.failed},
        "untried": choice.untried(),
        "tried": choice.tried,
        "cut": choice.cut,
    }
