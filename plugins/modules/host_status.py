#!/usr/bin/python
"""Tell how a host and the daemons on it are: everything that `make status` wants of it, in one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_status
short_description: Tell how a host and the daemons on it are
description:
  - Asks systemd, the package manager, the disks and each daemon of the host, all at the same time and each for a few
    seconds at most, and changes nothing.
  - What cannot be asked does not fail the module; it is told in RV(errors).
options:
  tiers:
    description: What the host is; it says which daemons are asked.
    type: list
    elements: str
    choices: [loadbalancer, app, cache, sentinel, database, etcd, backup, edge]
    required: true
  address:
    description: The address on which the host's daemons listen.
    type: str
    required: true
  virtual_address:
    description: The address that one of the load balancers holds; empty where there is none.
    type: str
    default: ''
  engine:
    description: The daemon that balances the load.
    type: str
    choices: [haproxy, nginx]
    default: haproxy
  balancer_health:
    description: The path at which a load balancer says that it works.
    type: str
    default: /
  tls:
    description: Where the certificate comes from that a load balancer shows to clients.
    type: str
    choices: [acme, files, internal]
    default: internal
  ports:
    description: The ports of the daemons, by name.
    type: dict
    required: true
  services:
    description: The services that run here.
    type: list
    elements: str
    default: []
  instances:
    description: The instances of Redis, which are also the names of the masters that Sentinel watches.
    type: list
    elements: str
    default: []
  archives:
    description: Whether PostgreSQL hands its WAL to a repository from here.
    type: bool
    default: false
  backups:
    description: Whether pgBackRest is asked here for what its repository has.
    type: bool
    default: false
  proof:
    description: Whether it may be here that backups are restored to prove that they can be.
    type: bool
    default: false
  units:
    description: The systemd units that have to run, with the suffixes of those that are no services.
    type: list
    elements: str
    default: []
  packages:
    description: The Debian packages whose versions are wanted.
    type: list
    elements: str
    default: []
  paths:
    description: Where data is. How full the filesystem of each is, is told; a path that does not exist is left out.
    type: list
    elements: path
    default: []
author: Terrace
"""

EXAMPLES = r"""
- name: Ask how a cache host is
  host_status:
    tiers: [cache, sentinel]
    address: 10.0.0.31
    ports: {sentinel: 26379}
    instances: [cache, queue]
    units: [redis-server@cache, redis-server@queue, redis-sentinel]
"""

RETURN = r"""
units:
  description: >-
    By unit its C(active) and C(sub) state, how often it was C(restarted) since somebody last started it, for how many
    C(seconds) it is active, and whether it is C(wanted), C(known) to systemd, or both.
  type: dict
  returned: success
found:
  description: What else was found, by what was asked.
  type: dict
  returned: success
  sample: {certificate: 364, disks: {/: 41}, versions: {redis-server: 8.0.2}}
errors:
  description: What could not be asked, and why, in the same words.
  type: dict
  returned: success
  sample: {sentinel: Connection refused}
"""

import json
import math
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from ansible.module_utils import haproxy_stat
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgbackrest import missing_wal, parse_info
from ansible.module_utils.postgresql_wire import Session, WireError, connect
from ansible.module_utils.releases import releases_of

