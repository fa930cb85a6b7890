"""Tell, host by host, what a run in check mode would change: the report of `make plan`."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
type: stdout
short_description: Tell, host by host, what a run would change
description:
  - For runs in check mode, of C(playbooks/plan.yml). One short line for each play; the report comes at the end.
  - A task that fails because what would come before it has not been done is told as such, and the host's plan goes on.
    A task that refuses (an assertion, a role's argument specification) ends it, as it would end the run.
  - What a changed file makes of the unit that runs on it is worked out here, since in check mode the file is still the
    old one when the unit is looked at.
  - The run's exit code is 0 where nothing would change, 3 where something would, and 1 where the plan is not complete,
    since a host was not reached or a task failed.
options:
  diff:
    description: Whether the differences of files are shown too.
    type: bool
    default: false
    env: [{name: TERRACE_PLAN_DIFF}]
author: Terrace
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

UNCHANGED = 0
INCOMPLETE = 1
CHANGES = 3
# What may not be passed over: the run itself would end here, whatever had been done before.
REFUSALS = {
    *("assert", "check_environment", "fail", "gather_facts", "refuse", "release_check", "setup", "stat"),
    "validate_argument_spec",
}
INCLUDES = {"include_role", "include_tasks", "import_role", "import_tasks", "meta"}
# What has no check mode, and changes nothing either.
PASSIVE = {"wait_for", "wait_for_connection", "pause"}
WOULD_RUN = re.compile(r"does not support check mode|would have run if not in check mode|check mode not .*supported")
# The tag of the task in playbooks/plan.yml that leaves out a host on which nothing was ever set up, and says as what it
# would be.
NEW_HOST = "plan_new_host"


def short(action: str) -> str:
    """Return an action's name without its collection."""
    return action.rsplit(".", 1)[-1]


def shortened(text: str, limit: int = 400) -> str:
    """Return a message as one line of at most limit characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]} ..."


def watched(paths: Any, planned: Mapping[str, None]) -> list[str]:
    """Return those of the planned files that are one of the paths, or lie below one."""
    places = [PurePosixPath(path) for path in paths or []]
    return [file for file in planned if any(PurePosixPath(file).is_relative_to(place) for place in places)]


def attributes(diff: Any) -> list[str]:
    """Return what would change of a file's attributes, such as "mode 0644 -> 0600"; empty where its content would."""
    if not isinstance(diff, Mapping) or not isinstance(diff.get("before"), Mapping):
        return []
    before, after = diff["before"], diff["after"]
    return [f"{key} {before[key]} -> {after.get(key)}" for key in before if key not in ("path", "state")]


def describe_file(path: str, diff: Any) -> str:
    """Return what a task would do to a file, from its diff; one that is hidden says neither new nor old."""
    if changed := attributes(diff):
        return f"change {path}: {', '.join(changed)}"
    parts = diff if isinstance(diff, list) else [diff]
    texts = [part for part in parts if isinstance(part, Mapping) and isinstance(part.get("before"), str)]
    if not texts:
        return f"write {path}"
    return f"{'change' if texts[0].get('before_header') else 'create'} {path}"


def describe_state(path: str, state: str, diff: Any) -> str:
    """Return what `file` would do to a path."""
    if changed := attributes(diff):
        return f"change {path}: {', '.join(changed)}"
    return {"absent": f"remove {path}", "directory": f"create directory {path}", "link": f"point link {path}"}.get(
        state, f"create {path}"
    )


def describe_packages(output: str, names: Any) -> str:
    """Return what apt would install, from what its simulation printed."""
    new = re.findall(r"(?m)^Inst (\S+) \(", output)
    newer = re.findall(r"(?m)^Inst (\S+) \[", output)
    parts = [f"{verb} {', '.join(found)}" for verb, found in (("install", new), ("upgrade", newer)) if found]
    return "; ".join(parts) or f"install {names if isinstance(names, str) else ', '.join(names or [])}"


def describe_unit(arguments: Mapping, actions: list[str], differ: list[str]) -> str:
    """Return what `systemd_current` would do to its unit, or an empty string.

    Parameters:
        arguments: the module's.
        actions, differ: what it answered, from what is on the host; completed with what is planned before it.
    """
    if not actions:
        return ""
    because = f" ({', '.join(differ)} {'differs' if len(differ) == 1 else 'differ'})" if differ else ""
    return f"{' and '.join(actions)} {arguments['name']}{because}"


