#!/usr/bin/python
"""Take a systemd service out of use, its last requests finished."""

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_retired
short_description: Take a systemd service out of use, its last requests finished
description:
  - Disables a service, tells it by a signal to finish what it has begun, and stops it when it has or the time is up.
    Where its unit's own stop does that, it is only disabled and stopped.
  - Changes nothing where the service is neither running nor enabled, or is not known at all.
options:
  name:
    description: The service. Its exit after the signal must not make systemd start it again.
    type: str
    required: true
  signal:
    description: What tells its main process to finish, such as C(SIGUSR1). Left out where the unit's own stop does.
    type: str
  timeout:
    description: Seconds after which it is stopped although it has not ended.
    type: int
author: Terrace
"""

EXAMPLES = r"""
- name: Take HAProxy out of use
  systemd_retired:
    name: haproxy@lb
    signal: SIGUSR1
    timeout: 40
"""

RETURN = r"""
actions:
  description: What was done, in order, out of C(disable), C(drain) and C(stop).
  type: list
  returned: always
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.systemd_unit import Unit, UnitError

PAUSE = 0.2


def plan(state: dict[str, str], signal: str | None) -> list[str]:
    """Return the actions that take a unit out of use, in order.

    Parameters:
        state: what systemd says of it.
        signal: what tells it to finish; None where its stop does.
    """
    actions = ["disable"] if state["UnitFileState"] in ("enabled", "enabled-runtime") else []
    if signal and state["ActiveState"] in ("active", "reloading"):
        actions.append("drain")
    if state["ActiveState"] not in ("inactive", "failed"):
        actions.append("stop")
    return actions


def drain(unit: Unit, signal: str, timeout: int) -> None:
    """Send the signal and wait until the unit has ended, no longer than the timeout in seconds."""
    # Whoever wants it again before it has ended gets a fresh one: this one takes no new clients.
    unit.forsake()
    unit.systemctl("kill", "--kill-whom=main", f"--signal={signal}", unit.name, check=False)
    end = time.monotonic() + timeout
    while time.monotonic() < end and unit.show("ActiveState")["ActiveState"] not in ("inactive", "failed"):
        time.sleep(PAUSE)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "signal": {"type": "str"},
            "timeout": {"type": "int"},
        },
        required_together=[["signal", "timeout"]],
        supports_check_mode=True,
    )
    unit = Unit(module, module.params["name"])
    try:
        actions = plan(unit.show("ActiveState", "UnitFileState"), module.params["signal"])
        if not module.check_mode:
            for action in actions:
                if action == "drain":
                    drain(unit, module.params["signal"], module.params["timeout"])
                else:
                    unit.systemctl(action, unit.name)
    except UnitError as error:
        module.fail_json(msg=f"{error}\nIts last lines in the journal:\n{unit.journal()}")
    module.exit_json(changed=bool(actions), actions=actions)


if __name__ == "__main__":
    main()
