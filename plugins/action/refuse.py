"""End the run where there are problems, and print them as plain lines; say what was checked where there are none."""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """Arguments: `problems`, a list of lines; `passed`, the line to print where there are none.

    In a run of `make plan` it prints nothing, and returns the problems as its message: the report tells them.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("problems", "passed"))

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        problems = [str(problem) for problem in self._task.args["problems"]]
        if constants.DEFAULT_STDOUT_CALLBACK == "plan":
            return result | {"changed": False, "failed": bool(problems), "msg": problems}
        if not problems:
            Display().display(str(self._task.args["passed"]))
            return result | {"changed": False}
        for problem in problems:
            Display().display(problem, color=constants.COLOR_ERROR)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        return result | {"failed": True, "msg": f"{count}, told above; nothing was touched"}