@dataclasses.dataclass
class Host:
    """What is known of one host.

    steps: lines by role and task, in order. planned: files whose content would differ. unsettled: whether what would
    have changed by now may make a later task of the play fail. installs: whether packages would come, which may do so
    in any later play. new: groups and roles of a host that has yet to be set up.
    """

    name: str
    steps: dict[tuple[str, str], list[str]] = dataclasses.field(default_factory=dict)
    planned: dict[str, None] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    unsettled: bool = False
    installs: bool = False
    new: str = ""

    def describe(self, action: str, arguments: Mapping, result: Mapping) -> list[str]:
        """Return what a task that says "changed" would do, and remember which files it would change.

        Parameters:
            action: the short name of the task's action.
            arguments: the task's, evaluated. result: what it answered, nothing but "changed" where it is hidden.
        """
        path, diff = arguments.get("dest") or arguments.get("path") or arguments.get("name"), result.get("diff")
        if action in ("template", "copy"):
            if not attributes(diff):
                self.planned[path] = None
            return [describe_file(path, diff)]
        if action == "file":
            if arguments.get("state") != "directory" and not attributes(diff):
                self.planned[path] = None
            return [describe_state(path, arguments.get("state", "file"), diff)]
        if action == "apt":
            self.installs = True
            return [describe_packages(result.get("stdout", ""), path)]
        if action in ("release_build", "release_install"):
            what = arguments.get("id") or arguments.get("version") or ""
            return [f"{action.removeprefix('release_')} release {what} of {path}".replace("  ", " ")]
        if action == "systemd_service":
            wanted = [("stop", "stopped", "state"), ("start", "started", "state"), ("restart", "restarted", "state")]
            verbs = [verb for verb, value, key in wanted if arguments.get(key) == value]
            verbs += ["disable"] if arguments.get("enabled") is False else []
            verbs += ["mask"] if arguments.get("masked") is True else []
            return [f"{' and '.join(verbs) or 'change'} {path}"]
        if action == "postgresql_indexes":
            return list(result["said"])
        if action == "postgresql_settings":
            return [f"change the settings of the database {name}" for name in result["databases"]]
        if action in ("user", "group"):
            return [f"create or change {action} {path}"]
        if path and "/" in str(path):
            self.planned[path] = None
        return []

    def look_ahead(self, action: str, arguments: Mapping, result: Mapping) -> list[str]:
        """Return what a task that keeps a unit current would do, once the files planned before it are in place."""
        restart = watched(arguments.get("restart_on"), self.planned)
        if action == "service_slot":
            steps, reasons = list(result.get("steps") or []), list(result.get("reasons") or [])
            if result.get("previous_release"):
                reasons += [line for line in (f"{file} changed" for file in restart) if line not in reasons]
            if not steps and reasons:
                steps = ["start the other slot", "retire this one"]
            if steps:
                self.planned[f"/srv/terrace/{arguments['name']}/.live"] = None
            because = f" ({'; '.join(reasons)})" if reasons else ""
            return [f"{arguments['name']}: {', '.join(steps)}{because}"] if steps else []
        reload = watched(arguments.get("reload_on"), self.planned)
        actions, differ = list(result.get("actions") or []), list(result.get("changed_files") or [])
        if "start" not in actions:
            differ += [file for file in restart + reload if file not in differ]
            if restart:
                actions = [*(done for done in actions if done not in ("restart", "reload")), "restart"]
            elif reload and not {"restart", "reload"} & set(actions):
                actions.append("reload")
        line = describe_unit(arguments, actions, differ)
        return [line] if line else []


