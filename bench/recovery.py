"""Part `backups`: what it takes to back up, verify and restore databases of several sizes, beside the disk alone.

All hosts of the lab share one disk and two cores: a backup is read, compressed, sent and written by one machine. It
makes a database of its own, and drops it in the end. WAL is let go while that is filled, since it would take the room
that the copies need; each size begins with a full backup, which closes the gap.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import results
import stack
from stack import lab

KEEPER = lab.GROUPS["backup"][0] if lab.GROUPS.get("backup") else ""
DATABASE = "bench_backups"
CONFIGURATION = "/etc/pgbackrest/pgbackrest.conf"
# Up to how many gigabytes replicas follow, and the cluster is restored in place: beyond it, their copies do not fit.
REPLICATED_GB = 5
# As large as a database host's volume becomes: 20 GB with their WAL, or 5 GB twice. It only takes what is in it.
VOLUME = 40 * 1024**3
VOLUMES = Path("/var/lib/terrace-lab/volumes")
PODMAN = results.ROOT / "molecule/lab/podman"
# Rows of 300 bytes, most of them digits of digests: they compress to about 60 %, as text does.
FILL = """CREATE TABLE IF NOT EXISTS rows (number bigint, content text, more text);
INSERT INTO rows SELECT number, md5(number::text) || md5((number * 7)::text) || md5((number * 13)::text)
    || md5((number * 17)::text), md5((number * 19)::text) || md5((number * 23)::text) || md5((number * 29)::text)
    || md5((number * 31)::text) FROM generate_series({first}, {last}) AS number;"""
ROWS_PER_GB = 3_350_000
# Seconds of load without a backup; with one, it lasts as long as that.
CALM_SECONDS = 40
DISK_MB = 2048


def sizes() -> list[int]:
    """Return how large the databases are, in gigabytes, the smallest first: SIZES of the environment, or 1, 5, 20."""
    return sorted(int(size) for size in (os.environ.get("SIZES") or "1 5 20").split())


def make_room() -> None:
    """Have the volumes of the database hosts, which are files of this machine, grow to what the largest size needs.

    One host at a time stands still for it: not every machine lets a file system grow that is mounted.
    """
    for name in lab.GROUPS["database"]:
        file = VOLUMES / f"{name}-data.img"
        if not file.exists() or file.stat().st_size >= VOLUME:
            continue
        subprocess.run([PODMAN, "stop", name], check=True, stdout=subprocess.DEVNULL)
        os.truncate(file, VOLUME)
        subprocess.run(["e2fsck", "-fp", file], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["resize2fs", file], check=True, capture_output=True)
        subprocess.run([PODMAN, "start", name], check=True, stdout=subprocess.DEVNULL)
        lab.wait(lab.whole_cluster, 300, "every member follows the primary", pause=1)


def disk() -> dict[str, float]:
    """Return what the disk does in one stream, past the page cache, in MB/s: `write` and `read`."""
    keeper, file = lab.Host(KEEPER), "/var/lib/pgbackrest/bench"
    speeds = {}
    for way, words in (
        ("write", f"if=/dev/zero of={file} oflag=direct conv=fsync"),
        ("read", f"if={file} of=/dev/null iflag=direct"),
    ):
        start = time.monotonic()
        keeper.run(f"dd {words} bs=1M count={DISK_MB} status=none", timeout=600)
        speeds[way] = DISK_MB / (time.monotonic() - start)
    keeper.run(f"rm {file}")
    return speeds


@contextmanager
def repository_away() -> Iterator[None]:
    """Have the primary let its WAL go, and be as it was in the end."""
    limit, keeper = "archive-push-queue-max", lab.Host(KEEPER)
    kept = {}
    for name in lab.GROUPS["database"]:
        host = lab.Host(name)
        kept[name] = host.run(f"grep ^{limit}= {CONFIGURATION}")
        host.run(f"sed -i s/^{limit}=.*/{limit}=64MB/ {CONFIGURATION}")
    keeper.run("systemctl stop pgbackrest")
    try:
        yield
    finally:
        keeper.run("systemctl start pgbackrest")
        for name, line in kept.items():
            lab.Host(name).run(f"sed -i s/^{limit}=.*/{line}/ {CONFIGURATION}")
    # A backup wants the file of WAL before its first one, too, which may still be let go.
    for _ in range(2):
        lab.wait(nothing_waits, 300, "the repository has all WAL that was not let go", pause=1)
        lab.sql(lab.primary(), "CHECKPOINT")
        lab.sql(lab.primary(), "SELECT pg_switch_wal()")
    lab.wait(nothing_waits, 300, "the repository has the newest file of WAL", pause=1)


def nothing_waits() -> bool:
    """Tell whether all files of WAL that are full were handed over, or let go."""
    return not lab.primary().run("find /var/lib/postgresql/17/main/pg_wal/archive_status -name '*.ready'")


def fill(before: int, size: int) -> float:
    """Have the database grow to so many gigabytes, and return the seconds that it took."""
    primary, start = lab.primary(), time.monotonic()
    if not before:
        lab.sql(primary, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        lab.sql(primary, f"CREATE DATABASE {DATABASE}")
    for gigabyte in range(before, size):
        first = gigabyte * ROWS_PER_GB
        psql = f"cd / && sudo -u postgres psql -h /run/postgresql -XAtq -v ON_ERROR_STOP=1 {DATABASE}"
        primary.run(psql, stdin=FILL.format(first=first + 1, last=first + ROWS_PER_GB), timeout=1200)
        results.say(f"{gigabyte + 1} GB are there")
    lab.sql(primary, "VACUUM rows", DATABASE)
    lab.sql(primary, "CHECKPOINT")
    return time.monotonic() - start


def backup(kind: str) -> dict[str, float]:
    """Take a backup and return its `seconds`, the bytes of all databases (`size`), and what it added (`stored`)."""
    keeper, start = lab.Host(KEEPER), time.monotonic()
    keeper.run(f"systemctl start terrace-backup@{kind}.service", timeout=3600)
    taken = time.monotonic() - start
    told = json.loads(keeper.run("pgbackrest --stanza=terrace --output=json info"))[0]["backup"][-1]
    return {"seconds": taken, "size": told["info"]["size"], "stored": told["info"]["repository"]["delta"]}


def verify() -> float:
    """Return how many seconds it takes to read every file of the newest backup against its checksum."""
    start = time.monotonic()
    lab.Host(KEEPER).run("cd / && sudo -u postgres pgbackrest --stanza=terrace verify", timeout=3600)
    return time.monotonic() - start


def beside() -> dict[str, float]:
    """Restore the newest backup and its WAL beside the cluster, and return `restore_seconds` and `replay_seconds`."""
    keeper = lab.Host(KEEPER)
    found = json.loads(keeper.run("terrace-restored create bench", timeout=3600))
    keeper.run("terrace-restored drop bench")
    return {name: found[name] for name in ("restore_seconds", "replay_seconds")}


def in_place() -> float:
    """Restore the whole cluster to what the repository has, and return the seconds until its services were ready."""
    name = f"bench-{time.time():.0f}"
    given = {
        "restore_id": name, "restore_lock": name, "restore_who": "bench", "restore_origin": "here",
        "restore_confirm": lab.INVENTORY.name, "restore_keep": False,
    }  # fmt: skip
    taken, _ = stack.ansible(
        "ansible-playbook", "playbooks/restore.yml", variables=given, environment={"ANSIBLE_STRATEGY": "mitogen_linear"}
    )
    lab.wait(lab.whole_cluster, 3600, "every member follows the primary", pause=1)
    return taken


def percentiles(load: lab.Load, since: float) -> dict[str, float]:
    """Return p50 and p99 of what came since then, in milliseconds, and how many there were."""
    took = [seconds * 1000 for at, seconds in load.took if at >= since]
    cut = statistics.quantiles(took, n=100, method="inclusive")
    return {"p50": cut[49], "p99": cut[98], "answers": len(took)}


def latency() -> dict[str, dict]:
    """Return the percentiles of reads and writes without a backup (`calm`), and while a full one is taken (`during`).

    Clients pause between their requests, so it is a steady rate, far from what the machine can do at most.
    """
    user = lab.ask("virtual", "/users", "POST", lab.new_user()).json()["id"]
    order = {"user_id": user, "items": [{"sku": "BENCH-1", "quantity": 1, "price_cents": 100}]}
    reads = lab.Load("virtual", "/orders?limit=10", clients=6, longest=3600)
    writes = lab.Load(
        "virtual", "/orders", clients=3, method="POST", body=lambda: order, keyed=True, pause=0.2, longest=3600
    )
    found: dict[str, dict] = {}
    with reads, writes:
        begin = time.monotonic()
        time.sleep(CALM_SECONDS)
        found["calm"] = {"reads": percentiles(reads, begin), "writes": percentiles(writes, begin)}
        begin = time.monotonic()
        found["seconds"] = backup("full")["seconds"]
        found["during"] = {"reads": percentiles(reads, begin), "writes": percentiles(writes, begin)}
    failed = reads.failed + writes.failed
    assert not failed, failed[:5]
    return found


def recovery(rounds: int) -> list[dict]:
    """Prove the newest backup so often, each at another second of the minute, and return what the proofs noted."""
    keeper, found = lab.Host(KEEPER), []
    for number in range(rounds):
        time.sleep(7 + 13 * number % 60)
        told = json.loads(keeper.run("terrace-restored prove", timeout=3600))
        assert not told["problems"], told
        found.append({name: told[name] for name in ("recovery_point_seconds", "seconds")})
    return found


@contextmanager
def alone() -> Iterator[None]:
    """Have the primary have no replica, so that one copy of the data is on the disk; and put all back."""
    leader = lab.primary()
    others = [lab.Host(name) for name in lab.GROUPS["database"] if name != leader.name]
    for other in others:
        other.run("systemctl stop patroni && rm -r /var/lib/postgresql/17/main", timeout=300)
    change = "patronictl -c /etc/patroni/config.yml edit-config --force --quiet --set member_slots_ttl="
    leader.run(f"{change}0")
    try:
        yield
    finally:
        leader.run(f"{change}null")
        for other in others:
            other.run("systemctl start patroni")
        lab.wait(lab.whole_cluster, 1800, "every member follows the primary", pause=1)


def one_size(size: int, before: int, rounds: int) -> dict:
    """Return what is measured of one size."""
    results.say(f"{size} GB: filling")
    with repository_away():
        filled = fill(before, size)
    found: dict[str, object] = {"gigabytes": size, "fill_seconds": filled, "rounds": [], "disk": disk()}
    for turn in range(rounds):
        full = backup("full")
        hundredth = size * ROWS_PER_GB // 100
        changed = f"number > {turn * hundredth} AND number <= {(turn + 1) * hundredth}"
        lab.sql(lab.primary(), f"UPDATE rows SET more = content WHERE {changed}", DATABASE)  # noqa: S608
        its = {"full": full, "incr": backup("incr"), "verify": verify(), **beside()}
        found["rounds"].append(its)
        results.say(
            f"{size} GB: backup {full['seconds']:.0f} s, again {its['incr']['seconds']:.0f} s, verified in"
            f" {its['verify']:.0f} s, restored in {its['restore_seconds']:.0f} s and {its['replay_seconds']:.0f} s"
        )
    if size <= REPLICATED_GB:
        found["in_place"] = [in_place() for _ in range(rounds)]
        results.say(f"{size} GB: restored in place in {', '.join(f'{taken:.0f} s' for taken in found['in_place'])}")
    return found


def measure() -> dict:
    """Return what is measured of each size, of the latency meanwhile, and of recovery."""
    if not KEEPER:
        raise SystemExit("bench: the lab has no host for backups")
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    wanted, before = sizes(), 0
    make_room()
    found: dict[str, object] = {"sizes": []}
    try:
        found["recovery"] = recovery(5)
        for size in wanted:
            rounds = results.rounds()
            if size <= REPLICATED_GB:
                found["sizes"].append(one_size(size, before, rounds))
            else:
                with alone():
                    try:
                        found["sizes"].append(one_size(size, before, 1))
                    finally:
                        # Before replicas are there again, each of which would have a copy of it.
                        lab.sql(lab.primary(), f"DROP DATABASE {DATABASE} WITH (FORCE)")
            before = size
            if size == max(size for size in wanted if size <= REPLICATED_GB):
                found["latency"] = [latency() for _ in range(rounds)]
                found["latency_gigabytes"] = size
            # A part that takes an hour keeps what it has, should the next size fail.
            results.save("backups", results.command("backups"), found)
    finally:
        results.say("dropping what it filled")
        lab.sql(lab.primary(), f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        backup("full")
    return found
