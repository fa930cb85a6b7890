"""What a plan's conditions say of columns: EXPLAIN's `((o.customer_id = $1) AND (o.created_at > $2))`, taken apart.

EXPLAIN (VERBOSE) writes each column with its relation's alias, and puts brackets around each operator's operands, so
that no precedence has to be known. What is not understood says nothing, which costs a candidate, and never a wrong
answer: each candidate is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible.module_utils.postgresql_text import Token, tokens

EQUAL, ANY, RANGE, NULL, NOT_NULL = "equal", "any", "range", "null", "not null"
TRUE, FALSE, PREFIX, CONTAINS, SORT = "true", "false", "prefix", "contains", "sort"
_OPERATORS = {
    "=": EQUAL, "<": RANGE, "<=": RANGE, ">": RANGE, ">=": RANGE, "^@": PREFIX, "~~": PREFIX,
    "@>": CONTAINS, "<@": CONTAINS, "&&": CONTAINS, "?": CONTAINS, "?|": CONTAINS, "?&": CONTAINS, "@@": CONTAINS,
    "@?": CONTAINS,
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """What an index may be on: a column, or an expression over columns of one relation.

    Parameters:
        alias: the relation, as the plan calls it.
        text: the column's bare name, or the expression in SQL, without the alias.
        column: the only column in it; empty where there are several.
        cast: the type that the bare column is cast to; empty where it is not.
        expression: whether it is more than a column.
        fixed: whether no value stands in it, which an index's expression must not have.
    """

    alias: str
    text: str
    column: str
    cast: str = ""
    expression: bool = False
    fixed: bool = True


@dataclass(frozen=True)
class Predicate:
    """A condition on one key.

    Parameters:
        key: what it is on.
        kind: one of the words above.
        other: the alias of the relation that it is compared with; empty for a value.
        descending: of a sort, whether it is in descending order.
        nulls_first: of a sort, whether nulls come first.
    """

    key: Key
    kind: str
    other: str = ""
    descending: bool = False
    nulls_first: bool = False


def bare(name: str) -> str:
    """Return the name that an identifier stands for, without its quotes."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _stripped(parts: Sequence[Token]) -> list[Token]:
    """Return the parts without the brackets around all of them."""
    parts = list(parts)
    while len(parts) > 1 and parts[0].text == "(" and _closing(parts, 0) == len(parts) - 1:
        parts = parts[1:-1]
    return parts


def _closing(parts: Sequence[Token], opening: int) -> int:
    """Return where the bracket closes that opens here; the end where it does not."""
    depth = 0
    for number in range(opening, len(parts)):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(parts[number].text, 0)
        if depth == 0:
            return number
    return len(parts)


def _split(parts: Sequence[Token], word: str) -> list[list[Token]]:
    """Return the parts between a word, outside of brackets."""
    found: list[list[Token]] = [[]]
    depth = 0
    for part in parts:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(part.text, 0)
        if depth == 0 and part.word == word:
            found.append([])
        else:
            found[-1].append(part)
    return found


def _text(parts: Sequence[Token]) -> str:
    """Return the parts as SQL."""
    written = ""
    for part in parts:
        glued = part.text in (")", ",", ".", "[", "]", "::", "(") or written.endswith(("(", ".", "[", "::"))
        glued = glued and not (part.text == "(" and written.endswith((",", "=", "+", "-", "*", "/", "|")))
        written += ("" if not written or glued else " ") + part.text
    return written


def references(parts: Sequence[Token], aliases: set[str]) -> list[tuple[str, str]]:
    """Return the columns in an expression, as pairs of alias and bare name."""
    found = []
    for number in range(len(parts) - 2):
        if parts[number + 1].text != "." or (number and parts[number - 1].text == "."):
            continue
        alias, name = bare(parts[number].text), parts[number + 2]
        if alias in aliases and name.kind in ("word", "identifier"):
            found.append((alias, bare(name.text)))
    return found


