#!/usr/bin/python
"""Keep one slot of a service live on a node, and replace it by the other one without losing a request."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_slot
short_description: Keep one slot of a service live, and flip to the other one when something changed
description:
  - A service has two slots, blue and green, each a link to a release and an instance of C(svc-NAME@.service).
    One of them is live.
  - Where nothing is live, a slot is pointed to the wanted release and started.
  - Where the live slot runs another release than the wanted one, or other files than the current ones, the other slot
    is started, and once the node proxy's own readiness check passes, the old one is drained and stopped.
  - A slot that does not become ready is stopped again; the live one is not touched, and the module fails.
  - With O(watch) the two share the node's requests for a while first, and the new one is held against the old one by
    what the node proxy counts of both. One that answers with errors, or much slower, is drained and stopped again.
  - The steps are derived from what is found on the node, so a run that was cut off is completed, or reverted, by the
    next one.
options:
  name:
    description: The service.
    type: str
    required: true
  release:
    description: The id of an installed release. Without it the live release stays.
    type: str
    default: ''
  keep_live:
    description: Whether a release that is already live stays, though it is not O(release).
    type: bool
    default: false
  serial:
    description:
      - The number of the fleet's agreement on O(release), noted once it lives here. 0 notes nothing.
    type: int
    default: 0
  flip:
    description:
      - Whether a slot may give way to the other one. Where not, a service of which anything runs is left alone, and
        RV(due) tells that a slot has to be replaced.
    type: bool
    default: true
  restart:
    description: Whether the live slot gives way to the other one although nothing has changed.
    type: bool
    default: false
  watch:
    description: Seconds for which a new slot is watched beside the old one, once it is ready.
    type: int
    default: 0
  watch_errors:
    description: By how many in a hundred the new slot's share of errors may be above that of the old one.
    type: int
    default: 2
  watch_slower:
    description: How many times as long as that of the old slot the new one's typical response time may be.
    type: float
    default: 3.0
  restart_on:
    description: Files for whose change the service has to be started anew, in the other slot.
    type: list
    elements: path
    default: []
  proxy_socket:
    description: The admin socket of the node proxy.
    type: path
    default: /run/haproxy-node/admin.sock
  ready_timeout:
    description: Seconds for a started slot to become ready.
    type: int
    default: 60
  drain_timeout:
    description:
      - Seconds for the running requests of the old slot to end before it is told to stop, at most 3. Those that take
        longer end in a server that stops; its unit says how long that may take.
    type: int
    default: 30
  linger:
    description:
      - Whether the old slot may still be ending long requests when the module is done. It has been told to stop, and
        gets no further request; a run without this waits for its end.
    type: bool
    default: false
author: Terrace
"""

EXAMPLES = r"""
- name: Keep a slot of orders live
  service_slot:
    name: orders
    release: 3f1c9a5be0d2
    keep_live: true
    restart_on: [/etc/systemd/system/svc-orders@.service, /etc/terrace/services/orders/service.env]
"""

RETURN = r"""
slot:
  description: The slot that is live.
  type: str
  returned: success
release:
  description: The release that is live.
  type: str
  returned: success
previous_release:
  description: The release that was live before; empty where none was.
  type: str
  returned: success
due:
  description: Whether a slot has to be started beside one that runs, which O(flip) did not allow.
  type: bool
  returned: success
steps:
  description: What was done, or would be in check mode, in order. Empty where nothing had to be.
  type: list
  returned: success
reasons:
  description: Why the live slot was replaced.
  type: list
  returned: success
watched:
  description: What the new slot answered while it was watched, in words; empty where it was not.
  type: str
  returned: success
"""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.haproxy_stat import ask, parse_rows
from ansible.module_utils.releases import ROOT, SLOTS, agree, compare_with_peers, releases_of, write_atomically
from ansible.module_utils.static_files import live_link
from ansible.module_utils.systemd_unit import Unit, UnitError

