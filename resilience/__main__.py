"""`make resilience`: breaks an environment under load, one part at a time, and reports what its clients saw."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

from . import checks, ledger, page
from .client import FailedError
from .environment import ROOT, Environment, RefusedError, describe, status
from .faults import CATALOGUE, Fault, choose
from .fleet import Fleet, HostError
from .load import Sample
from .session import Session


def say(line: str) -> None:
    """Print a line of progress at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="resilience", description=__doc__)
    parser.add_argument("--inventory", type=Path, default=Path("inventory/lab"), help="the environment's folder")
    parser.add_argument("--faults", default="", help="names, kinds or patterns of faults; without it all of them")
    parser.add_argument("--runs", type=int, default=1, help="how often each fault happens")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    parser.add_argument("--confirm", default="", help="the environment's name, where nobody can be asked for it")
    parser.add_argument("--list", action="store_true", help="show the faults and end")
    parser.add_argument(
        "--check", type=Path, help="compare the ledger in the folder of a run with the database, and end"
    )
    return parser.parse_args()


def confirm(environment: Environment, given: str, faults: list[Fault]) -> None:
    """Have somebody type the environment's name, unless it is the lab.

    Parameters:
        environment: what is going to be broken.
        given: the name, where it was given already.
        faults: what is going to happen.
    Errors:
        RefusedError, where it is not the name.
    """
    if environment.lab or given == environment.name:
        return
    if given or not sys.stdin.isatty():
        raise RefusedError(f"this would break {environment.name}; say so: CONFIRM={environment.name}")
    print(f"This will break {environment.name} ({environment.inventory}) in {len(faults)} ways, on purpose:")
    for fault in faults:
        print(f"  {fault.name}: {fault.title}")
    print("Its services will be asked all the while; users and orders are made that stay there.")
    if input(f"Type the environment's name to go on ({environment.name}): ").strip() != environment.name:
        raise RefusedError("that is not its name; nothing was done")


def run(environment: Environment, faults: list[Fault], runs: int, rate: float, folder: Path) -> bool:
    """Have faults happen and write the report, also when it is cut short; return whether all passed.

    Parameters:
        environment: where.
        faults: which.
        runs: how often each.
        rate: requests a second.
        folder: where everything is kept; made anew.
    """
    session = Session(environment, Fleet(environment), folder, rate=rate, say=say)
    try:
        with session:
            for number in range(runs):
                for fault in faults:
                    if runs > 1:
                        say(f"run {number + 1} of {runs}")
                    outcome = session.perform(fault)
                    write_page(folder)
                    if outcome.problems and not outcome.at:
                        raise RefusedError(f"stopped before {fault.name}: {outcome.problems[0]}")
    except KeyboardInterrupt:
        say("interrupted; what was broken has been mended, or is going to be by its host")
        return False
    finally:
        write_page(folder)
        say(f"the report is {folder / 'report.html'}")
    return all(outcome.passed or outcome.skipped for outcome in session.outcomes)


def write_page(folder: Path) -> None:
    """Write the report of what a folder holds."""
    results = json.loads((folder / "results.json").read_text())
    samples = [Sample(**json.loads(line)) for line in (folder / "samples.jsonl").read_text().splitlines()]
    unfinished = folder / "report.new"
    unfinished.write_text(page.render(results, samples))
    unfinished.rename(folder / "report.html")


def check(environment: Environment, folder: Path) -> bool:
    """Compare a run's ledger with the database and say what is found; return whether they agree."""
    entries = ledger.read(folder / "ledger.jsonl")
    name = next(event["name"] for event in entries.events if event["event"] == "run")
    verdict = checks.verify(Fleet(environment), entries, name)
    say(
        f"{verdict.acknowledged} writes were acknowledged: {len(verdict.lost)} are lost, {len(verdict.wrong)} wrong;"
        f" of {verdict.unknown} that had no answer {verdict.arrived} are there"
    )
    for line in (*verdict.lost, *verdict.wrong):
        say(f"    {line}")
    return not verdict.lost and not verdict.wrong


def main() -> int:
    """Do what the command line says, and return 0 where all passed, 1 where not, 2 where it was refused."""
    given = arguments()
    if given.list:
        for fault in CATALOGUE:
            print(f"{fault.name:24} {fault.kind:12} {fault.title}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    inventory = Path(os.path.abspath(given.inventory))
    state = ROOT / ".terrace/resilience" / inventory.name
    try:
        faults = choose(given.faults.split())
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RefusedError(f"another run is under way on {inventory.name}") from None
            environment = describe(inventory, state / "reach")
            if given.check:
                return 0 if check(environment, given.check) else 1
            confirm(environment, given.confirm, faults)
            if not (health := status(environment)).healthy:
                raise RefusedError(
                    f"{environment.name} is not well, so nothing was broken: " + "; ".join(health.problems)
                )
            folder = state / f"{datetime.now():%Y%m%d-%H%M%S}"
            return 0 if run(environment, faults, given.runs, given.rate, folder) else 1
    except (RefusedError, HostError, FailedError) as error:
        print(f"resilience: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
