#!/usr/bin/python
"""Remove a service's old releases from a node; what runs, what ran before and the newest others stay."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_prune
short_description: Remove old releases of a service from a node
description:
  - What a slot leads to stays, which is the live release and, until another deploy, the one before; so does what
    O(protect) names, and of all others the newest O(keep).
  - A release is renamed before it is removed, so one that was removed by half does not count as installed.
  - Bundles of dependencies go that no release on the node names any more, and static files that none has.
options:
  name:
    description: The service.
    type: str
    required: true
  keep:
    description: How many releases stay beside those that have to.
    type: int
    default: 3
  protect:
    description: Ids of releases that have to stay.
    type: list
    elements: str
    default: []
  root:
    description: Directory above all services.
    type: path
    default: /srv/terrace
  archives:
    description: Where the archives and bundles are that releases were installed from; theirs go with them.
    type: path
    default: /var/cache/terrace
author: Terrace
"""

EXAMPLES = r"""
- name: Remove old releases of orders
  release_prune:
    name: orders
    protect: [1f0c5ad0b2c9]
"""

RETURN = r"""
removed:
  description: The ids of releases that were removed, oldest first.
  type: list
  returned: success
"""

import contextlib
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import ROOT, ReleaseError, bundle_name, locked, read_json, releases_of
from ansible.module_utils.static_files import unite

GONE = ".gone-"


def surplus(facts: Mapping[str, Any], keep: int, protect: list[str]) -> list[str]:
    """Return the ids of releases that may go, oldest first.

    Parameters:
        facts: what `releases_of` returned.
        keep: how many stay beside those that have to.
        protect: ids that have to stay.
    """
    stay = {*facts["slots"].values(), *protect}
    others = [release for release in facts["installed"] if release not in stay]
    return others[: max(0, len(others) - keep)]


def remove(releases: Path, archives: Path, name: str, ids: list[str]) -> None:
    """Remove releases, their archives, what a removal that was cut off has left, and bundles that nothing names now.

    Parameters:
        releases, archives: where they are.
        name: the service.
        ids: which of them.
    """
    for release in ids:
        (releases / release).rename(releases / f"{GONE}{release}")
    for gone in releases.glob(f"{GONE}*"):
        shutil.rmtree(gone)
        with contextlib.suppress(FileNotFoundError):
            (archives / f"{name}-{gone.name.removeprefix(GONE)}.tar.gz").unlink()
    if (releases.parent / "static").is_dir():
        unite(releases.parent, releases_of(name, str(releases.parents[1]))["installed"])
    # Installed or not: one that was cut off is made anew.
    described = [read_json(path) for path in releases.glob("*/release.json")]
    named = {f"{name}-{bundle_name(its.get('bundle_sha256', ''))}" for its in described}
    for bundle in archives.glob(f"{name}-wheels-{'[0-9a-f]' * 24}.tar"):
        if bundle.name not in named:
            bundle.unlink()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "keep": {"type": "int", "default": 3},
            "protect": {"type": "list", "elements": "str", "default": []},
            "root": {"type": "path", "default": ROOT},
            "archives": {"type": "path", "default": "/var/cache/terrace"},
        },
        supports_check_mode=True,
    )
    its = module.params
    # What root wants for its own files must not keep the web server from reading these.
    os.umask(0o022)
    releases = Path(its["root"]) / its["name"] / "releases"
    if not releases.is_dir():
        module.exit_json(changed=False, removed=[])
    try:
        with locked(releases / ".lock"):
            ids = surplus(releases_of(its["name"], its["root"]), its["keep"], its["protect"])
            if not module.check_mode:
                remove(releases, Path(its["archives"]), its["name"], ids)
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=f"service {its['name']} on {platform.node()}: {error}")
    module.exit_json(changed=bool(ids), removed=ids)


if __name__ == "__main__":
    main()
