"""What `make query-report` tells of queries and indexes: out of what hosts counted to data, lines and a page.

Hosts mask what they tell (plugins/module_utils/postgresql_text.py), so nothing here has seen a literal value.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

TEMPLATE = Path(__file__).with_name("query_report.html.j2")
DAY = 86400
YOUNG_DAYS = 7  # statistics of fewer days say little of what is not used
BLOAT, BLOAT_BYTES = 0.3, 10 * 1024**2  # from which it is told
STALE, STALE_ROWS = 0.2, 1000  # of the rows, changed since the last ANALYZE; autovacuum begins at a tenth
SEQUENCE, SEQUENCE_NEAR = 0.5, 0.8
WRAPAROUND = 0.9  # of autovacuum_freeze_max_age times two: autovacuum has not kept up
MANY_ROWS = 1000  # that a SELECT without a LIMIT returns
UNUSED_BYTES = 1024**2
SHOWN = 20  # statements that the page tells of, of each database
SMALL = 0.005  # of its time, of which the second half of them has to take more
COUNTED = ("calls", "total_ms", "rows", "hit", "read", "temp")


def merged(answers: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return what all database hosts have counted, put together.

    Tables and indexes are those of the primary, or of the first host that answered; how often indexes were used is
    added up, since a replica counts only its own reads.

    Parameters:
        answers: of the module `postgresql_workload`, by host; without `server` where a host did not answer.
    Returns:
        `hosts` by name (`reached`, `error`, `replica`, ...), the host that the tables are of (`base`), and
        `databases`.
    """
    hosts = {}
    for name, answer in answers.items():
        reached = bool(answer and answer.get("server"))
        error = str((answer or {}).get("error") or "")
        known = answer["statements"] if reached else {}
        hosts[name] = {
            "reached": reached,
            "error": error or ("" if reached else "it was not reached"),
            "replica": answer["server"]["replica"] if reached else None,
            "version": answer["server"]["version"] if reached else "",
            **{key: known.get(key) for key in ("known", "why", "since", "lost")},
        }
    reached = {name: answer for name, answer in answers.items() if hosts[name]["reached"]}
    base = min(reached, key=lambda name: (hosts[name]["replica"], name), default="")
    databases: dict[str, Any] = {}
    for name, own in reached[base]["databases"].items() if base else ():
        database = databases[name] = {**own, "now": reached[base]["server"]["now"], "statements": None}
        database["freeze_max_age"] = reached[base]["server"]["freeze_max_age"]
        if own["error"]:
            continue
        others = [
            answer["databases"][name]
            for host, answer in reached.items()
            if host != base and not answer["databases"].get(name, {"error": "none"})["error"]
        ]
        database["counted_since"] = max([own["since"], *(other["since"] for other in others)])
        database["indexes"] = [_used(index, others) for index in own["indexes"]]
        database["statements"] = _statements(name, reached)
    return {"hosts": hosts, "base": base, "databases": databases}


