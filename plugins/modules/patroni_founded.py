#!/usr/bin/python
"""Wait until Patroni has founded its cluster on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_founded
short_description: Wait until Patroni has founded its cluster on this host
description:
  - Patroni runs, and founds a cluster by a command that may take hours. It is waited for until PostgreSQL is the
    primary here.
  - Where that fails, Patroni ends and is started again by systemd. Then it is stopped, so that nothing more is tried,
    and the module fails with its last lines.
options:
  address:
    description: Where Patroni's API listens.
    type: str
    required: true
  port:
    description: Its port.
    type: int
    required: true
  ca_file:
    description: The authority of its certificate.
    type: path
    default: /etc/terrace/pki/ca.crt
  timeout:
    description: Seconds that it may take.
    type: int
    default: 86400
author: Terrace
"""

EXAMPLES = r"""
- name: Wait until PostgreSQL is restored
  patroni_founded:
    address: 10.0.0.41
    port: 8008
"""

RETURN = r"""
seconds:
  description: How long it was waited for.
  type: float
  returned: success
timeline:
  description: The timeline that PostgreSQL began.
  type: int
  returned: success
"""

import ssl
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.patroni_cluster import Rest
from ansible.module_utils.systemd_unit import Unit

POLL_SECONDS = 1.0
LINES = 25


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "ca_file": {"type": "path", "default": "/etc/terrace/pki/ca.crt"},
            "timeout": {"type": "int", "default": 86400},
        }
    )
    its = module.params
    rest = Rest(its["address"], its["port"], ssl.create_default_context(cafile=its["ca_file"]))
    unit = Unit(module, "patroni.service")
    run, begin = unit.show("InvocationID")["InvocationID"], time.monotonic()
    while not rest.is_primary():
        now = unit.show("InvocationID", "ActiveState")
        if now["InvocationID"] != run or now["ActiveState"] != "active":
            unit.systemctl("stop", unit.name)
            module.fail_json(msg=f"Patroni could not found the cluster. Its last lines:\n{unit.journal(LINES)}")
        if time.monotonic() - begin > its["timeout"]:
            module.fail_json(msg=f"Patroni has not founded the cluster within {its['timeout']} s; it goes on trying")
        time.sleep(POLL_SECONDS)
    module.exit_json(changed=False, seconds=round(time.monotonic() - begin, 1), timeline=rest.told().get("timeline", 0))


if __name__ == "__main__":
    main()