ARGUMENTS = {
    "tiers": {
        "type": "list",
        "elements": "str",
        "required": True,
        "choices": ["loadbalancer", "app", "cache", "sentinel", "database", "etcd", "backup", "edge"],
    },
    "address": {"type": "str", "required": True},
    "virtual_address": {"type": "str", "default": ""},
    "engine": {"type": "str", "choices": ["haproxy", "nginx"], "default": "haproxy"},
    "balancer_health": {"type": "str", "default": "/"},
    "tls": {"type": "str", "choices": ["acme", "files", "internal"], "default": "internal"},
    "ports": {"type": "dict", "required": True},
    "services": {"type": "list", "elements": "str", "default": []},
    "instances": {"type": "list", "elements": "str", "default": []},
    "archives": {"type": "bool", "default": False},
    "backups": {"type": "bool", "default": False},
    "proof": {"type": "bool", "default": False},
    "units": {"type": "list", "elements": "str", "default": []},
    "packages": {"type": "list", "elements": "str", "default": []},
    "paths": {"type": "list", "elements": "path", "default": []},
}
SECONDS = 3.0  # that one question may take
PKI = Path("/etc/terrace/pki")
PUBLIC = Path("/etc/terrace/tls/public.crt")
CERTIFICATES = Path("/var/lib/terrace/certificates/state.json")
BALANCER_SOCKET = "/run/haproxy-lb/admin.sock"
NODE_SOCKET = "/run/haproxy-node/admin.sock"
ARCHIVE = Path("/var/lib/postgresql/17/main/pg_wal/archive_status")
PROOF = Path("/var/lib/terrace/backup-proof.json")
SNAPSHOTS = Path("/var/lib/terrace")
STANZA = "terrace"
SENTINEL_SETTINGS = Path("/etc/redis/sentinel.env")
POOLER_USER, POOLER_DIRECTORY = "postgres", "/run/postgresql"
# Ours: of those that do not have to run, the failed ones are told.
UNITS = (
    "haproxy@*",
    "nginx@*",
    "nginx-*.service",
    "redis-server@*",
    "svc-*.service",
    "svc-*.timer",
    "terrace-*.service",
)


class AnswerError(Exception):
    """Something answered otherwise than it should; the text says how."""


