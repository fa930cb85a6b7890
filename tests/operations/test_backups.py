"""What was acknowledged before a point can be had back, of a table, of all databases, of the queue."""

from __future__ import annotations

import json
import time

import pytest
from backups import (
    KEEPER,
    SHOWN,
    Ledger,
    clock,
    damaged,
    have_it_archived,
    looked_at,
    operator,
    restore,
    run,
    told,
)

import lab


@pytest.fixture(autouse=True)
def whole(hosts, unlocked):
    """Begin and end with a database that is whole, and services that are ready."""
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    yield
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)


def test_a_damaged_file_of_a_backup_is_found_and_told(hosts, playbook):
    with damaged(hosts[KEEPER]):
        assert "the repository is damaged" in told(run(playbook, "backup_proof"))
        code, status = lab.status()
        assert code == 3
        assert any("the repository is damaged" in problem for problem in status["problems"]), status["problems"]
        move = {"switchover_what": "postgresql", "switchover_to": "", "switchover_force": False}
        assert "The last proof of the backups found" in told(run(playbook, "switchover", **move))
    done = run(playbook, "backup_proof")
    assert done.returncode == 0, done.stdout[-2000:]
    lab.wait_until_healthy(timeout=60)


def test_a_dropped_table_comes_back_beside_the_cluster_and_in_place(hosts, playbook):
    ledger = Ledger()
    ledger.write(20)
    lab.sql(lab.primary(), "CREATE TABLE dropped AS SELECT number FROM generate_series(1, 1000) AS number", "orders")
    before, acknowledged = clock(), dict(ledger.orders)
    lab.sql(lab.primary(), "DROP TABLE dropped", "orders")
    ledger.write(20)
    have_it_archived()

    with looked_at(playbook, restore_time=before) as look:
        assert ledger.kept(look(SHOWN)) == acknowledged
        assert look("SELECT count(*) FROM dropped") == "1000"

    first = f"test-{time.time():.0f}"
    restore(playbook, first, restore_time=before)
    # The repository knows at once that what came after it was given up: it has the beginning of the new timeline.
    with looked_at(playbook) as look:
        assert ledger.kept(look(SHOWN)) == acknowledged
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == acknowledged
    assert lab.sql(lab.primary(), "SELECT count(*) FROM dropped", "orders") == "1000"
    lab.wait_until_ready(timeout=90)
    # What was acknowledged after that time until the restore began was given up, and can be had back all the same. It
    # is on the timeline that the restore has left.
    restore(playbook, f"{first}-back", restore_point=f"before-{first}")
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == ledger.orders
    assert lab.sql(lab.primary(), "SELECT to_regclass('dropped') IS NULL", "orders") == "t"
    lab.wait_until_healthy(timeout=120)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"restore_time": "2001-01-01 00:00:00+00"}, "cannot be reached from any backup"),
        ({"restore_time": "2026-01-01 00:00:00"}, "could be in any time zone"),
        ({"restore_point": "nobody-made-it"}, "there is no point nobody-made-it"),
        ({"restore_confirm": "another"}, "Nothing was touched"),
    ],
)
def test_a_restore_that_cannot_be_changes_nothing(playbook, given, said):
    since = lab.sql(lab.primary(), "SELECT pg_postmaster_start_time()")
    assert said in told(run(playbook, "restore", **({"restore_confirm": lab.INVENTORY.name} | given)))
    assert lab.sql(lab.primary(), "SELECT pg_postmaster_start_time()") == since


def test_the_queue_holds_again_what_a_snapshot_of_it_held(hosts, playbook):
    master = hosts[lab.redis_master("queue")]

    def redis(*commands: str) -> str:
        # Quoted, since a value may be anything.
        return master.run("redis-instance cli queue --no-raw", stdin="\n".join(commands))

    # Of every kind that queues are made of, one with a consumer that has not acknowledged, and one that is no text.
    redis(
        "DEL saved:list saved:stream saved:zset saved:later",
        "RPUSH saved:list a b c",
        "XADD saved:stream 1-1 job one",
        "XGROUP CREATE saved:stream workers 0",
        "XREADGROUP GROUP workers w1 COUNT 1 STREAMS saved:stream >",
        "ZADD saved:zset 1.5 later",
        'SET saved:bytes "\\xff\\x00\\xfe"',
        "SET saved:expires soon EX 3600",
    )
    shown = ("LRANGE saved:list 0 -1", "XRANGE saved:stream - +", "XPENDING saved:stream workers", "DUMP saved:bytes")
    before = redis(*shown)
    hosts[KEEPER].run("systemctl start terrace-redis-backup@queue.service")
    redis("DEL saved:list saved:stream saved:zset saved:bytes", "SET saved:later x")
    snapshot = json.loads(hosts[KEEPER].run("terrace-redis-backup list queue"))[-1]["short_id"]
    done = run(
        playbook, "restore_queue", restore_confirm=lab.INVENTORY.name, restore_backup=snapshot, **operator("queue")
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert redis(*shown) == before
    assert redis("EXISTS saved:later", "ZSCORE saved:zset later") == '(integer) 0\n"1.5"'
    assert 3000 < int(redis("TTL saved:expires").removeprefix("(integer) ")) <= 3600
    redis("DEL saved:list saved:stream saved:zset saved:bytes saved:expires")
    lab.wait_until_healthy(timeout=120)