RUNNING = ("active", "activating", "reloading", "deactivating")
CRASHES = 4  # so many starts in a row that ended by themselves mean that the release does not work here
POLL_SECONDS = 0.2
# A slot that is watched is looked at less often: looking takes time from what is watched.
WATCH_SECONDS = 0.5
# Requests that end within so many seconds are let end before the server is told to stop.
SHORT_SECONDS = 3.0
# So many errors are needed before a share of them says anything, and so many answers before a time does; a slow slot
# has few, since the proxy prefers the one with fewer requests. When the time is up, and there was little to see, fewer
# errors are enough if they are more than half of all.
FEW_ERRORS = 5
LEAST_ERRORS = 2
HALF = 50
FEW_ANSWERS = 5
# What a new slot's typical response time may be above the old one's in any case, in milliseconds: caches are cold.
SLACK_MS = 50.0
# The node proxy's backends that lead to a service's slots, by what follows its name. Those that are checked have states
# of their own; that of writes is not there where writes have no bound.
CHECKED = ("", ".write")
LEADING = (*CHECKED, ".local", ".any")
# srv_admin_state of `show servers state`: forced maintenance (1) and forced drain (8).
FORCED = 0x01 | 0x08


class SlotError(Exception):
    """Something that keeps a slot from becoming live; the text says what, where and what to mend."""


@dataclass(frozen=True)
class Found:
    """What a slot was found in.

    release: the id its link points to, or an empty string. running: whether its unit runs or is about to.
    changed: the files that differ from those it has loaded; always empty where it does not run.
    asked: whether it has to give way because that was asked for. stopping: whether it has been told to stop, and ends
    the requests that it has.
    """

    release: str = ""
    running: bool = False
    changed: list[str] = field(default_factory=list)
    asked: bool = False
    stopping: bool = False


@dataclass(frozen=True)
class Plan:
    """Which slot is to be live, and what that takes.

    slot: the slot. start: whether it has to be started. stop_first: whether it runs something else at the moment.
    retire: the other slot, where that one runs and has to be drained and stopped. reasons: why the live slot goes.
    """

    slot: str
    start: bool
    stop_first: bool
    retire: str
    reasons: list[str]


def make_plan(slots: dict[str, Found], live: str, wanted: str) -> Plan:
    """Return what to do, from what is there.

    Parameters:
        slots: what each slot was found in, by name.
        live: the slot that the node calls live, or an empty string.
        wanted: the release that is to be live.
    """

    def fits(slot: str) -> bool:
        found = slots[slot]
        sound = not found.changed and not found.asked and not found.stopping
        return found.running and found.release == wanted and sound

    def other(slot: str) -> str:
        return SLOTS[1 - SLOTS.index(slot)]

    reasons = []
    if live and slots[live].release != wanted:
        reasons.append(f"release {slots[live].release} is replaced by {wanted}")
    if live:
        reasons += [f"{file} changed" for file in slots[live].changed]
        reasons += ["a restart was asked for"] if slots[live].asked else []
    first = live or next((slot for slot in SLOTS if fits(slot)), "") or SLOTS[0]
    if fits(first):
        target = first
    elif fits(other(first)):
        target = other(first)
    elif not live:
        target = next((slot for slot in SLOTS if not slots[slot].running), SLOTS[0])
    elif not slots[live].running and slots[live].release == wanted:
        target = live
    else:
        target = other(live)
    return Plan(
        slot=target,
        start=not fits(target),
        stop_first=slots[target].running and not fits(target),
        retire=other(target) if slots[other(target)].running else "",
        reasons=reasons,
    )


@dataclass(frozen=True)
class Server:
    """What the node proxy knows of one slot.

    status: as in its statistics, such as "UP", "UP 1/2", "DOWN", "DRAIN". check: the outcome of the last check, such
    as "L7OK". Where its backends differ, both are those of one that is not ready. sessions: how many requests are
    running. forced: whether someone put it into drain or maintenance.
    """

    status: str
    check: str
    sessions: int
    forced: bool

    @property
    def ready(self) -> bool:
        """Whether the last check passed and the server takes requests.

        A server is up before its first check too, so its status alone is not enough.
        """
        return self.status.startswith("UP") and self.check.lstrip("* ") in ("L7OK", "L7OKC")


