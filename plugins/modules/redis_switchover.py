#!/usr/bin/python
"""Have another host's Redis be the master, losing no write."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_switchover
short_description: Have another host's Redis instance be the master
description:
  - Runs on one cache host, and talks to all others and to the Sentinels. All has to be well before.
  - Writes wait on the old master until it follows the new one. That ends by itself, whatever becomes of the module.
options:
  name:
    description: The instance, as Sentinel calls it.
    type: str
    required: true
  port:
    description: Its port.
    type: int
    required: true
  members:
    description: All hosts of the instance, each with C(name) and C(address).
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
    description: Of the instance's administrator.
    type: str
    required: true
  sentinel_password:
    description: The Sentinels' own.
    type: str
    required: true
  to:
    description: The host that is to have the master. Without it whichever has most of the data.
    type: str
    default: ''
  away_from:
    description: The host that is not to have the master. Nothing is done where it does not, or where there is no other.
    type: str
    default: ''
author: Terrace
"""

EXAMPLES = r"""
- name: Have cache2 be the master of cache
  redis_switchover:
    name: cache
    port: 6379
    members: [{name: cache1, address: 10.77.0.31}, {name: cache2, address: 10.77.0.32}]
    sentinels: [10.77.0.31, 10.77.0.32, 10.77.0.33]
    sentinel_port: 26379
    password: "{{ redis_admin_password }}"
    sentinel_password: "{{ redis_sentinels_password }}"
    to: cache2
"""

RETURN = r"""
master:
  description: The host that has the master now.
  type: str
  returned: success
said:
  description: What was done, in one line.
  type: str
  returned: success
seconds:
  description: How long writes waited.
  type: float
  returned: when something was done
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.redis_group import Group, GroupError
from ansible.module_utils.redis_resp import RedisError

# For all to be well before: what was just restarted takes a moment.
BEFORE_SECONDS = 30


def switch(module: AnsibleModule) -> dict[str, object]:
    """Do it, and return what to report; raises GroupError where it cannot be done, or was not."""
    its = module.params
    names = [member["name"] for member in its["members"]]
    if its["to"] and its["to"] not in names:
        raise GroupError(f"there is no cache host {its['to']}; choose one of {', '.join(names)}")
    group = Group(
        its["name"],
        its["port"],
        {member["name"]: member["address"] for member in its["members"]},
        its["sentinels"],
        its["sentinel_port"],
        its["password"],
        its["sentinel_password"],
    )
    if its["away_from"] and len(names) == 1:
        return {"changed": False, "master": names[0], "said": f"{names[0]} alone has {its['name']}"}
    if len(names) == 1:
        raise GroupError("there is one cache host, and so none to hand over to; `make restart TIER=cache` restarts it")
    view = group.wait_until_well(BEFORE_SECONDS)
    if its["to"] == view.master or its["away_from"] not in ("", view.master):
        group.tidy()
        return {
            "changed": False,
            "master": view.master,
            "said": f"{view.master} has the master of {its['name']} already",
        }
    if module.check_mode:
        return {"changed": True, "master": view.master, "said": f"would move the master of {its['name']}"}
    new, seconds = group.hand_over(its["to"])
    said = f"{new} has the master of {its['name']} now instead of {view.master}; its writes waited for {seconds:.1f} s"
    return {"changed": True, "master": new, "said": said, "seconds": round(seconds, 3)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "members": {"type": "list", "elements": "dict", "required": True},
            "sentinels": {"type": "list", "elements": "str", "required": True},
            "sentinel_port": {"type": "int", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "sentinel_password": {"type": "str", "required": True, "no_log": True},
            "to": {"type": "str", "default": ""},
            "away_from": {"type": "str", "default": ""},
        },
        mutually_exclusive=[("to", "away_from")],
        supports_check_mode=True,
    )
    try:
        result = switch(module)
    except (GroupError, RedisError, OSError) as error:
        module.fail_json(msg=f"{module.params['name']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
