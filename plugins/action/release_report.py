"""Print which releases nodes have and what was deployed, out of what they answered to `release_facts`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.releases import lines, report


class ActionModule(ActionBase):
    """Arguments: `services` and `nodes`, as `terrace.releases.report` takes them; `register`, the variable that has
    each node's answer; `format`, `table` or `json`. Returns the report as data.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("services", "nodes", "register", "format"))

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        services, nodes, register, shape = (
            self._task.args[name] for name in ("services", "nodes", "register", "format")
        )
        if shape not in ("table", "json"):
            return result | {"failed": True, "msg": f"there is no format {shape!r}; choose table or json"}
        hostvars = task_vars["hostvars"]
        names = {node for where in nodes.values() for node in where}
        answers = {name: hostvars[name].get(register) for name in names}
        data = report(
            services,
            nodes,
            {name: answer if answer and "services" in answer else None for name, answer in answers.items()},
        )
        if shape == "json":
            Display().display(json.dumps(data, indent=2))
        else:
            for line in lines(data):
                Display().display(line)
            problems = [problem for its in data["services"].values() for problem in its["problems"]]
            for line in ["", *problems] if problems else []:
                Display().display(line, color=constants.COLOR_ERROR)
        return result | {"changed": False, **data}