def key_of(parts: Sequence[Token], aliases: set[str]) -> Key | None:
    """Return what an operand is, where it is of one relation alone."""
    parts = _stripped(parts)
    found = references(parts, aliases)
    if not found or len({alias for alias, _ in found}) > 1 or any("SubPlan" in part.text for part in parts):
        return None
    alias = found[0][0]
    columns = {name for _, name in found}
    column = columns.pop() if len(columns) == 1 else ""
    if len(parts) == 3:
        return Key(alias, column, column)
    cast = ""
    marks = [number for number, part in enumerate(parts) if part.text == "::"]
    if marks and len(_stripped(parts[: marks[0]])) == 3 and parts[-1].text not in (")",):
        cast = _text(parts[marks[0] + 1 :])
    without = []
    for number, part in enumerate(parts):
        after = parts[number + 1].text if number + 1 < len(parts) else ""
        behind = parts[number - 1] if number else None
        if bare(part.text) == alias and after == "." and (behind is None or behind.text != "."):
            continue
        if part.text == "." and behind is not None and bare(behind.text) == alias:
            continue
        without.append(part)
    # In EXPLAIN's words `?` is what `masked` left of a value, or an operator of jsonb: an index can be on neither.
    fixed = not any(part.kind in ("parameter", "string", "number") or part.text == "?" for part in parts)
    return Key(alias, _text(without), column, cast, True, fixed)


def _atom(parts: list[Token], aliases: set[str]) -> Iterator[Predicate]:
    """Return what one condition says, without AND and OR."""
    parts = _stripped(parts)
    words = [part.word for part in parts]
    for ending, kind in ((["is", "not", "null"], NOT_NULL), (["is", "null"], NULL), (["is", "true"], TRUE)):
        if words[-len(ending) :] == ending:
            key = key_of(parts[: -len(ending)], aliases)
            if key:
                yield Predicate(key, kind)
            return
    if words[:1] == ["not"]:
        key = key_of(parts[1:], aliases)
        if key and not key.expression:
            yield Predicate(key, FALSE)
        return
    depth, place = 0, -1
    for number, part in enumerate(parts):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(part.text, 0)
        if depth == 0 and (part.text in _OPERATORS) and part.kind == "operator":
            place = number
            break
    if place < 0:
        key = key_of(parts, aliases)
        if key and not key.expression:
            yield Predicate(key, TRUE)
        return
    kind = _OPERATORS[parts[place].text]
    left, right = parts[:place], parts[place + 1 :]
    if right and right[0].word in ("any", "all"):
        right, kind = right[1:], ANY if kind == EQUAL and right[0].word == "any" else ""
    rows = [_row(left), _row(right)]
    if all(rows) and kind in (EQUAL, RANGE):
        # The first column of a comparison of rows bounds it; the others refine it.
        for one, another in zip(*rows, strict=False):
            yield from _compared(one, another, kind, aliases)
    elif kind:
        yield from _compared(left, right, kind, aliases)


def _row(parts: Sequence[Token]) -> list[list[Token]]:
    """Return the members of `ROW(a, b)`; nothing for anything else."""
    parts = _stripped(parts)
    if not parts or parts[0].word != "row":
        return []
    members: list[list[Token]] = [[]]
    depth = 0
    for part in parts[2:-1]:
        depth += {"(": 1, ")": -1}.get(part.text, 0)
        if depth == 0 and part.text == ",":
            members.append([])
        else:
            members[-1].append(part)
    return members


def _compared(left: Sequence[Token], right: Sequence[Token], kind: str, aliases: set[str]) -> Iterator[Predicate]:
    """Return what a comparison says of each of its sides."""
    for side, against in ((left, right), (right, left)):
        key = key_of(side, aliases)
        others = {alias for alias, _ in references(list(against), aliases)}
        if not key or key.alias in others or len(others) > 1 or (kind in (PREFIX, ANY, CONTAINS) and side is right):
            continue
        yield Predicate(key, kind, next(iter(others), ""))


def predicates(condition: str, aliases: set[str]) -> Iterator[Predicate]:
    """Return what a condition of a plan says of the plan's relations, those of each arm of an OR too.

    Parameters:
        condition: as EXPLAIN (VERBOSE) writes it.
        aliases: the plan's relations.
    """
    parts = _stripped([token for token in tokens(condition) if token.kind != "space"])
    for word in ("and", "or"):
        arms = _split(parts, word)
        if len(arms) > 1:
            for arm in arms:
                yield from predicates(_text(arm), aliases)
            return
    # NOT of several, and CASE, say nothing that an index could answer.
    if any(part.word == "case" for part in parts):
        return
    yield from _atom(parts, aliases)


def sort_key(text: str, aliases: set[str]) -> Predicate | None:
    """Return what an entry of a plan's sort key is on, where it is of one relation."""
    found = re.fullmatch(
        r"(?s)(.*?)(?: COLLATE (?:\"[^\"]*\"|\S+))?(?: (DESC|USING \S+))?(?: NULLS (FIRST|LAST))?", text
    )
    descending = found[2] == "DESC"
    key = key_of([token for token in tokens(found[1]) if token.kind != "space"], aliases)
    return key and Predicate(key, SORT, "", descending, found[3] == "FIRST" if found[3] else descending)
