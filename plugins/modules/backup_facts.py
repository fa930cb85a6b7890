#!/usr/bin/python
"""Tell what a repository of backups has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_facts
short_description: Tell what a repository of backups has
description:
  - Asks pgBackRest, as the user who owns its repository, and changes nothing.
  - In check mode, a host that does not have it yet has a repository that knows nothing.
options:
  stanza:
    description: The name of the cluster in it.
    type: str
    required: true
  user:
    description: Who owns the repository.
    type: str
    default: postgres
author: Terrace
"""

EXAMPLES = r"""
- name: Ask what can be restored
  backup_facts:
    stanza: terrace
  become: true
  register: __facts
"""

RETURN = r"""
backups:
  description: >-
    As they were taken: C(label), C(type), C(begin) and C(end) in seconds since the epoch, C(size) of the databases and
    what it added to the repository (C(stored)), in bytes, whether pages have an C(error), C(needs), the labels of
    backups that it cannot be restored without, and C(archive), its first and last file of WAL.
  type: list
  returned: success
archive:
  description: By version and history of the cluster, C(min) and C(max), the first and the last file of WAL.
  type: dict
  returned: success
until:
  description: When the last file of WAL came, in seconds since the epoch; 0 where there is none.
  type: int
  returned: success
wrong:
  description: What pgBackRest says is wrong with the repository; empty where nothing is.
  type: str
  returned: success
known:
  description: Whether the repository knows the cluster.
  type: bool
  returned: success
taking:
  description: Whether a backup is being taken.
  type: bool
  returned: success
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgbackrest import parse_info


def newest(text: str) -> int:
    """Return when the newest file came that `pgbackrest repo-ls --output=json` prints; 0 where there is none."""
    return max((its["time"] for its in json.loads(text).values() if its["type"] == "file"), default=0)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"stanza": {"type": "str", "required": True}, "user": {"type": "str", "default": "postgres"}},
        supports_check_mode=True,
    )
    stanza = module.params["stanza"]
    if module.check_mode and not module.get_bin_path("pgbackrest"):
        module.exit_json(changed=False, until=0, **parse_info("[]"))

    def ask(*words: str) -> str:
        command = [
            "runuser",
            "-u",
            module.params["user"],
            "--",
            "pgbackrest",
            f"--stanza={stanza}",
            "--output=json",
            "--log-level-console=error",
            *words,
        ]
        code, printed, said = module.run_command(command, cwd="/")
        if code != 0:
            module.fail_json(msg=f"pgBackRest does not tell what there is: {(said or printed).strip()}")
        return printed

    told = parse_info(ask("info"))
    until = 0
    for history, its in told["archive"].items():
        if its["max"]:
            # WAL lies in directories that are named after the first 16 digits of its files.
            until = max(until, newest(ask("repo-ls", f"archive/{stanza}/{history}/{its['max'][:16]}")))
    module.exit_json(changed=False, until=until, **told)


if __name__ == "__main__":
    main()
