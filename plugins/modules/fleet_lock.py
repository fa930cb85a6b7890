#!/usr/bin/python
"""Hold a lock of the environment on this host, which says who has it, since when, from where and for what."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_lock
short_description: Hold, release or break a lock of the environment on a host
description:
  - To be run on all hosts that take part, in the same order by everybody and one after the other (C(throttle) 1). Then
    two that want it meet at the first host that both reach, and one of them has it on all.
  - It outlives whoever holds it. One that nobody comes back for is broken by O(state=broken).
  - It does not outlive the host's boot. Whoever holds it has lost that host then, and still has it on the others.
options:
  state:
    description: C(held) takes it, C(released) gives it back where O(id) holds it, C(broken) takes it from anybody.
    type: str
    choices: [held, released, broken]
    required: true
  id:
    description:
      - What tells one holder from another, such as a run's number. Whoever holds it may take it again.
      - It takes no id to break a lock.
    type: str
    default: ''
  who:
    description: Who wants it.
    type: str
    default: ''
  origin:
    description: The host that they are at.
    type: str
    default: ''
  what:
    description: What for.
    type: str
    default: ''
  wait:
    description: Seconds to wait for whoever holds it.
    type: int
    default: 0
  file:
    description: Where it is kept.
    type: path
    default: /run/terrace/lock.json
author: Terrace
"""

EXAMPLES = r"""
- name: Have nobody else deploy meanwhile
  fleet_lock:
    state: held
    id: "1764340000-4711"
    who: anna
    origin: laptop
    what: deploy orders v1.5.0
  throttle: 1
"""

RETURN = r"""
holder:
  description: Who had it before, with C(id), C(who), C(origin), C(what) and C(since); empty where nobody had.
  type: dict
  returned: success
"""

import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import read_json, utc_now, write_atomically

POLL_SECONDS = 1.0
TOLD = ("id", "who", "origin", "what")


class LockedError(Exception):
    """Somebody else holds it; the text says who, and the mend."""


def said(holder: dict[str, Any]) -> str:
    """Return a holder in words."""
    who = holder.get("who") or "somebody"
    return f"{who} on {holder.get('origin') or 'some host'} since {holder.get('since')} for: {holder.get('what')}"


def take(file: Path, mine: dict[str, str], state: str, write: bool) -> tuple[dict[str, Any], bool]:
    """Do what a state asks for, if nobody stands in the way.

    Parameters:
        file: where the lock is kept.
        mine: who wants it.
        state: the module's.
        write: whether to do it, or only to look.
    Returns:
        Who had it, and whether that is another one afterwards.
    Errors:
        LockedError where somebody else holds it.
    """
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Of the directory, so that two who come at once do not both find nothing.
    handle = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        holder = read_json(file)
        is_mine = bool(holder) and holder.get("id") == mine["id"]
        if state == "held":
            if holder and not is_mine:
                raise LockedError(said(holder))
            if write and not is_mine:
                write_atomically(file, json.dumps(mine | {"since": utc_now()}) + "\n", mode=0o644)
            return holder, not is_mine
        gone = bool(holder) and (state == "broken" or is_mine)
        if gone and write:
            file.unlink()
        return holder, gone
    finally:
        os.close(handle)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "released", "broken"], "required": True},
            **{name: {"type": "str", "default": ""} for name in TOLD},
            "wait": {"type": "int", "default": 0},
            "file": {"type": "path", "default": "/run/terrace/lock.json"},
        },
        required_if=[("state", "held", ["id"]), ("state", "released", ["id"])],
        supports_check_mode=True,
    )
    its = module.params
    deadline = time.monotonic() + its["wait"]
    while True:
        try:
            holder, changed = take(
                Path(its["file"]), {name: its[name] for name in TOLD}, its["state"], not module.check_mode
            )
        except LockedError as error:
            if time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                continue
            module.fail_json(
                msg=f"locked on {platform.node()} by {error}. Wait for the end of that (WAIT=600), or, if it is dead, "
                "break the lock: make unlock"
            )
        except OSError as error:
            module.fail_json(msg=f"lock on {platform.node()}: {error}")
        module.exit_json(changed=changed, holder=holder)


if __name__ == "__main__":
    main()