@dataclass(frozen=True)
class Answers:
    """What the node proxy has counted of one slot.

    count: its answers. milliseconds: the sum of their response times. errors: answers of status 5xx, and requests that
    had none because the slot refused, broke off or was too slow.
    """

    count: int = 0
    milliseconds: int = 0
    errors: int = 0

    def __sub__(self, other: Answers) -> Answers:
        """Return what came since then, or since a proxy that was reloaded has begun to count anew."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Answers(*(now - then if now >= then else now for now, then in pairs))

    @property
    def share(self) -> float:
        """The share of errors; 0 where there is no answer."""
        return self.errors / max(self.count, self.errors, 1)

    @property
    def mean(self) -> float:
        """The mean response time, in milliseconds."""
        return self.milliseconds / max(self.count, 1)

    def __str__(self) -> str:
        return f"{self.count} answers, {self.errors} errors, {self.mean:.0f} ms on average"


def faulty(new: Answers, old: Answers, allowed: int, few: int = FEW_ERRORS) -> str:
    """Return what is wrong with a new slot's errors, held against the old one's; nothing where they may be.

    Parameters:
        new, old: what both have answered since they share their requests.
        allowed: by how many in a hundred the new one's share may be above the old one's.
        few: with fewer errors nothing is told.
    """
    if new.errors < few or new.share <= old.share + allowed / 100:
        return ""
    asked = [max(each.count, each.errors) for each in (new, old)]
    return f"{new.errors} of its {asked[0]} requests had errors, {old.errors} of {asked[1]} of the old slot"


def typical(spans: Sequence[Answers]) -> float:
    """Return how long a slot typically takes to answer, in milliseconds; 0 where it has not answered.

    It is the median of the spans' means, each of which counts as often as the span has answers. A report of ten seconds
    makes a mean over all of them that of few other answers; here it is in one span, whatever that takes.

    Parameters:
        spans: what it answered in one span of time after the other.
    """
    means = sorted((span.mean, span.count) for span in spans if span.count)
    half = sum(count for _, count in means) / 2
    passed = 0
    for mean, count in means:
        passed += count
        if passed >= half:
            return mean
    return 0.0


def slow(new: Sequence[Answers], old: Sequence[Answers], factor: float) -> str:
    """Return what is wrong with a new slot's response times, held against the old one's; nothing where they may be.

    Parameters:
        new, old: what both have answered, in the same spans of time.
        factor: how many times as long the new one may take.
    """
    if min(sum(span.count for span in spans) for spans in (new, old)) < FEW_ANSWERS:
        return ""
    its, before = typical(new), typical(old)
    if its <= factor * before + SLACK_MS:
        return ""
    return f"it typically took {its:.0f} ms to answer, the old slot {before:.0f} ms"


class Proxy:
    """The node proxy, through its admin socket.

    Parameters:
        path: the socket.
        service: the service; its backend has its name, and others that lead to its slots begin with it.
    """

    def __init__(self, path: str, service: str) -> None:
        self.path = path
        self.backend = service

    def ask(self, command: str) -> str:
        """Send one command and return the answer.

        Raises SlotError where the proxy cannot be reached.
        """
        try:
            return ask(self.path, command)
        except OSError as error:
            raise SlotError(
                f"the node proxy does not answer on {self.path} ({error.strerror or error}): "
                "see `systemctl status haproxy@node`, or let site.yml set it up"
            ) from error

    def tell(self, slot: str, setting: str) -> None:
        """Change a setting of a slot's server, such as "state drain", in every backend where it has one of its own."""
        known = {row["be_name"] for row in parse_rows(self.ask("show servers state"), " ")}
        for end in CHECKED:
            if end and self.backend + end not in known:
                continue
            command = f"set server {self.backend}{end}/{slot} {setting}"
            if answer := self.ask(command).strip():
                raise SlotError(f"the node proxy refused `{command}`: {answer}")

    def answers(self) -> dict[str, Answers]:
        """Return what it has counted of each slot."""
        errors = dict.fromkeys(SLOTS, 0)
        for row in parse_rows(self.ask("show stat -1 4 -1"), ","):
            if row["pxname"] in [self.backend + end for end in LEADING] and row["svname"] in SLOTS:
                errors[row["svname"]] += sum(int(row.get(name) or 0) for name in ("hrsp_5xx", "econ", "eresp"))
        # One entry of the table a slot: 0x7f00: key=blue use=0 exp=0 shard=0 gpc0=12 gpc1=340
        counted = {}
        for line in self.ask(f"show table {self.backend}.slots").splitlines():
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if words.get("key") in SLOTS:
                # Without counts there would be nothing to hold against a release, and every one would do.
                if not {"gpc0", "gpc1"} <= set(words):
                    raise SlotError(f"the node proxy counts the answers of slots in a way that is not known: {line}")
                counted[words["key"]] = (int(words["gpc0"]), int(words["gpc1"]))
        return {slot: Answers(*counted.get(slot, (0, 0)), errors[slot]) for slot in SLOTS}

    def servers(self) -> dict[str, Server]:
        """Return the servers of the service by slot.

        Raises SlotError where the proxy does not know the service.
        """
        stat = {
            (row["pxname"], row["svname"]): row
            for row in parse_rows(self.ask("show stat -1 4 -1"), ",")
            if row["pxname"] in [self.backend + end for end in LEADING] and row["svname"] in SLOTS
        }
        state = {
            (row["be_name"], row["srv_name"]): int(row["srv_admin_state"])
            for row in parse_rows(self.ask("show servers state"), " ")
        }
        if not all((self.backend, slot) in stat and (self.backend, slot) in state for slot in SLOTS):
            raise SlotError(
                f"the node proxy knows no backend {self.backend} with the servers {' and '.join(SLOTS)}: "
                "its configuration comes from site.yml, which has to run before"
            )
        return {slot: self._server(slot, stat, state) for slot in SLOTS}

    def _server(self, slot: str, stat: dict[tuple[str, str], dict], state: dict[tuple[str, str], int]) -> Server:
        own = [(self.backend + end, slot) for end in CHECKED if (self.backend + end, slot) in stat]
        found = [Server(stat[key]["status"], stat[key]["check_status"], 0, False) for key in own]
        shown = next((server for server in found if not server.ready), found[0])
        return replace(
            shown,
            sessions=sum(int(row["scur"] or 0) for (_, name), row in stat.items() if name == slot),
            forced=any(state.get(key, 0) & FORCED for key in own),
        )


