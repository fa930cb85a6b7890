"""Write what hosts counted of their queries as a page, and print a summary."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.query_report import lines, page, report


class ActionModule(ActionBase):
    """Arguments: `workload`, of the filter `query_workload`; `advice`, the answer of `postgresql_advice`, which may
    be empty; `advisor`, the host that gave it; `services`, the service of each database; `environment`, its name;
    `out`, the page's file;
    `format`, of what is printed: `table` or `json`. Returns where the page is (`path`), and the report's `findings`.
    """

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("workload", "advice", "advisor", "services", "environment", "out", "format"))

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        if arguments["format"] not in ("table", "json"):
            return result | {"failed": True, "msg": f"there is no format {arguments['format']!r}; choose table or json"}
        advice = arguments["advice"] if "databases" in (arguments["advice"] or {}) else None
        found = report(
            arguments["workload"], advice, arguments["advisor"], arguments["services"], arguments["environment"]
        )
        path = Path(arguments["out"]).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(found))
        shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        if arguments["format"] == "json":
            Display().display(json.dumps(found, indent=2))
        else:
            for line in lines(found, shown):
                Display().display(line)
        result |= {"changed": False, "path": str(path), "findings": found["findings"]}
        if not found["base"]:
            result |= {"failed": True, "msg": "no database host answered"}
        return result
