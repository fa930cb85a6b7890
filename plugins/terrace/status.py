"""How a landscape is, out of what its hosts answer to `host_status`: who is what, and everything that is wrong.

Each daemon is asked on its own host, and knows only its own view; most of what can be wrong between hosts (two that
hold the address, a replica that follows nobody, a node that asks a former primary) is seen only where the views meet.
A host or a daemon that does not answer is one problem: what follows from it elsewhere is not told again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DAYS = 30  # fewer are wrong: site.yml renews certificates long before
DIFFERENT = 1800  # seconds for which load balancers may show different certificates
FULL = 90  # per cent
LAG_BYTES = 10 * 1024**2  # as much as node proxies let a replica lag that they read from
LAG_SECONDS = 10
ARCHIVE_SECONDS = 300  # that WAL may wait for its repository
BACKUP_HOURS = 48  # that the newest backup may be old
SNAPSHOT_MINUTES = 60  # that the newest snapshot of Redis may be old, of which there are four an hour
PROOF_DAYS = 9  # that the last proof may be old, of which there is one a week
UNSEEN = 30  # seconds without etcd, of a Patroni that asks every few
RESTARTS, YOUNG = 3, 30  # so many restarts, the last of them so few seconds ago
SITE = "`make site`"
STANDBYS = {"sync_standby": "sync standby", "quorum_standby": "quorum standby", "replica": "replica"}
# What is asked of a host, other than instances of Redis: the unit that answers, and what it means when it does not.
QUESTIONS = {
    "units": ("", "systemd does not answer"),
    "versions": ("", "the package manager does not answer"),
    "certificate": ("", "the host's certificate cannot be read"),
    "disks": ("", "the disks do not answer"),
    "holds": ("", "the addresses cannot be read"),
    "balancer": ("{engine}@lb", "the load balancer does not answer"),
    "served": ("{engine}@lb", "the load balancer does not show a certificate"),
    "tls": ("{engine}@lb", "what is known of the certificate that clients see cannot be told"),
    "balanced": ("{engine}@lb", "the load balancer's administration does not answer"),
    "egress": ("haproxy@node", "the node proxy's administration does not answer"),
    "ready": ("haproxy@node", "the node proxy does not answer"),
    "pooler": ("pgbouncer", "the pooler does not answer"),
    "live": ("", "the releases cannot be read"),
    "patroni": ("patroni", "Patroni does not answer"),
    "cluster": ("patroni", "Patroni does not tell of its cluster"),
    "settings": ("patroni", "Patroni does not tell the cluster's settings"),
    "archive": ("", "the WAL that waits for its repository cannot be counted"),
    "backups": ("", "the repository of backups does not answer"),
    "proof": ("", "what the last proof of its backups found is not told"),
    "etcd": ("etcd", "etcd does not answer"),
    "members": ("etcd", "etcd does not tell of its members, which takes a quorum"),
    "sentinel": ("redis-sentinel", "Sentinel does not answer"),
}
# Those that a daemon does not answer, though it runs, where it does not answer the first one.
FOLLOWING = {
    "served": "balancer",
    "tls": "served",
    "balanced": "balancer",
    "ready": "egress",
    "cluster": "patroni",
    "settings": "patroni",
    "members": "etcd",
}


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: the host, or several with commas between; what; and what mends it."""

    host: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.host}: {self.what}; {self.mend}"


@dataclass
class Host:
    """A host, and what it answered.

    Parameters:
        name, address: of the inventory.
        tiers: the groups that say what it is.
        answer: the result of `host_status`; of a host that was not reached, that of the task.
    """

    name: str
    address: str
    tiers: list[str]
    answer: Mapping[str, Any]
    roles: list[str] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """Whether there is an answer."""
        return "found" in self.answer

    @property
    def units(self) -> Mapping[str, Mapping[str, Any]]:
        """The units that it told of, by name."""
        return self.answer.get("units", {})

    @property
    def errors(self) -> Mapping[str, str]:
        """Why something could not be asked there, by what."""
        return self.answer.get("errors", {})

    def get(self, question: str) -> Any:
        """Return the answer to a question; none where there is none."""
        return self.answer.get("found", {}).get(question)

    def runs(self, unit: str) -> bool:
        """Tell whether a unit runs, as far as is known; systemd soon forgets one that was stopped."""
        return not self.units or self.units.get(unit, {}).get("active") in ("active", "reloading")

    @property
    def days(self) -> int | None:
        """The days that the certificates have left: the host's, and the one that its load balancer shows."""
        return min((self.get(name) for name in ("certificate", "served") if self.get(name) is not None), default=None)

    @property
    def full(self) -> int | None:
        """How full the fullest filesystem is, in per cent."""
        return max((self.get("disks") or {}).values(), default=None)

    @property
    def versions(self) -> dict[str, str]:
        """The versions of its daemons by name: of those that tell, what runs, of others what is installed."""
        installed = {
            package.removesuffix("-17").removesuffix("-server").removesuffix("-sentinel"): version
            for package, version in (self.get("versions") or {}).items()
        }
        return installed | (self.get("patroni") or {}).get("versions", {})


