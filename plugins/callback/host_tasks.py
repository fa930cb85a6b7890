"""Counts what a run does on its hosts, and how long each of its tasks takes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: host_tasks
type: notification
short_description: Count the tasks that ran on each host, and time them
description:
  - Writes a JSON document at the end of a run, with C(wall_seconds), C(hosts) (a number of tasks by host) and C(tasks)
    (in order, with C(role), C(task), C(seconds) and the number of C(hosts) on which it ran).
  - A task counts once for each host on which it ran, however many items its loop has. What was skipped and what only
    the controller does (assertions, inclusions, messages, tasks delegated to it) does not count.
options:
  path:
    description: The file to write; its folder is made. Without it the callback does nothing.
    type: path
    env: [{name: TERRACE_HOST_TASKS}]
"""

# Actions that reach no host.
CONTROLLER_ACTIONS = {
    *("add_host", "assert", "debug", "fail", "group_by", "import_playbook", "import_role", "import_tasks"),
    *("include_role", "include_tasks", "include_vars", "meta", "pause", "set_fact", "set_stats"),
    "validate_argument_spec",
}
CONTROLLER = {"localhost", "127.0.0.1"}


def on_controller(action: str, delegated_to: str | None) -> bool:
    """Return whether a task stays on the controller.

    Parameters:
        action: the task's module or action, with or without its collection.
        delegated_to: the host that it is delegated to, if any.
    """
    return action.rpartition(".")[2] in CONTROLLER_ACTIONS or delegated_to in CONTROLLER


class CallbackModule(CallbackBase):
    """Counts as results come in, and writes when the run is over."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "host_tasks"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self.path = os.environ.get("TERRACE_HOST_TASKS", "")
        self.disabled = not self.path
        self.started = time.monotonic()
        self.hosts: dict[str, int] = {}
        self.tasks: list[dict[str, Any]] = []
        self._task_started = self.started

    def _end_task(self) -> None:
        now = time.monotonic()
        if self.tasks:
            self.tasks[-1]["seconds"] = round(now - self._task_started, 3)
        self._task_started = now

    def v2_playbook_on_task_start(self, task, is_conditional) -> None:
        self._end_task()
        role = task._role.get_name() if task._role else ""
        self.tasks.append({"role": role, "task": task.name or task.action, "seconds": 0.0, "hosts": 0})

    def v2_playbook_on_handler_task_start(self, task) -> None:
        self.v2_playbook_on_task_start(task, False)

    def _count(self, result) -> None:
        name = result.host.get_name()
        self.hosts.setdefault(name, 0)
        # A loop's result does not say where its items ran; its task does.
        delegated = result.result.get("_ansible_delegated_vars") or {}
        where = delegated.get("ansible_delegated_host") or result.task.delegate_to
        if not on_controller(result.task.action, where):
            self.hosts[name] += 1
            self.tasks[-1]["hosts"] += 1

    def v2_runner_on_ok(self, result) -> None:
        self._count(result)

    def v2_runner_on_failed(self, result, ignore_errors: bool = False) -> None:
        self._count(result)

    def v2_runner_on_unreachable(self, result) -> None:
        self._count(result)

    def v2_playbook_on_stats(self, stats) -> None:
        self._end_task()
        content = {
            "wall_seconds": round(time.monotonic() - self.started, 3),
            "hosts": self.hosts,
            "tasks": self.tasks,
        }
        Path(self.path).parent.mkdir(exist_ok=True)
        Path(self.path).write_text(json.dumps(content, indent=1) + "\n")
