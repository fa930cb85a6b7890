"""Who leads when a Redis or a Sentinel starts: the scripts of the roles, with what the others answer given."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

# Answers as redis-cli prints them, from a file named after the address and port that it asks; else nobody is there.
CLI = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    -h) host=$2; shift ;;
    -p) port=$2; shift ;;
    --user) shift ;;
    --*) ;;
    *) words="$words $1" ;;
    esac
    shift
done
echo "$host:$port$words" >>"$ANSWERS/asked"
[ -e "$ANSWERS/$host:$port" ] || exit 1
case $words in
*ROLE*) cat "$ANSWERS/$host:$port.role" ;;
*) cat "$ANSWERS/$host:$port" ;;
esac
"""
ONE, TWO, THREE = (f"192.0.2.3{n}" for n in (1, 2, 3))
CLEAN = {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}


class Host:
    """A cache host in a folder: the scripts and settings of its roles, and what others answer them.

    Parameters:
        root: the folder.
        landscape: the inventory that it is of.
        name: the host's name there.
    """

    def __init__(self, root: Path, landscape, name: str) -> None:
        self.root = root
        for file in landscape.files:
            if file.host == name and file.role in ("redis", "redis_sentinel"):
                path = root / file.path.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._inside(file.text))
                path.chmod(int(file.mode, 8) | stat.S_IRUSR)
        for folder in ("bin", "run", "answers", "var/lib/redis/queue", "var/lib/redis/cache", "var/lib/redis/sentinel"):
            (root / folder).mkdir(parents=True)
        for program, text in {"redis-cli": CLI, "chown": "#!/bin/sh\n"}.items():
            (root / "bin" / program).write_text(text)
            (root / "bin" / program).chmod(0o755)
        script = root / "usr/local/sbin/redis-instance"
        script.write_text(script.read_text().replace("patience=30\n", "patience=1\n"))
        assert "patience=1\n" in script.read_text()

    def _inside(self, text: str) -> str:
        for folder in ("/etc/redis/", "/run/redis-", "/var/lib/redis/"):
            text = text.replace(folder, f"{self.root}{folder}")
        return text

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.root / "usr/local/sbin" / words[0], *words[1:]],
            env={
                **os.environ,
                **environment,
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "ANSWERS": str(self.root / "answers"),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def data(self, name: str) -> Path:
        return self.root / "var/lib/redis" / name

    def sentinel(self, address: str, master: str, epoch: int = 0, flags: str = "master", state: str = "") -> None:
        """Have a Sentinel answer that it knows a master."""
        lines = [master, "6380", "name", "queue", "ip", master, "flags", flags, "last-ok-ping-reply", "0"]
        lines += ["failover-state", state] if state else []
        (self.root / f"answers/{address}:26379").write_text("\n".join([*lines, "config-epoch", str(epoch)]) + "\n")

    def sentinels(self, master: str, **known) -> None:
        """Have all three answer the same."""
        for address in (ONE, TWO, THREE):
            self.sentinel(address, master, **known)

    def member(
        self, address: str, role: str = "slave", master: str = ONE, since: int | None = None, keys: int = 5
    ) -> None:
        """Have another instance answer: as a replica whose link is up, or down for so many seconds (-1: never up)."""
        lines = [f"role:{role}", "connected_slaves:0"]
        if role == "slave":
            lines += [f"master_host:{master}", f"master_link_status:{'up' if since is None else 'down'}"]
            lines += [] if since is None else [f"master_link_down_since_seconds:{since}"]
        lines += [f"db0:keys={keys},expires=0,avg_ttl=0"] if keys else []
        (self.root / f"answers/{address}:6380").write_text("\r\n".join(lines) + "\r\n")
        (self.root / f"answers/{address}:6380.role").write_text(f"{role}\n{master}\n6380\n")

    def ran_before(self, follows: str = "", data: bool = True, in_order: bool = False) -> None:
        """Leave what an earlier life of the instance queue left."""
        (self.data("queue") / "redis.conf").write_text(f"replicaof {follows} 6380\n" if follows else "# the master\n")
        if data:
            (self.data("queue") / "appendonlydir").mkdir()
            (self.data("queue") / "appendonlydir/appendonly.aof.manifest").write_text("")
        if in_order:
            assert self.run("redis-instance", "stopped", "queue", **CLEAN).returncode == 0

    def prepare(self) -> str:
        """Return whom the instance queue starts to follow, `self`, or what it says instead of starting."""
        done = self.run("redis-instance", "prepare", "queue")
        if done.returncode:
            return done.stderr.splitlines()[-1]
        first = (self.data("queue") / "redis.conf").read_text().split()
        return first[1] if first[0] == "replicaof" else "self"


@pytest.fixture
def host(tmp_path, ha) -> Host:
    return Host(tmp_path, ha, "cache1")


# An instance


def test_a_first_start_is_as_the_inventory_says(tmp_path, ha):
    assert Host(tmp_path / "1", ha, "cache1").prepare() == "self"
    second = Host(tmp_path / "2", ha, "cache2")
    second.member(ONE, "master")
    assert second.prepare() == ONE


def test_an_instance_alone_waits_for_nobody(tmp_path, single):
    alone = Host(tmp_path, single, "solo")
    alone.ran_before()
    done = alone.run("redis-instance", "prepare", "queue")
    assert (done.returncode, done.stderr) == (0, "")
    assert (alone.root / "run/redis-queue.options").read_text() == "OPTIONS=\n"


def test_the_newest_configuration_counts(host):
    """Of Sentinels that disagree, the one that was away during a failover says what was before."""
    host.sentinel(ONE, ONE, epoch=4)
    host.sentinel(TWO, ONE, epoch=4)
    host.sentinel(THREE, THREE, epoch=5)
    host.member(THREE, "master")
    host.ran_before()
    assert host.prepare() == THREE


def test_of_equally_new_ones_the_one_that_most_name_counts(host):
    host.sentinel(ONE, ONE)
    host.sentinel(TWO, TWO)
    host.sentinel(THREE, TWO)
    host.member(TWO, "master")
    assert host.prepare() == TWO


def test_a_master_that_is_no_member_is_not_followed(host):
    host.sentinels("198.51.100.7", epoch=9)
    host.member(TWO, "master")
    host.ran_before(follows=TWO)
    done = host.run("redis-instance", "prepare", "queue")
    assert "Sentinel names 198.51.100.7, which is no member." in done.stderr
    assert (host.data("queue") / "redis.conf").read_text() == f"replicaof {TWO} 6380\n"


def test_without_most_sentinels_an_instance_waits_and_then_goes_on_as_before(host):
    """Nobody waits for ever, and nobody believes a single Sentinel at once."""
    host.member(TWO, "master")
    host.ran_before(follows=TWO)
    done = host.run("redis-instance", "prepare", "queue")
    assert (done.returncode, done.stderr) == (
        0,
        "queue waits for most of the Sentinels to answer, for 1 seconds at most.\n",
    )
    assert host.prepare() == TWO


def test_a_master_that_stopped_in_order_is_the_master_again(host):
    host.sentinels(ONE)
    host.member(TWO, since=3)
    host.ran_before(in_order=True)
    done = host.run("redis-instance", "prepare", "queue")
    assert (done.returncode, done.stderr) == (0, "")
    assert (host.data("queue") / "redis.conf").read_text().startswith("#")
    # It takes no writes until the Sentinels have heard of it, and what is said of its stop counts once.
    assert (host.root / "run/redis-queue.options").read_text() == "OPTIONS=--min-replicas-to-write 1000\n"
    assert not (host.data("queue") / "stopped-in-order").exists()


@pytest.mark.parametrize("ended", [{"EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, {"SERVICE_RESULT": "signal"}])
def test_a_stop_that_was_none_is_not_noted(host, ended):
    host.ran_before()
    assert host.run("redis-instance", "stopped", "queue", **(CLEAN | ended)).returncode == 0
    assert host.run("redis-instance", "stopped", "queue", SERVICE_RESULT="success").returncode == 0
    assert not (host.data("queue") / "stopped-in-order").exists()


def test_a_stop_without_a_dump_of_its_moment_is_not_in_order(host):
    dump, note = host.data("cache") / "dump.rdb", host.data("cache") / "stopped-in-order"
    for age, noted in ((None, False), (300, False), (0, True)):
        if age is not None:
            dump.write_text("")
            os.utime(dump, (dump.stat().st_mtime - age,) * 2)
        assert host.run("redis-instance", "stopped", "cache", **CLEAN).returncode == 0
        assert note.exists() == noted


def test_a_master_that_crashed_waits_for_its_replicas_promotion(host):
    host.sentinels(ONE)
    host.member(TWO, since=0)
    host.ran_before()
    done = host.run("redis-instance", "prepare", "queue")
    assert "queue waits for a replica to be promoted, for 1 seconds at most.\n" in done.stderr
    # There was none: better old data than none.
    assert (host.data("queue") / "redis.conf").read_text().startswith("#")


def test_a_stop_in_order_of_which_the_data_are_gone_counts_as_none(host):
    host.sentinels(ONE)
    host.member(TWO, since=0)
    host.ran_before(data=False)
    (host.data("queue") / "stopped-in-order").write_text("")
    assert (
        host.prepare() == "queue has no data of its own, and is not started as the master of replicas that have some."
    )


def test_a_master_whose_data_are_gone_does_not_empty_its_replicas(host):
    host.sentinels(ONE)
    host.member(TWO, since=0)
    host.member(THREE, since=0, keys=0)
    assert (
        host.prepare() == "queue has no data of its own, and is not started as the master of replicas that have some."
    )
    host.member(TWO, "master")
    host.sentinels(TWO, epoch=1)
    assert host.prepare() == TWO


def test_empty_replicas_keep_no_empty_master_from_starting(host):
    host.sentinels(ONE)
    host.member(TWO, since=0, keys=0)
    assert host.prepare() == "self"


@pytest.mark.parametrize("since", [-1])
def test_a_fleet_that_lost_its_power_waits_for_nobody(host, since):
    """Replicas that have not met their master since they run have nothing that is newer than its disk."""
    host.sentinels(ONE, flags="s_down,o_down,master,disconnected")
    host.member(TWO, since=since)
    host.ran_before()
    done = host.run("redis-instance", "prepare", "queue")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("flags", "state", "member", "waits"),
    [
        ("master,failover_in_progress", "wait_start", True, True),
        # A Sentinel that was not elected, while there is nobody to promote.
        ("master,failover_in_progress", "wait_start", False, False),
        ("master,failover_in_progress", "wait_promotion", False, True),
        ("s_down,master", "", True, False),
    ],
)
def test_a_failover_is_waited_for(host, flags, state, member, waits):
    host.sentinels(ONE)
    host.sentinel(TWO, ONE, flags=flags, state=state)
    if member:
        host.member(TWO, since=2)
    host.ran_before(in_order=True)
    done = host.run("redis-instance", "prepare", "queue")
    assert done.returncode == 0
    assert ("queue waits for a failover to end" in done.stderr) == waits


def test_a_replica_does_not_listen_before_its_master_answers(host):
    host.sentinels(TWO, epoch=1)
    host.ran_before()
    done = host.run("redis-instance", "prepare", "queue")
    assert (done.returncode, done.stderr) == (
        0,
        f"queue waits for its master {TWO} to answer, for 1 seconds at most.\n",
    )


def test_a_new_replica_is_never_there_to_be_promoted(host):
    host.sentinels(TWO, epoch=1)
    assert host.prepare() == f"queue has no data of its own, and is not started before its master {TWO} answers."


def test_a_reload_that_would_refuse_writes_is_refused(host):
    """Where more replicas are asked for than the running master has."""
    (host.root / "run/redis-queue.env").write_text((host.root / "etc/redis/redis-queue.env").read_text())
    (host.root / f"answers/{ONE}:6380").write_text("0\n")
    (host.root / f"answers/{ONE}:6380.role").write_text("master\n0\n")
    done = host.run("redis-instance", "reload", "queue")
    assert done.returncode == 1
    assert "queue has 0 replicas that keep up, and would refuse writes with fewer than 1." in done.stderr
    assert "CONFIG SET" not in (host.root / "answers/asked").read_text()


# A Sentinel


def monitored(host: Host) -> str:
    """Return where a Sentinel that starts believes the master of queue to be."""
    done = host.run("redis-sentinel-prepare")
    assert (done.returncode, done.stderr) == (0, "")
    written = (host.data("sentinel") / "sentinel.conf").read_text()
    [line] = [line for line in written.splitlines() if line.startswith("sentinel monitor queue ")]
    assert line.split()[4:] == ["6380", "2"]
    return line.split()[3]


def test_a_new_sentinel_believes_the_inventory_where_nobody_knows(host):
    assert monitored(host) == ONE


def test_a_new_sentinel_asks_the_others_first(host):
    host.sentinel(TWO, THREE, epoch=7)
    host.sentinel(THREE, TWO, epoch=6)
    host.member(ONE, "master")
    assert monitored(host) == THREE


def test_a_new_sentinel_asks_every_member_then(host):
    """A former master that is back alone is outvoted."""
    host.member(ONE, "master")
    host.member(TWO, "master")
    host.member(THREE, master=TWO)
    assert monitored(host) == TWO


def test_of_two_masters_a_new_sentinel_believes_the_inventory(host):
    host.member(ONE, "master")
    host.member(TWO, "master")
    assert monitored(host) == ONE


def test_what_a_sentinel_found_out_is_kept_as_far_as_it_is_declared(host):
    kept = [
        "sentinel myid 0a",
        "sentinel current-epoch 3",
        "sentinel config-epoch queue 3",
        "sentinel leader-epoch queue 3",
        f"sentinel known-replica queue {ONE} 6380",
        f"sentinel known-sentinel queue {TWO} 26379 0b",
    ]
    gone = [
        f"sentinel monitor queue {TWO} 6380 1",
        "sentinel known-replica queue 198.51.100.7 6380",
        "sentinel known-sentinel queue 198.51.100.7 26379 0c",
        f"sentinel known-sentinel queue {THREE} 0 0d",
        f"sentinel known-replica other {ONE} 6390",
        "port 26379",
    ]
    own = host.data("sentinel") / "sentinel.conf"
    own.write_text("\n".join([*gone, *kept]) + "\n")
    host.sentinel(TWO, THREE, epoch=2)
    assert monitored(host) == TWO
    written = own.read_text().splitlines()
    assert [line for line in written if "monitor" not in line] == kept