class CallbackModule(CallbackBase):
    """The callback; Ansible calls its methods as the run goes on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "plan"

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, Host] = {}
        self.inventory: Any = None
        self.refused: list[str] = []

    # --- what Ansible tells ---

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Refuse to run where things would be changed."""
        if not context.CLIARGS.get("check"):
            raise SystemExit("terrace: a plan is made in check mode; run it as `make plan`, or with --check")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Say what is looked at."""
        self.inventory = play.get_variable_manager()._inventory
        for host in self.hosts.values():
            host.unsettled = host.installs
        self._display.display(f"... {play.get_name()}")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Let a host's plan go on after a failure, and wait for nothing that has to come first."""
        if short(task.action) not in REFUSALS | INCLUDES:
            task.ignore_errors = True
        if task.until:
            task.retries = 1

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Treat a handler as any task."""
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note what a task would change, unless its items have been noted already."""
        self._handle_warnings_and_exception(result)
        if result.task.loop is None and not result.task.loop_with:
            self.note(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Note what an item of a task would change."""
        self.note(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Note a task that would run, and cannot be tried."""
        if result.task.loop is None and not result.task.loop_with:
            self.note_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Note an item that would run, and cannot be tried."""
        self.note_skipped(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note a task that failed: for want of what would come before it, or in earnest."""
        if result.task.loop is not None and result.result.get("results"):
            return
        self.note_failed(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Note an item that failed; one that was delegated to a host out of reach is left to that host's own tasks."""
        if not result.is_unreachable():
            self.note_failed(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note a host that does not answer; one that another host's task asks is left to its own tasks."""
        if not result.task.ignore_unreachable:
            message = " ".join(str(result.result.get("msg", "")).split())
            self.host(result).problems.append(f"not reached, so nothing is known of it: {message}")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show the report, and end with its exit code."""
        for line in self.report():
            self._display.display(line)
        raise SystemExit(self.exit_code())

    # --- what is made of it ---

    def host(self, result: Any) -> Host:
        """Return what is known of a result's host."""
        return self.hosts.setdefault(result.host.name, Host(result.host.name))

    def add(self, result: Any, lines: list[str]) -> None:
        """Add lines to the host's plan, under the task's role and name."""
        host, task = self.host(result), result.task
        role = task._role.get_name() if task._role else ""
        where = result.task_fields.get("delegate_to")
        if where and where != host.name:
            place = "the controller" if where in ("localhost", "127.0.0.1") else where
            lines = [line if line.startswith(" ") else f"{line} (on {place})" for line in lines]
        known = host.steps.setdefault((role, str(task.name or short(task.action))), [])
        if lines[0] not in known:
            known += lines
        host.unsettled = True

    def note(self, result: Any) -> None:
        """Note what a task or item would change."""
        action, answer = short(result.task.action), result.result
        arguments = result.task_fields.get("args") or {}
        host = self.host(result)
        if action == "debug":
            if said := answer.get("msg"):
                host.notes += said if isinstance(said, list) else [str(said)]
            return
        if action in ("systemd_current", "service_slot"):
            lines = host.look_ahead(action, arguments, answer)
            if lines:
                self.add(result, lines)
            return
        if not answer.get("changed"):
            return
        lines = host.describe(action, arguments, answer)
        label = self._get_item_label(answer) if "_ansible_item_label" in answer or "item" in answer else ""
        lines = lines or [str(label) if label else "would change"]
        diff = answer.get("diff")
        if self.get_option("diff") and diff and not attributes(diff) and not answer.get("_ansible_no_log"):
            lines += [f"    {line}" for line in self._get_diff(diff).splitlines()]
        self.add(result, lines)

    def note_skipped(self, result: Any) -> None:
        """Note a task that Ansible passed over only because it has no check mode."""
        action = short(result.task.action)
        arguments = result.task_fields.get("args") or {}
        asks = action == "uri" and str(arguments.get("method") or "GET").upper() in ("GET", "HEAD")
        if (
            WOULD_RUN.search(str(result.result.get("msg", "")))
            and action not in PASSIVE
            and not asks
            and result.task.changed_when != [False]
        ):
            self.add(result, ["would run; what it changes cannot be told before"])

    def note_failed(self, result: Any) -> None:
        """Note a failure."""
        host, task, answer = self.host(result), result.task, result.result
        if NEW_HOST in task.tags and answer.get("msg") == (result.task_fields.get("args") or {}).get("msg"):
            host.new = answer["msg"]
            return
        said = "the answer is hidden" if answer.get("censored") else answer.get("msg", "")
        if said == "non-zero return code" and answer.get("stderr"):
            said = f"{said}: {answer['stderr']}"
        lines = [str(line) for line in said] if isinstance(said, list) else [shortened(str(said))]
        if task.run_once and short(task.action) in REFUSALS:
            self.refused += lines
        elif short(task.action) in REFUSALS:
            host.problems += [f"{task.get_name()}: {line}" for line in lines]
        elif host.unsettled and result.task_fields.get("delegate_to") != "localhost":
            self.add(result, [f"cannot be told before what stands above is done: {line}" for line in lines])
        else:
            host.problems += [f"{task.get_name()}: {line}" for line in lines]

    def exit_code(self) -> int:
        """Return the exit code of the run."""
        if self.refused or any(host.problems for host in self.hosts.values()):
            return INCOMPLETE
        return CHANGES if any(host.steps or host.new for host in self.hosts.values()) else UNCHANGED

    def report(self) -> list[str]:
        """Return the report's lines."""
        lines = [""]
        if self.refused:
            return [*lines, "A run would end before it touches a host:", *(f"  {line}" for line in self.refused)]
        order = [host.name for host in self.inventory.get_hosts(ignore_restrictions=True)] if self.inventory else []
        hosts = [self.hosts[name] for name in order if name in self.hosts]
        for host in hosts:
            if not (host.steps or host.problems or host.notes or host.new):
                continue
            lines.append(host.name)
            if host.new:
                lines.append(f"  new host: would be set up as {host.new}")
            for (role, task), items in host.steps.items():
                lines.append(f"  {role}: {task}" if role else f"  {task}")
                lines += [f"    {item}" for item in items]
            lines += [f"  note: {note}" for note in host.notes]
            lines += [f"  NOT PLANNED: {problem}" for problem in host.problems]
            lines.append("")
        same = [host.name for host in hosts if not (host.steps or host.problems or host.new)]
        if same:
            lines.append(f"Nothing would change on {', '.join(same)}.")
        told = [
            (sum(bool(host.steps) for host in hosts), "would change"),
            (sum(bool(host.new) for host in hosts), "would be set up"),
            (sum(bool(host.problems) for host in hosts), "not planned to the end"),
        ]
        counts = [f"{number} {'host' if number == 1 else 'hosts'} {what}" for number, what in told if number]
        lines.append(f"{'; '.join(counts)}. Nothing was changed." if counts else "A run would change nothing.")
        return lines
