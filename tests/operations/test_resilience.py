"""The faults that take the least time and catch the most, under load: `make resilience` does all of them, more often.

Killed daemons are left to the fleet's tests, which do without a ledger; the death of an app node to those of deploys.

What was acknowledged is never lost; times are held to twice of what docs/resilience.md has as limits, since whatever
else runs on the machine shares its cores.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

import lab

sys.path.insert(0, str(lab.ROOT))
from resilience import environment, faults, session
from resilience.__main__ import write_page
from resilience.fleet import Fleet

FAULTS = (
    "host-balancer",
    "host-redis",
    "host-primary",
    "partition-primary",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, request):
    """Run the load for all faults of this module, and leave the report where it can be looked at."""
    folder = lab.ROOT / ".terrace/resilience/tests"
    place = environment.describe(lab.INVENTORY, folder / "reach")
    kept = tmp_path_factory.mktemp("resilience") / "run"
    with pytest.MonkeyPatch.context() as patch:
        # As all runs of this scenario; it takes half the time.
        patch.setenv("ANSIBLE_STRATEGY", "mitogen_linear")
        with session.Session(place, Fleet(place), kept, settle=False) as running:
            yield running
    write_page(kept)
    (folder / "report.html").write_text((kept / "report.html").read_text())


@pytest.mark.parametrize("name", FAULTS)
def test_fault(run, name):
    [fault] = faults.choose([name])
    # Shorter than by `make resilience`: only the primary has to stay away for a whole failover.
    if fault.heal:
        fault = replace(fault, held=35.0 if name == "host-primary" else 15.0)
    outcome = run.perform(replace(fault, watched=12.0))
    assert not outcome.skipped
    assert outcome.problems == []
    assert outcome.figures["acknowledged"] > 100
    exceeded = [
        limit
        for limit in outcome.limits
        if limit["value"] is None or limit["value"] > 2 * (limit["worst"] or limit["most"])
    ]
    assert exceeded == [], outcome


def test_site_changes_nothing_after_all_of_that(run, monkeypatch):
    """Roles are elsewhere than the inventory has them; a run leaves them there, and is short.

    Every task is a round trip to every host; the bound is docs/benchmarks.md's.
    """
    assert run.outcomes, "it comes after the faults"
    monkeypatch.setenv("TERRACE_HOST_TASKS", str(lab.HOST_TASKS))
    assert session.checks.unsettled(run.fleet) == []
    most = (
        dict.fromkeys(lab.ADDRESSES, 25) | dict.fromkeys(lab.BALANCERS, 26) | dict.fromkeys(lab.GROUPS["database"], 38)
    )
    assert {host: count for host, count in lab.host_tasks().items() if count > most[host]} == {}
