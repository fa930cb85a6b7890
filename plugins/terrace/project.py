"""What Terrace's own files say of variables and roles: which inputs there are, what is wired, which group runs what."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from terrace import yaml_files
from terrace.contracts import ROOT

# Groups that a playbook makes in its run are none of an inventory.
GROUP_BY = "ansible.builtin.group_by"
ROLE_TASKS = ("include_role", "import_role", "ansible.builtin.include_role", "ansible.builtin.import_role")


class Call(NamedTuple):
    """A role as a play runs it: on which group, by which entry point, and with which variables of the playbook."""

    group: str
    entry: str
    given: dict[str, Any]


@functools.cache
def derived() -> dict[str, str]:
    """Return the variables that the playbooks define for all hosts, with the file of each.

    They win over an inventory's `all`, and lose to its other groups.
    """
    return {
        name: str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob("playbooks/group_vars/all/*.yml"))
        for name in yaml_files.ours(path)
    }


@functools.cache
def entries() -> dict[str, dict[str, dict[str, dict]]]:
    """Return what every role takes: by role, by entry point, by input, its option."""
    return {
        path.parents[1].name: {
            entry: spec.get("options") or {} for entry, spec in yaml_files.ours(path)["argument_specs"].items()
        }
        for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
    }


@functools.cache
def inputs() -> dict[str, tuple[str, dict]]:
    """Return every input of every role, with its role and its option."""
    return {
        name: (role, option)
        for role, its in entries().items()
        for options in its.values()
        for name, option in options.items()
    }


@functools.cache
def calls() -> dict[str, list[Call]]:
    """Return where the playbooks run which role."""
    found: dict[str, list[Call]] = {}
    for path in sorted(ROOT.glob("playbooks/*.yml")):
        plays = yaml_files.ours(path) or []
        made = {task[GROUP_BY]["key"] for play in plays for task in _tasks_of(play) if GROUP_BY in task}
        for play in plays:
            groups = [each for each in re.split(r"[:,]", str(play.get("hosts", ""))) if re.fullmatch(r"[\w-]+", each)]
            for role, entry, given in _roles(play):
                found.setdefault(role, []).extend(Call(group, entry, given) for group in groups if group not in made)
    return found


def _roles(play: dict) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return the roles of a play, those that its tasks include too, with entry point and variables."""
    common = play.get("vars") or {}
    for role in play.get("roles") or []:
        role = role if isinstance(role, dict) else {"role": role}
        yield str(role.get("role") or role.get("name")), "main", {**common, **role, **(role.get("vars") or {})}
    for task in _tasks_of(play):
        for action in ROLE_TASKS:
            if isinstance(role := task.get(action), dict):
                yield str(role["name"]), role.get("tasks_from", "main"), {**common, **(task.get("vars") or {})}


def _tasks_of(play: dict) -> Iterator[dict]:
    yield from _tasks([part for key in ("pre_tasks", "tasks", "post_tasks") for part in play.get(key) or []])


def _tasks(tasks: list[dict]) -> Iterator[dict]:
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from _tasks(task.get(part) or [])


def groups_of(role: str, name: str) -> list[str]:
    """Return the groups whose hosts read an input of a role; none where the playbooks do not tell.

    A role that is called for one of several instances reads the inputs of that instance alone.
    """
    instances = {call.given.get(f"{role}_instance") for call in calls().get(role, [])}
    return sorted(
        {
            call.group
            for call in calls().get(role, [])
            if name in entries().get(role, {}).get(call.entry, {name})
            and not any(
                name.startswith(f"{role}_{other}_") for other in instances - {call.given.get(f"{role}_instance")}
            )
        }
    )


def required() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return the inputs that an environment has to give: group, name and option of each."""
    for role, places in calls().items():
        for call in places:
            for name, option in entries().get(role, {}).get(call.entry, {}).items():
                if option.get("required") and name not in derived() and name not in call.given:
                    yield call.group, name, option
