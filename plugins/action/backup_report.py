"""Print what can be restored, out of what `backup_facts` found."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.backups import lines


class ActionModule(ActionBase):
    """Arguments: `facts`, what `backup_facts` returned; `format`, `table` or `json`. Returns nothing more."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("facts", "format"))

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        facts, shape = (self._task.args[name] for name in ("facts", "format"))
        if shape not in ("table", "json"):
            return result | {"failed": True, "msg": f"there is no format {shape!r}; choose table or json"}
        told = {name: facts[name] for name in ("backups", "archive", "until", "wrong", "known", "taking")}
        for line in [json.dumps(told, indent=2)] if shape == "json" else lines(told, time.time()):
            Display().display(line)
        return result | {"changed": False}
