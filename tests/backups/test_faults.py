"""Faults of backups and restores: what was acknowledged is kept, what went wrong is told, and it can be tried again."""

from __future__ import annotations

import json
import threading
import time

import pytest
from backups import (
    CONFIGURATION,
    KEEPER,
    REPOSITORY,
    SHOWN,
    Ledger,
    clock,
    damaged,
    have_it_archived,
    have_wal_full,
    leader,
    looked_at,
    operator,
    restore,
    run,
    told,
)
from deploys import power, unlock

import lab

DATA = "/var/lib/postgresql/17/main"
# Says how many files of WAL the repository has not got yet.
WAITING = f"ls {DATA}/pg_wal/archive_status | grep -c ready$ || true"


@pytest.fixture(autouse=True)
def whole(hosts, unlocked):
    """Begin and end with a database that is whole, and nothing wrong with the lab."""
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    yield
    lab.wait(lab.whole_cluster, 180, "every member follows the primary", pause=1)
    lab.wait_until_healthy(timeout=180)


def backup(playbook, kind: str) -> None:
    """Take a backup, and verify it; AssertionError where it fails."""
    done = run(playbook, "backup_now", backup_kind=kind)
    assert done.returncode == 0, done.stdout[-3000:]


def archived() -> set[str]:
    """Return the files of WAL that the repository has."""
    return set(lab.Host(KEEPER).run(f"ls {REPOSITORY}/archive/terrace/*/*/ | cut --characters=1-24").split())


def test_as_much_wal_as_of_an_hour_waits_for_a_host_that_is_down(hosts, playbook):
    """A file a minute is what a database makes that is hardly used; all of them are handed over afterwards."""
    keeper, primary, ledger = hosts[KEEPER], lab.primary(), Ledger()
    power(keeper.name, on=False)
    try:
        full = []
        for _ in range(12):
            ledger.write(2)
            full += have_wal_full(5)
        code, status = lab.status()
        assert code == 3
        assert any(problem.startswith(f"{KEEPER}: ") for problem in status["problems"]), status["problems"]
        assert int(primary.run(WAITING)) >= 60
    finally:
        power(keeper.name, on=True)
    lab.wait(lambda: int(primary.run(WAITING)) == 0, 300, "the repository has all of it", pause=2)
    assert set(full) <= archived()
    with looked_at(playbook) as look:
        assert ledger.kept(look(SHOWN)) == ledger.orders


def test_a_full_repository_is_told_and_the_database_lives(hosts, playbook):
    """WAL waits; beyond a limit it is let go, which is told until a backup begins a new history."""
    keeper, primary = hosts[KEEPER], lab.primary()
    ledger = Ledger()
    ledger.write(5)
    limit = [hosts[name] for name in lab.GROUPS["database"]]
    for host in limit:
        host.run(f"sed -i 's/^archive-push-queue-max=.*/archive-push-queue-max=64MB/' {CONFIGURATION}")
    # A disk as large as what it has, and a little more.
    used = int(keeper.run(f"du --summarize --block-size=1M {REPOSITORY} | cut --fields=1"))
    keeper.run(
        "systemctl stop pgbackrest"
        f" && mount -t tmpfs -o size={used + 8}m,mode=0750,uid=postgres,gid=postgres tmpfs /mnt"
        f" && cp --archive {REPOSITORY}/. /mnt && mount --bind /mnt {REPOSITORY} && systemctl start pgbackrest"
    )
    try:
        keeper.run(f"runuser -u postgres -- sh -c 'cat /dev/zero >{REPOSITORY}/filler || true' 2>/dev/null")
        lost = have_wal_full(3)
        lab.wait(lambda: int(primary.run(WAITING)) >= 3, 60, "WAL waits")
        ledger.write(5)
        problems = lab.status()[1]["problems"]
        assert any(each.startswith(f"{KEEPER}: {REPOSITORY} is 100 % full") for each in problems), problems
        # Beyond the limit of four files, they are let go.
        lost += have_wal_full(3)
        lab.wait(lambda: int(primary.run(WAITING)) == 0, 180, "PostgreSQL is rid of its WAL", pause=1)
        ledger.write(5)
        assert not set(lost) <= archived()
        keeper.run(f"rm {REPOSITORY}/filler")
        have_it_archived()
        lab.wait(lambda: any("WAL is missing after" in each for each in lab.status()[1]["problems"]), 120, "it is told")
    finally:
        # What came meanwhile is kept.
        keeper.run(
            f"rm --force {REPOSITORY}/filler && systemctl stop pgbackrest && umount {REPOSITORY}"
            f" && cp --archive --update /mnt/. {REPOSITORY} && umount /mnt && systemctl start pgbackrest"
        )
        for host in limit:
            host.run(f"sed -i 's/^archive-push-queue-max=.*/archive-push-queue-max=10GB/' {CONFIGURATION}")
    backup(playbook, "full")
    assert lab.status()[0] == 0
    with looked_at(playbook) as look:
        assert ledger.kept(look(SHOWN)) == ledger.orders


