"""What surrounds a deploy: another one at the same time, hooks that fail, a node out of reach, no database."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from deploys import SERVICE, deploy, live, several, shut, started, told, variant, watched

import lab

pytestmark = pytest.mark.usefixtures("unlocked")


def test_a_second_deploy_is_refused_or_waits_for_the_first(hosts, folder):
    before = live(hosts)
    first = started(variant(folder, "good"))
    said = []
    for line in first.stdout:
        said.append(line)
        if line.startswith("TASK [") and "Ask the nodes which releases they have" in line:
            break
    # Who reads no further would have it wait, once the pipe is full.
    rest = threading.Thread(target=lambda: said.extend(first.stdout))
    rest.start()
    refused = deploy({}, deploy_kind="rollback", deploy_watch=0)
    assert refused.returncode != 0
    assert "by tests on lab since" in refused.stdout, refused.stdout[-3000:]
    assert "WAIT=600" in refused.stdout
    waited = deploy({}, deploy_kind="rollback", deploy_watch=0, deploy_wait=300)
    rest.join()
    assert first.wait() == 0, "".join(said)[-4000:]
    # It went back from what the first one had brought.
    assert waited.returncode == 0, waited.stdout[-4000:]
    assert live(hosts) == before


@pytest.mark.parametrize("phase", ["before_prepare", "after_migrate", "after_switch"])
def test_a_hook_that_fails_is_a_failure_of_its_phase(hosts, folder, phase):
    before = live(hosts)
    last = lab.NODES[-1]
    hook = {"at": phase, "run": f'echo "not on $TERRACE_NODE" >&2; test "$TERRACE_NODE" != {last}', "on": "nodes"}
    seen = folder / f"failed-{phase}"
    hooks = [hook, {"at": "after_failure", "run": f'echo "$TERRACE_ERROR" >{seen}'}]
    with watched(slow=False) as watch:
        done = deploy(variant(folder, "good"), deploy_hooks=hooks)
    assert done.returncode != 0
    assert f"not on {last}" in done.stdout, done.stdout[-4000:]
    assert watch.failed == []
    assert live(hosts) == before
    assert f"not on {last}" in seen.read_text() or phase == "before_prepare"


def test_a_hook_that_fails_after_a_failure_hides_no_reason_and_keeps_no_lock(hosts, folder):
    hooks = [{"at": "after_failure", "run": "echo nobody could be told >&2; exit 3"}]
    done = deploy(variant(folder, "no-import"), deploy_hooks=hooks)
    assert done.returncode != 0
    told_last = done.stdout.rpartition("TASK [Say what failed]")[2]
    assert "No module named 'what_nobody_has'" in told_last, done.stdout[-4000:]
    assert "nobody could be told" in told_last


@several
def test_a_node_that_serves_and_cannot_be_reached_is_left_behind_only_by_force(hosts, folder, playbook):
    before = live(hosts)
    last = lab.NODES[-1]
    own = variant(folder, "good")

    def on_host(*words: str) -> None:
        subprocess.run([lab.ROOT / "molecule/lab/podman", "exec", last, *words], check=True, capture_output=True)

    with watched(slow=False) as watch:
        chain = "add chain inet away input { type filter hook input priority 0; }"
        on_host("nft", f"add table inet away; {chain}; add rule inet away input tcp dport 22 drop")
        try:
            refused = deploy(own)
            forced = deploy(own, deploy_force=True)
        finally:
            on_host("nft", "delete table inet away")
        assert refused.returncode != 0
        assert f"{last} cannot be reached from here, and serves" in refused.stdout, refused.stdout[-3000:]
        assert forced.returncode == 0, forced.stdout[-4000:]
        # Its peers run another release now, and it sends its requests to them.
        lab.wait(lambda: shut(last), 90, f"{last} says that it is stale")
        done = playbook("playbooks/app.yml", "--extra-vars", told(own, deploy_services=[]))
        assert done.returncode == 0, done.stdout[-4000:]
        lab.wait_until_ready(60)
    assert watch.failed == []
    after = live(hosts)
    assert len(set(after.values())) == 1
    assert after != before


def test_all_services_at_once(hosts, folder):
    services = sorted(lab.SERVICES)
    before = {name: live(hosts, name) for name in services}
    with watched(slow=False) as watch:
        done = deploy(variant(folder, "good"), deploy_services=services)
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    after = {name: live(hosts, name) for name in services}
    assert all(len(set(its.values())) == 1 for its in after.values()), after
    assert after[SERVICE] != before[SERVICE]


def test_a_rollback_needs_no_database(hosts, folder):
    before = live(hosts)
    done = deploy(variant(folder, "good"))
    assert done.returncode == 0, done.stdout[-4000:]
    members = lab.GROUPS["database"]
    primary = lab.primary().name
    for name in sorted(members, key=lambda name: name == primary):
        hosts[name].run("systemctl stop patroni")
    try:
        done = deploy({}, deploy_kind="rollback", deploy_watch=0)
    finally:
        for name in sorted(members, key=lambda name: name != primary):
            hosts[name].run("systemctl start patroni")
    assert done.returncode == 0, done.stdout[-4000:]
    assert live(hosts) == before
    lab.wait_until_healthy(timeout=120)


def test_a_migration_that_waits_behind_a_long_query_fails_instead_of_blocking_all_others(hosts, folder):
    before = live(hosts)
    own = variant(folder, "good")
    Path(own["source"]["path"], "altered.py").write_text(
        "import os, psycopg\n"
        "with psycopg.connect(os.environ['DATABASE_URL']) as connection:\n"
        "    connection.execute('ALTER TABLE orders ADD COLUMN never integer')\n"
    )
    own["database"] = {"migrate": "python altered.py"}
    primary = lab.primary()
    psql = f"cd / && sudo -u postgres psql -h /run/postgresql --no-psqlrc {SERVICE}"
    # It holds what every reader holds, and an ALTER TABLE has to wait for; everybody else would wait behind that.
    long = threading.Thread(target=lambda: primary.try_run(psql, stdin="SELECT pg_sleep(110) FROM orders LIMIT 1;"))
    sleeping = "FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(110)%'"
    try:
        with watched(slow=False) as watch:
            long.start()
            lab.wait(lambda: lab.sql(primary, f"SELECT count(*) {sleeping}") == "1", 10, "the long query runs")
            done = deploy(own)
            assert lab.sql(primary, f"SELECT count(*) {sleeping}") == "1"
    finally:
        lab.sql(primary, f"SELECT pg_terminate_backend(pid) {sleeping}")
        long.join(30)
    assert done.returncode != 0
    assert "canceling statement due to lock timeout" in done.stdout, done.stdout[-4000:]
    assert watch.failed == []
    assert live(hosts) == before