class Service:
    """A service on this node: its slots, its units, its place in the node proxy.

    Parameters:
        module: the AnsibleModule.
        root: the directory above all services.
    """

    def __init__(self, module: AnsibleModule, root: str = ROOT) -> None:
        self.module = module
        self.name: str = module.params["name"]
        self.home = Path(root) / self.name
        self.root = root
        self.proxy = Proxy(module.params["proxy_socket"], self.name)
        self.units = {slot: Unit(module, f"svc-{self.name}@{slot}") for slot in SLOTS}
        self.steps: list[str] = []
        self.watched = ""

    def find(self, slot: str, release: str) -> Found:
        """Return what a slot is in at the moment."""
        unit = self.units[slot]
        state = unit.show("ActiveState", "NeedDaemonReload")
        if state["ActiveState"] not in RUNNING:
            return Found(release)
        changed = unit.changed_since_load(self.module.params["restart_on"])
        if state["NeedDaemonReload"] == "yes" and not changed:
            changed = [f"/etc/systemd/system/svc-{self.name}@.service"]
        return Found(release, running=True, changed=changed, stopping=state["ActiveState"] == "deactivating")

    def enabled(self, slot: str) -> bool:
        """Return whether a slot is the one that starts at boot."""
        return self.units[slot].show("UnitFileState")["UnitFileState"] == "enabled"

    def link(self, path: Path, target: str) -> None:
        """Point a link to a target, in one step, so that nobody ever finds it missing."""
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        partial.symlink_to(target)
        partial.replace(path)

    def start(self, slot: str, release: str, stop_first: bool, beside: str) -> None:
        """Start a slot on a release, wait until the node proxy finds it ready, and watch it beside the old one.

        Raises SlotError where it does not become ready, or does not do as well as the old one; the slot is then as it
        was before, and stopped.
        """
        unit, path = self.units[slot], self.home / slot
        if stop_first:
            unit.systemctl("stop", unit.name)
        before = path.readlink() if path.is_symlink() else None
        self.link(path, f"releases/{release}")
        unit.systemctl("daemon-reload")
        unit.systemctl("reset-failed", unit.name, check=False)
        # Without this an earlier process's last good check would count for the new one.
        self.proxy.tell(slot, "health down")
        self.proxy.tell(slot, "state ready")
        try:
            unit.systemctl("start", unit.name)
            unit.record(self.module.params["restart_on"])
            self.wait_ready(slot)
            if beside:
                self.watch(slot, beside)
        except (SlotError, UnitError, OSError) as error:
            lines = unit.journal()
            self.stop(slot)
            if before is None:
                path.unlink()
            else:
                self.link(path, str(before))
            raise SlotError(f"{error}. Its last lines in the journal:\n{lines}") from error

    def watch(self, slot: str, beside: str) -> None:
        """Hold a slot against the old one for a while, in which both share the node's requests.

        One that is slow is looked at once more, for as long: what has yet to connect or to load is slow once, a release
        that is slow stays so.

        Raises SlotError where it does not do as well; it is stopped then, its requests ended as far as they may take.
        """
        first = self.proxy.answers()
        wrong, late = self.look(slot, beside, first)
        if late and not wrong:
            wrong, late = self.look(slot, beside, first)
        now = self.proxy.answers()
        allowed = max(HALF, self.module.params["watch_errors"])
        wrong = wrong or faulty(now[slot] - first[slot], now[beside] - first[beside], allowed, LEAST_ERRORS) or late
        if not wrong and not self.proxy.servers()[slot].ready:
            wrong = "it was ready, and no longer is"
        self.watched = f"{now[slot] - first[slot]}; the old slot {now[beside] - first[beside]}"
        if wrong:
            self.retire(slot)
            raise SlotError(f"slot {slot} did worse than {beside}: {wrong}")

    def look(self, slot: str, beside: str, first: dict[str, Answers]) -> tuple[str, str]:
        """Look at two slots for the time to watch; return what is wrong with the new one's errors, and with its times.

        Errors are looked at all the time; response times after the first quarter, when caches are warm.

        Parameters:
            slot, beside: the new one and the old one.
            first: what both had answered when they began to share requests.
        """
        its = self.module.params
        begun, now = time.monotonic(), self.proxy.answers()
        spans: dict[str, list[Answers]] = {slot: [], beside: []}
        wrong = ""
        while not wrong and (passed := time.monotonic() - begun) < its["watch"]:
            time.sleep(WATCH_SECONDS)
            before, now = now, self.proxy.answers()
            if passed >= its["watch"] / 4:
                for each, found in spans.items():
                    found.append(now[each] - before[each])
            wrong = faulty(now[slot] - first[slot], now[beside] - first[beside], its["watch_errors"])
        return wrong, slow(spans[slot], spans[beside], its["watch_slower"])

    def stop(self, slot: str) -> None:
        """Stop a slot that did not become ready, and have it count as stopped: what it failed with has been told."""
        unit = self.units[slot]
        unit.systemctl("stop", unit.name, check=False)
        unit.systemctl("reset-failed", unit.name, check=False)

    def wait_ready(self, slot: str) -> None:
        """Wait until the node proxy's readiness check of a slot passes.

        Raises SlotError after the timeout, or as soon as the service keeps ending by itself.
        """
        seconds = self.module.params["ready_timeout"]
        deadline = time.monotonic() + seconds
        restarts = int(self.units[slot].show("NRestarts").get("NRestarts") or 0)
        while True:
            server = self.proxy.servers()[slot]
            if server.ready:
                return
            ended = int(self.units[slot].show("NRestarts").get("NRestarts") or 0) - restarts
            if ended >= CRASHES:
                raise SlotError(f"slot {slot} ended by itself {ended} times instead of becoming ready")
            if time.monotonic() >= deadline:
                raise SlotError(
                    f"slot {slot} did not become ready within {seconds} s "
                    f"(the node proxy says {server.status}, last check {server.check or 'none yet'})"
                )
            time.sleep(POLL_SECONDS)

    def drain(self, slot: str) -> None:
        """Give a slot no further request, and let those that run end, as far as they may take.

        What is not short (a slow answer, a WebSocket) goes on in a server that has been told to stop: it lets requests
        end, and says goodbye to who would stay.
        """
        self.proxy.tell(slot, "state drain")
        deadline = time.monotonic() + min(self.module.params["drain_timeout"], SHORT_SECONDS)
        while self.proxy.servers()[slot].sessions and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def retire(self, slot: str, linger: bool = False) -> None:
        """Let a slot's running requests end, stop it, and leave its server as one that may be started again.

        Where it may linger, it is drained and told to stop, and the rest is another run's.
        """
        self.drain(slot)
        if linger:
            self.units[slot].systemctl("stop", "--no-block", self.units[slot].name)
            return
        self.units[slot].systemctl("stop", self.units[slot].name)
        self.open(slot)

    def open(self, slot: str) -> None:
        """Have the node proxy pass requests to a stopped slot as soon as it is ready, and not before."""
        # The proxy notices by its next check; until then it would pass requests to a slot that is no longer there.
        self.proxy.tell(slot, "health down")
        self.proxy.tell(slot, "state ready")

    def rest(self, slot: str) -> None:
        """Leave the server of a slot that has stopped since it was drained as one that may be started again."""
        if self.proxy.servers()[slot].forced and self.step(f"undrain {slot}"):
            self.open(slot)

    def step(self, text: str) -> bool:
        """Note a step, and return whether it is to be carried out."""
        self.steps.append(text)
        return not self.module.check_mode

    def converge(self) -> dict[str, object]:
        """Bring the service to where it should be and return what to report.

        Raises SlotError and UnitError.
        """
        parameters = self.module.params
        known = releases_of(self.name, self.root)
        live, current = known["live_slot"], known["live"]
        wanted = current if current and parameters["keep_live"] else parameters["release"] or current
        if self.module.check_mode and wanted not in known["installed"]:
            return expected(wanted, live, current)
        if not wanted:
            raise SlotError("no release is live and none was given: deploy one")
        if wanted not in known["installed"]:
            raise SlotError(f"release {wanted} is not installed in {self.home}/releases: install it first")
        found = {slot: self.find(slot, known["slots"][slot]) for slot in SLOTS}
        if live and parameters["restart"]:
            found[live] = replace(found[live], asked=True)
        plan = make_plan(found, live if current else "", wanted)
        due = plan.start and not parameters["flip"] and any(slot.running for slot in found.values())
        if not self.module.check_mode:
            self.clear()
        if due:
            return {
                "slot": live,
                "release": current,
                "previous_release": current,
                "due": True,
                "reasons": plan.reasons,
                "steps": [],
                "watched": "",
            }
        if plan.start and self.step(f"start {plan.slot}"):
            self.start(plan.slot, wanted, plan.stop_first, plan.retire if parameters["watch"] else "")
        elif not plan.start:
            beside = plan.retire if parameters["watch"] and plan.slot != live else ""
            self.settle(plan.slot, keep=plan.slot == live or not plan.retire, beside=beside)
        if plan.retire and self.step(f"retire {plan.retire}"):
            self.retire(plan.retire, parameters["linger"])
        elif not plan.retire:
            self.rest(SLOTS[1 - SLOTS.index(plan.slot)])
        self.declare(plan.slot, live, wanted)
        serial, agreed = parameters["serial"], (known["serial"], known["agreed"])
        behind = serial and serial >= known["serial"] and agreed != (serial, wanted)
        if behind and self.step(f"note agreement {serial}"):
            agree(self.home, serial, wanted)
        if self.steps and not self.module.check_mode:
            compare_with_peers(self.module)
        return {
            "slot": plan.slot,
            "release": wanted,
            "previous_release": current,
            "due": False,
            "reasons": plan.reasons,
            "steps": self.steps,
            "watched": self.watched,
        }

    def clear(self) -> None:
        """Remove what a run that was killed while it wrote a link or a file has left."""
        for litter in (*self.home.glob(".*.partial"), *self.home.glob(".new-*")):
            litter.unlink()

    def settle(self, slot: str, keep: bool, beside: str = "") -> None:
        """Make sure that a slot which already runs takes requests: an earlier run may have left it draining.

        Raises SlotError where it is not ready; unless it is to be kept it is then stopped, as after a start.
        """
        if self.proxy.servers()[slot].forced and self.step(f"undrain {slot}"):
            self.proxy.tell(slot, "state ready")
        if self.module.check_mode:
            return
        try:
            self.wait_ready(slot)
            if beside:
                self.watch(slot, beside)
        except SlotError as error:
            unit = self.units[slot]
            lines = unit.journal()
            if not keep:
                self.stop(slot)
            raise SlotError(f"{error}. Its last lines in the journal:\n{lines}") from error

    def declare(self, slot: str, live: str, release: str) -> None:
        """Say which slot is live: to whoever follows the link, to the boot, and to what restarts with the service."""
        if slot != live and self.step(f"make {slot} live"):
            self.link(self.home / "live", slot)
        link, target = live_link(self.home, release)
        shown = str(link.readlink()) if link.is_symlink() else ""
        if shown != target and self.step("show its static files" if target else "show no static files"):
            if target:
                self.link(link, target)
            else:
                link.unlink()
        other = SLOTS[1 - SLOTS.index(slot)]
        if not self.enabled(slot) and self.step(f"enable {slot}"):
            self.units[slot].systemctl("enable", self.units[slot].name)
        if self.enabled(other) and self.step(f"disable {other}"):
            self.units[other].systemctl("disable", self.units[other].name)
        # Background processes are restarted when this file changes: the link alone has no content of its own.
        marker = self.home / ".live"
        text = f"{release} {slot}\n"
        if (not marker.exists() or marker.read_text() != text) and self.step("mark the live release"):
            write_atomically(marker, text, mode=0o644)