def test_a_primary_that_dies_during_a_backup(hosts, playbook):
    """There is no backup then, which is told; nothing that was acknowledged is lost, and the next one is whole."""
    keeper, old = hosts[KEEPER], lab.primary()
    ledger = Ledger()
    ledger.write(10)
    lab.sql(
        old,
        "CREATE TABLE bulk AS SELECT repeat(md5(number::text), 30) FROM generate_series(1, 300000) AS number",
        "orders",
    )
    try:
        keeper.run("systemctl start --no-block terrace-backup@full.service")
        taking = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgBackRest%'"
        lab.wait(lambda: int(lab.sql(old, taking)) > 0, 60, "a backup is being taken", pause=0.1)
        time.sleep(2)
        power(old.name, on=False)
        lab.wait(lambda: leader() not in ("", old.name), 60, "another one leads", pause=1)
        state = lambda: keeper.show("terrace-backup@full.service", "ActiveState")  # noqa: E731
        # A peer that has got nothing of what was sent is given up after 100 s.
        lab.wait(lambda: state() in ("failed", "inactive"), 150, "the backup ends", pause=1)
        assert state() == "failed", keeper.run("journalctl -u terrace-backup@full -n 30 -o cat")
        code, status = lab.status()
        assert code == 3
        assert any(KEEPER in each and "terrace-backup@full" in each for each in status["problems"]), status["problems"]
        lab.wait_until_ready(timeout=90)
        ledger.write(10)
        have_it_archived()
        # What the new primary has is backed up while the old one is away.
        backup(playbook, "full")
        with looked_at(playbook) as look:
            assert ledger.kept(look(SHOWN)) == ledger.orders
    finally:
        power(old.name, on=True)
        lab.wait(lab.whole_cluster, 180, "every member follows the primary", pause=1)
        lab.sql(lab.primary(), "DROP TABLE bulk", "orders")


def test_a_primary_that_dies_during_a_restore(hosts, playbook):
    """No service runs then, and the same restore, given once more, gets through."""
    ledger = Ledger()
    ledger.write(10)
    before, acknowledged = clock(), dict(ledger.orders)
    ledger.write(10)
    have_it_archived()
    first, founder, ended = f"cut-{time.time():.0f}", lab.primary(), []
    given = {"restore_confirm": lab.INVENTORY.name, "restore_time": before, **operator(first)}
    cut = threading.Thread(target=lambda: ended.append(run(playbook, "restore", **given)))
    cut.start()
    try:
        aside = f"test -e {DATA}.before-{first}"
        lab.wait(lambda: founder.try_run(aside).returncode == 0, 180, "the data are put aside", pause=0.2)
        power(founder.name, on=False)
        cut.join(300)
    finally:
        power(founder.name, on=True)
    assert ended
    assert f"{founder.name} was lost while the cluster was restored on it" in told(ended[0])
    # The lock says what was cut off.
    again = f"{first}-again"
    refused = told(run(playbook, "restore", **(given | operator(again))))
    assert "locked" in refused
    assert unlock().returncode == 0
    lab.wait(lambda: founder.try_run("systemctl is-system-running --wait").returncode in (0, 1), 90, "it has started")
    restore(playbook, again, restore_time=before)
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == acknowledged
    lab.wait_until_ready(timeout=90)
    assert [host.name for host in map(hosts.get, lab.GROUPS["database"]) if host.run(f"ls -d {DATA}*") != DATA] == []
    # What was there when the first one began has a name.
    restore(playbook, f"{again}-back", restore_point=f"before-{first}")
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == ledger.orders