def _used(index: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an index with the scans of all hosts together."""
    found = dict(index)
    where = (index["schema"], index["table"], index["name"])
    for other in others:
        for same in other["indexes"]:
            if (same["schema"], same["table"], same["name"]) == where:
                found["scans"] = (found["scans"] or 0) + (same["scans"] or 0)
                found["used"] = max(found["used"] or 0, same["used"] or 0) or None
    return found


def _statements(database: str, reached: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a database's statements, those of all hosts together; none where no host knows them."""
    known = [answer["statements"] for answer in reached.values() if answer["statements"]["known"]]
    if not known:
        return None
    found: dict[str, dict[str, Any]] = {}
    told = [its["databases"][database] for its in known if database in its["databases"]]
    for its in told:
        for one in its["statements"]:
            same = found.setdefault(one["id"], {**one, **dict.fromkeys(COUNTED, 0.0)})
            for name in COUNTED:
                same[name] += one[name] or 0
            same["max_ms"] = max(same["max_ms"], one["max_ms"])
    return {
        "since": min([its["since"] for its in told], default=min(its["since"] for its in known)),
        "total_ms": sum(its["total_ms"] for its in told),
        "calls": sum(its["calls"] for its in told),
        "count": max((its["count"] for its in told), default=0),
        "statements": sorted(found.values(), key=lambda one: -one["total_ms"]),
    }


# What follows from the counts


def name_of(entry: Mapping[str, Any], what: str = "name") -> str:
    """Return a name with its schema, where that is not public."""
    return entry[what] if entry["schema"] == "public" else f"{entry['schema']}.{entry[what]}"


def is_needed(index: Mapping[str, Any]) -> bool:
    """Tell whether an index is there for more than speed: keys, constraints, exclusion, replication."""
    return bool(index["unique"] or index["primary"] or index["constrained"] or index["identity"])


def unused(indexes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the indexes that no host has used, the largest first; those of a key or a constraint are needed."""
    found = [i for i in indexes if not i["scans"] and not is_needed(i) and i["valid"] and i["bytes"] >= UNUSED_BYTES]
    return sorted(found, key=lambda index: -index["bytes"])


def _keys(index: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return an index's keys, each with its operator class, collation and direction."""
    return list(zip(index["alike"], index["ways"], strict=False))[: index["keys"]]


def redundant(indexes: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any], str]]:
    """Return indexes that another one makes needless, with that one, and why: `duplicate`, or `beginning`.

    A duplicate has the same keys, condition and columns, or fewer columns that it only carries. The beginning is a
    b-tree whose keys are the first ones of another one. A key's own index, or a constraint's, is never needless.
    """
    own = [index for index in indexes if index["valid"]]
    found = []
    gone: set[tuple[str, str]] = set()
    for one in sorted(own, key=lambda i: (len(i["parts"]), i["scans"] or 0, i["name"])):
        for other in own:
            if one is other or is_needed(one) or (other["schema"], other["name"]) in gone:
                continue
            alike = all(one[name] == other[name] for name in ("schema", "table", "method"))
            if not alike or one["alike"][-1] != other["alike"][-1]:
                continue
            mine, its = _keys(one), _keys(other)
            carried = set(one["alike"][one["keys"] : -1]) <= set(other["alike"][:-1])
            if mine == its and carried:
                found.append((one, other, "duplicate"))
            elif one["method"] == "btree" and len(mine) < len(its) and its[: len(mine)] == mine and carried:
                found.append((one, other, "beginning"))
            else:
                continue
            gone.add((one["schema"], one["name"]))
            break
    return found


