"""Part `queries`: the queries that the example services declare, with the indexes that they expect and without.

On the primary, each index is dropped within a transaction that is rolled back. So it is never gone, but whoever wants
its table meanwhile waits, for as long as one query takes. What is measured is PostgreSQL's own count: the milliseconds
and the blocks of `EXPLAIN (ANALYZE, BUFFERS)`, with the tables in memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import results
import ways
from stack import lab

sys.path.insert(0, str(results.ROOT / "plugins"))
from terrace import indexes
from terrace.contracts import contract, filled

SERVICES = ("orders", "users")
# One more is executed first, so that all is in memory.
RUNS = 5
# Runs SQL in the database of a service, which has its name, and returns what it printed: the statements, the service.
Runner = Callable[[str, str], str]

# The one index that services/orders.yml declares itself is for the first question of the daily report
# (examples/orders/orders/report.py), which is no declared query: an expectation would need a day that stays.
REPORT = {
    "query": "SELECT count(*), coalesce(sum(total_cents), 0) FROM orders"
    " WHERE created_at >= $1::timestamptz AND created_at < $1::timestamptz + interval '1 day'",
}
# A day in the middle of what the table has.
DAY = "SELECT date_trunc('day', min(created_at) + (max(created_at) - min(created_at)) / 2) FROM orders"

# What takes an index away: where a constraint has it, with that.
DROP = """
SELECT coalesce(
    (SELECT format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', conrelid::regclass, conname) FROM pg_constraint
     WHERE conindid = '{name}'::regclass AND contype IN ('p', 'u', 'x')),
    format('DROP INDEX %s', '{name}'::regclass))
"""


@dataclass(frozen=True)
class Query:
    """A query of a service's database.

    parameters: in order. without: the indexes that are dropped to see what it is without them.
    """

    service: str
    name: str
    query: str
    parameters: tuple
    without: tuple[str, ...]


def declared(services: Mapping[str, Mapping]) -> Iterator[Query]:
    """Return the queries that services declare and name an index for.

    Parameters:
        services: what their files say, by name.
    """
    for service, its in services.items():
        for name, one in its["database"].get("queries", {}).items():
            if wanted := one.get("expect", {}).get("index"):
                yield Query(service, name, one["query"], tuple(one.get("parameters", ())), tuple(wanted))


def report(its: Mapping, day: str) -> Query:
    """Return the daily report's question, and the index that its service declares for it.

    Parameters:
        its: what services/orders.yml says.
        day: when the day begins.
    """
    options = contract("service")["database"]["options"]["indexes"]["options"]
    whole = {table: [filled(one, options) for one in many] for table, many in its["database"]["indexes"].items()}
    names = tuple(index["name"] for index in indexes.listed(whole, "bench"))
    return Query("orders", "report", REPORT["query"], (day,), names)


def literal(value: object) -> str:
    """Return a parameter as PostgreSQL reads it, whatever its type turns out to be."""
    if value is None:
        return "NULL"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "'" + text.replace("'", "''") + "'"


def script(query: Query, drops: Iterable[str]) -> str:
    """Return the SQL that executes a query RUNS times and once before, in a transaction that is rolled back."""
    given = f"({', '.join(map(literal, query.parameters))})" if query.parameters else ""
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE tried{given};\n"
    return (
        "\\set QUIET on\nBEGIN;\nSET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '120s';\n"
        "SET LOCAL plan_cache_mode = force_custom_plan;\n"
        + "".join(f"{drop};\n" for drop in drops)
        + f"PREPARE tried AS {query.query};\n"
        + explain * (RUNS + 1)
        + "ROLLBACK;\n"
    )


def seen(printed: str) -> list[dict]:
    """Return of each plan that psql printed its `ms`, its `buffers` (blocks of 8 kB) and its `nodes`; not of the first.

    Errors:
        ValueError, where it printed something else.
    """
    found, decoder, place = [], json.JSONDecoder(), 0
    while place < len(printed):
        [its], place = decoder.raw_decode(printed, place)
        place += len(printed[place:]) - len(printed[place:].lstrip())
        plan = its["Plan"]
        buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        found.append({"ms": its["Execution Time"], "buffers": buffers, "nodes": list(nodes(plan))})
    if len(found) != RUNS + 1:
        raise ValueError(f"{len(found)} plans, not {RUNS + 1}:\n{printed}")
    return found[1:]


def nodes(plan: Mapping) -> Iterator[str]:
    """Return how a plan reads its tables, such as `Seq Scan on orders`."""
    if "Scan" in plan["Node Type"]:
        yield f"{plan['Node Type']} on {plan.get('Index Name') or plan.get('Relation Name', '?')}"
    for part in plan.get("Plans", []):
        yield from nodes(part)


def tried(run: Runner, query: Query) -> dict[str, list[dict]]:
    """Return what a query did in one round, `with` its indexes and `without` them.

    Errors:
        AssertionError, where it used one that was dropped: then something else has its name.
    """
    drops = [run(DROP.format(name=name), query.service) for name in query.without]
    found = {way: seen(run(script(query, its), query.service)) for way, its in (("with", []), ("without", drops))}
    gone = {its.rpartition(" on ")[2] for each in found["without"] for its in each["nodes"]} & set(query.without)
    assert not gone, f"{query.service} {query.name} still used {', '.join(gone)}"
    return found


def compared(run: Runner, queries: Iterable[Query], rounds: int) -> list[dict]:
    """Return a row for each query and each of with and without, with all executions of all rounds."""
    rows: dict[tuple, dict] = {}
    queries = list(queries)
    for _ in range(rounds):
        for query in queries:
            for way, found in tried(run, query).items():
                labels = {"service": query.service, "query": query.name, "way": way, "indexes": list(query.without)}
                rows.setdefault((query, way), labels | {"rounds": []})["rounds"] += found
    return list(rows.values())


def measure() -> dict:
    """Measure the part on the primary, with a million orders."""
    primary = lab.primary()

    def run(statements: str, database: str) -> str:
        return lab.sql(primary, statements, database)

    services = {name: lab.SERVICES[name] for name in SERVICES}
    counts = {}
    for name in SERVICES:
        # What was loaded or deleted a moment ago is neither counted nor known to be visible to all.
        run(f"VACUUM ANALYZE {name}", name)
        counts[name] = int(run(f"SELECT count(*) FROM {name}", name))  # noqa: S608 (two names of ours)
    assert counts["orders"] >= ways.ORDERS, f"there are {counts['orders']} orders; `bench/run data` loads them"
    queries = [*declared(services), report(services["orders"], run(DAY, "orders"))]
    rows = compared(run, queries, results.rounds())
    for row in rows:
        middle = results.spread(each["ms"] for each in row["rounds"])["median"]
        results.say(f"{row['service']} {row['query']} {row['way']}: {middle:.2f} ms, {row['rounds'][-1]['nodes']}")
    return {"counts": counts, "runs": RUNS, "rows": rows}
