"""Queries that services declare as having to stay fast: what is wrong with them, and what is told of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from terrace.contracts import Finding, shown

NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
FIRST = ("select", "with", "values")
WRITES = ("insert", "update", "delete", "merge")
# What stands out in a report.
WRONG = "NOT AS EXPECTED"
# A reader's own statement_timeout is 5 minutes (role postgresql_databases).
LONGEST = 300
# What a query is made of (PostgreSQL's manual, 4.1), as far as a semicolon or a $1 may be within it.
TOKEN = re.compile(
    r"""
    (?P<space> \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<closed>
        [eE]' (?: [^'\\] | \\. | '' )* '
        | ' (?: [^'] | '' )* '
        | " (?: [^"] | "" )* "
        | \$ (?P<tag> (?: [^\W\d]\w* )? ) \$ .*? \$ (?P=tag) \$
      )
    | (?P<open> [eE]?' | " | \$ (?: [^\W\d]\w* )? \$ )
    | \$ (?P<parameter> \d+ )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


class QueryError(ValueError):
    """A query cannot be read; the text says why, with its mend."""


def tokens(query: str) -> Iterator[tuple[str, str]]:
    """Return what a query is made of, without space and comments: the kind of each part, and its text.

    Kinds are closed (text, or a name in quotes), parameter (its number), word, and other (one character).

    Raises QueryError where a quote or a comment is not closed.
    """
    place = 0
    while place < len(query):
        found = TOKEN.match(query, place)
        kind = found.lastgroup if found.lastgroup != "tag" else "closed"
        place = found.end()
        if kind == "comment":
            place = _after_comment(query, place)
        elif kind == "open":
            raise QueryError("has a quote that is not closed; close it")
        elif kind != "space":
            yield kind, found[kind]


def _after_comment(query: str, place: int) -> int:
    """Return where a comment ends that began before a place; in PostgreSQL there may be others within it."""
    depth = 1
    for mark in re.compile(r"/\*|\*/").finditer(query, place):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    raise QueryError("has a comment that is not closed; close it by */")


def findings(queries: Mapping[str, Mapping]) -> Iterator[Finding]:
    """Return what is wrong with the queries of a service, whose keys and types are those of the contract."""
    for name, its in queries.items():
        place = f"database.queries.{name}"
        if not NAME.fullmatch(str(name)):
            yield place, "a name is 1 to 24 of a-z, 0-9 and -, and starts with a letter"
        yield from _query(its["query"], its.get("parameters") or [], place)
        yield from _expected(its.get("expect") or {}, f"{place}.expect")


def _query(query: str, parameters: list, place: str) -> Iterator[Finding]:
    for number, value in enumerate(parameters):
        if not isinstance(value, (str, int, float, type(None))):
            text = "has to be text, a number, true, false or null; put dates and arrays in quotes"
            yield f"{place}.parameters[{number}]", f"is {shown(value)}; {text}"
    try:
        parts = list(tokens(query))
    except QueryError as error:
        yield f"{place}.query", str(error)
        return
    while parts and parts[-1] == ("other", ";"):
        parts.pop()
    first = next((text.lower() for _, text in parts if text != "("), "")
    if not parts:
        yield f"{place}.query", "is empty; give one SELECT"
    elif ("other", ";") in parts:
        yield f"{place}.query", "has more than one statement; give one, and the others a name of their own"
    elif first not in FIRST:
        yield f"{place}.query", f"begins with {shown(first)}; give one SELECT, WITH or VALUES, which only reads"
    elif writes := _writes(parts):
        yield f"{place}.query", f"has {writes.upper()} in it; give what only reads"
    used = sorted({int(text) for kind, text in parts if kind == "parameter"})
    if used and used[0] == 0:
        yield f"{place}.query", "has a $0; the first parameter is $1"
        return
    highest = max(used, default=0)
    if highest != len(parameters):
        text = f"has {len(parameters)} where the query's highest is ${highest}" if highest else "the query has no $1"
        yield f"{place}.parameters", f"{text}; give one value for each"
    elif unused := [f"${number}" for number in range(1, highest + 1) if number not in used]:
        yield f"{place}.query", f"has no {', '.join(unused)}; number its parameters from $1 on, without a gap"


def _writes(parts: list[tuple[str, str]]) -> str:
    """Return by which word a query that begins with WITH writes; empty where PostgreSQL has to find it out."""
    for (_, before), (_, word), (kind, _) in zip(parts, parts[1:], parts[2:], strict=False):
        if before in ("(", ")") and word.lower() in WRITES and kind == "word":
            return word
    return ""


def _expected(expect: Mapping[str, Any], place: str) -> Iterator[Finding]:
    for key, least in (("buffers", 1), ("scan", 0), ("seconds", 1)):
        value = expect.get(key)
        if value is not None and value < least:
            yield f"{place}.{key}", f"is {value}; has to be {least} or more"
    if expect.get("seconds", 0) > LONGEST:
        yield f"{place}.seconds", f"is {expect['seconds']}; has to be {LONGEST} or less"
    for number, name in enumerate(expect.get("index") or []):
        if not name.strip():
            yield f"{place}.index[{number}]", "is empty; name an index"


def listed(services: Iterable[Mapping], service: str = "", name: str = "", gates: bool = False) -> list[dict]:
    """Return the declared queries as the module `postgresql_queries` takes them, in the order of their declaration.

    Parameters:
        services: every service, with the defaults of its contract.
        service: that of which service; empty for all.
        name: which query; empty for all.
        gates: whether only those are wanted that a deploy has to pass.
    """
    return [
        {
            "service": each["name"],
            "name": key,
            "database": each["database"]["name"],
            "user": f"{each['database']['name']}_reader",
            **{part: its[part] for part in ("query", "parameters", "expect")},
        }
        for each in services
        if each["database"] and service in ("", each["name"])
        for key, its in each["database"]["queries"].items()
        if name in ("", key) and (its["gate"] or not gates)
    ]


class Report:
    """What came of queries, out of the answers of all database hosts to `postgresql_queries`.

    Parameters:
        answers: of each host that answered.
    """

    def __init__(self, answers: list[Mapping]) -> None:
        said = [answer for answer in answers if "chosen" in answer]
        ran = next((answer for answer in said if answer["results"]), None)
        self.results: list[Mapping] = ran["results"] if ran else []
        self.host = (ran or next(iter(said), {})).get("chosen", "")
        self.replica = bool(ran and ran["replica"])

    @property
    def problems(self) -> list[str]:
        """What does not hold, a line for each query: its name, what was expected, and what was found."""
        if not self.results:
            who = f"{self.host} was to run the queries, and could not" if self.host else "no database host answered"
            return [f"{who}; `make status` tells why"]
        return [f"{_name(result)}: {_reasons(result)}" for result in self.results if not result["ok"]]

    def data(self) -> dict[str, Any]:
        """Return all of it for programs."""
        return {"host": self.host, "replica": self.replica, "ok": not self.problems, "queries": self.results}

    def lines(self) -> list[str]:
        """Return all of it for people; what does not hold is told with its plan."""
        if not self.results:
            return self.problems
        where = "a replica" if self.replica else "the primary, since no replica follows it"
        lines = [f"Run on {self.host}, {where}:"]
        for result in self.results:
            lines += ["", *_block(result)]
        wrong, count = len(self.problems), len(self.results)
        every = "1 query" if count == 1 else f"{count} queries"
        said = f"{wrong} of {every}" if wrong else every
        return [*lines, "", f"{said} {'is' if (wrong or count) == 1 else 'are'} {'not ' if wrong else ''}as expected."]


def _name(result: Mapping) -> str:
    return f"{result['service']}/{result['name']}"


def _reasons(result: Mapping) -> str:
    failed = [f"{each['expectation']}: {each['found']}" for each in result["findings"] if each["verdict"] == "fails"]
    return result["error"] or "; ".join(failed)


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _block(result: Mapping) -> Iterator[str]:
    measured = []
    if result["buffers"] is not None:
        rows, buffers = _many(result["rows"], "row"), _many(result["buffers"], "buffer")
        measured = [f"({buffers}, {rows}, {result['milliseconds']:g} ms)"]
    yield f"{_name(result)}: {' '.join(['ok' if result['ok'] else WRONG, *measured])}"
    if result["error"]:
        yield f"  {'error':10}  {result['error']}"
    for each in result["findings"]:
        # Of a query that is well, what holds goes without saying.
        if not result["ok"] or each["verdict"] == "not judged" or result["plan"]:
            yield f"  {each['verdict']:10}  {each['expectation']}: {each['found']}"
    for warning in result["warnings"]:
        yield f"  {'beware':10}  {warning}"
    yield from (f"    {line}" for line in result["plan"].splitlines())
