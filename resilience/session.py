"""One run of the harness: a load all the while, one fault after the other, and what each of them showed."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import analysis, checks, ledger
from .client import Client
from .environment import Environment, Health, RefusedError, status
from .faults import Fault
from .fleet import Fleet, HostError
from .load import Load, lines

# Seconds of load before each fault, to compare with.
BEFORE = 8.0
# Seconds in which all has to be well again, counted from the end of a fault.
WELL = 300.0


@dataclass
class Outcome:
    """What a fault showed.

    Parameters:
        fault: its name; kind, title, row: as of the fault.
        target: whom it hit.
        begin, at, healed, end: when watching, the fault and its mend began, and when watching ended.
        figures: as of `analysis.figures`, with `lost`, `wrong` and what else was counted, and `well`: after how many
            seconds from `healed` all was well with no hand.
        limits: as plain data, with `value` and whether it `holds`.
        problems: what is wrong beside them, a line each.
        skipped: why it was not done; all else is empty then.
    """

    fault: str
    kind: str
    title: str
    row: str = ""
    target: str = ""
    begin: float = 0.0
    at: float = 0.0
    healed: float = 0.0
    end: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    limits: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether all was as it has to be."""
        return not self.skipped and not self.problems and all(limit["holds"] for limit in self.limits)


