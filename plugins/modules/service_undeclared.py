#!/usr/bin/python
"""Stop and remove what belongs to services that a node is no longer to run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_undeclared
short_description: Stop and remove what belongs to no declared service
description:
  - Finds what the role C(python_service) once made on this node and would not make now. Of a service that is not
    declared here that is all its units, its sockets, its environment with the secrets in it, and that one of its slots
    is live. Of one that is declared, background processes and schedules that are not.
  - Units are stopped first, then they no longer start at boot, then their files go. Each is found by itself, so a run
    that was cut off is completed by the next one.
  - A unit file counts as made by that role when it has a section C([X-Terrace]). Others are left alone.
  - Users, releases and state (C(/srv/terrace/NAME/releases), C(/var/lib/terrace/NAME)) stay.
options:
  services:
    description: The services that this node runs.
    type: list
    elements: str
    required: true
  units:
    description: >-
      All units that they may have, with their suffix: the names of their files, such as C(svc-orders@.service), and of
      each instance.
    type: list
    elements: str
    required: true
  root:
    description: A directory to be taken for the host's root.
    type: path
    default: /
author: Terrace
"""

EXAMPLES = r"""
- name: Stop and remove what belongs to no service that is declared here
  service_undeclared:
    services: [orders]
    units: [svc-orders.target, svc-orders@.service, svc-orders@blue.service, svc-orders@green.service]
"""

RETURN = r"""
stopped:
  description: The units that ran or were enabled, and no longer are.
  type: list
  returned: success
removed:
  description: The files, links and directories that were removed.
  type: list
  returned: success
"""

import re
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.systemd_unit import STATE_DIRECTORY, UnitError, systemctl

KINDS = ("service", "timer", "target")
UNIT = re.compile(r"svc-[a-z0-9-]+(@[^.]*)?\.(service|timer|target)")


def template(unit: str) -> str:
    """Return the name of a unit's file, which for an instance is that of its template."""
    return re.sub(r"@.*\.", "@.", unit)


class Node:
    """What services have on a node.

    Parameters:
        module: the AnsibleModule, whose `run_command` is used.
        root: the directory that counts as the host's root.
    """

    def __init__(self, module: AnsibleModule, root: str) -> None:
        self.module = module
        self.root = Path(root)
        self.services: set[str] = set(module.params["services"])
        self.units: set[str] = set(module.params["units"])
        self.etc = self.root / "etc/systemd/system"

    def files(self) -> list[Path]:
        """Return the unit files that were made for a service and that none has now."""
        return [
            file
            for kind in KINDS
            for file in sorted(self.etc.glob(f"svc-*.{kind}"))
            if file.name not in self.units and "\n[X-Terrace]\n" in file.read_text(errors="replace")
        ]

    def running(self, files: list[Path]) -> list[str]:
        """Return the undeclared units that systemd has loaded, timers first, so that none starts what is stopped."""
        shown = systemctl(
            self.module, "list-units", "--all", "--plain", "--no-legend", "--full", *(f"svc-*.{k}" for k in KINDS)
        )
        names = {file.name for file in files}
        found = []
        for line in shown.splitlines():
            name, load, active = ([*line.split(), "", ""])[:3]
            if name in self.units or active in ("inactive", ""):
                continue
            # One of a declared template that has no such instance, one whose file is about to go, or has gone already.
            if template(name) in self.units | names or load == "not-found":
                found.append(name)
        return sorted(found, key=lambda name: (not name.endswith(".timer"), name))

    def links(self, files: list[Path]) -> list[Path]:
        """Return the links that would start undeclared units at boot."""
        names = {file.name for file in files}
        return [
            link
            for link in sorted(self.etc.glob("*.wants/svc-*"))
            if UNIT.fullmatch(link.name)
            and link.name not in self.units
            and (link.parent.name.startswith("svc-") or link.name in names)
        ]

    def belongings(self) -> list[Path]:
        """Return what else there is of services that are not declared: sockets, secrets, which slot is live."""
        homes = {path.name: path for path in self.root.glob("srv/terrace/*") if path.name not in self.services}
        found = [self.root / "run/terrace" / name for name in homes]
        # Were the service declared here again, it would otherwise start what it ran when it left.
        found += [home / name for home in homes.values() for name in ("live", ".live")]
        found += [path for path in self.root.glob("etc/terrace/services/*") if path.name not in self.services]
        found += [
            path
            for path in self.root.glob("etc/tmpfiles.d/svc-*.conf")
            if path.stem.removeprefix("svc-") not in self.services
        ]
        return sorted(path for path in found if path.is_symlink() or path.exists())

    def records(self, files: list[Path]) -> list[Path]:
        """Return what was recorded of units that are not declared."""
        directory = self.root / STATE_DIRECTORY.relative_to("/")
        others = {file.name for file in self.etc.glob("svc-*")} - {file.name for file in files} - self.units
        return [
            path
            for path in sorted(directory.glob("svc-*.json"))
            if UNIT.fullmatch(path.stem) and path.stem not in self.units and template(path.stem) not in others
        ]

    def converge(self) -> dict[str, list[str]]:
        """Stop and remove all of it, and return what that was.

        Raises UnitError and OSError.
        """
        files = self.files()
        running, links = self.running(files), self.links(files)
        removed = [*links, *files, *self.belongings(), *self.records(files)]
        if not self.module.check_mode:
            if running:
                systemctl(self.module, "stop", *running)
            for path in removed:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            for directory in self.etc.glob("svc-*.wants"):
                if not any(directory.iterdir()):
                    directory.rmdir()
            if links or files:
                systemctl(self.module, "daemon-reload")
            if running:
                systemctl(self.module, "reset-failed", *running, check=False)
        stopped = sorted({*running, *(link.name for link in links)})
        return {"stopped": stopped, "removed": [f"/{path.relative_to(self.root)}" for path in removed]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "units": {"type": "list", "elements": "str", "required": True},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    try:
        result = Node(module, module.params["root"]).converge()
    except (UnitError, OSError) as error:
        module.fail_json(msg=f"what no service declares cannot be removed: {error}")
    module.exit_json(changed=any(result.values()), **result)


if __name__ == "__main__":
    main()
