"""Check an environment by its files and variables; no host is asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.environment import Environment


class ActionModule(ActionBase):
    """Looks at an environment.

    Returns `problems`, a line each; `services`, those with which nothing is wrong, every key filled in; and `places`,
    where the source and the version of each of these stand.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        environment = Environment(
            task_vars["hostvars"], task_vars["groups"], lambda path: self._loader.get_text_file_contents(str(path))
        )
        return result | {
            "changed": False,
            "problems": environment.lines,
            "services": environment.services,
            "places": environment.places,
        }