def expected(release: str, slot: str = "", previous: str = "") -> dict[str, object]:
    """Return what check mode reports of a release that the tasks before would have installed."""
    return {
        "slot": slot,
        "release": release,
        "previous_release": previous,
        "due": False,
        "steps": [f"start {release or 'the wanted release'}"],
        "reasons": [],
        "watched": "",
    }


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a service's directory, so that two runs do not flip it at the same time.

    Raises SlotError where another run holds it.
    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise SlotError(f"{directory} does not exist: no release was installed here yet") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise SlotError("another run is working on it on this node: wait until that one has ended") from error
    finally:
        os.close(handle)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "release": {"type": "str", "default": ""},
            "keep_live": {"type": "bool", "default": False},
            "serial": {"type": "int", "default": 0},
            "flip": {"type": "bool", "default": True},
            "restart": {"type": "bool", "default": False},
            "watch": {"type": "int", "default": 0},
            "watch_errors": {"type": "int", "default": 2},
            "watch_slower": {"type": "float", "default": 3.0},
            "restart_on": {"type": "list", "elements": "path", "default": []},
            "proxy_socket": {"type": "path", "default": "/run/haproxy-node/admin.sock"},
            "ready_timeout": {"type": "int", "default": 60},
            "drain_timeout": {"type": "int", "default": 30},
            "linger": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    service = Service(module)
    try:
        if module.check_mode and not service.home.exists():
            module.exit_json(changed=True, **expected(module.params["release"]))
        with held(service.home):
            result = service.converge()
    except (SlotError, UnitError, OSError) as error:
        module.fail_json(msg=f"service {service.name} on {platform.node()}: {error}", steps=service.steps)
    module.exit_json(changed=bool(result["steps"]), **result)


if __name__ == "__main__":
    main()
