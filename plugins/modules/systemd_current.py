#!/usr/bin/python
"""Keep a systemd unit enabled, running, and on the current content of its files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_current
short_description: Keep a systemd unit enabled, running and current
description:
  - Enables and starts a unit, and reloads or restarts it when its files differ from those it last loaded.
  - The unit C(init.scope) is systemd itself, of which a reload is a C(daemon-reload).
  - Unlike a handler this survives a run that was cut off, since the host is asked each time what the unit runs on.
options:
  name:
    description: The unit. Without a suffix it is a service.
    type: str
    required: true
  restart_on:
    description: Files or directories for whose change the unit has to be restarted. One that does not exist is allowed.
    type: list
    elements: path
    default: []
  reload_on:
    description: Files or directories for whose change a reload is enough.
    type: list
    elements: path
    default: []
  unless:
    description:
      - A command. Where it succeeds, a unit that would have to be reloaded or restarted is left as it is for now.
      - It is not asked of a unit that does not run or is current.
    type: list
    elements: str
    default: []
  enabled:
    description: Whether the unit starts at boot.
    type: bool
    default: true
  masked:
    description: The unit is kept from ever running instead, and is stopped if it does. Other options are ignored.
    type: bool
    default: false
author: Terrace
"""

EXAMPLES = r"""
- name: Keep HAProxy enabled, running and current
  systemd_current:
    name: haproxy@lb
    restart_on: [/etc/systemd/system/haproxy@.service]
    reload_on: [/etc/haproxy/lb.cfg]
"""

RETURN = r"""
actions:
  description: What was done, in order, out of C(enable), C(start), C(restart), C(reload), C(mask) and C(stop).
  type: list
  returned: always
held:
  description: What was left undone because of C(unless), out of C(restart) and C(reload).
  type: list
  returned: always
changed_files:
  description: The files that differed from what the unit had loaded; none where that was left undone.
  type: list
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.systemd_unit import Unit, UnitError

MANAGER = "init.scope"


def plan(state: str, enabled: bool, want_enabled: bool, restart: list[str], reload: list[str]) -> list[str]:
    """Return the actions that bring a unit to where it should be, in order.

    Parameters:
        state: what systemd calls its ActiveState. A unit that is only on its way up cannot reload.
        enabled: whether it starts at boot.
        want_enabled: whether it should.
        restart: the files that changed since it was loaded, and need a restart.
        reload: those for which a reload is enough.
    """
    actions = []
    if enabled != want_enabled:
        actions.append("enable" if want_enabled else "disable")
    if state not in ("active", "reloading", "activating"):
        actions.append("start")
    elif restart or (reload and state == "activating"):
        actions.append("restart")
    elif reload:
        actions.append("reload")
    return actions


def mask(unit: Unit, check_mode: bool) -> list[str]:
    """Keep a unit from ever running; return what that took, or would take."""
    state = unit.show("LoadState", "ActiveState")
    actions = ["mask"] if state["LoadState"] != "masked" else []
    if state["ActiveState"] in ("active", "reloading", "activating"):
        actions.append("stop")
    if not check_mode:
        for action in actions:
            unit.systemctl(action, unit.name)
    return actions


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "restart_on": {"type": "list", "elements": "path", "default": []},
            "reload_on": {"type": "list", "elements": "path", "default": []},
            "unless": {"type": "list", "elements": "str", "default": []},
            "enabled": {"type": "bool", "default": True},
            "masked": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    unit = Unit(module, parameters["name"])
    watched = parameters["restart_on"] + parameters["reload_on"]
    held = []
    try:
        if parameters["masked"]:
            actions = mask(unit, module.check_mode)
            module.exit_json(changed=bool(actions), actions=actions, held=[], changed_files=[])
        state = unit.show("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload")
        if state["LoadState"] == "not-found" and not module.check_mode:
            # A template's instance is found only once systemd has read the new file.
            unit.systemctl("daemon-reload")
            state = unit.show("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload")
        active = state["ActiveState"] in ("active", "reloading", "activating")
        restart = unit.changed_since_load(parameters["restart_on"]) if active else []
        reload = unit.changed_since_load(parameters["reload_on"]) if active else []
        enabled = state["UnitFileState"] in ("enabled", "enabled-runtime", "static", "generated", "indirect", "alias")
        if unit.name == MANAGER:
            enabled = parameters["enabled"]
        actions = plan(state["ActiveState"], enabled, parameters["enabled"], restart, reload)
        if parameters["unless"] and {"restart", "reload"} & set(actions):
            code, _, _ = module.run_command(parameters["unless"])
            if code == 0:
                held = [action for action in actions if action in ("restart", "reload")]
                actions = [action for action in actions if action not in held]
                restart, reload = [], []
        if not module.check_mode:
            if state["NeedDaemonReload"] == "yes" or actions:
                unit.systemctl("daemon-reload")
            if "start" in actions:
                # A unit that failed too often refuses to start until its counter is reset.
                unit.systemctl("reset-failed", unit.name, check=False)
            for action in actions:
                if unit.name != MANAGER:
                    unit.systemctl(action, unit.name)
            if not held:
                unit.record(watched)
    except (UnitError, OSError) as error:
        module.fail_json(msg=f"{error}\nIts last lines in the journal:\n{unit.journal()}")
    module.exit_json(changed=bool(actions), actions=actions, held=held, changed_files=restart + reload)


if __name__ == "__main__":
    main()
