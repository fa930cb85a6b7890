#!/usr/bin/python
"""Find the processes of a service that run with other values of variables than they are to have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_stale
short_description: Find processes of a service that have other values of variables than these
description:
  - Looks into the environment that each process of a service's slice was started with, whatever unit it is of (slots,
    background processes, schedules, commands), and changes nothing.
  - A process that does not have a variable is left out; so is one that has written over its environment.
options:
  name:
    description: The service.
    type: str
    required: true
  variables:
    description: The values that its processes are to have, by variable.
    type: dict
    required: true
  wait:
    description: Seconds for those with other values to end. Where they do not, the module fails, and names them.
    type: int
  slot:
    description: The live slot, whose values RV(before) has; empty where there is none.
    type: str
    default: ''
  proc:
    description: Where the kernel tells of processes.
    type: path
    default: /proc
author: Terrace
"""

EXAMPLES = r"""
- name: Wait until no process uses the old login
  service_stale:
    name: orders
    variables: {DATABASE_URL: "postgresql://..."}
    wait: 60
  no_log: true
"""

RETURN = r"""
stale:
  description: The processes with other values, as unit, number and variables; no value is told.
  type: list
  returned: always
  sample: ["svc-orders-report.service (1234): DATABASE_URL"]
before:
  description: The values of the live slot's processes, by variable, where they are others. They are secrets.
  type: dict
  returned: success
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

POLL_SECONDS = 1.0


def processes(proc: Path, name: str) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Return the processes in a service's slice: number, unit, and the environment that each was started with.

    One that ends meanwhile is left out.
    """
    for directory in proc.glob("[0-9]*"):
        try:
            group = (directory / "cgroup").read_text().strip().rpartition(":")[2]
            parts = group.split("/")
            # The slice of one service may be within that of another, whose name its own begins with.
            slices = [part for part in parts if part.endswith(".slice")]
            if not slices or slices[-1] != f"svc-{name}.slice":
                continue
            raw = (directory / "environ").read_bytes()
        except OSError:
            continue
        unit = next((part for part in reversed(parts) if part.endswith((".service", ".scope"))), parts[-1])
        pairs = (part.split(b"=", 1) for part in raw.split(b"\0") if b"=" in part)
        values = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pairs}
        yield int(directory.name), unit, values


def stale(proc: Path, name: str, variables: Mapping[str, str], slot: str = "") -> tuple[list[str], dict[str, str]]:
    """Return the processes with other values, in words, and what the live slot has instead.

    Parameters:
        proc: where the kernel tells of processes.
        name: the service.
        variables: what they are to have.
        slot: the live slot.
    """
    found, before = [], {}
    for number, unit, values in processes(proc, name):
        other = {key: values[key] for key in variables if key in values and values[key] != str(variables[key])}
        if other:
            found.append(f"{unit} ({number}): {', '.join(sorted(other))}")
            if unit == f"svc-{name}@{slot}.service":
                before |= other
    return sorted(found), before


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "variables": {"type": "dict", "required": True, "no_log": True},
            "wait": {"type": "int"},
            "slot": {"type": "str", "default": ""},
            "proc": {"type": "path", "default": "/proc"},
        },
        supports_check_mode=True,
    )
    its = module.params
    deadline = time.monotonic() + (its["wait"] or 0)
    while True:
        found, before = stale(Path(its["proc"]), its["name"], its["variables"], its["slot"])
        if not found or time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    if found and its["wait"] is not None:
        module.fail_json(
            msg=f"these go on with the value before: {'; '.join(found)}. Nothing was taken from them; "
            "let them end or restart them, and repeat the command",
            stale=found,
        )
    module.exit_json(changed=False, stale=found, before=before)


if __name__ == "__main__":
    main()