class Session:
    """A run, from the first request to the last.

    Parameters:
        environment: what is broken.
        fleet: its hosts.
        folder: where ledger, samples and results are kept; made anew.
        rate: requests a second.
        say: is given a line of progress at a time.
        settle: whether site.yml is run after the first fault of each kind.
    """

    def __init__(
        self, environment: Environment, fleet: Fleet, folder: Path, *, rate: float = 40.0,
        say: Callable[[str], None] = print, settle: bool = True,
    ) -> None:  # fmt: skip
        self.environment, self.fleet, self.folder = environment, fleet, folder
        self.outcomes: list[Outcome] = []
        self._say, self._settle = say, settle
        self._settled: set[str] = set()
        # Whether the fault before ended well, and nothing was done since.
        self._well = False
        folder.mkdir(parents=True)
        self.name = f"resilience-{datetime.now():%Y%m%d-%H%M%S}"
        self.ledger = ledger.Ledger(folder / "ledger.jsonl")
        context = ssl.create_default_context(cafile=environment.described["authority"])
        port = environment.described["ports"]["https"]
        self.load = Load(lambda: Client(environment.front, port, context), self.ledger, self.name, rate=rate)

    def __enter__(self) -> Self:
        self.ledger.event("run", time.time(), name=self.name, environment=self.environment.name)
        self.load.start()
        self.begun = self.load.now()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.load.stop()
        self.ledger.__exit__(kind, error, trace)
        self.keep()

    def keep(self) -> None:
        """Write samples and results down."""
        (self.folder / "samples.jsonl").write_text("".join(lines(list(self.load.samples))))
        (self.folder / "results.json").write_text(json.dumps(self.results(), indent=1) + "\n")

    def results(self) -> dict[str, Any]:
        """Return what the run showed so far, as plain data."""
        return {
            "name": self.name,
            "environment": self.environment.name,
            "begun": self.begun,
            "ended": self.load.now(),
            "rate": self.load.rate,
            "outcomes": [vars(outcome) | {"passed": outcome.passed} for outcome in self.outcomes],
        }

    def perform(self, fault: Fault) -> Outcome:
        """Have one fault happen, see it over, look at everything, and return what it showed."""
        outcome = Outcome(fault.name, fault.kind, fault.title, fault.row)
        self.outcomes.append(outcome)
        if reason := fault.unfit(self.fleet):
            outcome.skipped = reason
        else:
            try:
                self._perform(fault, outcome)
            except (HostError, RefusedError) as error:
                # Only what is refused before anything was broken leaves a fault out.
                if isinstance(error, RefusedError) and not outcome.target:
                    outcome.skipped = str(error)
                else:
                    outcome.problems.append(str(error))
        self.keep()
        self._tell(outcome)
        return outcome

    def _perform(self, fault: Fault, outcome: Outcome) -> None:
        if not self._well:
            self._wait_until_well(WELL)
        self._well = False
        outcome.begin = self.load.now()
        target = fault.find(self.fleet)
        outcome.target = str(target)
        self._say(f"{fault.name}: {fault.title} ({target})")
        if fault.probed:
            checks.begin_probe(self.fleet, target.host, BEFORE + fault.held + fault.watched)
        self._pass_time(BEFORE)
        self.ledger.event("fault", time.time(), fault=fault.name, target=str(target))
        try:
            outcome.at = fault.inject(self.fleet, target)
            self._pass_time(outcome.at + fault.held - self.load.now())
        finally:
            # Also when somebody interrupts: nobody else gives a host its power back.
            if fault.heal:
                fault.heal(self.fleet, target)
            outcome.healed = self.load.now()
            self.ledger.event("healed", time.time(), fault=fault.name)
        self._say(f"{fault.name}: mended, or left to itself, after {outcome.healed - outcome.at:.0f} s")
        self._pass_time(fault.watched)
        well = None
        try:
            well = self._wait_until_well(WELL, since=outcome.healed)
            self._well = True
        except HostError as error:
            outcome.problems.append(str(error))
        outcome.end = self.load.now()
        self._judge(outcome, well)
        if fault.probed:
            outcome.figures |= checks.end_probe(self.fleet, target.host, outcome.at)
        for limit in fault.limits:
            value = outcome.figures.get(limit.figure)
            outcome.limits.append(vars(limit) | {"value": value, "holds": limit.holds(value)})
        if self._settle and fault.kind not in self._settled:
            self._settled.add(fault.kind)
            self._well = False
            self._say(f"{fault.name}: running site.yml, which is to change nothing")
            outcome.problems += [f"site.yml: {line}" for line in checks.unsettled(self.fleet)]

    def _judge(self, outcome: Outcome, well: float | None) -> None:
        outcome.figures = analysis.figures(list(self.load.samples), outcome.at, outcome.healed, outcome.end)
        outcome.figures["well"] = well
        verdict = checks.verify(self.fleet, ledger.read(self.ledger.path), self.name)
        outcome.figures |= checks.counted(verdict)
        outcome.problems += [f"lost: {line}" for line in verdict.lost[:20]]
        outcome.problems += [f"wrong: {line}" for line in verdict.wrong[:20]]

    def _pass_time(self, seconds: float) -> None:
        """Let time pass; an error of the load ends it."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.load.check()
            time.sleep(min(left, 0.5))
        self.load.check()

    def _wait_until_well(self, timeout: float, since: float | None = None) -> float:
        """Wait until `status` says that all is well, and return after how many seconds.

        Errors:
            HostError, where it does not in time; its text says what is wrong.
        """
        begin = self.load.now() if since is None else since
        while True:
            asked = self.load.now()
            try:
                health = status(self.environment)
            except RefusedError as error:
                health = Health(False, [str(error)])
            if health.healthy:
                return asked - begin
            if self.load.now() - begin > timeout:
                raise HostError(f"after {timeout:g} s still not well: " + "; ".join(health.problems))
            self._pass_time(3)

    def _tell(self, outcome: Outcome) -> None:
        if outcome.skipped:
            self._say(f"{outcome.fault}: SKIPPED: {outcome.skipped}")
            return
        self._say(f"{outcome.fault}: {'passed' if outcome.passed else 'NOT PASSED'}")
        if it := outcome.figures:
            back = it["writes_back"]
            self._say(
                f"    {it['failed_all']} of {it['requests']} failed, {it['refused']} of them refused; {it['retried']}"
                f" closed and repeated; stall {it['stall']:.1f} s; writes back"
                f" {'never' if back is None else f'after {back:.1f} s'}; {it['lost']} of {it['acknowledged']} lost"
            )
        for limit in outcome.limits:
            if not limit["holds"]:
                self._say(f"    {limit['figure']} is {limit['value']}, and may be {limit['worst'] or limit['most']}")
        for problem in outcome.problems:
            self._say(f"    {problem}")
