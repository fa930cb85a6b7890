"""Print how a landscape is, out of what its hosts answered to `host_status`; fail where something is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.status import Status

UNHEALTHY = 3


class ActionModule(ActionBase):
    """Arguments: `declared`, what a `Status` takes; `register`, the variable that has each host's answer; `format`,
    `table` or `json`.

    Returns the status as data, `healthy` and `problems` among it. Where something is wrong it fails, and `exit_code`
    says what the callback `lines` has the run end with.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("declared", "register", "format"))

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        declared, register, shape = (self._task.args[name] for name in ("declared", "register", "format"))
        if shape not in ("table", "json"):
            return result | {"failed": True, "msg": f"there is no format {shape!r}; choose table or json"}
        hostvars = task_vars["hostvars"]
        answers = {host["name"]: hostvars[host["name"]].get(register) for host in declared["hosts"]}
        status = Status(declared, {name: answer for name, answer in answers.items() if answer})
        if shape == "json":
            Display().display(json.dumps(status.data(), indent=2))
        else:
            problems = set(map(str, status.problems))
            for line in status.lines():
                Display().display(line, color=constants.COLOR_ERROR if line in problems else None)
        result |= {"changed": False, **status.data()}
        if not status.healthy:
            count = "1 problem" if len(status.problems) == 1 else f"{len(status.problems)} problems"
            result |= {"failed": True, "exit_code": UNHEALTHY, "msg": f"{count}, told above"}
        return result