def unindexed(database: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the foreign keys whose columns no index begins with, though rows that they refer to were deleted.

    PostgreSQL then reads the whole table for each such row, and pg_stat_statements tells of it nowhere.
    """
    deletes: dict[str, float] = {}
    sizes: dict[tuple[str, str], int] = {}
    for table in database["tables"]:
        deletes[table["name"]] = deletes.get(table["name"], 0) + (table["deletes"] or 0)
        sizes[table["schema"], table["name"]] = table["heap_bytes"] or 0
    found = []
    for key in database["references"]:
        where = (key["schema"], key["table"])
        begins = [
            set(i["parts"][: len(key["columns"])])
            for i in database["indexes"]
            if (i["schema"], i["table"]) == where and i["valid"] and not i["where"]
        ]
        large = sizes.get(where, 0) > 16 * 8192
        if large and deletes.get(key["target"]) and set(key["columns"]) not in begins:
            found.append(key)
    return found


def stale(tables: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the tables of which the planner knows too little, and why."""
    found = []
    for table in tables:
        changed, live = table["changed"] or 0, table["live"] or 0
        if table["kind"] == "p" or max(live, changed) < STALE_ROWS:
            continue
        if not table["analyzed"] and table["uncounted"]:
            found.append((table, "it was never analyzed"))
        elif changed > STALE_ROWS and changed > STALE * live:
            found.append((table, f"{changed:,} rows changed since it was analyzed, of {live:,}"))
    return found


def unbounded(statements: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the statements that page by OFFSET, those that return many rows without a LIMIT, and which it is."""
    found = []
    for one in statements:
        words = one["text"].upper().replace("(", " ").replace(")", " ").split()
        if not words or words[0] not in ("SELECT", "WITH", "TABLE", "VALUES"):
            continue
        mean = one["rows"] / one["calls"] if one["calls"] else 0
        if "OFFSET" in words:
            found.append((one, "offset"))
        elif "LIMIT" not in words and "FETCH" not in words and mean >= MANY_ROWS:
            found.append((one, "limit"))
    return found


def pasted(service: str, database: str, entry: Mapping[str, Any]) -> str:
    """Return the lines that declare an index: of a service's file, or of the environment's.

    Parameters:
        service: the service; empty for a database of no service.
        database: the database's name.
        entry: of the advice, with `schema`, `table` and `declared`.
    """

    class Flow(dict):
        """A mapping that is written in braces."""

    class Dumper(yaml.SafeDumper):
        """Writes lists and small mappings in one line."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            """Indent the items of lists, as yamllint wants them."""
            return super().increase_indent(flow, False)

    class Row(list):
        """A list that is written in brackets."""

    Dumper.add_representer(Flow, lambda d, v: d.represent_mapping("tag:yaml.org,2002:map", v, flow_style=True))
    Dumper.add_representer(Row, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))
    declared = {
        name: Row([Flow(each) if isinstance(each, dict) else each for each in value])
        if isinstance(value, list)
        else value
        for name, value in entry["declared"].items()
    }
    table = entry["table"] if entry["schema"] == "public" else f"{entry['schema']}.{entry['table']}"
    content: dict[str, Any] = {"indexes": {table: [declared]}}
    content = {"database": content} if service else {"databases": {database: content}}
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, width=150, allow_unicode=True)


def file_of(service: str) -> str:
    """Return where an index of a service's database is declared, or of one of no service."""
    return f"services/{service}.yml" if service else "the environment's group_vars/all/main.yml"


# The report


def report(
    workload: Mapping[str, Any],
    advice: Mapping[str, Any] | None,
    advisor: str,
    services: Mapping[str, str],
    environment: str,
    now: float | None = None,
) -> dict[str, Any]:
    """Return all that is told, as plain data.

    Parameters:
        workload: of `merged`.
        advice: the answer of the module `postgresql_advice`; none where it was not asked.
        advisor: the host that gave it.
        services: by database the service that declares it.
        environment: the environment's name.
        now: seconds since the epoch.
    """
    now = time.time() if now is None else now
    told = (advice or {}).get("databases", {})
    databases = [
        _database(name, own, told.get(name), services.get(name, ""), now) for name, own in workload["databases"].items()
    ]
    databases.sort(key=lambda each: -(each["total_ms"] or 0))
    unknown = list(_unknown(workload, advice, advisor, databases, now))
    findings = sorted((finding for each in databases for finding in each["findings"]), key=lambda each: -each["weight"])
    return {
        "environment": environment,
        "at": now,
        "hosts": workload["hosts"],
        "base": workload["base"],
        "advisor": advisor,
        "databases": databases,
        "findings": findings,
        "unknown": unknown,
    }


def _database(
    name: str, own: Mapping[str, Any], told: Mapping[str, Any] | None, service: str, now: float
) -> dict[str, Any]:
    """Return what is told of a database."""
    found: dict[str, Any] = {
        "name": name,
        "service": service,
        "error": own["error"],
        "bytes": own.get("bytes"),
        "findings": [],
    }
    found |= {"total_ms": None, "queries": [], "advice": [], "untried": [], "failed": []}
    found |= {
        key: []
        for key in (
            "unused",
            "redundant",
            "invalid",
            "unindexed",
            "bloat",
            "stale",
            "keyless",
            "sequences",
            "unbounded",
        )
    }
    if own["error"]:
        return found
    told = told or {}
    statements = own["statements"] or {"statements": [], "total_ms": None, "calls": 0, "count": 0, "since": None}
    found |= {key: statements[key] for key in ("total_ms", "calls", "count", "since")}
    total = statements["total_ms"] or 0
    plans, failed = told.get("plans", {}), told.get("failed", {})
    texts = {one["id"]: one["text"] for one in statements["statements"]}
    for place, one in enumerate(statements["statements"][:SHOWN]):
        if place >= SHOWN / 2 and one["total_ms"] < SMALL * total:
            break
        blocks = one["hit"] + one["read"]
        found["queries"].append(
            {
                **one,
                "share": one["total_ms"] / total if total else 0,
                "mean_ms": one["total_ms"] / one["calls"] if one["calls"] else 0,
                "mean_rows": one["rows"] / one["calls"] if one["calls"] else 0,
                "hit_ratio": one["hit"] / blocks if blocks else None,
                "plan": "\n".join(plans.get(one["id"], {}).get("lines", [])),
                "failed": failed.get(one["id"], ""),
            }
        )
    for each in told.get("advice", []):
        queries = [{**query, "text": texts.get(query["id"], "")} for query in each["queries"]]
        found["advice"].append(
            {
                **each,
                "queries": queries,
                "file": file_of(service),
                "lines": pasted(service, name, each),
                "share": each["saved_ms"] / total if total else 0,
            }
        )
    found["untried"] = [
        {**each, "text": each["text"], "query": texts.get(each["id"], "")} for each in told.get("untried", [])
    ]
    found["failed"] = [
        {"text": texts.get(key, ""), "why": why} for key, why in failed.items() if why != "a command without a plan"
    ]
    found["hypopg"] = bool(told.get("hypopg"))
    found["cut"] = bool(told.get("cut"))
    found["advice_error"] = told.get("error", "")
    found["counted_since"] = own["counted_since"]
    found["unused"] = [_index(index) for index in unused(own["indexes"])]
    found["redundant"] = [
        {**_index(one), "by": other["name"], "why": why} for one, other, why in redundant(own["indexes"])
    ]
    found["invalid"] = [_index(index) for index in own["indexes"] if not index["valid"]]
    found["unindexed"] = [
        {"table": name_of(key, "table"), "columns": key["columns"], "target": key["target"]} for key in unindexed(own)
    ]
    found["bloat"] = sorted(_bloat(own), key=lambda each: -each["wasted"])
    found["stale"] = [{"table": name_of(table), "why": why} for table, why in stale(own["tables"])]
    found["keyless"] = [
        name_of(table) for table in own["tables"] if not table["keyed"] and table["kind"] != "m" and not table["part"]
    ]
    found["sequences"] = sorted(
        (
            {
                "name": name_of(one),
                "share": one["share"],
                "column": f"{one['table']}.{one['column']}" if one["table"] else "",
            }
            for one in own["sequences"]
            if one["share"] is not None and one["share"] >= SEQUENCE
        ),
        key=lambda each: -each["share"],
    )
    found["unbounded"] = [
        {
            "text": one["text"],
            "kind": kind,
            "mean_rows": one["rows"] / one["calls"],
            "mean_ms": one["total_ms"] / one["calls"],
            "calls": one["calls"],
        }
        for one, kind in unbounded(statements["statements"])
        if one["total_ms"] >= total * SMALL
    ]
    found["age"] = {"xid": own["age"], "mxid": own["mxid_age"], "limit": 2_000_000_000, "freeze": own["freeze_max_age"]}
    found["quals"] = own["quals"]
    found["young"] = now - own["counted_since"] < YOUNG_DAYS * DAY
    found["findings"] = list(_findings(found))
    return found


def _index(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of an index that there is."""
    keys = ", ".join(index["parts"][: index["keys"]])
    return {
        "name": index["name"],
        "table": name_of(index, "table"),
        "on": keys + (f" WHERE {index['where']}" if index["where"] else ""),
        "bytes": index["bytes"],
        "scans": index["scans"] or 0,
        "used": index["used"],
    }


def _bloat(own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return tables and indexes that take much more room than their rows need."""
    for table in own["tables"]:
        wasted = table["bloat"] * (table["heap_bytes"] or 0)
        if table["bloat"] >= BLOAT and wasted >= BLOAT_BYTES:
            yield {
                "name": name_of(table),
                "kind": "table",
                "share": table["bloat"],
                "wasted": wasted,
                "measured": table["measured"],
            }
    for index in own["indexes"]:
        wasted = index["bloat"] * index["bytes"]
        if index["bloat"] >= BLOAT and wasted >= BLOAT_BYTES:
            yield {"name": index["name"], "kind": "index", "share": index["bloat"], "wasted": wasted, "measured": False}


def _findings(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what is to be done about a database, each with a weight: what breaks comes before what is slow."""

    def finding(weight: float, kind: str, place: str, title: str, text: str) -> dict[str, Any]:
        return {
            **{"weight": weight, "kind": kind, "title": title, "text": text},
            **{"place": place, "database": found["name"]},
        }

    age = max(found["age"]["xid"], found["age"]["mxid"])
    if age > WRAPAROUND * 2 * found["age"]["freeze"]:
        used = f"{age:,} of {found['age']['limit']:,} are used, and autovacuum has not kept up"
        yield finding(1000, "danger", "age", f"Freeze {found['name']} before its transaction numbers run out", used)
    for one in found["sequences"]:
        if one["share"] >= SEQUENCE_NEAR:
            title = f"Widen {one['column'] or one['name']} before its sequence ends"
            yield finding(
                900 + one["share"], "danger", "sequences", title, f"{share(one['share'])} of its numbers are used"
            )
    for one in found["invalid"]:
        title = f"Rebuild the invalid index {one['name']} on {one['table']}"
        yield finding(800, "danger", "invalid", title, "no query uses it, and each write pays for it")
    for number, one in enumerate(found["advice"]):
        title = f"Add an index on {one['table']}: {columns(one)}"
        text = f"saves about {share(one['share'])} of the database's time"
        yield finding(100 + 100 * one["share"], "index", f"advice-{number}", title, text)
    if found["unindexed"]:
        text = "each deletion of a row that they refer to reads the whole table"
        yield finding(60, "index", "unindexed", f"Give {count(found['unindexed'], 'foreign key')} an index", text)
    if found["redundant"]:
        title = f"Drop {count(found['redundant'], 'index', 'indexes')} that others make needless"
        text = f"{bytes_of(sum(one['bytes'] for one in found['redundant']))} that each write keeps up to date"
        yield finding(50, "drop", "redundant", title, text)
    if found["stale"]:
        title = f"Analyze {count(found['stale'], 'table')}"
        yield finding(40, "care", "stale", title, "the planner counts on old figures")
    if found["bloat"]:
        title = f"Look at {bytes_of(sum(one['wasted'] for one in found['bloat']))} of bloat"
        yield finding(20, "care", "bloat", title, "room that rows no longer need")
    left = [one for one in found["unused"] if one["name"] not in {other["name"] for other in found["redundant"]}]
    if left:
        text = f"{bytes_of(sum(one['bytes'] for one in left))} that no host has read"
        text += ", but it was counted for a short time only" if found["young"] else ""
        title = f"See whether {count(left, 'index', 'indexes')} may go"
        yield finding(10 if found["young"] else 45, "drop", "unused", title, text)
    if found["keyless"]:
        title = f"Give {count(found['keyless'], 'table')} a primary key"
        text = "rows cannot be told apart, nor replicated by logical replication"
        yield finding(15, "care", "keyless", title, text)
    if found["unbounded"]:
        title = f"Bound {count(found['unbounded'], 'query', 'queries')}"
        yield finding(30, "care", "unbounded", title, "OFFSET, or no LIMIT")


def columns(advice: Mapping[str, Any]) -> str:
    """Return an advised index's keys as people say them."""
    words = []
    for each in advice["declared"]["columns"]:
        if isinstance(each, str):
            words.append(each)
        else:
            words.append(each.get("column") or each.get("expression") or "")
            words[-1] += " desc" if each.get("order") == "desc" else ""
    return ", ".join(words)


def _unknown(
    workload: Mapping[str, Any],
    advice: Mapping[str, Any] | None,
    advisor: str,
    databases: Iterable[Mapping[str, Any]],
    now: float,
) -> Iterator[str]:
    """Return what could not be known, a sentence each."""
    for name, host in workload["hosts"].items():
        if not host["reached"]:
            yield f"{name}: {host['error']}. What it has counted, its use of indexes too, is missing here."
        elif not host["known"]:
            yield f"{name}: {host['why']}, so no statement is known of it. `make site` mends that."
        else:
            if host["lost"]:
                yield (
                    f"{name}: pg_stat_statements forgot statements {host['lost']} times for want of room, the rare"
                    " ones first; pg_stat_statements.max gives it more."
                )
            if now - host["since"] < DAY:
                yield f"{name}: statements are counted for {span(now - host['since'])} only, so weekly ones may lack."
    if not workload["base"]:
        yield "No database host answered, so nothing is known at all."
    elif workload["hosts"][workload["base"]]["replica"]:
        yield "The primary did not answer: tables are as a replica knows them, without writes, dead rows and analyses."
    if workload["base"] and advice is None:
        yield f"{advisor or 'No host'} was to plan the statements and did not; there are neither plans nor advice."
    for each in databases:
        if each["error"]:
            yield f"{each['name']}: it could not be read, {each['error']}."
            continue
        if each["total_ms"] is None:
            continue
        if each["advice_error"]:
            yield f"{each['name']}: the advisor failed, {each['advice_error']}."
        elif advice is not None and each["total_ms"] and not each["hypopg"]:
            yield (
                f"{each['name']}: it has no extension hypopg, so no index was tried. `make site` creates it in the"
                " schema terrace; by hand: CREATE SCHEMA terrace; CREATE EXTENSION hypopg SCHEMA terrace."
            )
        if each["cut"]:
            yield f"{each['name']}: the time for trying indexes ran out, so some were not tried."
        if each["failed"]:
            yield f"{each['name']}: {count(each['failed'], 'statement')} could not be planned, and are listed there."
        if each["young"]:
            yield (
                f"{each['name']}: the use of its indexes is counted for {span(now - each['counted_since'])} only;"
                " what runs monthly may still need one that seems unused."
            )
        if each["quals"] is None:
            yield f"{each['name']}: it has no pg_qualstats, so what conditions really select is the planner's guess."
    yield (
        "Statements within functions are counted as their caller's, and what a foreign key asks as nobody's."
        " A plan is made without values: where some are very frequent, PostgreSQL may choose another."
    )


# How figures are said


def count(things: Any, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    number = len(things)
    return f"{number} {one if number == 1 else many or one + 's'}"


def bytes_of(size: float | None) -> str:
    """Return a size as people say it."""
    size = size or 0
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def ms_of(value: float | None) -> str:
    """Return milliseconds as people say them."""
    value = value or 0
    if value >= 3_600_000:
        return f"{value / 3_600_000:.1f} h"
    if value >= 60_000:
        return f"{value / 60_000:.1f} min"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2f} ms"


def number_of(value: float | None) -> str:
    """Return a figure as people say it."""
    value = value or 0
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"


def span(seconds: float) -> str:
    """Return a time as people say it."""
    for length, unit in ((DAY, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return "a moment"


def date(at: float | None) -> str:
    """Return a moment as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at)) if at else "never"


def share(part: float | None) -> str:
    """Return a part in per cent."""
    part = part or 0
    return "<1 %" if 0 < part < 0.01 else f"{100 * part:.0f} %"


def lines(found: Mapping[str, Any], page_at: str = "", most: int = 12) -> list[str]:
    """Return the summary for a terminal."""
    said = [f"Queries of {found['environment']}, {date(found['at'])}"]
    for each in found["databases"]:
        if each["total_ms"]:
            said.append(
                f"  {each['name']}: {each['count']} statements took {ms_of(each['total_ms'])}"
                f" in {number_of(each['calls'])} calls since {date(each['since'])}"
            )
            for query in each["queries"][:3]:
                text = query["text"] if len(query["text"]) <= 90 else query["text"][:87] + "..."
                said.append(
                    f"    {share(query['share']):>5}  {ms_of(query['mean_ms']):>8} x {number_of(query['calls']):<7}"
                    f" {text}"
                )
    if found["base"]:
        said += ["", "To do, the most urgent first" if found["findings"] else "Nothing to do was found."]
    for finding in found["findings"][:most]:
        said.append(f"  {finding['database']}: {finding['title']}: {finding['text']}")
    if len(found["findings"]) > most:
        said.append(f"  and {len(found['findings']) - most} more, on the page")
    advised = [(each, one) for each in found["databases"] for one in each["advice"]]
    for _, one in advised[:5]:
        said += ["", f"# into {one['file']}", *one["lines"].rstrip().split("\n")]
    said += ["", "Not known"] + [f"  {sentence}" for sentence in found["unknown"]]
    return said + (["", f"The page: {page_at}"] if page_at else [])


def page(found: Mapping[str, Any]) -> str:
    """Return the report as one HTML page, which needs no network and no script."""
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bytes": bytes_of, "ms": ms_of, "figure": number_of, "share": share, "date": date, "keys": columns,
    }  # fmt: skip
    return environment.from_string(TEMPLATE.read_text()).render(report=found)
