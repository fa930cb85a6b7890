#!/usr/bin/python
"""Tell which releases a node has, and which of them are live."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_facts
short_description: Tell which releases a node has
description:
  - Reads the directories of services on a node, and changes nothing.
  - A service that the node has never had is an answer too, with nothing installed.
options:
  names:
    description: Names of the services.
    type: list
    elements: str
    required: true
  history:
    description: Whether to tell of ended deploys, too.
    type: bool
    default: false
  root:
    description: Directory above all services.
    type: path
    default: /srv/terrace
  lock:
    description: Where C(fleet_lock) keeps the environment's lock.
    type: path
    default: /run/terrace/lock.json
author: Terrace
"""

EXAMPLES = r"""
- name: Read which releases are here
  release_facts:
    names: [orders, users]
  register: __facts

- name: Say what is live
  ansible.builtin.debug:
    msg: "{{ __facts.services.orders.live }}"
"""

RETURN = r"""
services:
  description: >-
    By service: C(installed), ids of complete releases, oldest first; C(releases), by id their C(version), C(commit),
    C(source) with its C(kind) and C(origin), C(server), C(interface), the archive's C(sha256), C(bundle_sha256), that
    of its dependencies' bundle, C(static) with the C(url), C(files) and C(bytes) of its static files, and
    C(installed_at); C(slots), the ids that C(blue) and C(green) lead to; C(live_slot),
    the live one of the two; C(live), the id in it; C(agreed) and C(serial), the id that the fleet agreed on last and
    the number of that agreement; C(under_way), the deploy that has begun and was not ended; with O(history),
    C(history), the ended ones, oldest first. What is missing is an empty string.
  type: dict
  returned: always
  sample:
    orders:
      installed: [1f0c5ad0b2c9]
      releases:
        1f0c5ad0b2c9:
          version: v1.4.0
          commit: ""
          source: {kind: path, origin: ""}
          server: gunicorn
          interface: asgi
          sha256: 9d0f13aa
          bundle_sha256: 41c7b2e0
          installed_at: "2026-01-31T12:00:00+00:00"
      slots: {blue: 1f0c5ad0b2c9, green: ""}
      live_slot: blue
      live: 1f0c5ad0b2c9
lock:
  description: Who holds the environment's lock; empty where nobody does.
  type: dict
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import ROOT, history_of, read_json, releases_of


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "history": {"type": "bool", "default": False},
            "root": {"type": "path", "default": ROOT},
            "lock": {"type": "path", "default": "/run/terrace/lock.json"},
        },
        supports_check_mode=True,
    )
    its = module.params
    services = {name: releases_of(name, its["root"]) for name in its["names"]}
    if its["history"]:
        services = {name: facts | {"history": history_of(name, its["root"])} for name, facts in services.items()}
    module.exit_json(changed=False, services=services, lock=read_json(Path(its["lock"])))


if __name__ == "__main__":
    main()
