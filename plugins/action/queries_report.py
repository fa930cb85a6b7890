"""Print what came of declared queries, out of answers of `postgresql_queries`; fail where one does not hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.queries import WRONG, Report

UNMET = 3


class ActionModule(ActionBase):
    """Arguments: `answers`, of each database host that answered; `format`, `table` or `json`.

    Where a query does not hold it fails: its message says which, with what was expected and found, and `exit_code` what
    the callback `lines` has the run end with.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("answers", "format"))

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        answers, shape = self._task.args["answers"], self._task.args.get("format", "table")
        if shape not in ("table", "json"):
            return result | {"failed": True, "msg": f"there is no format {shape!r}; choose table or json"}
        report = Report(answers)
        if shape == "json":
            Display().display(json.dumps(report.data(), indent=2))
        else:
            for line in report.lines():
                Display().display(
                    line, color=constants.COLOR_ERROR if line.partition(": ")[2].startswith(WRONG) else None
                )
        if problems := report.problems:
            result |= {"failed": True, "exit_code": UNMET, "msg": "; ".join(problems)}
        return result | {"changed": False}
