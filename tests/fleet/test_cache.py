"""Redis and Sentinel: who may do what, what survives, and how services reach it."""

from __future__ import annotations

import re

import pytest

import lab

CACHES = lab.GROUPS["cache"]
several = pytest.mark.skipif(len(CACHES) < 3, reason="there is nobody to take over")


def cli(host, instance: str, command: str) -> str:
    """Return what an instance answers its administrator."""
    return host.run(f"redis-instance cli {instance} {command}")


def watched(hosts, instance: str) -> set[tuple[str, str]]:
    """Return whom the Sentinels know as an instance's master, who may not answer, each with what they say of it."""
    found = set()
    for name in lab.GROUPS["sentinel"]:
        lines = lab.sentinel(hosts[name], f"MASTER {instance}")
        its = dict(zip(lines[::2], lines[1::2], strict=False))
        [master] = [name for name in CACHES if hosts[name].address == its["ip"]]
        found.add((master, its["flags"]))
    return found


def whole(hosts, instance: str) -> bool:
    """Tell whether all Sentinels know one master, none fails over, and all others follow it with their links up."""
    told = watched(hosts, instance)
    if len(told) > 1 or {flags for _, flags in told} != {"master"}:
        return False
    [(master, _)] = told
    for name in CACHES:
        told = hosts[name].try_run(f"redis-instance cli {instance} INFO replication").stdout
        if name == master:
            if "role:master" not in told or f"connected_slaves:{len(CACHES) - 1}" not in told:
                return False
        elif f"master_host:{hosts[master].address}" not in told or "master_link_status:up" not in told:
            return False
    return True


def become_whole(hosts, instance: str, timeout: float = 60) -> str:
    """Wait until an instance has its master and all replicas again; return the master's host."""
    lab.wait(lambda: whole(hosts, instance), timeout, f"{instance} has its master and all replicas")
    [(master, _)] = watched(hosts, instance)
    return master


@pytest.fixture
def cache(hosts):
    """Return the host of the cache's master."""
    return hosts[become_whole(hosts, "cache")]


@pytest.fixture
def queue(hosts):
    """Return the host of the queue's master."""
    return hosts[become_whole(hosts, "queue")]


def test_nobody_gets_in_without_a_password(cache):
    for port in ("redis_cache", "redis_queue", "sentinel"):
        answer = cache.run(f"redis-cli -h {cache.address} -p {lab.PORTS[port]} PING 2>&1 || true")
        assert answer.startswith("NOAUTH"), port


def test_a_service_may_use_the_cache_and_not_run_it(cache):
    rules = cli(cache, "cache", "ACL GETUSER users").split()
    assert "on" in rules
    assert "nopass" not in rules
    for command in (
        "CONFIG GET maxmemory",
        "FLUSHALL",
        "ACL LIST",
        "KEYS *",
        "SHUTDOWN",
        "REPLICAOF NO ONE",
        "DEBUG JMAP",
    ):
        assert "no permissions" in cli(cache, "cache", f"ACL DRYRUN users {command}"), command
    for command in ("GET a", "SET a 1", "EVAL 'return 1' 0", "PUBLISH a b"):
        assert cli(cache, "cache", f"ACL DRYRUN users {command}") == "OK", command
    assert "orders" not in cli(cache, "cache", "ACL USERS").split(), "orders does not use the cache"
    assert "users" not in cli(cache, "queue", "ACL USERS").split(), "users does not use the queue"


def test_the_cache_evicts_and_the_queue_never_does(cache):
    assert cli(cache, "cache", "CONFIG GET maxmemory-policy").split()[-1] == "allkeys-lru"
    assert cli(cache, "queue", "CONFIG GET maxmemory-policy").split()[-1] == "noeviction"
    assert cli(cache, "queue", "CONFIG GET appendonly").split()[-1] == "yes"


def test_what_the_queue_took_survives_a_crash(hosts, queue):
    """Of its master; where there are replicas, one of them leads then, and the other has its data from there."""
    cli(queue, "queue", "RPUSH terrace-test a b c")
    # Written to disk every second, as its appendfsync says.
    lab.wait(lambda: "aof_pending_bio_fsync:0" in cli(queue, "queue", "INFO persistence"), 10, "the file is synced")
    before = queue.show("redis-server@queue", "MainPID")
    queue.run("sleep 2; systemctl kill --signal=KILL redis-server@queue")
    lab.wait(lambda: queue.show("redis-server@queue", "MainPID") not in (before, "0"), 60, "it runs again")
    master = hosts[become_whole(hosts, "queue")]
    assert (master.name != queue.name) == (len(CACHES) > 1), (
        "it came back as the master, with older data than a replica"
    )
    for host in (queue, master):
        assert cli(host, "queue", "LRANGE terrace-test 0 -1").split() == ["a", "b", "c"]
    cli(master, "queue", "DEL terrace-test")