def test_a_restore_that_fails_puts_back_what_was_there(hosts, playbook):
    ledger = Ledger()
    ledger.write(10)
    before = clock()
    ledger.write(10)
    have_it_archived()
    name = f"fails-{time.time():.0f}"
    with damaged(hosts[KEEPER]):
        said = told(run(playbook, "restore", restore_confirm=lab.INVENTORY.name, restore_time=before, **operator(name)))
    assert "Nothing was restored, and what was there is there again" in said
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    lab.wait_until_ready(timeout=90)
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == ledger.orders
    ledger.write(1)
    assert [host.name for host in map(hosts.get, lab.GROUPS["database"]) if host.run(f"ls -d {DATA}*") != DATA] == []


def test_a_wrong_key_is_named(hosts, playbook):
    """Nothing is written with it, and what is kept stays as it is."""
    keeper = hosts[KEEPER]
    kept = keeper.run(f"cat {CONFIGURATION}")
    before = keeper.run(f"cat {REPOSITORY}/backup/terrace/backup.info | sha256sum")
    done = playbook(
        "site.yml", "--limit=backup,database,etcd", "--tags=pgbackrest",
        "--extra-vars", json.dumps({"pgbackrest_passphrase": "another one, of thirty-two letters"}),
    )  # fmt: skip
    try:
        assert "vault_key" in told(done)
        assert any("vault_key" in each for each in lab.status()[1]["problems"]), lab.status()[1]["problems"]
        assert "vault_key" in told(run(playbook, "backup_proof"))
        assert "vault_key" in told(run(playbook, "restore", restore_confirm=lab.INVENTORY.name))
        assert keeper.run(f"cat {REPOSITORY}/backup/terrace/backup.info | sha256sum") == before
    finally:
        done = playbook("site.yml", "--limit=backup,database,etcd", "--tags=pgbackrest")
        assert done.returncode == 0, done.stdout[-2000:]
    assert keeper.run(f"cat {CONFIGURATION}") == kept
    done = run(playbook, "backup_proof")
    assert done.returncode == 0, done.stdout[-2000:]


def test_wal_that_a_dead_primary_had_not_handed_over_is_archived_by_the_next_one(hosts, playbook):
    ledger, old = Ledger(), lab.primary()
    hosts[KEEPER].run("systemctl stop pgbackrest")
    try:
        full = []
        for _ in range(3):
            ledger.write(3)
            full.append(lab.sql(old, "SELECT pg_walfile_name(pg_current_wal_lsn())"))
            lab.sql(old, "SELECT pg_switch_wal()")
        power(old.name, on=False)
        lab.wait(lambda: leader() not in ("", old.name), 60, "another one leads", pause=1)
    finally:
        hosts[KEEPER].run("systemctl start pgbackrest")
    try:
        lab.wait_until_ready(timeout=90)
        ledger.write(3)
        have_it_archived()
        names = "ls /var/lib/pgbackrest/archive/terrace/*/*/ | cut --characters=1-24"
        lab.wait(lambda: set(full) <= set(hosts[KEEPER].run(names).split()), 60, f"{full} are archived", pause=1)
        have_it_archived()
        with looked_at(playbook) as look:
            assert ledger.kept(look(SHOWN)) == ledger.orders
    finally:
        power(old.name, on=True)
