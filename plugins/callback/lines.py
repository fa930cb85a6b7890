"""Output of commands whose result is lines of their own: nothing else, unless something fails in another way."""

from __future__ import annotations

from ansible import constants
from ansible.executor.task_result import CallbackTaskResult
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: lines
type: stdout
short_description: Print nothing but what tasks print themselves
description: For C(make check). What fails otherwise than by C(refuse), which has said why, is printed in one line.
"""


class CallbackModule(CallbackBase):
    """Says what failed, and nothing of what did not."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "lines"

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        if result.task.action != "refuse":
            self._tell(result)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        self._tell(result)

    def _tell(self, result: CallbackTaskResult) -> None:
        text = f"{result.host.get_name()}: {result.task.get_name()}: {result.result.get('msg', 'failed')}"
        self._display.display(text, color=constants.COLOR_ERROR, stderr=True)