@several
def test_a_master_that_lost_its_data_does_not_empty_its_replicas(hosts, queue):
    cli(queue, "queue", "RPUSH terrace-test a b c")
    assert cli(queue, "queue", "WAIT 2 5000") == "2"
    queue.run("systemctl kill --signal=KILL redis-server@queue && find /var/lib/redis/queue -mindepth 1 -delete")
    lab.wait(lambda: queue.name not in dict(watched(hosts, "queue")), 30, "a replica leads")
    master = hosts[become_whole(hosts, "queue")]
    for name in CACHES:
        assert cli(hosts[name], "queue", "LRANGE terrace-test 0 -1").split() == ["a", "b", "c"], name
    cli(master, "queue", "DEL terrace-test")


@several
def test_a_replica_that_restarts_moves_nothing(hosts, queue):
    for name in CACHES:
        if name != queue.name:
            hosts[name].run("systemctl restart redis-server@queue")
            assert "master_link_status:up" in cli(hosts[name], "queue", "INFO replication"), "active before it follows"
    assert become_whole(hosts, "queue") == queue.name


@several
def test_the_fleet_comes_back_with_the_data_of_its_queue(hosts, queue):
    """All are stopped, and start at the same time: nobody waits for ever for another."""
    cli(queue, "queue", "RPUSH terrace-test a b c")
    assert cli(queue, "queue", "WAIT 2 5000") == "2"
    try:
        for name in CACHES:
            hosts[name].run("systemctl stop redis-server@queue")
    finally:
        for name in CACHES:
            hosts[name].run("systemctl start --no-block redis-server@queue")
    master = hosts[become_whole(hosts, "queue", timeout=90)]
    for name in CACHES:
        assert cli(hosts[name], "queue", "LRANGE terrace-test 0 -1").split() == ["a", "b", "c"], name
    cli(master, "queue", "DEL terrace-test")


def test_managed_settings_outlive_what_redis_writes_itself(cache):
    before = cli(cache, "cache", "CONFIG GET maxmemory").split()[-1]
    managed = re.search(r'^maxmemory "(\d+)mb"$', cache.run("cat /etc/redis/redis-cache.runtime.conf"), re.MULTILINE)[1]
    assert before == str(int(managed) * 1024 * 1024)
    cli(cache, "cache", "CONFIG SET maxmemory 1000000")
    cli(cache, "cache", "CONFIG REWRITE")
    cache.run("systemctl restart redis-server@cache")
    assert cli(cache, "cache", "CONFIG GET maxmemory").split()[-1] == before


def test_sentinel_watches_both(cache):
    def flags() -> dict[str, str]:
        shown = lab.sentinel(cache, "MASTERS")
        return {shown[i + 1]: shown[shown.index("flags", i) + 1] for i, word in enumerate(shown) if word == "name"}

    # A master that was just restarted counts as down until it is heard of again.
    lab.wait(lambda: set(flags().values()) == {"master"}, 30, "no master counts as down")
    assert set(flags()) == {"cache", "queue"}


@several
def test_a_sentinel_that_is_wrong_starts_with_what_the_others_know(hosts, queue):
    """Two failovers within seconds can leave one with another master and the same epoch."""
    host = hosts[lab.GROUPS["sentinel"][-1]]
    wrong = next(hosts[name].address for name in CACHES if name != queue.name)
    host.run("systemctl stop redis-sentinel")
    own = "/var/lib/redis/sentinel/sentinel.conf"
    host.run(f"sed -i 's/^sentinel monitor queue {queue.address} /sentinel monitor queue {wrong} /' {own}")
    assert host.run(f"grep -c '^sentinel monitor queue {wrong} ' {own}") == "1"
    host.run("systemctl start redis-sentinel")
    assert become_whole(hosts, "queue") == queue.name


def test_an_unreachable_cache_makes_answers_slower_and_never_wrong(hosts):
    first = lab.ask("lb1", "/users/1")
    assert first.status == 200
    for name in CACHES:
        hosts[name].run("systemctl stop redis-server@cache")
    try:
        for _ in range(10):
            answer = lab.ask("lb1", "/users/1", timeout=5)
            assert (answer.status, answer.body) == (200, first.body)
            assert answer.headers["x-cache"] == "miss"
    finally:
        for name in CACHES:
            hosts[name].run("systemctl start --no-block redis-server@cache")
    become_whole(hosts, "cache", timeout=90)
    lab.wait(lambda: lab.ask("lb1", "/users/1").headers["x-cache"] == "hit", 30, "the cache is used again")


def test_configuration_is_for_redis_alone(cache):
    for name in ("cache", "queue"):
        mode, owner, group = cache.file(f"/etc/redis/redis-{name}.acl")
        assert (mode[-1], owner, group) == ("0", "root", "redis")
