"""Redis and Sentinel: who may do what, what survives, and how services reach it."""

from __future__ import annotations

import re

import pytest

import lab

CACHE = lab.GROUPS["cache"][0]


@pytest.fixture
def cache(hosts):
    """Return the cache host."""
    return hosts[CACHE]


def cli(host, instance: str, command: str) -> str:
    """Return what an instance answers its administrator."""
    return host.run(f"redis-instance cli {instance} {command}")


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


def test_what_the_queue_took_survives_a_crash(cache):
    cli(cache, "queue", "RPUSH terrace-test a b c")
    # Written to disk every second, as its appendfsync says.
    lab.wait(lambda: "aof_pending_bio_fsync:0" in cli(cache, "queue", "INFO persistence"), 10, "the file is synced")
    before = cache.show("redis-server@queue", "MainPID")
    cache.run("sleep 2; systemctl kill --signal=KILL redis-server@queue")
    lab.wait(lambda: cache.show("redis-server@queue", "MainPID") not in (before, "0"), 20, "it runs again")
    lab.wait(lambda: "PONG" in cache.try_run("redis-instance cli queue PING").stdout, 20, "it answers")
    assert cli(cache, "queue", "LRANGE terrace-test 0 -1").split() == ["a", "b", "c"]
    cli(cache, "queue", "DEL terrace-test")


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
        shown = cache.run(
            f". /etc/redis/sentinel.env; REDISCLI_AUTH=$PASSWORD redis-cli -h {cache.address}"
            f" -p {lab.PORTS['sentinel']} SENTINEL MASTERS"
        ).split()
        return {shown[i + 1]: shown[shown.index("flags", i) + 1] for i, word in enumerate(shown) if word == "name"}

    # A master that was just restarted counts as down until it is heard of again.
    lab.wait(lambda: set(flags().values()) == {"master"}, 30, "no master counts as down")
    assert set(flags()) == {"cache", "queue"}


def test_an_unreachable_cache_makes_answers_slower_and_never_wrong(cache):
    first = lab.ask("lb1", "/users/1")
    assert first.status == 200
    cache.run("systemctl stop redis-server@cache")
    try:
        for _ in range(10):
            answer = lab.ask("lb1", "/users/1", timeout=5)
            assert (answer.status, answer.body) == (200, first.body)
            assert answer.headers["x-cache"] == "miss"
    finally:
        cache.run("systemctl start redis-server@cache")
    lab.wait(lambda: lab.ask("lb1", "/users/1").headers["x-cache"] == "hit", 30, "the cache is used again")


def test_configuration_is_for_redis_alone(cache):
    for name in ("cache", "queue"):
        mode, owner, group = cache.file(f"/etc/redis/redis-{name}.acl")
        assert (mode[-1], owner, group) == ("0", "root", "redis")
