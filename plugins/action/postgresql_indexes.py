"""Run the module of this name as a job of the host, and tell how far it is: a build may take hours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Seconds that all builds of a run may take; those between two looks at them, from the first one on; and those after
# which a line is told again that has not changed.
MOST_SECONDS = 7 * 24 * 3600
PAUSES = (0.3, 0.7, 1, 2)
PAUSE_SECONDS = 5
# How often a job may be seen without a session of its own: it ends then, or was killed.
MOST_IDLE = 8
AGAIN_SECONDS = 60


class ActionModule(ActionBase):
    """Arguments: those of the module `postgresql_indexes`. Returns what it does."""

    TRANSFERS_FILES = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        only_plan = self._task.check_mode or self._task.args.get("want", "apply") != "apply"
        planned = self._execute_module(module_args=self._asked("plan"), task_vars=task_vars)
        self._tell_undeclared(planned)
        if not planned.get("changed") or planned.get("failed"):
            return result | planned
        lines = [
            *planned["said"],
            *(f"  {each};" for each in planned["statements"] if only_plan and not self._task.diff),
        ]
        self._tell(lines)
        return result | (planned if only_plan else self._job(task_vars))

    def _asked(self, want: str) -> dict[str, Any]:
        return {**self._task.args, "want": want}

    def _job(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run the module beside this connection, which may break: what has begun goes on to its end."""
        self._task.async_val = MOST_SECONDS
        job = self._execute_module(module_args=self._asked("apply"), task_vars=task_vars, wrap_async=True)
        self._task.async_val = 0
        if "ansible_job_id" not in job:
            return job
        told, when, idle = [], 0.0, 0
        for pause in (*PAUSES, *[PAUSE_SECONDS] * (MOST_SECONDS // PAUSE_SECONDS)):
            time.sleep(pause)
            answer = self._status(job["ansible_job_id"], "status", task_vars)
            if answer.get("finished") or answer.get("failed"):
                break
            seen = self._execute_module(module_args=self._asked("progress"), task_vars=task_vars)
            idle = 0 if seen.get("under_way") else idle + 1
            if idle > MOST_IDLE:
                break
            lines = seen.get("progress", [])
            if lines and (lines != told or time.monotonic() - when > AGAIN_SECONDS):
                self._tell(lines)
                told, when = lines, time.monotonic()
        self._status(job["ansible_job_id"], "cleanup", task_vars)
        if "primary" not in answer:
            return {"failed": True, "msg": GONE}
        return {key: value for key, value in answer.items() if key not in JOB}

    def _status(self, job: str, mode: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        directory = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        asked = {"jid": job, "mode": mode, "_async_dir": directory}
        return self._execute_module("ansible.legacy.async_status", module_args=asked, task_vars=task_vars)

    def _tell(self, lines: list[str]) -> None:
        # The report of `make plan` tells it itself.
        if constants.DEFAULT_STDOUT_CALLBACK != "plan":
            for line in lines:
                Display().display(line)

    def _tell_undeclared(self, planned: Mapping[str, Any]) -> None:
        by_database: dict[str, list[str]] = {}
        for index in planned.get("undeclared", []):
            by_database.setdefault(index["database"], []).append(index["name"])
        for database, names in by_database.items():
            self._tell([f"{database}: not declared, and left alone: {', '.join(names)}"])


GONE = "the job on the host ended without an answer, so it was killed; the next run mends what is left of it"
# What async_status says of the job itself.
JOB = ("ansible_job_id", "started", "finished", "results_file", "stdout", "stderr", "stdout_lines", "stderr_lines")
