#!/usr/bin/python
"""Wait until Redis and its Sentinels are well, and say who has the masters."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_well
short_description: Wait until all Redis instances and Sentinels are well
description:
  - Each instance has a master on which all Sentinels agree, and all others follow it and have its data.
options:
  instances:
    description: The instances, each with C(name), as Sentinel calls it, and C(port).
    type: list
    elements: dict
    required: true
  members:
    description: All hosts of the instances, each with C(name) and C(address).
    type: list
    elements: dict
    required: true
  sentinels:
    description: Addresses of the Sentinels.
    type: list
    elements: str
    required: true
  sentinel_port:
    description: Their port.
    type: int
    required: true
  password:
    description: Of the instances' administrator.
    type: str
    required: true
  sentinel_password:
    description: The Sentinels' own.
    type: str
    required: true
  seconds:
    description: How long that may take.
    type: int
    default: 120
author: Terrace
"""

EXAMPLES = r"""
- name: Wait until all replicas follow
  redis_well:
    instances: [{name: cache, port: 6379}]
    members: [{name: cache1, address: 10.77.0.31}]
    sentinels: [10.77.0.31]
    sentinel_port: 26379
    password: "{{ redis_admin_password }}"
    sentinel_password: "{{ redis_sentinels_password }}"
"""

RETURN = r"""
masters:
  description: The host of the master, by instance.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.redis_group import Group, GroupError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "list", "elements": "dict", "required": True},
            "members": {"type": "list", "elements": "dict", "required": True},
            "sentinels": {"type": "list", "elements": "str", "required": True},
            "sentinel_port": {"type": "int", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "sentinel_password": {"type": "str", "required": True, "no_log": True},
            "seconds": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    its = module.params
    addresses = {member["name"]: member["address"] for member in its["members"]}
    masters = {}
    for instance in its["instances"]:
        group = Group(
            instance["name"],
            int(instance["port"]),
            addresses,
            its["sentinels"],
            its["sentinel_port"],
            its["password"],
            its["sentinel_password"],
        )
        try:
            masters[instance["name"]] = group.wait_until_well(its["seconds"], everyone=True).master
        except GroupError as error:
            module.fail_json(msg=str(error))
    module.exit_json(changed=False, masters=masters)


if __name__ == "__main__":
    main()
