"""Output of commands whose result is lines of their own: nothing else, unless something fails in another way."""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.executor.task_result import CallbackTaskResult
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: lines
type: stdout
short_description: Print nothing but what tasks print themselves
description:
  - For C(make check) and C(make status). What fails is printed in one line on standard error, unless it has said why
    itself, as C(refuse) does, and results that have an C(exit_code), with which the run ends.
"""


class CallbackModule(CallbackBase):
    """Says what failed, and nothing of what did not."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "lines"

    def __init__(self) -> None:
        super().__init__()
        self.exit_code = 0

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        if result.task.action == "refuse" or "exit_code" in result.result:
            self.exit_code = result.result.get("exit_code", self.exit_code)
        else:
            self._tell(result)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        if not result.task.ignore_unreachable:
            self._tell(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self.exit_code:
            raise SystemExit(self.exit_code)

    def _tell(self, result: CallbackTaskResult) -> None:
        text = f"{result.host.get_name()}: {result.task.get_name()}: {result.result.get('msg', 'failed')}"
        self._display.display(text, color=constants.COLOR_ERROR, stderr=True)
