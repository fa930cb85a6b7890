"""Which generation of its secrets an environment is at, and how far the change of one has come.

It is kept in a file of the environment, without any secret, by the name of what was changed:

    orders/database: {generation: 2}
    orders/redis: {generation: 1, stage: accept}

What is not there was never changed: generation 1. A change goes through three stages; each says the same to `site.yml`
as to the command that makes the change, so a run of either goes on from where the one before was cut off.

    accept  the next generation is accepted beside this one, which services use
    use     services use the next one; both are accepted
    retire  the next one has become this one, and nothing else is to be accepted; not every host is known to know yet
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from terrace import yaml_files

STAGES = ("accept", "use", "retire")
# What is changed for the whole environment; everything else is SERVICE/database, SERVICE/redis or SERVICE/VARIABLE.
WHOLE = ("certificates", "authority")
# A database's logins take turns.
LETTERS = "ab"


def read(path: Path) -> tuple[Any, list[yaml_files.Problem]]:
    """Return what the file says, and what keeps it from being read; an environment without one says nothing.

    It is read each time: a run that changes a secret writes it, and goes on by it.
    """
    if not path.exists():
        return {}, []
    content, problems = yaml_files.parse(path.read_text(), yaml_files.shown(path))
    return ({} if content is None and not problems else content), problems


def findings(content: Any) -> Iterator[tuple[str, str]]:
    """Return what is wrong with what a file says, each as key and text."""
    if not isinstance(content, Mapping):
        yield "", "has to be a mapping; take back what make rotate-secret wrote last"
        return
    for name, entry in content.items():
        if not isinstance(entry, Mapping) or not {"generation"} <= set(entry) <= {"generation", "stage"}:
            yield str(name), "needs `generation`, and may have `stage`"
            continue
        number = entry["generation"]
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            yield f"{name}.generation", f"is {number!r}; has to be a whole number from 1"
        if "stage" in entry and entry["stage"] not in STAGES:
            yield f"{name}.stage", f"is {entry['stage']!r}; choose one of {', '.join(STAGES)}"


def generation(rotation: Mapping | None, name: str) -> int:
    """Return the generation that something is at."""
    return int(((rotation or {}).get(name) or {}).get("generation", 1))


def stage(rotation: Mapping | None, name: str) -> str:
    """Return how far its change has come; nothing where none is under way."""
    return str(((rotation or {}).get(name) or {}).get("stage", ""))


def accepted(rotation: Mapping | None, name: str) -> list[int]:
    """Return the generations of a password that are accepted, first the one that services use."""
    number = generation(rotation, name)
    return {"accept": [number, number + 1], "use": [number + 1, number]}.get(stage(rotation, name), [number])


def letter(number: int) -> str:
    """Return which of a database's two logins a generation is."""
    return LETTERS[(number - 1) % 2]
