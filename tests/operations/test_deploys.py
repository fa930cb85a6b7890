"""A deploy fails no request, and leaves all nodes on one release: the new one, or if anything fails, the one before.

The cases that take the least time and catch the most; `make test-deploys` does all of them (tests/deploys).
"""

from __future__ import annotations

import re

import deploys
import pytest
from deploys import SERVICE, deploy, live, variant, watched

import lab

pytestmark = pytest.mark.usefixtures("unlocked")
PHASES = ("before_prepare", "after_prepare", "before_migrate", "after_migrate", "before_switch", "after_deploy")


@pytest.fixture(scope="module", autouse=True)
def home(hosts, folder):
    """Deploy a release that has the slow page, and fail no request; return what that said, and its hooks."""
    before = live(hosts)
    told = folder / "told"
    hooks = [{"at": phase, "run": f'echo "$TERRACE_PHASE $TERRACE_SERVICES" >>{told}'} for phase in PHASES]
    hooks.append({"at": "after_switch", "run": "touch /run/hooked-$TERRACE_NODE", "on": "nodes"})
    own = variant(folder, "good")
    own["database"] = {"migrate": "alembic upgrade head", "migrate_after": "echo this takes away"}
    own |= {"cached": [{"path": "/orders/board"}], "purge_on_deploy": True}
    style = re.search(r"/orders/static/board[^\"]*\.css", lab.ask("virtual", "/orders/board").body.decode())[0]
    at_the_edge = [lab.ask(place, style).headers["x-cache"] for place in lab.GROUPS["edge"] for _ in range(2)]
    assert at_the_edge[1::2] == ["HIT"] * len(lab.GROUPS["edge"])
    with watched(slow=False) as watch:
        done = deploy(own, deploy_hooks=hooks)
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    # Pages of both releases found their files on whichever node they asked.
    assert len([path for path in watch.visitor.seen if path.endswith(".css")]) == 2
    after = live(hosts)
    assert len(set(after.values())) == 1
    assert after != before
    # What edge hosts kept of it is gone, the file itself is not.
    asked_again = [lab.ask(place, style) for place in lab.GROUPS["edge"]]
    assert [(answer.status, answer.headers["x-cache"]) for answer in asked_again] == [(200, "MISS")] * len(asked_again)
    return done.stdout, told.read_text().splitlines()


def test_hooks_run_in_their_phases_and_what_takes_away_after_the_last_node(hosts, home):
    said, lines = home
    assert said.rindex("this takes away") > said.rindex("Have the new releases take over")
    assert [line for line in lines if "switch" not in line] == [
        f"{phase} {SERVICE}" for phase in PHASES if phase != "before_switch"
    ]
    assert lines.count(f"before_switch {SERVICE}") == 2, "one for each batch"
    for node in lab.NODES:
        hosts[node].run(f"rm /run/hooked-{node}")


def test_hooks_that_cannot_be_are_refused(folder):
    refused = deploy(variant(folder, "good"), deploy_hooks=[{"at": "sometime", "run": "true"}])
    assert refused.returncode != 0
    assert "deploy_hooks[0].at is sometime" in refused.stdout


def test_what_fails_on_the_last_node_leaves_all_on_the_release_before(hosts, folder):
    deploys.check_failure(hosts, folder, "app3-answers-500")


def test_a_controller_that_dies_leaves_what_a_rollback_takes_back(hosts, folder):
    deploys.check_taken_back(hosts, folder)


def test_a_node_that_missed_a_deploy_stays_shut_until_it_runs_what_its_peers_run_and_goes_back_with_them(
    hosts, folder, playbook
):
    deploys.check_missed(hosts, folder, playbook)


def test_two_migrations_never_meet(hosts):
    """Whoever comes second, on whichever node, is told so, and migrates nothing; else it ends as its command does."""
    environment = "/etc/terrace/services/orders/migrate.env"
    run = f"systemd-run --quiet --property=User=svc-orders --property=EnvironmentFile={environment}"
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1952805490 AND granted"
    first, second = (hosts[node] for node in lab.NODES[:2])
    first.run(f"{run} --unit=hold-migration /usr/local/bin/terrace-migrate sleep 60")
    try:
        lab.wait(lambda: lab.sql(lab.primary(), held) == "1", 20, "the first one has the lock")
        refused = second.try_run(f"{run} --wait --pipe --collect /usr/local/bin/terrace-migrate touch /tmp/migrated")
    finally:
        first.run("systemctl stop hold-migration")
    assert refused.returncode == 75
    assert "somebody else migrates it" in refused.stderr
    ended = second.try_run(f"{run} --wait --pipe --collect /usr/local/bin/terrace-migrate sh -c 'echo done; exit 9'")
    assert (ended.returncode, ended.stdout.strip()) == (9, "done")


def test_what_would_happen_is_told_and_nothing_is_touched(hosts, folder):
    before = live(hosts)
    done = deploy(variant(folder, "good"), deploy_check=True)
    assert done.returncode == 0, done.stdout[-4000:]
    for text in ("deploy of orders: release ", "before the first node: alembic upgrade head", "app1 alone first"):
        assert text in done.stdout, done.stdout[-3000:]
    assert live(hosts) == before


def test_what_was_deployed_is_listed(hosts, playbook):
    done = playbook("playbooks/releases.yml", "--extra-vars", '{"releases_of": "orders", "releases_format": "table"}')
    assert done.returncode == 0, done.stdout
    for text in ("tests@lab", "reverted", "did worse than", "rollback"):
        assert text in done.stdout, done.stdout
