"""SQL as it may be shown: read by a small scanner, so that no literal value and no secret gets past it.

pg_stat_statements puts `$1` in the place of most constants, but not of all: utility statements (`ALTER ROLE ...
PASSWORD`) keep theirs, and so do comments, plans and definitions. The scanner knows PostgreSQL's lexical rules
(manual, 4.1) as far as they decide where a value begins and ends, and where it is in doubt it hides the rest of the
text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

HIDDEN = "?"
# Statements of which pg_stat_statements parametrises every constant; of others only the tag is shown.
NORMALISED = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE")
# What a tag may be made of: all else could be a name or a value.
COMMANDS = {
    *("ALTER", "ANALYZE", "BEGIN", "CALL", "CHECKPOINT", "CLOSE", "CLUSTER", "COMMENT", "COMMIT", "COPY", "CREATE"),
    *("DEALLOCATE", "DECLARE", "DISCARD", "DO", "DROP", "END", "EXECUTE", "EXPLAIN", "FETCH", "GRANT", "IMPORT"),
    *("LISTEN", "LOAD", "LOCK", "MOVE", "NOTIFY", "PREPARE", "REASSIGN", "REFRESH", "REINDEX", "RELEASE", "RESET"),
    *("REVOKE", "ROLLBACK", "SAVEPOINT", "SECURITY", "SET", "SHOW", "START", "TRUNCATE", "UNLISTEN", "VACUUM"),
}
OBJECTS = {
    *("AGGREGATE", "COLLATION", "DATABASE", "DOMAIN", "EVENT", "EXTENSION", "FOREIGN", "FUNCTION", "GROUP", "INDEX"),
    *("MATERIALIZED", "POLICY", "PROCEDURE", "PUBLICATION", "ROLE", "RULE", "SCHEMA", "SEQUENCE", "SERVER"),
    *("STATISTICS", "SUBSCRIPTION", "SYSTEM", "TABLE", "TRANSACTION", "TRIGGER", "TYPE", "USER", "VIEW", "UNIQUE"),
}
# Types whose name may stand before a constant (`date '2026-01-31'`), which is not valid before a parameter.
TYPED = {
    *("date", "time", "timetz", "timestamp", "timestamptz", "interval", "numeric", "decimal", "integer", "int"),
    *("bigint", "smallint", "text", "varchar", "boolean", "bool", "uuid", "inet", "json", "jsonb", "bytea", "real"),
}
# Types whose modifiers are numbers: a part of the type, not a value.
MODIFIED = {
    *("numeric", "decimal", "varchar", "char", "character", "varying", "bit", "float", "time", "timestamp"),
    *("timestamptz", "interval", "bpchar"),
}
FIELDS = {"year", "month", "day", "hour", "minute", "second"}
_SCANNER = re.compile(
    r"""(?P<space>\s+)
    |(?P<line>--[^\n]*)
    |(?P<block>/\*)
    |(?P<escaped>[Ee]')
    |(?P<string>(?:[BbXxNn]|[Uu]&)?')
    |(?P<dollar>\$(?:[^\W\d]\w*)?\$)
    |(?P<identifier>(?:[Uu]&)?")
    |(?P<parameter>\$\d+)
    |(?P<number>0[xXoObB][0-9a-fA-F_]+|(?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?)
    |(?P<word>[^\W\d][\w$]*)
    |(?P<operator>::|(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
    |(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    """A part of a text: `kind` is word, identifier, string, number, parameter, operator, mark or space."""

    kind: str
    text: str

    @property
    def word(self) -> str:
        """The word in small letters; empty for all that is none."""
        return self.text.lower() if self.kind == "word" else ""


def _end_of_comment(text: str, at: int) -> int:
    """Return where a comment ends that began before `at`; comments nest."""
    depth = 1
    while depth and at < len(text):
        found = re.compile(r"/\*|\*/").search(text, at)
        if not found:
            return len(text)
        depth += 1 if found[0] == "/*" else -1
        at = found.end()
    return at


def _end_of_quoted(text: str, at: int, quote: str, escaped: bool) -> int:
    """Return where a quoted part ends that began before `at`; the text's end where that is in doubt."""
    while at < len(text):
        if text[at] == "\\" and quote == "'":
            # Whether a backslash escapes a quote is a setting of the session that sent it.
            if not escaped and text[at + 1 : at + 2] == quote:
                return len(text)
            at += 2 if escaped else 1
        elif text[at] == quote:
            if text[at + 1 : at + 2] != quote:
                return at + 1
            at += 2
        else:
            at += 1
    return len(text)


def tokens(text: str) -> Iterator[Token]:
    """Return the parts of a statement or an expression, in order; a comment counts as a space."""
    at = 0
    while at < len(text):
        found = _SCANNER.match(text, at)
        kind, start, at = found.lastgroup, at, found.end()
        if kind == "line":
            kind = "space"
        elif kind == "block":
            kind, at = "space", _end_of_comment(text, at)
        elif kind in ("string", "escaped"):
            kind, at = "string", _end_of_quoted(text, at, "'", kind == "escaped")
        elif kind == "identifier":
            at = _end_of_quoted(text, at, '"', False)
        elif kind == "dollar":
            end = text.find(found[0], at)
            kind, at = "string", len(text) if end < 0 else end + len(found[0])
        yield Token(kind, " " if kind == "space" else text[start:at])


def solid(text: str) -> list[Token]:
    """Return the parts without what is only space."""
    return [token for token in tokens(text) if token.kind != "space"]


def _joined(parts: list[Token]) -> str:
    """Return the parts as one line."""
    return re.sub(r" +", " ", "".join(part.text for part in parts)).strip()


def masked(text: str) -> str:
    """Return SQL in one line, without comments and with `?` in the place of each literal value.

    Kept are numbers of at most three digits that are no values: modifiers of a type, as in `numeric(10, 2)`, and
    positions after ORDER BY and GROUP BY.
    """
    shown: list[Token] = []
    before: list[Token] = []  # the solid ones
    opened: list[bool] = []  # whether each open bracket holds a type's modifiers
    positions = False
    for token in tokens(text):
        if token.kind == "string":
            token = Token("string", HIDDEN)
        elif token.kind == "number":
            last = before[-1].text if before else ""
            whole = token.text.isdecimal() and len(token.text) <= 3
            modifier = bool(opened) and opened[-1] and last in ("(", ",")
            position = positions and last.lower() in ("by", ",")
            token = token if whole and (modifier or position) else Token("number", HIDDEN)
        elif token.kind == "mark" and token.text in "()":
            if token.text == "(":
                opened.append(bool(before) and before[-1].word in MODIFIED)
                positions = False
            elif opened:
                opened.pop()
                positions = False
        elif token.word:
            if token.word == "by":
                positions = bool(before) and before[-1].word in ("order", "group")
            elif token.word not in ("asc", "desc", "nulls", "first", "last"):
                positions = positions and before[-1].text != ")" and token.word not in (
                    *("limit", "offset", "fetch", "for", "having", "union", "where", "select"),
                )  # fmt: skip
        shown.append(token)
        if token.kind != "space":
            before.append(token)
    return _joined(shown)


def tag(text: str) -> str:
    """Return the command of a statement that is not shown, such as `ALTER ROLE`: words of PostgreSQL's own alone."""
    words = [token.text.upper() for token in solid(text)[:2]]
    if not words or words[0] not in COMMANDS:
        return "another statement"
    return " ".join(words[:1] + [word for word in words[1:] if word in OBJECTS])


def command(text: str) -> str:
    """Return a statement's first word, in capitals."""
    first = next((token for token in solid(text) if token.text != "("), Token("mark", ""))
    return first.text.upper()


def shown(text: str) -> str:
    """Return what may be shown of a statement as pg_stat_statements has it."""
    return masked(text) if command(text) in NORMALISED else tag(text)


def _typed(parts: list[Token]) -> Iterator[Token]:
    """Return the parts with each `date $1` as `CAST($1 AS date)`; an interval's field is dropped."""
    at = 0
    while at < len(parts):
        part = parts[at]
        solid_after = [n for n in range(at + 1, min(at + 5, len(parts))) if parts[n].kind != "space"]
        if part.word in TYPED and solid_after and parts[solid_after[0]].kind == "parameter":
            cast = at and next((p.text for p in reversed(parts[:at]) if p.kind != "space"), "")
            if cast not in ("::", ".") and str(cast).lower() != "as":
                yield Token("word", f"CAST({parts[solid_after[0]].text} AS {part.text})")
                at = solid_after[0] + 1
                if part.word == "interval" and len(solid_after) > 1 and parts[solid_after[1]].word in FIELDS:
                    at = solid_after[1] + 1
                continue
        yield part
        at += 1


def _expression(parts: list[Token], at: int) -> tuple[int, int] | None:
    """Return where the call begins and ends that a hidden value is an argument of, or else the operation on a name."""
    depth = 0
    for start in range(at - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(parts[start].text, 0)
        if depth < 0:
            closing = depth = 0
            for closing in range(start, len(parts)):
                depth += {"(": 1, ")": -1}.get(parts[closing].text, 0)
                if depth == 0:
                    break
            return (start - 1, closing + 1) if parts[start - 1].kind == "word" else None
        if depth == 0 and parts[start].word in ("by", "select"):
            break
    return (at - 2, at + 1) if at > 1 and parts[at - 1].kind == "operator" else None


def _rejoined(parts: list[Token]) -> list[Token]:
    """Return the parts with hidden values as the parameters that they are elsewhere.

    Of `SELECT date_trunc('day', x) ... GROUP BY date_trunc('day', x)` pg_stat_statements parametrises the first
    constant alone, and PostgreSQL takes the two for one only where they are the same.
    """
    parts = list(parts)
    for at, part in enumerate(parts):
        if part.text != HIDDEN or part.kind not in ("operator", "string", "number"):
            continue
        found = _expression(parts, at)
        if not found:
            continue
        own = parts[found[0] : found[1]]
        for start in range(found[0] - len(own) + 1):
            other = parts[start : start + len(own)]
            if all(
                b.kind == "parameter" if a.text == HIDDEN else a.text == b.text for a, b in zip(own, other, strict=True)
            ):
                parts[found[0] : found[1]] = other
                break
    return parts


def plannable(text: str, rows: float) -> str:
    """Return a normalised statement as EXPLAIN (GENERIC_PLAN) takes it.

    A constant's type is said as PostgreSQL allows for a parameter. Of an unknown LIMIT the planner assumes a tenth of
    all rows; here it is told how many the statement has really returned.

    Parameters:
        text: of `masked`.
        rows: how many it returned at a time, on the average.
    """
    parts = list(tokens(text))
    if any(part.text == HIDDEN for part in parts):
        blank = Token("space", " ")
        parts = [each for part in _rejoined(solid(text)) for each in (part, blank)]
    parts = list(_typed(parts))
    depth, before = 0, ""
    words = {part.word for part in parts}
    for number, part in enumerate(parts):
        if part.text in ("(", ")"):
            depth += 1 if part.text == "(" else -1
        elif (
            part.kind == "parameter"
            and depth == 0
            and "offset" not in words
            and (before == "limit" or (before in ("first", "next") and "fetch" in words))
        ):
            parts[number] = Token("number", str(max(1, math.ceil(rows))))
        if part.kind != "space":
            before = part.word
    return _joined(parts)
