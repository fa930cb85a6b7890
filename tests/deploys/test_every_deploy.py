"""Deploys in a row, and every way in which one can fail: each ends with all nodes on one release, and fails nobody."""

from __future__ import annotations

import json
import os
import statistics
import time

import deploys
import pytest
from deploys import deploy, killed_in, live, several, started, variant, watched

import lab

pytestmark = pytest.mark.usefixtures("unlocked")
ROW = int(os.environ.get("DEPLOYS_IN_A_ROW") or 10)
# Where what was measured is written to, for docs/deploys.md.
FIGURES = lab.STATE / "deploys.json"


@pytest.fixture(scope="module", autouse=True)
def home(hosts, folder):
    """Begin with a release that has the slow page, everywhere."""
    done = deploy(variant(folder, "good"))
    assert done.returncode == 0, done.stdout[-4000:]
    assert len(set(live(hosts).values())) == 1


def p99(load: lab.Load, begin: float, end: float) -> float:
    """Return the 99th percentile of a load's response times between two times, in milliseconds."""
    took = [seconds for at, seconds in load.took if begin <= at < end]
    return 1000 * statistics.quantiles(took, n=100)[98]


def test_deploys_in_a_row_fail_no_request(hosts, folder):
    figures = []
    for _ in range(ROW):
        before = live(hosts)
        own = variant(folder, "good")
        with watched() as watch:
            time.sleep(15)
            begin = time.monotonic()
            done = deploy(own, deploy_watch=10, deploy_watch_next=5)
            end = time.monotonic()
        assert done.returncode == 0, done.stdout[-4000:]
        assert watch.failed == []
        after = live(hosts)
        assert len(set(after.values())) == 1
        assert after != before
        reads = watch.loads["reads"]
        figures.append(
            {
                "deploy_seconds": round(end - begin, 1),
                "p99_before_ms": round(p99(reads, begin - 15, begin)),
                "p99_during_ms": round(p99(reads, begin, end)),
                "requests": sum(load.good for load in watch.loads.values()),
                "failed": len(watch.failed),
            }
        )
        begin = time.monotonic()
        if len(figures) % 3 == 0:
            done = deploy({}, deploy_kind="rollback", deploy_watch=0)
            assert done.returncode == 0, done.stdout[-4000:]
            figures[-1]["rollback_seconds"] = round(time.monotonic() - begin, 1)
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")


@pytest.mark.parametrize("kind", deploys.FAILURES)
def test_what_fails_leaves_all_nodes_on_the_release_before(hosts, folder, kind):
    if "app3" in kind and "app3" not in lab.NODES:
        pytest.skip("there is no app3")
    deploys.check_failure(hosts, folder, kind)


@pytest.mark.parametrize(
    "task",
    ["Install the releases", "Run a command in a release", "Have the other slot take over", "Note what came of it"],
)
def test_a_controller_that_dies_leaves_what_the_next_deploy_finishes(hosts, folder, task):
    own = variant(folder, "good")
    with watched() as watch:
        killed_in(started(own), task)
        assert deploys.unlock().returncode == 0
        done = deploy(own)
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    assert len(set(live(hosts).values())) == 1


@several
def test_a_controller_that_dies_leaves_what_a_rollback_takes_back(hosts, folder):
    deploys.check_taken_back(hosts, folder)


@several
def test_a_node_that_missed_a_deploy_stays_shut_until_it_runs_what_its_peers_run(hosts, folder, playbook):
    deploys.check_missed(hosts, folder, playbook)


@several
def test_a_node_that_dies_in_its_switch_has_the_others_go_back(hosts, folder):
    before = live(hosts)
    last = lab.NODES[-1]
    own = variant(folder, "good")
    with watched() as watch:
        run = started(own, deploy_serial=[1, 1, 1], deploy_watch_next=4)
        said = []
        task = ""
        try:
            for line in run.stdout:
                said.append(line)
                task = line if line.startswith("TASK [") else task
                # Its release was shipped in a task whose lines look the same.
                if "Have the other slot take over" in task and line.startswith("changed: [app2]"):
                    deploys.power(last, on=False)
                    break
            said += run.stdout
            run.wait()
        finally:
            deploys.power(last, on=True)
        text = "".join(said)
        assert run.returncode != 0, text[-4000:]
        assert f"{last} can no longer be reached" in text, text[-4000:]
        lab.wait_until_ready(120)
    assert watch.requests_failed == []
    assert live(hosts) == before


@pytest.mark.skipif(len(lab.BALANCERS) < 2, reason="there is one load balancer")
def test_a_load_balancer_dies_meanwhile(hosts, folder):
    holder = lab.holders(hosts)[0]
    with watched() as watch:
        run = started(variant(folder, "good"))
        for line in run.stdout:
            if line.startswith("TASK [") and "Have the other slot take over" in line:
                deploys.power(holder, on=False)
                break
        said = run.stdout.read()
        run.wait()
        deploys.power(holder, on=True)
        lab.wait_until_ready(90)
    assert run.returncode == 0, said[-4000:]
    # Connections to a host that is gone are the clients' to give up; whoever connects anew is answered.
    assert [text for text in watch.requests_failed if "timed out" not in text and "ConnectionReset" not in text] == []
    assert len(set(live(hosts).values())) == 1
