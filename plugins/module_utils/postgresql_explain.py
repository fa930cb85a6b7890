"""Plans of PostgreSQL as EXPLAIN tells them in JSON: what they read and how, and whether that is what was expected.

The keys of a plan are those of PostgreSQL 17 (manual, 14.1, and its source, src/backend/commands/explain.c).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

HOLDS, FAILS, UNJUDGED = "holds", "fails", "not judged"
# What one of several children is: the others need not run where it is known to have all that is wanted.
APPENDS = ("Append", "Merge Append")


@dataclass(frozen=True)
class Scan:
    """A sequential scan.

    Parameters:
        schema, relation: of the table, or of the partition.
        rows: how many rows it went through each time; None where it was only planned.
        times: how often it ran; None where it was only planned.
        skipped: whether it did not run since its partition cannot have what is wanted.
    """

    schema: str
    relation: str
    rows: int | None
    times: int | None
    skipped: bool


@dataclass(frozen=True)
class Plan:
    """What a plan does.

    Parameters:
        indexes: names of the indexes that it uses, each once, in the plan's order.
        scans: its sequential scans.
        buffers: pages of 8 kB that it took from shared buffers or read into them; None where it was only planned.
        rows: how many rows came out of it; None where it was only planned.
        milliseconds: how long planning and execution took; None where it was only planned.
    """

    indexes: tuple[str, ...]
    scans: tuple[Scan, ...]
    buffers: int | None
    rows: int | None
    milliseconds: float | None


@dataclass(frozen=True)
class Table:
    """A table, or a partition of one.

    Parameters:
        name: as people read it, with a schema other than public.
        rows: how many it has, as far as is known.
        root: the name of the table whose partition it is, or else its own.
        analyzed: whether PostgreSQL ever counted it.
    """

    name: str
    rows: int
    root: str
    analyzed: bool = True


@dataclass(frozen=True)
class Index:
    """An index.

    Parameters:
        root: the name of the index of the whole table, where it is of a partition; or else its own.
        table: the table that it is of.
        valid: whether it was built to its end.
    """

    root: str
    table: Table
    valid: bool = True


def nodes(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[Mapping[str, Any], str]]:
    """Return each node of a plan with the kind of the one above: children, init plans, subplans and CTEs too."""
    yield node, above
    for child in node.get("Plans", []):
        yield from nodes(child, node["Node Type"])


def read_plan(explained: Mapping[str, Any]) -> Plan:
    """Return what a plan does.

    Parameters:
        explained: what EXPLAIN (VERBOSE, FORMAT JSON) answers, the only element of its list; with ANALYZE and BUFFERS
            where it was executed.
    """
    root = explained["Plan"]
    every = list(nodes(root))
    executed = "Actual Loops" in root
    return Plan(
        indexes=tuple(dict.fromkeys(node["Index Name"] for node, _ in every if "Index Name" in node)),
        scans=tuple(_scan(node, above) for node, above in every if node["Node Type"] == "Seq Scan"),
        buffers=root["Shared Hit Blocks"] + root["Shared Read Blocks"] if executed else None,
        rows=round(root["Actual Rows"] * root["Actual Loops"]) if executed else None,
        milliseconds=round(explained["Planning Time"] + explained["Execution Time"], 1) if executed else None,
    )


def _scan(node: Mapping[str, Any], above: str) -> Scan:
    times = node.get("Actual Loops")
    rows = None
    if times:
        # Both are the mean of all loops. The processes of a parallel scan share one pass: each has a loop of it.
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        rows = round(rows * times if node.get("Parallel Aware") else rows)
    return Scan(node.get("Schema", ""), node["Relation Name"], rows, times, times == 0 and above in APPENDS)


def judge(
    plan: Plan,
    expect: Mapping[str, Any],
    tables: Mapping[tuple[str, str], Table],
    indexes: Mapping[str, Index],
) -> list[dict[str, str]]:
    """Return for each expectation what was found: `expectation`, `found` and `verdict`.

    Parameters:
        plan: what was done, or planned where it did not end in time.
        expect: `index`, names of indexes; `buffers`, how many at most, or none; `scan`, the rows of the largest table
            that may be read sequentially; `seconds`, in which it has to end.
        tables: by schema and name, those that are read sequentially.
        indexes: by name, those that are there, among them all that are used or expected.
    """
    used = {name for each in plan.indexes for name in (each, indexes[each].root if each in indexes else each)}
    return [
        _ended(plan, expect["seconds"]),
        *(_index(name, plan, expect["scan"], used, tables, indexes) for name in expect["index"]),
        *([_buffers(plan, expect["buffers"])] if expect["buffers"] is not None else []),
        _scans(plan, expect["scan"], tables),
    ]


def _finding(expectation: str, found: str, verdict: str | bool) -> dict[str, str]:
    if isinstance(verdict, bool):
        verdict = HOLDS if verdict else FAILS
    return {"expectation": expectation, "found": found, "verdict": verdict}


def _ended(plan: Plan, seconds: int) -> dict[str, str]:
    if plan.milliseconds is None:
        return _finding(f"ends within {seconds} s", "it was cut off", FAILS)
    return _finding(f"ends within {seconds} s", f"{plan.milliseconds:g} ms", HOLDS)


def _index(
    name: str,
    plan: Plan,
    limit: int,
    used: set[str],
    tables: Mapping[tuple[str, str], Table],
    indexes: Mapping[str, Index],
) -> dict[str, str]:
    expectation = f"uses the index {name}"
    if name in used:
        return _finding(expectation, "it does", HOLDS)
    if name not in indexes:
        return _finding(expectation, "there is no index of that name; declare it, or mend the name", FAILS)
    index = indexes[name]
    if not index.valid:
        return _finding(expectation, "the index is invalid, since its build did not end; build it again", FAILS)
    rows = max([index.table.rows, *_read_by_root(plan, tables).get(index.table.root, [])])
    if rows < limit:
        small = f"{index.table.name} has {rows:,} rows, and PostgreSQL reads a table of less than {limit:,} as it likes"
        return _finding(expectation, small, UNJUDGED)
    instead = f"it uses {', '.join(plan.indexes)}" if plan.indexes else "it uses no index"
    return _finding(expectation, instead, FAILS)


def _buffers(plan: Plan, most: int) -> dict[str, str]:
    expectation = f"reads at most {most:,} buffers"
    if plan.buffers is None:
        return _finding(expectation, "nobody knows, since it did not end", UNJUDGED)
    return _finding(expectation, f"{plan.buffers:,}", plan.buffers <= most)


def _scans(plan: Plan, limit: int, tables: Mapping[tuple[str, str], Table]) -> dict[str, str]:
    what = f"of a table with more than {limit:,} rows" if limit else "at all"
    found, verdict = [], True
    for root, rows in _read_by_root(plan, tables).items():
        # The partitions of a table that are read count as one.
        total = sum(rows)
        parts = f" in {len(rows)} partitions" if len(rows) > 1 else ""
        found.append(f"{root}, {total:,} rows{parts}")
        verdict = verdict and total <= limit and limit > 0
    return _finding(f"no sequential scan {what}", "; ".join(found) or "none", verdict)


def _read_by_root(plan: Plan, tables: Mapping[tuple[str, str], Table]) -> dict[str, list[int]]:
    """Return by table the rows of each of its parts that are read sequentially; a part counts once."""
    parts: dict[str, dict[tuple[str, str], int]] = {}
    for scan in plan.scans:
        if not scan.skipped:
            key = (scan.schema, scan.relation)
            table = tables[key]
            its = parts.setdefault(table.root, {})
            its[key] = max(its.get(key, 0), table.rows, scan.rows or 0)
    return {root: list(its.values()) for root, its in parts.items()}


def warnings(plan: Plan, tables: Mapping[tuple[str, str], Table], indexes: Mapping[str, Index]) -> list[str]:
    """Return what makes the plan itself doubtful: tables that PostgreSQL knows nothing of, each once."""
    seen = [tables[scan.schema, scan.relation] for scan in plan.scans]
    seen += [indexes[name].table for name in plan.indexes if name in indexes]
    return [
        f"{name} was never analyzed, so its plan is a guess; run ANALYZE, or wait for autovacuum"
        for name in dict.fromkeys(table.name for table in seen if not table.analyzed and table.rows)
    ]
