"""Part `settings`: pgbench by the settings of Terrace, of Debian, and of those that Autobase and Pigsty publish.

Instances of PostgreSQL 17 that are there for this alone, on one database host, one at a time, each made anew in a
folder of its own and removed again. They listen on a unix socket there and nowhere else. Nobody archives, nobody
replicates: what is compared is one server. `fsync` is on for all.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import yaml

import published
import recovery
import results
import ways
from stack import lab

BIN = "/usr/lib/postgresql/17/bin"
PLACE = "/var/lib/postgresql/bench-settings"
CLIENTS = (1, 8, 32, 64)
# More branches than clients, or they would wait for each other's rows; 1 GB, which is beyond Debian's shared buffers.
SCALE = 70
WARM_SECONDS = 3
# Data and WAL of one instance at most.
ROOM_BYTES = 4 * 1024**3
KINDS = {"select-only": "--select-only", "TPC-B-like": ""}
# Runs a shell command as the user postgres and returns what it printed: the command, and at most so many seconds.
Runner = Callable[[str, float], str]

# Patroni gives what all members share on the command line, and the rest in a file.
CLUSTERS = """
SELECT json_object_agg(name, current_setting(name)) FROM pg_settings
WHERE source IN ('configuration file', 'command line')
"""
# What says where the server is, whom it lets in, and whom it sends to: no instance beside the cluster can have it.
ELSEWHERE = re.compile(
    r".*_(file|directory|directories|command|standby_names|cleanup_command)|ssl.*|listen_addresses|port|primary_.*"
    r"|recovery_.*|cluster_name|unix_socket_.*|lc_.*|log_timezone|TimeZone|DateStyle|default_text_search_config"
    r"|hot_standby.*|sync_replication_slots"
)
# What all instances have.
OWN = {"listen_addresses": "", "unix_socket_directories": PLACE, "fsync": "on", "archive_command": "/bin/true"}


def kept(told: Mapping[str, str]) -> dict[str, str]:
    """Return of a cluster's settings those that matter to a single server."""
    return {name: value for name, value in sorted(told.items()) if not ELSEWHERE.fullmatch(name)}


def configuration(settings: Mapping[str, object]) -> str:
    """Return settings as lines of a configuration file; what all instances have comes last, so it holds."""
    quoted = {name: str(value).replace("'", "''") for name, value in {**settings, **OWN}.items()}
    return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())


def rate(printed: str) -> float:
    """Return how many transactions a second pgbench measured.

    Errors:
        ValueError, where one failed, or it did not say.
    """
    found = re.search(r"(?m)^tps = ([\d.]+) \(without initial connection time\)", printed)
    failed = re.search(r"(?m)^number of failed transactions: (\d+) ", printed)
    if not found or not failed or int(failed[1]):
        raise ValueError(f"pgbench did not end well:\n{printed}")
    return float(found[1])


@contextmanager
def instance(run: Runner, settings: Mapping[str, object], checksums: bool, scale: int) -> Iterator[None]:
    """Have an instance with pgbench's tables run meanwhile; nothing is left of it.

    Parameters:
        run: where.
        settings: its own.
        checksums: whether its data have them.
        scale: as pgbench counts: 100,000 accounts each, 15 MB.
    """
    options = "--auth=trust --encoding=UTF8 --locale=C.UTF-8 --username=postgres" + " --data-checksums" * checksums
    stop = f"if [ -f {PLACE}/data/postmaster.pid ]; then {BIN}/pg_ctl -D {PLACE}/data -m immediate -w stop; fi"
    remove = f"{stop}; rm -rf {PLACE}/data {PLACE}/log"
    run(f"{remove}; {BIN}/initdb -D {PLACE}/data {options}", 120)
    try:
        run(f"printf %s {shlex.quote(configuration(settings))} >>{PLACE}/data/postgresql.conf", 10)
        start = f"{BIN}/pg_ctl -D {PLACE}/data -l {PLACE}/log -w start"
        run(f"{start} >/dev/null || {{ cat {PLACE}/log >&2; exit 1; }}", 120)
        run(f"{BIN}/pgbench -h {PLACE} -U postgres --initialize --scale={scale} --quiet postgres 2>&1", 900)
        run(f"psql -h {PLACE} -U postgres -Xqc CHECKPOINT postgres", 300)
        yield
    finally:
        run(remove, 120)


