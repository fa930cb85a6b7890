"""What Terrace's own files say of variables and roles: which inputs there are, what is wired, which group runs what."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import yaml

from terrace.contracts import ROOT, role_inputs

ROLE_TASKS = ("include_role", "import_role", "ansible.builtin.include_role", "ansible.builtin.import_role")


@functools.cache
def derived() -> dict[str, str]:
    """Return the variables that the playbooks define for all hosts, with the file of each.

    They win over an inventory's `all`, and lose to its other groups.
    """
    return {
        name: str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob("playbooks/group_vars/all/*.yml"))
        for name in yaml.safe_load(path.read_text())
    }


@functools.cache
def inputs() -> dict[str, tuple[str, dict]]:
    """Return every input of every role, with its role and its option."""
    return {name: (role, option) for role, options in role_inputs().items() for name, option in options.items()}


@functools.cache
def roles() -> dict[str, dict[str, set[str]]]:
    """Return where roles run: by role, then by group, the variables that the playbook gives it there."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in sorted(ROOT.glob("playbooks/*.yml")):
        for play in yaml.safe_load(path.read_text()) or []:
            pattern = re.split(r"[:,]", str(play.get("hosts", "")))
            groups = [group for group in pattern if re.fullmatch(r"[\w-]+", group)]
            for role, given in _roles(play):
                for group in groups:
                    found.setdefault(role, {}).setdefault(group, set()).update(given)
    return found


def _roles(play: dict) -> Iterator[tuple[str, set[str]]]:
    """Return the roles of a play, those that its tasks include too, with the variables that each is given."""
    common = set(play.get("vars") or {})
    for entry in play.get("roles") or []:
        entry = entry if isinstance(entry, dict) else {"role": entry}
        yield str(entry.get("role") or entry.get("name")), common | set(entry) | set(entry.get("vars") or {})
    for task in _tasks([part for key in ("pre_tasks", "tasks", "post_tasks") for part in play.get(key) or []]):
        for action in ROLE_TASKS:
            if isinstance(arguments := task.get(action), dict):
                yield str(arguments["name"]), common | set(task.get("vars") or {})


def _tasks(tasks: list[dict]) -> Iterator[dict]:
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from _tasks(task.get(part) or [])


def groups_of(role: str) -> list[str]:
    """Return the groups whose hosts run a role; none where the playbooks do not tell."""
    return sorted(roles().get(role, {}))


def required() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Return the inputs that an environment has to give: role, group, name and option of each."""
    for role, groups in roles().items():
        for name, option in role_inputs().get(role, {}).items():
            if option.get("required") and name not in derived():
                for group, given in groups.items():
                    if name not in given:
                        yield role, group, name, option
