#!/usr/bin/python
"""Have Debian packages installed, whole, and without their daemons being started."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages_installed
short_description: Have packages installed, and mend what an interrupted installation left
description:
  - Installs packages without what they only recommend, and starts no daemon by it, since that would run on Debian's own
    configuration.
  - An installation that was cut off is finished first, whichever package it was of. One that still runs is waited for.
  - Where all is in order, nothing is asked of the package mirror.
options:
  names:
    description: The packages.
    type: list
    elements: str
    required: true
  attempts:
    description: How often it is tried, since mirrors fail at times.
    type: int
    default: 3
  delay:
    description: Seconds between two attempts.
    type: int
    default: 10
author: Terrace
"""

EXAMPLES = r"""
- name: Install etcd
  packages_installed:
    names: [etcd-server, etcd-client]
"""

RETURN = r"""
installed:
  description: The packages that were not there.
  type: list
  returned: always
mended:
  description: The packages that an earlier installation had left half-way; C(dpkg) stands for its journal.
  type: list
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.debian_packages import Packages, PackagesError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "attempts": {"type": "int", "default": 3},
            "delay": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    packages = Packages()
    try:
        lacking, halfway = packages.look(parameters["names"])
        needed = bool(lacking or halfway or packages.policy.left)
        if needed and not module.check_mode:
            packages.install(parameters["names"], parameters["attempts"], parameters["delay"])
    except (PackagesError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=needed, installed=lacking, mended=halfway)


if __name__ == "__main__":
    main()