def loaded(run: Runner, kind: str, clients: int, seconds: float) -> float:
    """Return how many transactions a second some clients had of the instance that runs."""
    words = f"{KINDS[kind]} --client={clients} --jobs={min(clients, 2)} --time={seconds:.0f} --no-vacuum"
    return rate(run(f"{BIN}/pgbench -h {PLACE} -U postgres {words} postgres", seconds + 120))


def turn(run: Runner, settings: Mapping[str, object], checksums: bool, scale: int, seconds: float) -> list[dict]:
    """Return what one instance did, from its making to its end: a row for each kind and number of clients."""
    with instance(run, settings, checksums, scale):
        loaded(run, "select-only", 8, WARM_SECONDS)
        return [
            {"kind": kind, "clients": clients, "rate": loaded(run, kind, clients, seconds)}
            for kind in KINDS
            for clients in CLIENTS
        ]


def candidates(terrace: Mapping[str, str], cpus: int, memory_mb: int, disk_bytes: int) -> dict[str, dict]:
    """Return whose settings are tried, by name: `settings`, and whether data have `checksums` as that one founds them.

    Parameters:
        terrace: those of the cluster.
        cpus, memory_mb, disk_bytes: the size of the host, as `published` takes it.
    """
    return {
        "Debian": {"settings": {}, "checksums": False},
        "Terrace": {"settings": dict(terrace), "checksums": True},
        "Autobase": {"settings": published.autobase(cpus, memory_mb), "checksums": True},
        "Pigsty": {"settings": published.pigsty(cpus, memory_mb, disk_bytes), "checksums": True},
    }


def compared(run: Runner, tried: Mapping[str, dict], rounds: int, scale: int, seconds: float) -> list[dict]:
    """Return a row for each kind, number of clients and candidate, with what each round saw.

    Each round begins with another candidate.
    """
    rows: dict[tuple, dict] = {
        (kind, clients, name): {"kind": kind, "clients": clients, "way": name, "rounds": []}
        for kind in KINDS
        for clients in CLIENTS
        for name in tried
    }
    names = list(tried)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            its = tried[name]
            for found in turn(run, its["settings"], its["checksums"], scale, seconds):
                rows[found["kind"], found["clients"], name]["rounds"].append({"rate": found["rate"]})
                results.say(f"{name}, {found['kind']}, {found['clients']} clients: {found['rate']:.0f}/s")
    return list(rows.values())


def room(host: lab.Host) -> tuple[int, int]:
    """Return how many bytes the volume of a database host has, and how many of them are free."""
    size, free = host.run("df --block-size=1 --output=size,avail /var/lib/postgresql | tail -1").split()
    return int(size), int(free)


def measure() -> dict:
    """Measure the part on a database host that does not lead, or on the only one."""
    size = yaml.safe_load((lab.INVENTORY / "group_vars/lab.yml").read_text())
    leader = lab.primary().name
    name = next((other for other in lab.GROUPS["database"] if other != leader), leader)
    host = lab.Host(name)
    if room(host)[1] < ROOM_BYTES:
        recovery.make_room()
    disk, free = room(host)
    assert free >= ROOM_BYTES, f"{name} has {free / 1e9:.1f} GB free for PostgreSQL; {ROOM_BYTES / 1e9:.1f} are needed"
    terrace = kept(json.loads(lab.sql(host, CLUSTERS)))
    cpus, memory = size["host_cpus"], size["host_memory_mb"]
    tried = candidates(terrace, cpus, memory, disk)

    def run(command: str, timeout: float) -> str:
        return host.run(f"cd / && sudo -u postgres sh -c {shlex.quote(command)}", timeout=timeout)

    results.say(f"on {name}, as a host of {cpus} CPUs and {memory} MB")
    host.run(f"install -d -o postgres -m 0700 {PLACE}")
    try:
        rows = compared(run, tried, results.rounds(), SCALE, ways.seconds())
    finally:
        host.run(f"rm -rf {PLACE}")
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    return {
        "cpus": cpus,
        "memory_mb": memory,
        "disk_gb": round(disk / 1024**3),
        "host": name,
        "scale": SCALE,
        "seconds": ways.seconds(),
        "tried": tried,
        "rows": rows,
    }
