#!/usr/bin/python
"""Note on a node that a deploy of a service has begun, and what came of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_record
short_description: Note on a node that a deploy has begun, or how it ended
description:
  - The notes are kept on the app nodes, beside the releases, so that they can be read while every database is down.
  - What has begun and was never ended stays noted as under way; the next deploy, or a rollback, finishes it.
  - Once a deploy is done, its release is what the fleet agreed on. A node that has missed it finds that out from its
    peers by the number O(serial).
options:
  name:
    description: The service.
    type: str
    required: true
  state:
    description: What there is to note.
    type: str
    choices: [begun, done, reverted, failed]
    required: true
  id:
    description: The deploy's own number.
    type: str
    required: true
  kind:
    description: What it is.
    type: str
    choices: [deploy, rollback]
    default: deploy
  release:
    description: The release that is to live everywhere.
    type: str
    required: true
  serial:
    description: The number of the agreement on it. One that is not higher than the last is no agreement.
    type: int
    default: 0
  who:
    description: Who deploys.
    type: str
    default: ''
  origin:
    description: The host that they are at.
    type: str
    default: ''
  reason:
    description: What went wrong.
    type: str
    default: ''
  keep:
    description: How many ended deploys stay noted.
    type: int
    default: 100
  root:
    description: Directory above all services.
    type: path
    default: /srv/terrace
author: Terrace
"""

EXAMPLES = r"""
- name: Note that the deploy is done
  deploy_record:
    name: orders
    state: done
    id: "1764340000-4711"
    release: 3f1c9a5be0d2
    serial: 12
"""

RETURN = r"""
record:
  description: What was noted.
  type: dict
  returned: success
"""

import datetime
import json
import platform
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import (
    HISTORY,
    ROOT,
    TIME_FORMAT,
    UNDER_WAY,
    agree,
    compare_with_peers,
    locked,
    read_json,
    releases_of,
    utc_now,
    write_atomically,
)


def seconds_between(begun: str, ended: str) -> int:
    """Return how many seconds lie between two times; 0 where one of them is none."""
    try:
        first, last = (datetime.datetime.strptime(text, TIME_FORMAT) for text in (begun, ended))
    except ValueError:
        return 0
    return int((last - first).total_seconds())


def begin(home: Path, its: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Note a deploy as under way; one that was, and never ended, is noted as cut off."""
    mine = {key: its[key] for key in ("id", "kind", "who", "origin")}
    before = facts["agreed"] if facts["agreed"] in facts["installed"] else facts["live"]
    found = read_json(home / UNDER_WAY)
    if found and found.get("id") != its["id"]:
        append(home, found | {"outcome": "cut off", "ended": "", "seconds": 0, "reason": ""}, its["keep"])
    elif found:
        return found
    record = mine | {"from": before, "to": its["release"], "begun": utc_now()} | described(facts, its["release"])
    write_atomically(home / UNDER_WAY, json.dumps(record) + "\n", mode=0o644)
    return record


def end(home: Path, its: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Note how a deploy ended, and where it is done, that its release is agreed on."""
    begun = read_json(home / UNDER_WAY)
    if begun.get("id") != its["id"]:
        # The node was not there when it began.
        begun = {key: its[key] for key in ("id", "kind", "who", "origin")}
        begun |= {"from": facts["agreed"], "to": its["release"], "begun": ""} | described(facts, its["release"])
    ended = utc_now()
    record = begun | {
        "outcome": its["state"],
        "ended": ended,
        "seconds": seconds_between(begun["begun"], ended),
        "reason": its["reason"],
    }
    if its["state"] == "done" and its["serial"] > facts["serial"]:
        agree(home, its["serial"], its["release"])
    append(home, record, its["keep"])
    (home / UNDER_WAY).unlink(missing_ok=True)
    return record


def described(facts: dict[str, Any], release: str) -> dict[str, str]:
    """Return the version and the commit of a release."""
    known = facts["releases"].get(release, {})
    return {"version": known.get("version", ""), "commit": known.get("commit", "")}


def append(home: Path, record: dict[str, Any], keep: int) -> None:
    """Add a record to the history, and leave out the oldest beyond so many."""
    file = home / HISTORY
    lines = file.read_text().splitlines() if file.exists() else []
    kept = [*lines, json.dumps(record)][-keep:]
    # What went wrong is told with lines of the service's log.
    write_atomically(file, "\n".join(kept) + "\n", mode=0o600)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["begun", "done", "reverted", "failed"], "required": True},
            "id": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["deploy", "rollback"], "default": "deploy"},
            "release": {"type": "str", "required": True},
            "serial": {"type": "int", "default": 0},
            "who": {"type": "str", "default": ""},
            "origin": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
            "keep": {"type": "int", "default": 100},
            "root": {"type": "path", "default": ROOT},
        },
        supports_check_mode=True,
    )
    its = module.params
    home = Path(its["root"]) / its["name"]
    if module.check_mode:
        module.exit_json(changed=True, record={})
    try:
        with locked(home / ".deploys.lock"):
            facts = releases_of(its["name"], its["root"])
            record = (begin if its["state"] == "begun" else end)(home, its, facts)
        compare_with_peers(module)
    except OSError as error:
        module.fail_json(msg=f"service {its['name']} on {platform.node()}: {error}")
    module.exit_json(changed=True, record=record)


if __name__ == "__main__":
    main()