def run(*words: str, stdin: str = "", environment: dict[str, str] | None = None, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command and return what it printed.

    Parameters:
        words: the command.
        stdin: what it reads.
        environment: further variables.
        codes: the exit codes that are no failure.
    Errors:
        AnswerError, where it fails or takes too long; it is killed then, with all that it started.
    """
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AnswerError(f"no answer within {SECONDS:g} s") from None
    if process.returncode not in codes:
        said = (err.strip() or out.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise AnswerError(said)
    return out


def fetch(address: str, port: int, path: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Return status and body of the answer to a GET request; over TLS where there is a context."""
    if context:
        connection = HTTPSConnection(address, port, timeout=SECONDS, context=context)
    else:
        connection = HTTPConnection(address, port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


# --- The host


def parse_units(text: str, wanted: list[str], now: float) -> dict[str, dict[str, Any]]:
    """Return units out of what `systemctl show` printed, by name; a service's name has no suffix.

    Parameters:
        text: its blocks of properties.
        wanted: the units that have to run.
        now: seconds of the clock by which systemd counts, that has run since the boot.
    """
    found = {}
    for block in text.strip().split("\n\n"):
        shown = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        names = {name.removesuffix(".service") for name in shown.get("Names", "").split()}
        name = next((name for name in wanted if name in names), shown.get("Id", "").removesuffix(".service"))
        since = int(shown.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        found[name] = {
            "active": shown.get("ActiveState", ""),
            "sub": shown.get("SubState", ""),
            "restarted": int(shown.get("NRestarts") or 0),
            "seconds": round(max(0, now - since)),
            "known": shown.get("LoadState") not in ("not-found", "masked"),
            "wanted": name in wanted,
        }
    return found


def units(wanted: list[str]) -> dict[str, dict[str, Any]]:
    """Return the units that have to run, and all others of ours that systemd has loaded."""
    properties = "Id,Names,LoadState,ActiveState,SubState,NRestarts,ActiveEnterTimestampMonotonic"
    return parse_units(run("systemctl", "show", f"--property={properties}", *wanted, *UNITS), wanted, time.monotonic())


def parse_versions(text: str) -> dict[str, str]:
    """Return by package the version that its authors gave it, out of lines of package, state and Debian's version."""
    rows = [line.split() for line in text.splitlines()]
    return {
        package: re.sub(r"^\d+:|-[^-]*$", "", version)
        for package, state, version in (row for row in rows if len(row) == 3)
        if state == "installed"
    }


def versions(packages: list[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    # The exit code is 1 where a package was never heard of.
    shape = "${Package} ${db:Status-Status} ${Version}\n"
    return parse_versions(run("dpkg-query", "--show", f"--showformat={shape}", *packages, codes=(0, 1)))


def days_until(text: str, now: float) -> int:
    """Return the days that a certificate has left, out of `notAfter=May  9 12:00:00 2027 GMT`."""
    return math.floor((ssl.cert_time_to_seconds(text.strip().partition("=")[2]) - now) / 86400)


def certificate(path: Path) -> int:
    """Return the days that the certificate in a file has left."""
    return days_until(run("openssl", "x509", "-noout", "-enddate", "-in", str(path)), time.time())


def presented(address: str, port: int) -> str:
    """Return the certificate that a port shows to clients, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It is only looked at.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((address, port), SECONDS) as plain, context.wrap_socket(plain) as client:
        return ssl.DER_cert_to_PEM_cert(client.getpeercert(binary_form=True))


def served(address: str, port: int) -> int:
    """Return the days that the certificate has left which a port shows to clients."""
    return days_until(run("openssl", "x509", "-noout", "-enddate", stdin=presented(address, port)), time.time())


def parse_certificate(text: str) -> dict[str, Any]:
    """Return the host `names` of a certificate and its `fingerprint`, out of what `openssl x509` printed."""
    return {
        "names": re.findall(r"\bDNS:([^,\s]+)", text),
        "fingerprint": re.search(r"(?im)^sha256 fingerprint=(\S+)", text)[1].replace(":", "").lower(),
    }


def tls(address: str, port: int, mode: str) -> dict[str, Any]:
    """Return what is known of the certificate that clients see: its `names` and `fingerprint`.

    Of one that the environment's authority did not make also since when it is `placed`, in seconds since the epoch, and
    the fingerprint of what is placed there (`given`). Of one of an ACME server also what it is `lacking`, from when on
    it should be renewed (`late`), when this host asks for one (`turn`), and the last `failure`, if no success followed,
    with `at` and `text`; and why a daemon did not take it up (`reload`).
    """
    wanted = ("openssl", "x509", "-noout", "-fingerprint", "-sha256", "-ext", "subjectAltName")
    found = parse_certificate(run(*wanted, stdin=presented(address, port)))
    if mode == "internal":
        return found
    found["given"] = parse_certificate(run(*wanted, "-in", str(PUBLIC)))["fingerprint"]
    found["placed"] = round(PUBLIC.stat().st_mtime)
    if mode == "acme":
        noted = json.loads(CERTIFICATES.read_text())
        found |= {name: noted.get(name) for name in ("lacking", "late", "turn", "failure", "reload")}
    return found


def disks(paths: list[str]) -> dict[str, int]:
    """Return by the first path on each filesystem how full that is: per cent of its space or, if more, of its files."""
    found: dict[int, tuple[str, int]] = {}
    for path in paths:
        if not Path(path).exists():
            continue
        device, room = os.stat(path).st_dev, os.statvfs(path)
        shares = [
            math.ceil(100 * (total - free) / (total - free + available))
            for total, free, available in (
                (room.f_blocks, room.f_bfree, room.f_bavail),
                (room.f_files, room.f_ffree, room.f_favail),
            )
            if total - free + available
        ]
        found.setdefault(device, (path, max(shares, default=0)))
    return dict(found.values())


def holds(address: str) -> bool:
    """Tell whether the network reaches the host at an address; one that waits for it may have it on its loopback."""
    links = [link for link in json.loads(run("ip", "-json", "address")) if "LOOPBACK" not in link.get("flags", [])]
    return any(each.get("local") == address for link in links for each in link.get("addr_info", []))


# --- HAProxy, and what a load balancer answers


def parse_servers(text: str) -> dict[str, dict[str, bool]]:
    """Return by backend and server of HAProxy's statistics whether it takes requests."""
    found: dict[str, dict[str, bool]] = {}
    for row in haproxy_stat.parse_rows(text, ","):
        found.setdefault(row["pxname"], {})[row["svname"]] = row["status"].startswith(("UP", "no check"))
    return found


def servers(path: str) -> dict[str, dict[str, bool]]:
    """Ask one HAProxy which servers of its backends take requests."""
    return parse_servers(haproxy_stat.ask(path, "show stat -1 4 -1", SECONDS))


def balancer(address: str, port: int, path: str) -> bool:
    """Tell that a load balancer answers; AnswerError where it does not as it should."""
    status, _ = fetch(address, port, path)
    if status != 200:
        raise AnswerError(f"{path} answers with status {status}")
    return True


def balanced() -> dict[str, dict[str, bool]]:
    """Return by service the nodes that a load balancer passes requests to, and those that it does not."""
    return {
        service: {node: up for node, up in nodes.items() if not node.endswith(".any")}
        for service, nodes in servers(BALANCER_SOCKET).items()
        if "." not in service
    }


def egress() -> dict[str, list[str]]:
    """Return what a node proxy leads to: by local port of a database, cache or other service, who is up behind it."""
    return {
        name: [server for server, up in behind.items() if up and not server.endswith((".primary", ".any"))]
        for name, behind in servers(NODE_SOCKET).items()
        if name.startswith(("postgresql.", "redis.")) or name.endswith(".need")
    }


def readiness(address: str, port: int, services: list[str]) -> dict[str, str]:
    """Return what a node says of the readiness of each of its services: `ready`, or other words."""
    found = {}
    for service in services:
        status, body = fetch(address, port, f"/{service}")
        found[service] = "ready" if status == 200 else body.strip() or f"status {status}"
    return found


def live_releases(services: list[str]) -> dict[str, dict[str, str]]:
    """Return by service the live `slot`, the `release` in it and its `version`; all are empty where nothing is live."""
    found = {}
    for service in services:
        facts = releases_of(service)
        version = facts["releases"].get(facts["live"], {}).get("version") or ""
        found[service] = {"slot": facts["live_slot"], "release": facts["live"], "version": version}
    return found


# --- PgBouncer: its console speaks PostgreSQL's protocol


def enter(directory: str, port: int) -> socket.socket | Exception:
    """Return a connection to a pooler's console, or why there is none.

    PgBouncer lets its own user in without a password. Who that is, is settled when the connection is made.
    """
    try:
        return connect(directory, port, POOLER_USER, SECONDS)
    except (OSError, WireError) as error:
        return error


def pooler(client: socket.socket | Exception) -> dict[str, Any]:
    """Return what a pooler has `paused`, how many clients are `waiting`, and for how many `seconds` the first is.

    Parameters:
        client: a connection to its console, which is closed, or why there is none.
    """
    if isinstance(client, Exception):
        raise client
    with Session(client, "pgbouncer", "pgbouncer") as console:
        state = {row["key"]: row["value"] for row in console.query("SHOW STATE")}
        databases, pools = console.query("SHOW DATABASES"), console.query("SHOW POOLS")
    paused = ["all"] if state.get("paused") == "yes" else []
    return {
        "paused": paused or [row["name"] for row in databases if row["paused"] == "1"],
        "waiting": sum(int(row["cl_waiting"]) for row in pools),
        "seconds": max((int(row["maxwait"]) for row in pools), default=0),
    }


# --- PostgreSQL and etcd


def ask_patroni(address: str, port: int, path: str) -> dict[str, Any]:
    """Return what Patroni's API answers, as data."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(PKI / "ca.crt")
    status, body = fetch(address, port, path, context)
    if status != 200:
        raise AnswerError(f"{path} answers with status {status}")
    return json.loads(body)


def patroni(address: str, port: int) -> dict[str, Any]:
    """Return what Patroni says of itself and its PostgreSQL.

    That is `role` and `state`; the `versions` that run; whether it goes on without etcd (`failsafe`), and the seconds
    since it last reached that (`unseen`); and up to which byte of WAL a primary has written, or a replica replayed
    (`location`).
    """
    said = ask_patroni(address, port, "/patroni")
    versions = {"patroni": said["patroni"]["version"]}
    wal = said.get("xlog") or {}
    if number := said.get("server_version"):
        versions["postgresql"] = f"{number // 10000}.{number % 10000}"
    return {
        "role": said.get("role", ""),
        "state": said.get("state", ""),
        "versions": versions,
        "failsafe": bool(said.get("failsafe_mode_is_active")),
        "unseen": round(max(0, time.time() - said["dcs_last_seen"])) if said.get("dcs_last_seen") else None,
        "location": wal.get("location", wal.get("replayed_location")),
    }


def cluster(address: str, port: int) -> dict[str, Any]:
    """Return the cluster as etcd has it: its `members`, and whether Patroni is `paused`.

    Of a member: `name`, `role`, `state`, `timeline`, `lag` in bytes or other words, and what waits for a `restart`.
    """
    said = ask_patroni(address, port, "/cluster")
    return {
        "paused": bool(said.get("pause")),
        "members": [
            {
                "name": member["name"],
                "role": member["role"],
                "state": member["state"],
                "timeline": member.get("timeline"),
                "lag": member.get("lag"),
                "restart": sorted(member.get("pending_restart_reason") or ["a setting"])
                if member.get("pending_restart")
                else [],
            }
            for member in said["members"]
        ],
    }


def settings(address: str, port: int) -> dict[str, Any]:
    """Return whether commits wait for a replica, by the settings that all members share."""
    mode = ask_patroni(address, port, "/config").get("synchronous_mode", False)
    return {"synchronous": mode not in (False, None, "off", "false")}


# --- pgBackRest


def archive(path: Path = ARCHIVE) -> dict[str, int]:
    """Return how many files of WAL wait for the repository, and for how many `seconds` the first of them does.

    PostgreSQL keeps a file NAME.ready for each, from the moment that it is full until it was taken.
    """
    ages = []
    for ready in path.glob("*.ready"):
        try:
            ages.append(time.time() - ready.stat().st_mtime)
        except FileNotFoundError:
            continue  # taken since
    return {"waiting": len(ages), "seconds": round(max(ages, default=0))}


def wal_since(first: str, archives: Iterable[str]) -> dict[str, float]:
    """Return when each file of WAL came that the repository has, in seconds since the epoch, since one of them.

    It lies in directories that are named after the first 16 digits of its files.

    Parameters:
        first: the file from which on they are wanted.
        archives: what the repository calls those of each version and system of PostgreSQL; the last is that of now.
    """

    def ask(path: str) -> dict[str, Any]:
        words = ("pgbackrest", f"--stanza={STANZA}", "--output=json", "--log-level-console=error", "repo-ls", path)
        return json.loads(run(*words))

    here = f"archive/{STANZA}/{max(archives, key=lambda name: int(name.partition('-')[2]))}"
    folders = [name for name in ask(here) if re.fullmatch(r"[0-9A-F]{16}", name) and name >= first[:16]]
    found = {}
    for folder in folders:
        found |= {name: its["time"] for name, its in ask(f"{here}/{folder}").items() if its["type"] == "file"}
    return found


def backups() -> dict[str, Any]:
    """Return in words what is `wrong` with the repository, and what is known of its `newest` backup.

    That is its `label`, `end`, `error`, and `gap`, the last file of WAL before one that is missing since. `snapshots`
    are those of Redis, by instance: when the last good one was (`at`), and the `problem` of the last try.
    """
    told = parse_info(run("pgbackrest", "info", "--output=json", "--log-level-console=error"))
    newest = told["backups"][-1] if told["backups"] else None
    if newest:
        newest["gap"] = missing_wal(
            wal_since(newest["archive"]["start"], told["archive"]), newest["archive"]["start"], time.time()
        )
    return {
        "wrong": told["wrong"],
        "newest": newest and {name: newest[name] for name in ("label", "end", "error", "gap")},
        "snapshots": {
            path.stem.removeprefix("redis-backup-"): json.loads(path.read_text())
            for path in sorted(SNAPSHOTS.glob("redis-backup-*.json"))
        },
    }


def proof() -> dict[str, Any] | None:
    """Return what the last proof here noted: when it was (`at`), its `problems`, and how its recovery went.

    That is `recovery_point_seconds` and `seconds`, how far and how long. None where there was no proof here.
    """
    try:
        noted = json.loads(PROOF.read_text())
    except FileNotFoundError:
        return None
    return {name: noted.get(name) for name in ("at", "problems", "recovery_point_seconds", "seconds")}


def etcdctl(address: str, port: int, *words: str) -> Any:
    """Return what etcdctl prints of the member here, as data."""
    keys = [f"--cacert={PKI}/ca.crt", f"--cert={PKI}/host.crt", f"--key={PKI}/host.key"]
    limits = ["--dial-timeout=2s", "--command-timeout=2s"]
    return json.loads(
        run("etcdctl", f"--endpoints=https://{address}:{port}", *keys, *limits, "--write-out=json", *words)
    )


def etcd_status(address: str, port: int) -> dict[str, Any]:
    """Return what the member says of itself: its `id`, that of the `leader` or 0, and what it finds to be `wrong`."""
    status = etcdctl(address, port, "endpoint", "status")[0]["Status"]
    return {"id": status["header"]["member_id"], "leader": status.get("leader", 0), "wrong": status.get("errors", [])}


def etcd_members(address: str, port: int) -> list[dict[str, Any]]:
    """Return the members as the cluster knows them; it takes a quorum to tell."""
    return [
        {
            "id": member["ID"],
            "name": member.get("name", ""),
            "peers": member.get("peerURLs", []),
            "learner": member.get("isLearner", False),
        }
        for member in etcdctl(address, port, "member", "list")["members"]
    ]


# --- Redis


def parse_information(text: str) -> dict[str, str]:
    """Return what INFO prints by name; AnswerError where it is something else."""
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
    if "role" not in found:
        raise AnswerError(text.strip().partition("\n")[0] or "an empty answer")
    return found


def redis(instance: str) -> dict[str, Any]:
    """Return the part of an instance in its replication: `role`, and what belongs to a master or a replica."""
    said = parse_information(run("/usr/local/sbin/redis-instance", "cli", instance, "INFO", "replication"))
    if said["role"] == "master":
        replicas = [
            dict(pair.split("=", 1) for pair in value.split(","))
            for name, value in said.items()
            if re.fullmatch(r"slave\d+", name)
        ]
        return {
            "role": "master",
            "replicas": [
                {
                    "address": replica["ip"],
                    "state": replica["state"],
                    "lag": int(replica["lag"]),
                    "bytes": max(0, int(said["master_repl_offset"]) - int(replica["offset"])),
                }
                for replica in replicas
            ],
        }
    return {
        "role": "replica",
        "master": said["master_host"],
        "link": said["master_link_status"],
        "syncing": said.get("master_sync_in_progress") == "1",
    }


def sentinel(address: str, port: int) -> dict[str, dict[str, Any]]:
    """Return by name the masters that Sentinel watches: `address`, `flags`, `quorum`, and how many it knows of whom."""
    settings = SENTINEL_SETTINGS.read_text(encoding="utf-8")
    password = next(line for line in settings.splitlines() if line.startswith("PASSWORD=")).partition("=")[2]
    answer = run(
        *("redis-cli", "-h", address, "-p", str(port), "--no-auth-warning", "--json", "SENTINEL", "MASTERS"),
        environment={"REDISCLI_AUTH": shlex.split(password)[0]},
    )
    # A refusal is plain text.
    if not answer.startswith("["):
        raise AnswerError(answer.strip().partition("\n")[0] or "an empty answer")
    return {
        master["name"]: {
            "address": master["ip"],
            "flags": sorted(set(master["flags"].split(",")) - {"master"}),
            "quorum": int(master["quorum"]),
            "sentinels": int(master["num-other-sentinels"]) + 1,
            "replicas": int(master["num-slaves"]),
        }
        for master in json.loads(answer)
    }


# --- All of it


def questions(asked: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return what is to be asked of a host, by name.

    Parameters:
        asked: the module's parameters.
    """
    tiers, address, ports = asked["tiers"], asked["address"], asked["ports"]

    def port(name: str) -> int:
        return int(ports[name])

    found: dict[str, Callable[[], Any]] = {
        "units": lambda: units(asked["units"]),
        "versions": lambda: versions(asked["packages"]),
        "certificate": lambda: certificate(PKI / "host.crt"),
        "disks": lambda: disks(asked["paths"]),
    }
    if "loadbalancer" in tiers or "edge" in tiers:
        found["balancer"] = lambda: balancer(address, port("http"), asked["balancer_health"])
        found["served"] = lambda: served(address, port("https"))
        found["tls"] = lambda: tls(address, port("https"), asked["tls"])
    if "loadbalancer" in tiers:
        if asked["engine"] == "haproxy":
            found["balanced"] = balanced
        if asked["virtual_address"]:
            found["holds"] = lambda: holds(asked["virtual_address"])
    if "app" in tiers:
        # Here and not in its thread: it changes who the whole process is, for a moment.
        console = enter(POOLER_DIRECTORY, port("pgbouncer"))
        found["pooler"] = lambda: pooler(console)
        found["egress"] = egress
        found["ready"] = lambda: readiness(address, port("node_health"), asked["services"])
        found["live"] = lambda: live_releases(asked["services"])
    if "database" in tiers:
        found["patroni"] = lambda: patroni(address, port("patroni"))
        found["cluster"] = lambda: cluster(address, port("patroni"))
        found["settings"] = lambda: settings(address, port("patroni"))
    if asked["archives"]:
        found["archive"] = archive
    if asked["backups"]:
        found["backups"] = backups
    if asked["proof"]:
        found["proof"] = proof
    if "etcd" in tiers:
        found["etcd"] = lambda: etcd_status(address, port("etcd_client"))
        found["members"] = lambda: etcd_members(address, port("etcd_client"))
    if "cache" in tiers:
        for instance in asked["instances"]:
            found[f"redis.{instance}"] = lambda instance=instance: redis(instance)
    if "sentinel" in tiers:
        found["sentinel"] = lambda: sentinel(address, port("sentinel"))
    return found


def reason(error: Exception) -> str:
    """Return in a line why something could not be asked."""
    if isinstance(error, TimeoutError):
        return f"no answer within {SECONDS:g} s"
    said = isinstance(error, (AnswerError, HTTPException, WireError))
    if said or (isinstance(error, OSError) and not error.strerror):
        return " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"an answer that is not understood ({type(error).__name__}: {error})"


def ask(asked: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Ask everything at the same time; return what was found, and why the rest was not, each by name."""
    found: dict[str, Any] = {}
    errors: dict[str, str] = {}
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = {name: pool.submit(question) for name, question in asked.items()}
        for name, answer in answers.items():
            try:
                found[name] = answer.result()
            except Exception as error:
                # Whatever is wrong with one daemon, the others are told of; and that it is, is what was asked.
                errors[name] = reason(error)
    return found, errors


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    found, errors = ask(questions(module.params))
    module.exit_json(changed=False, units=found.pop("units", {}), found=found, errors=errors)


if __name__ == "__main__":
    main()