class Status:
    """How a landscape is.

    Parameters:
        declared: `hosts` and `members` (by group), each of name and address; `services` with name, version, nodes and
            `routed`; `instances` of Redis; `engine`; `virtual_address`, which may be empty; and `addresses`, pairs of
            service and command.
        answers: by host the result of the task that asked it.
        now: the time in seconds since the epoch; without it, what the clock says.
    """

    def __init__(
        self, declared: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]], now: float | None = None
    ) -> None:
        self.declared = declared
        self.members = {tier: [host["name"] for host in hosts] for tier, hosts in declared["members"].items()}
        self.hosts = {
            host["name"]: Host(
                host["name"],
                host["address"],
                [tier for tier, names in self.members.items() if host["name"] in names],
                answers.get(host["name"], {"msg": "it was not asked"}),
            )
            for host in declared["hosts"]
        }
        self.names = {host.address: host.name for host in self.hosts.values()}
        self.mode = declared.get("tls", "internal")
        self.holders: list[str] = []
        self.services: list[dict[str, Any]] = []
        self.postgresql: dict[str, Any] = {"primary": None, "paused": False, "members": []}
        self.etcd: dict[str, Any] = {"leader": None, "members": []}
        self.redis: dict[str, dict[str, Any]] = {}
        self.backup: Mapping[str, Any] | None = None
        self.now = time.time() if now is None else now
        # What Sentinels say and nodes lead to can be judged only when it is known who is what.
        checks = (self._reached, self._hosts, self._balancers, self._tls, self._services, self._postgresql, self._etcd)
        checks += (self._redis, self._sentinels, self._nodes, self._backups)
        self.problems = list(dict.fromkeys(problem for check in checks for problem in check()))

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def _of(self, *tiers: str) -> list[Host]:
        """Return the hosts of groups that answered."""
        names = [name for tier in tiers for name in self.members.get(tier, [])]
        return [self.hosts[name] for name in names if self.hosts[name].reached]

    def _balancing(self, host: Host) -> str:
        """Return the unit by which a load balancer or an edge host answers clients."""
        return "nginx@edge" if "edge" in host.tiers else f"{self.declared['engine']}@lb"

    def _name(self, address: str) -> str:
        """Return the name of the host that has an address, or the address where none has."""
        return self.names.get(address, address)

    # --- Each host

    def _reached(self) -> Iterator[Problem]:
        for host in self.hosts.values():
            if not host.reached:
                # Ansible says before it that it could not do what it was told.
                said = " ".join(str(host.answer.get("msg", "no answer")).split()).removeprefix("Task failed: ")
                said = said.rpartition("can be reached over ssh: ")[2]
                yield Problem(
                    host.name, f"is not reached: {said}", f"start it, or see why `make ssh HOST={host.name}` fails"
                )

    def _hosts(self) -> Iterator[Problem]:
        for host in self.hosts.values():
            yield from self._units(host)
            yield from self._unasked(host)
            # That of an ACME server is judged by when it should have been renewed.
            acme = self.mode == "acme" and (host.get("tls") or {}).get("late") is not None
            for name, what in (("certificate", "its certificate"), ("served", "the certificate that clients see")):
                days = host.get(name)
                if days is not None and days < (0 if acme and name == "served" else DAYS):
                    left = f"has {days} days left" if days >= 0 else "has run out"
                    yield Problem(host.name, f"{what} {left}", f"renew it; {SITE} where it is Terrace's own")
            for path, share in (host.get("disks") or {}).items():
                if share > FULL:
                    yield Problem(
                        host.name, f"{path} is {share} % full", f"make room; `df -h {path}` and `df -i {path}`"
                    )

    def _units(self, host: Host) -> Iterator[Problem]:
        live = {
            f"svc-{name}@{its['slot']}": name
            for name, its in (host.get("live") or {}).items()
            if its["slot"] and its["release"]
        }
        for name, unit in host.units.items():
            wanted = unit["wanted"] or name in live
            see = f"`journalctl -u {name}` there says why"
            if wanted and not unit["known"]:
                yield Problem(host.name, f"{name} is not set up", SITE)
            elif unit["active"] == "failed":
                yield Problem(host.name, f"{name} has failed", see)
            elif unit["sub"] == "auto-restart" or (
                unit["active"] == "active" and unit["restarted"] >= RESTARTS and unit["seconds"] < YOUNG
            ):
                yield Problem(host.name, f"{name} ends and is started again, {unit['restarted']} times by now", see)
            elif wanted and unit["active"] == "activating":
                yield Problem(
                    host.name, f"{name} is still about to start", f"wait; `journalctl -u {name}` there says for what"
                )
            elif wanted and unit["active"] not in ("active", "reloading"):
                yield Problem(host.name, f"{name} is {unit['active']}", f"`systemctl start {name}` there, or {SITE}")
        if host.units:
            for name in sorted(set(live) - set(host.units)):
                yield Problem(host.name, f"{name} is inactive", f"`systemctl start {name}` there, or {SITE}")

    def _unasked(self, host: Host) -> Iterator[Problem]:
        """Tell of daemons that do not answer, unless it was told already that they do not run."""
        for question, why in host.errors.items():
            instance = question.removeprefix("redis.")
            redis = (f"redis-server@{instance}", f"Redis '{instance}' does not answer")
            unit, what = redis if instance != question else QUESTIONS[question]
            unit = self._balancing(host) if unit == "{engine}@lb" else unit
            # A load balancer behind one that ends TLS has no port for it.
            plain = question == "served" and why == "Connection refused"
            if (unit and not host.runs(unit)) or FOLLOWING.get(question) in host.errors or plain:
                continue
            see = f"`journalctl -u {unit}` there" if unit else f"`make ssh HOST={host.name}`"
            yield Problem(host.name, f"{what}: {why}", f"see {see}")

    # --- The load balancers and their address

    def _balancers(self) -> Iterator[Problem]:
        balancers = self._of("loadbalancer")
        address = self.declared["virtual_address"]
        for host in self._of("edge"):
            host.roles.append("nginx, edge")
        self.holders = [host.name for host in balancers if host.get("holds")]
        for host in balancers:
            host.roles.append(f"{self.declared['engine']}{f', holds {address}' if host.name in self.holders else ''}")
        if not address or not balancers:
            return
        known = [host for host in balancers if host.get("holds") is not None]
        if known and not self.holders:
            names = ", ".join(host.name for host in known)
            yield Problem(names, f"nobody holds {address}", "see `journalctl -u keepalived` there")
        if len(self.holders) > 1:
            text = f"more than one holds {address}"
            yield Problem(
                ", ".join(self.holders), text, "see that they reach each other; `journalctl -u keepalived` there"
            )

    # --- The certificate that clients see

    def _tls(self) -> Iterator[Problem]:
        """Tell of certificates that are late, refused, not taken up, or not the same on all hosts that show it."""
        told = [(host, host.get("tls")) for host in self._of("loadbalancer", "edge") if host.get("tls")]
        see = "see `journalctl -u terrace-certificates` there"
        for host, its in told:
            failure = its.get("failure")
            if its.get("lacking"):
                why = f": {failure['text']}" if failure else ""
                mend = f"mend that; it is tried again {self._when(its['turn'])}, or by `make certificates`"
                yield Problem(host.name, f"there is no certificate for {', '.join(its['lacking'])}{why}", mend)
            elif failure:
                text = f"the certificate that clients see could not be renewed: {failure['text']}"
                yield Problem(host.name, text, f"mend that; it is tried again {self._when(its['turn'])}")
            elif its.get("late") and self.now > its["late"]:
                text = f"the certificate that clients see has {host.get('served')} days left, and is not renewed"
                yield Problem(host.name, text, see)
            if its.get("reload"):
                yield Problem(host.name, f"the certificate is not taken up: {its['reload']}", see)
            elif its.get("given", its["fingerprint"]) != its["fingerprint"] and self.now - its["placed"] > DIFFERENT:
                yield Problem(
                    host.name,
                    "clients do not see the certificate that is there for them",
                    f"`systemctl reload {self._balancing(host)}` there",
                )
        if self.mode == "internal" or not told:
            return
        newest = max((its for _, its in told), key=lambda its: its["placed"])
        others = [host.name for host, its in told if its["given"] != newest["given"]]
        if others and self.now - newest["placed"] > DIFFERENT:
            mend = see if self.mode == "acme" else SITE
            yield Problem(
                ", ".join(others), "clients see another certificate than on the host that got the newest", mend
            )

    def _when(self, at: float) -> str:
        """Return in words when something that comes by itself comes."""
        return f"in {age(at - self.now)}" if at > self.now else "soon"

    # --- Services

    def _services(self) -> Iterator[Problem]:
        for service in self.declared["services"]:
            name = service["name"]
            nodes = [self._service_on(name, node) for node in service["nodes"]]
            self.services.append({"name": name, "declared": service["version"], "nodes": nodes})
            for node in nodes:
                yield from self._service_node(name, node)
            yield from self._versions(service, nodes)
            yield from self._reach(service, nodes)
        for host in self._of("app"):
            count = len(host.get("live") or {})
            host.roles.append(f"node proxy, pooler, {count} service{'' if count == 1 else 's'}")

    def _service_on(self, name: str, node: str) -> dict[str, Any]:
        host = self.hosts[node]
        live = (host.get("live") or {}).get(name, {})
        state = (host.get("ready") or {}).get(name)
        return {
            "node": node,
            "slot": live.get("slot", ""),
            "release": live.get("release", ""),
            "version": live.get("version", ""),
            "state": state or ("unknown" if host.reached else "not reached"),
        }

    def _service_node(self, name: str, node: Mapping[str, Any]) -> Iterator[Problem]:
        host = self.hosts[node["node"]]
        if not host.reached:
            return
        if host.get("live") is not None and not node["release"]:
            yield Problem(host.name, f"{name} has no live release", SITE)
        elif node["state"] not in ("ready", "unknown") and host.runs(f"svc-{name}@{node['slot']}"):
            drained = node["state"].startswith("drained")
            mend = f"put it back: make undrain HOST={host.name}" if drained else f"see `make logs SERVICE={name}`"
            mend = SITE if node["state"].startswith("stale") else mend
            yield Problem(host.name, f"{name} is {node['state']}", mend)

    def _versions(self, service: Mapping[str, Any], nodes: list[dict[str, Any]]) -> Iterator[Problem]:
        name = service["name"]
        live = {node["node"]: node for node in nodes if node["release"]}
        if len({node["release"] for node in live.values()}) > 1:
            said = ", ".join(f"{node} {_release(its)}" for node, its in live.items())
            yield Problem(", ".join(live), f"{name} has different live releases: {said}", "deploy one of them")
        others = {node: its["version"] for node, its in live.items() if its["version"] != service["version"]}
        if service["version"] and others:
            has = " and ".join(sorted({version or "none" for version in others.values()}))
            text = f"{name} has version {has} live, and {service['version']} is declared"
            yield Problem(", ".join(others), text, "deploy it, or declare what is live")

    def _reach(self, service: Mapping[str, Any], nodes: list[dict[str, Any]]) -> Iterator[Problem]:
        """Tell of load balancers that do not pass requests to nodes which are ready."""
        name = service["name"]
        ready = {node["node"] for node in nodes if node["state"] == "ready"}
        for host in self._of("loadbalancer"):
            balanced = host.get("balanced")
            if not service["routed"] or balanced is None:
                continue
            if name not in balanced:
                yield Problem(host.name, f"the load balancer does not know {name}", SITE)
            elif missed := sorted(node for node in ready if not balanced[name].get(node)):
                text = f"the load balancer does not pass {name} to {', '.join(missed)}, though ready"
                yield Problem(host.name, text, f"see `journalctl -u {self.declared['engine']}@lb` there")

    # --- PostgreSQL

    def _postgresql(self) -> Iterator[Problem]:
        declared = self.members.get("database", [])
        asked = {host.name: host for host in self._of("database")}
        views = [host.get("cluster") for host in asked.values() if host.get("cluster")]
        primaries = [name for name, host in asked.items() if self._is_primary(host)]
        # Of several views the one counts in which somebody leads.
        view = max(views, key=lambda view: any(_leads(member) for member in view["members"]), default=None)
        leaders = [member["name"] for member in view["members"] if _leads(member)] if view else primaries
        primary = next(iter(leaders), None)
        members = view["members"] if view else []
        for member in members:
            member["lag"] = self._lag(member, primary)
        self.postgresql = {"primary": primary, "paused": bool(view and view["paused"]), "members": members}
        for member in members:
            if member["name"] in asked:
                asked[member["name"]].roles.append(f"PostgreSQL {_member(member)}")
        if not view:
            for host in asked.values():
                if host.get("patroni"):
                    host.roles.append(f"PostgreSQL {host.get('patroni')['role']}")
        if len(primaries) > 1:
            yield Problem(
                ", ".join(primaries), "more than one is a primary", "stop the one that does not lead, then see its log"
            )
        if asked and not primary and (view or any(host.get("patroni") for host in asked.values())):
            text = "there is no primary"
            yield Problem(
                ", ".join(asked), text, "see `patronictl -c /etc/patroni/config.yml list` and `journalctl -u patroni`"
            )
        for host in asked.values():
            yield from self._patroni(host, {member["name"] for member in members} if view else None)
        if view:
            yield from self._cluster(view, declared, primary)

    def _lag(self, member: Mapping[str, Any], primary: str | None) -> Any:
        """Return how far a member is behind, in bytes.

        What the cluster tells is where the replica was up to ten seconds ago, so that one seems to lag by a whole file
        of WAL whenever the primary begins a new one. What both tell of themselves now is only wrong by what was
        written between the two answers. A replica that lags does so by either.
        """
        there, here = (
            (self.hosts[name].get("patroni") or {}).get("location") if name in self.hosts else None
            for name in (primary, member["name"])
        )
        if not isinstance(member["lag"], int) or there is None or here is None:
            return member["lag"]
        return min(member["lag"], max(0, there - here))

    @staticmethod
    def _is_primary(host: Host) -> bool:
        said = host.get("patroni") or {}
        return said.get("role") in ("primary", "master") and said.get("state") == "running"

    def _patroni(self, host: Host, members: set[str] | None) -> Iterator[Problem]:
        said = host.get("patroni")
        if not said:
            return
        if said["failsafe"]:
            yield Problem(host.name, "PostgreSQL goes on without etcd (failsafe mode)", "mend etcd first")
        elif (said["unseen"] or 0) > UNSEEN:
            yield Problem(host.name, f"Patroni has not reached etcd for {said['unseen']} s", "mend etcd first")
        if members is not None and host.name not in members:
            yield Problem(host.name, "is not in the PostgreSQL cluster", "see `journalctl -u patroni` there")

    def _cluster(self, view: Mapping[str, Any], declared: list[str], primary: str | None) -> Iterator[Problem]:
        timeline = next((member["timeline"] for member in view["members"] if member["name"] == primary), None)
        for member in view["members"]:
            name = member["name"]
            host = self.hosts.get(name)
            if name not in declared:
                yield Problem(name, "is in the PostgreSQL cluster, and not declared", "stop its Patroni, or declare it")
            # What is gone is told once.
            if host is None or not host.reached or not host.runs("patroni"):
                continue
            yield from self._member(member, timeline if name != primary else None)
        if view["paused"]:
            text = "Patroni is paused, so nobody takes over from a primary that dies"
            yield Problem(primary or ", ".join(declared), text, "`patronictl -c /etc/patroni/config.yml resume` there")
        synchronous = next(
            (host.get("settings")["synchronous"] for host in self._of("database") if host.get("settings")), False
        )
        if (
            primary
            and synchronous
            and len(declared) > 1
            and not any(member["role"] in ("sync_standby", "quorum_standby") for member in view["members"])
        ):
            text = "no standby takes part in commits, so what is acknowledged is on one host only"
            yield Problem(primary, text, "bring a replica back")

    def _member(self, member: Mapping[str, Any], timeline: int | None) -> Iterator[Problem]:
        name, state = member["name"], member["state"]
        see = "see `journalctl -u patroni` there"
        wanted = "running" if _leads(member) else "streaming"
        if state != wanted:
            yield Problem(name, f"PostgreSQL is {state}, not {wanted}", see)
        elif not _leads(member) and not isinstance(member["lag"], int):
            yield Problem(name, "PostgreSQL does not tell its lag", see)
        elif not _leads(member) and member["lag"] > LAG_BYTES:
            text = f"PostgreSQL lags by {member['lag'] // 1024**2} MB"
            yield Problem(name, text, "wait, or see what its disk and network have to do")
        if timeline is not None and member["timeline"] not in (None, timeline):
            text = f"PostgreSQL is on timeline {member['timeline']}, and the primary on {timeline}"
            yield Problem(
                name, text, f"{see}; `patronictl -c /etc/patroni/config.yml reinit terrace {name}` copies it anew"
            )
        if member["restart"]:
            what = ", ".join(member["restart"])
            yield Problem(name, f"PostgreSQL has to be restarted for {what}", "`make restart TIER=database`")

    # --- Backups

    def _backups(self) -> Iterator[Problem]:
        for host in self._of("backup"):
            newest = (host.get("backups") or {}).get("newest")
            host.roles.append(f"backups (newest {age(self.now - newest['end'])} old)" if newest else "backups")
        for host in self.hosts.values():
            if (archive := host.get("archive")) and archive["seconds"] > ARCHIVE_SECONDS:
                minutes = archive["seconds"] // 60
                text = f"{archive['waiting']} files of WAL wait for the repository, the first for {minutes} min"
                yield Problem(host.name, text, "see `journalctl -u patroni` there, and how the repository is")
            if (its := host.get("backups")) is not None:
                yield from self._repository(host.name, its)
                yield from self._snapshots(host.name, its)
                if its["newest"] and not its["wrong"]:
                    yield from self._proof(host.name)

    def _snapshots(self, name: str, its: Mapping[str, Any]) -> Iterator[Problem]:
        for instance, last in (its.get("snapshots") or {}).items():
            see = f"see `journalctl -u terrace-redis-backup@{instance}` there"
            if last["problem"]:
                yield Problem(name, f"the last snapshot of Redis {instance} failed: {last['problem']}", see)
            if self.now - last.get("at", 0) > SNAPSHOT_MINUTES * 60:
                old = f"is {age(self.now - last['at'])} old" if "at" in last else "was never taken"
                yield Problem(name, f"the newest snapshot of Redis {instance} {old}", see)

    def _repository(self, name: str, its: Mapping[str, Any]) -> Iterator[Problem]:
        see = "see `journalctl -u 'terrace-backup@*'` there"
        if its["wrong"]:
            yield Problem(name, f"pgBackRest says of the repository: {its['wrong']}", f"{see}, or {SITE}")
            return
        self.backup = newest = its["newest"]
        if not newest:
            yield Problem(name, "there is no backup", "take one: `make backup`")
            return
        seconds = self.now - newest["end"]
        if seconds > BACKUP_HOURS * 3600:
            yield Problem(name, f"the newest backup is {age(seconds)} old", f"{see}; take one: `make backup`")
        if newest["error"]:
            yield Problem(
                name, f"the backup {newest['label']} has pages with errors", "`pgbackrest info --set` tells which"
            )
        if newest["gap"]:
            text = f"WAL is missing after {newest['gap']}: nothing later can be restored, until there is a new backup"
            yield Problem(name, text, "take it now: `make backup`")

    def _proof(self, name: str) -> Iterator[Problem]:
        mend = "prove it: `make backup-proof`"
        proofs = [(its, host.name) for host in self.hosts.values() if (its := host.get("proof"))]
        if not proofs:
            yield Problem(name, "it was never proven that a backup can be restored", mend)
            return
        # Without a host for backups, each database host may have done it.
        proof, name = max(proofs, key=lambda each: each[0]["at"])
        for text in proof["problems"]:
            yield Problem(name, f"the last backup that was restored to prove that it can be: {text}", mend)
        if self.now - proof["at"] > PROOF_DAYS * 86400:
            yield Problem(name, f"that a backup can be restored was proven {age(self.now - proof['at'])} ago", mend)

    # --- etcd

    def _etcd(self) -> Iterator[Problem]:
        declared = self.declared["members"].get("etcd", [])
        asked = {host.name: host for host in self._of("etcd")}
        views = [host.get("members") for host in asked.values() if host.get("members")]
        members = views[0] if views else []
        by_id = {member["id"]: self._etcd_name(member) for member in members}
        said = {name: host.get("etcd") for name, host in asked.items() if host.get("etcd")}
        by_id |= {its["id"]: name for name, its in said.items()}
        leaders = [its["leader"] for its in said.values() if its["leader"]]
        leader = by_id.get(Counter(leaders).most_common(1)[0][0]) if leaders else None
        learners = {by_id[member["id"]] for member in members if member["learner"]}
        self.etcd = {
            "leader": leader,
            "members": [{"name": by_id[member["id"]], "learner": member["learner"]} for member in members],
        }
        for name, host in asked.items():
            if name in said:
                host.roles.append("etcd leader" if name == leader else "etcd learner" if name in learners else "etcd")
        for name, its in said.items():
            if not its["leader"]:
                yield Problem(name, "etcd has no leader", "bring back enough of its members for a majority")
            for text in its["wrong"]:
                if "no leader" not in text:
                    yield Problem(name, f"etcd says: {text.strip()}", "see `journalctl -u etcd` there")
        if len(set(leaders)) > 1:
            names = ", ".join(name for name, its in said.items() if its["leader"])
            yield Problem(names, "etcd's members follow different leaders", "see that they reach each other")
        if not views:
            return
        yield from self._etcd_members([host["name"] for host in declared], members, by_id, learners)

    def _etcd_name(self, member: Mapping[str, Any]) -> str:
        """Return the name of a member; of one that never started, the name of its host."""
        peers = [peer.rpartition("://")[2].rpartition(":")[0] for peer in member["peers"]]
        return member["name"] or next((self._name(address) for address in peers), "?")

    @staticmethod
    def _etcd_members(
        declared: list[str], members: list[Mapping[str, Any]], names: Mapping[int, str], learners: set[str]
    ) -> Iterator[Problem]:
        known = {names[member["id"]]: member for member in members}
        for name in declared:
            if name not in known:
                yield Problem(name, "is no member of etcd", SITE)
            elif not known[name]["name"]:
                yield Problem(
                    name, "is to be a member of etcd, and never started", f"see `journalctl -u etcd` there, or {SITE}"
                )
            elif name in learners:
                yield Problem(name, "is a learner of etcd, without a vote", f"wait until it has caught up, then {SITE}")
        for name in known:
            if name not in declared:
                yield Problem(
                    name, "is a member of etcd, and not declared", "`etcdctl member remove` it, or declare it"
                )

    # --- Redis and Sentinel

    def _redis(self) -> Iterator[Problem]:
        hosts = self._of("cache")
        roles: dict[str, list[str]] = {}
        for instance in self.declared["instances"]:
            said = {host.name: host.get(f"redis.{instance}") for host in hosts if host.get(f"redis.{instance}")}
            masters = [name for name, its in said.items() if its["role"] == "master"]
            lags = {self._name(replica["address"]): replica for name in masters for replica in said[name]["replicas"]}
            self.redis[instance] = {
                "master": masters[0] if len(masters) == 1 else None,
                "masters": masters,
                "replicas": {
                    name: {"link": its["link"], "lag": lags.get(name, {}).get("lag")}
                    for name, its in said.items()
                    if its["role"] == "replica"
                },
            }
            for name, its in said.items():
                lag = f" (lag {lags[name]['lag']} s)" if its["role"] == "replica" and name in lags else ""
                roles.setdefault(name, []).append(f"{instance} {its['role']}{lag}")
            if len(masters) > 1:
                text = f"more than one is a master of Redis '{instance}'"
                yield Problem(", ".join(masters), text, "see `journalctl -u redis-sentinel` on the Sentinels")
            elif said and not masters:
                text = f"nobody is the master of Redis '{instance}'"
                yield Problem(", ".join(said), text, "see `journalctl -u redis-sentinel` on the Sentinels")
            for name, its in said.items():
                if its["role"] == "replica":
                    yield from self._replica(name, instance, its, masters, lags.get(name))
        for name, parts in roles.items():
            self.hosts[name].roles.append(f"Redis {', '.join(parts)}")

    def _replica(
        self, name: str, instance: str, its: Mapping[str, Any], masters: list[str], seen: Mapping[str, Any] | None
    ) -> Iterator[Problem]:
        follows = self._name(its["master"])
        see = f"see `journalctl -u redis-server@{instance}` there"
        if len(masters) == 1 and follows != masters[0]:
            text = f"Redis '{instance}' follows {follows}, and {masters[0]} is the master"
            yield Problem(name, text, "see `journalctl -u redis-sentinel` on the Sentinels")
        elif its["syncing"]:
            yield Problem(name, f"Redis '{instance}' copies its master's data anew", "wait until it is done")
        elif its["link"] != "up":
            # The link to a master that is gone is down of itself.
            if masters or (follows in self.hosts and self.hosts[follows].reached):
                yield Problem(name, f"Redis '{instance}' does not reach its master {follows}", see)
        elif seen and (seen["state"] != "online" or seen["lag"] > LAG_SECONDS or seen["bytes"] > LAG_BYTES):
            text = (
                f"Redis '{instance}' is {seen['state']} and lags by {seen['lag']} s and {seen['bytes'] // 1024**2} MB"
            )
            yield Problem(name, text, see)

    def _sentinels(self) -> Iterator[Problem]:
        size = len(self.members.get("sentinel", []))
        for host in self._of("sentinel"):
            watched = host.get("sentinel")
            if watched is None:
                continue
            host.roles.append("Sentinel")
            for instance in self.declared["instances"]:
                if instance not in watched:
                    yield Problem(host.name, f"Sentinel does not watch '{instance}'", SITE)
                else:
                    yield from self._watched(host.name, instance, watched[instance], size)

    def _watched(self, name: str, instance: str, its: Mapping[str, Any], size: int) -> Iterator[Problem]:
        see = "see `journalctl -u redis-sentinel` there"
        master = self.redis[instance]["master"]
        replicas = len(self.members["cache"]) - 1
        if master and self._name(its["address"]) != master:
            text = f"Sentinel takes {self._name(its['address'])} for the master of '{instance}', and it is {master}"
            yield Problem(name, text, "if it stays so, `systemctl restart redis-sentinel` there")
        if its["flags"]:
            yield Problem(name, f"Sentinel calls the master of '{instance}' {', '.join(its['flags'])}", see)
        if its["quorum"] != size // 2 + 1:
            yield Problem(name, f"Sentinel wants {its['quorum']} votes on '{instance}', not {size // 2 + 1}", SITE)
        for what, count, wanted in (("Sentinels", its["sentinels"], size), ("replicas", its["replicas"], replicas)):
            if count != wanted:
                text = f"Sentinel knows {count} {what} of '{instance}', and {wanted} are declared"
                reset = f"`SENTINEL RESET {instance}` there, one Sentinel after the other"
                yield Problem(name, text, see if count < wanted else reset)

    # --- What app nodes lead to

    def _nodes(self) -> Iterator[Problem]:
        for host in self._of("app"):
            pooler = host.get("pooler")
            if pooler and pooler["paused"]:
                what = ", ".join(pooler["paused"])
                yield Problem(
                    host.name, f"the pooler is paused ({what})", "RESUME in its console, unless a switchover runs"
                )
            elif pooler and pooler["waiting"] and pooler["seconds"] >= LAG_SECONDS:
                text = f"{pooler['waiting']} clients of the pooler wait for the database, one for {pooler['seconds']} s"
                yield Problem(host.name, text, "see that there is a primary; else raise `database.pool` of the service")
            if host.get("egress") is not None:
                yield from self._egress(host, host.get("egress"))

    def _egress(self, host: Host, leads: Mapping[str, list[str]]) -> Iterator[Problem]:
        see = "see `journalctl -u haproxy@node` there"
        wanted = {"postgresql.primary": ("PostgreSQL's primary", self.postgresql["primary"])}
        wanted |= {
            f"redis.{name}": (f"the master of Redis '{name}'", its["master"]) for name, its in self.redis.items()
        }
        for port, (what, name) in wanted.items():
            if name and leads.get(port) != [name]:
                text = f"the node proxy leads to {_several(leads.get(port, []))} for {what}, which is {name}"
                yield Problem(host.name, text, see)
        replicas = [
            member["name"]
            for member in self.postgresql["members"]
            if self.postgresql["primary"]
            and member["name"] in self.hosts
            and self.hosts[member["name"]].reached
            and not _leads(member)
            and member["state"] == "streaming"
            and isinstance(member["lag"], int)
            and member["lag"] <= LAG_BYTES
        ]
        if missed := sorted(set(replicas) - set(leads.get("postgresql.replica", []))):
            yield Problem(
                host.name, f"the node proxy does not read from {', '.join(missed)}, which could be read from", see
            )
        for service in self.services:
            ready = [node["node"] for node in service["nodes"] if node["state"] == "ready"]
            if ready and leads.get(f"{service['name']}.need") == []:
                yield Problem(host.name, f"the node proxy leads nowhere for {service['name']}, which is ready", see)

    # --- What is shown

    def data(self) -> dict[str, Any]:
        """Return everything as data, as `make status FORMAT=json` prints it."""
        return {
            "healthy": self.healthy,
            "problems": [str(problem) for problem in self.problems],
            "address": {"virtual": self.declared["virtual_address"] or None, "holders": self.holders},
            "tls": [
                {"host": host.name, "mode": self.mode, "days": host.get("served"), **host.get("tls")}
                for host in self._of("loadbalancer", "edge")
                if host.get("tls")
            ],
            "hosts": [
                {
                    "name": host.name,
                    "address": host.address,
                    "reached": host.reached,
                    "groups": host.tiers,
                    "roles": host.roles,
                    "versions": host.versions,
                    "certificate_days": host.days,
                    "disk_percent": host.full,
                    "units": {name: unit["active"] for name, unit in host.units.items()},
                }
                for host in self.hosts.values()
            ],
            "services": self.services,
            "postgresql": self.postgresql,
            "etcd": self.etcd,
            "backup": self.backup,
            "redis": self.redis,
        }

    def lines(self) -> list[str]:
        """Return the tables, and below them what is wrong or that nothing is."""
        lines = [*table(self._host_rows()), "", *table(self._service_rows()), ""]
        if any(host.get("tls") for host in self._of("loadbalancer", "edge")):
            lines += [*table(self._tls_rows()), ""]
        lines += [*table([["SERVICE", "TRY"], *self.declared["addresses"]]), ""]
        if self.problems:
            return [*lines, "PROBLEMS", *map(str, self.problems)]
        counts = ((len(self.hosts), "host"), (len(self.services), "service"))
        return [*lines, f"healthy: {', '.join(f'{n} {what}' if n == 1 else f'{n} {what}s' for n, what in counts)}"]

    def _host_rows(self) -> Iterator[list[str]]:
        yield ["HOST", "ADDRESS", "ROLES", "VERSIONS", "CERT", "DISK"]
        for host in self.hosts.values():
            yield [
                host.name,
                host.address,
                ("; ".join(host.roles) or "nothing answers") if host.reached else "NOT REACHED",
                ", ".join(f"{name} {version}" for name, version in host.versions.items()),
                "" if host.days is None else f"{host.days} d",
                "" if host.full is None else f"{host.full} %",
            ]

    def _tls_rows(self) -> Iterator[list[str]]:
        """Return a row for each host that shows clients a certificate."""
        yield ["BALANCER", "TLS", "DAYS", "NAMES", "LAST FAILURE"]
        for host in self._of("loadbalancer", "edge"):
            if its := host.get("tls"):
                failure = its.get("failure")
                said = f"{age(self.now - failure['at'])} ago: {failure['text']}" if failure else "-"
                days = "-" if host.get("served") is None else f"{host.get('served')} d"
                yield [host.name, self.mode, days, ", ".join(its["names"]) or "-", said]

    def _service_rows(self) -> Iterator[list[str]]:
        """Return a row for the nodes of a service that are alike."""
        yield ["SERVICE", "VERSION", "RELEASE", "STATE", "NODES"]
        for service in self.services:
            alike: dict[tuple[str, str, str], list[str]] = {}
            for node in service["nodes"]:
                slot = f" ({node['slot']})" if node["slot"] else ""
                alike.setdefault((node["version"], node["release"], node["state"]), []).append(f"{node['node']}{slot}")
            for (version, release, state), nodes in alike.items():
                yield [service["name"], version or "-", release or "-", state, ", ".join(nodes)]


def _leads(member: Mapping[str, Any]) -> bool:
    """Tell whether a member of Patroni's cluster leads it."""
    return member["role"] in ("leader", "standby_leader")


def age(seconds: float) -> str:
    """Return a time that has passed in the largest unit of which it is two or more."""
    for unit, size in (("d", 86400), ("h", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds) / 60:.0f} min"


def _member(member: Mapping[str, Any]) -> str:
    """Return in words what a member of Patroni's cluster is."""
    if _leads(member):
        return "primary"
    lag = f"{member['lag'] // 1024**2} MB" if isinstance(member["lag"], int) else "unknown"
    return f"{STANDBYS.get(member['role'], member['role'])} (lag {lag})"


def _release(node: Mapping[str, Any]) -> str:
    """Return a release with its version, if it has one."""
    return f"{node['release']} ({node['version']})" if node["version"] else node["release"]


def _several(names: list[str]) -> str:
    """Return names with commas between, or that there is none."""
    return ", ".join(names) or "nobody"


def table(rows: Iterable[list[str]]) -> list[str]:
    """Return rows as lines whose columns stand below each other; the first row is the heading."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
