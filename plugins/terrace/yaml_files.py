"""YAML files of users: read so that everything wrong with one is told, by line, in words that say what to do."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

# What the parser's complaint mostly comes from.
MENDS = (
    (r"unhashable", 'put a template in quotes: "{{ ... }}"'),
    (r"mapping values are not allowed", "put text that has a colon in quotes, and indent keys of one mapping alike"),
    (r"cannot start any token", "indent with spaces, and put text that begins with a special character in quotes"),
    (r"single document", "keep one document, without a second ---"),
    (r"undefined alias", "name an anchor that stands above, or put text that begins with * in quotes"),
    (r"constructor for the tag", "take the tag away, or put text that begins with ! in quotes"),
    (r"", "close every bracket and quote, and indent keys of one mapping alike"),
)


class Problem(NamedTuple):
    """What is wrong in one place.

    place: the file as people know it, with a line where that is known. key: which key; may be empty.
    text: what is wrong, and its mend.
    """

    place: str
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class Loader(yaml.CSafeLoader):
    """A YAML loader that remembers keys given twice, of which YAML lets the last one win."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[tuple[int, str]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self.twice.append((key.start_mark.line + 1, key.value))
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def ours(path: Path) -> Any:
    """Return what a file of Terrace's own holds; a tenth of the time of PyYAML's own loader, ahead of every run."""
    return yaml.load(path.read_text(), Loader=yaml.CSafeLoader)


def _text(loader: Loader, _suffix: str, node: yaml.Node) -> Any:
    """Return what Ansible's own tags (!vault, !unsafe) stand before."""
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


Loader.add_multi_constructor("!vault", _text)
Loader.add_multi_constructor("!unsafe", _text)


def parse(text: str, name: str) -> tuple[Any, list[Problem]]:
    """Return what a YAML text holds, None where it cannot be parsed, and what is wrong with it.

    Parameters:
        name: the file's name, for people.
    """
    try:
        loader = Loader(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        mend = next(mend for pattern, mend in MENDS if re.search(pattern, said))
        return None, [Problem(f"{name}:{mark.line + 1}" if mark else name, "", f"is no valid YAML ({said}); {mend}")]
    twice = [Problem(f"{name}:{line}", "", f"the key '{key}' is given twice; keep one") for line, key in loader.twice]
    return content, twice


@functools.lru_cache(maxsize=1024)
def _read(path: str, _changed: float, name: str) -> tuple[Any, list[Problem]]:
    try:
        return parse(Path(path).read_text(), name)
    except UnicodeDecodeError:
        return None, [Problem(name, "", "is not in UTF-8; save it in that encoding")]


def read(path: Path, name: str) -> tuple[Any, list[Problem]]:
    """Return `parse` of a file. A file that has not changed is parsed once."""
    return _read(str(path), path.stat().st_mtime, name)


def shown(path: Path) -> str:
    """Return a path as people know it: from where they are, if it is there."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path.resolve())
