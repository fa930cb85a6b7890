"""A Patroni cluster: what its REST API says of it, whether an operation may begin, and the steps that it takes."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from typing import Any

LEADERS = ("leader", "standby_leader")
SYNCHRONOUS = ("sync_standby", "quorum_standby")
# A candidate that is further behind has to catch up first, while nobody can write.
MOST_LAG = 16 * 1024 * 1024
# A replica refuses to run with less of these than its primary: what is lowered is lowered on the primary first.
PRIMARY_FIRST = (
    *("max_connections", "max_locks_per_transaction", "max_prepared_transactions"),
    *("max_wal_senders", "max_worker_processes"),
)


class ClusterError(Exception):
    """An operation cannot be done, or was not; the text is one line, with its mend."""


class Rest:
    """The REST API of one member: Patroni's, or that of something else that speaks JSON over TLS.

    Parameters:
        address, port: where it is.
        context: a TLS context that knows the environment's authority.
        password: of the user `patroni`, for what changes something.
    """

    def __init__(self, address: str, port: int, context: ssl.SSLContext, password: str = "") -> None:
        self._where = (address, port)
        self._context = context
        login = base64.b64encode(f"patroni:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"} if password else {}

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 5.0) -> tuple[int, Any]:
        """Send a request and return the answer's status and content: what its JSON says, else its text.

        Errors:
            OSError where the member does not answer.
        """
        connection = HTTPSConnection(*self._where, context=self._context, timeout=timeout)
        headers = self._headers if method != "GET" else {}
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except HTTPException as error:
            raise ConnectionError(f"{type(error).__name__} {error}") from error
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.strip()

    def status(self, path: str) -> int:
        """Return the status of a check such as /primary; 0 where the member does not answer."""
        try:
            return self.ask("GET", path, timeout=2.0)[0]
        except OSError:
            return 0

    def told(self) -> dict[str, Any]:
        """Return what the member says of itself now; nothing where it does not answer."""
        try:
            _, answer = self.ask("GET", "/patroni", timeout=2.0)
        except OSError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def is_primary(self) -> bool:
        """Return whether the member leads, and takes writes: it has the lock a moment before PostgreSQL is promoted."""
        try:
            status, answer = self.ask("GET", "/primary", timeout=2.0)
        except OSError:
            return False
        return status == 200 and isinstance(answer, dict) and answer.get("role") in ("primary", "master")


@dataclass(frozen=True)
class Member:
    """One member, as the cluster knows it.

    Parameters:
        name: its name.
        role: such as leader, replica, sync_standby or quorum_standby.
        state: such as running (a leader), streaming (a replica that follows), starting or stopped.
        lag: bytes that a replica is behind; None where nobody knows.
        pending: whether PostgreSQL waits for a restart, and for which parameters: their old and new values by name.
        tags: what its configuration says of it.
    """

    name: str
    role: str
    state: str
    lag: int | None = None
    pending: bool = False
    reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        """Whether it is the primary."""
        return self.role in LEADERS

    @property
    def follows(self) -> bool:
        """Whether it is a replica that gets all that the primary writes, and is not far behind."""
        return not self.leads and self.state == "streaming" and self.lag is not None and self.lag <= MOST_LAG

    @property
    def well(self) -> bool:
        """Whether it does what its role wants."""
        return self.follows or (self.leads and self.state == "running")


@dataclass(frozen=True)
class Cluster:
    """All members; whether Patroni keeps its hands off (paused); and how commits wait for replicas."""

    members: tuple[Member, ...]
    paused: bool = False
    synchronous: str = "off"

    @property
    def leader(self) -> Member | None:
        """Return the member that leads, if any."""
        return next((member for member in self.members if member.leads), None)

    def member(self, name: str) -> Member | None:
        """Return a member by its name."""
        return next((member for member in self.members if member.name == name), None)

    @property
    def replicas(self) -> list[Member]:
        """Return all members that do not lead, by name."""
        return sorted((member for member in self.members if not member.leads), key=lambda member: member.name)

    def best(self) -> str:
        """Return the replica that should lead next: a synchronous one, the least behind; empty where none may."""
        may = [member for member in self.replicas if not self.hindrance(member.name)]
        may.sort(key=lambda member: (member.role not in SYNCHRONOUS, member.lag, member.name))
        return may[0].name if may else ""

    def hindrance(self, name: str) -> str:
        """Return why a member may not lead next, with the mend; empty where it may."""
        member = self.member(name)
        if member is None:
            return f"{name} is no member of the cluster; {', '.join(each.name for each in self.members)} are"
        if member.leads:
            return f"{name} leads already"
        if member.tags.get("nofailover"):
            return f"{name} may never lead, its tag nofailover says; choose another one"
        if member.state != "streaming":
            return (
                f"{name} does not follow the primary, it is {member.state or 'silent'}; mend it, or choose another one"
            )
        if not member.follows:
            behind = "nobody knows how far" if member.lag is None else f"by {member.lag // 1024 // 1024} MiB"
            return f"{name} is behind the primary, {behind}; wait until it has caught up"
        if self.synchronous == "on" and member.role not in SYNCHRONOUS:
            others = [each.name for each in self.replicas if each.role in SYNCHRONOUS]
            mend = f"choose {others[0]}" if others else "wait until one is"
            return f"{name} is not the synchronous replica, and so may lack what was acknowledged; {mend}"
        return ""


def read_cluster(answer: Mapping[str, Any], config: Mapping[str, Any]) -> Cluster:
    """Return the cluster that /cluster and /config of a member tell of."""
    mode = config.get("synchronous_mode", False)
    return Cluster(
        tuple(
            Member(
                name=str(member["name"]),
                role=str(member["role"]),
                state=str(member.get("state", "")),
                lag=member["lag"] if isinstance(member.get("lag"), int) else None,
                pending=bool(member.get("pending_restart")),
                reasons=member.get("pending_restart_reason") or {},
                tags=member.get("tags") or {},
            )
            for member in answer.get("members", [])
        ),
        paused=bool(answer.get("pause")),
        synchronous="quorum" if mode == "quorum" else "on" if mode in (True, "on", "true") else "off",
    )


def ask_cluster(rest: Rest) -> Cluster:
    """Return the cluster as a member tells it; raises OSError where that one does not answer, or knows of none."""
    [(status, answer), (_, config)] = [rest.ask("GET", path) for path in ("/cluster", "/config")]
    if status != 200 or not isinstance(answer, dict):
        raise ConnectionError(f"its Patroni says {status} {answer}")
    return read_cluster(answer, config if isinstance(config, dict) else {})


def cluster_problems(cluster: Cluster, names: list[str], besides: str = "") -> Iterator[str]:
    """Return what is wrong with a cluster, a line each with its mend.

    Parameters:
        cluster: as it is now.
        names: the members that it should have.
        besides: a member that need not be well.
    """
    leader = cluster.leader
    if cluster.paused:
        yield "Patroni is paused, and would not act; end that: patronictl -c /etc/patroni/config.yml resume"
    if leader is None:
        yield "no member leads; wait until one does, or look into its log: journalctl -u patroni"
    for name in names:
        member = cluster.member(name)
        if member is None and name != besides:
            yield f"{name} is no member of the cluster; start Patroni there: systemctl start patroni"
    for member in cluster.members:
        if not member.well and member.name != besides:
            lag = f", {member.lag // 1024 // 1024} MiB behind" if member.lag else ""
            state = f"{member.state or 'silent'} as {member.role}{lag}"
            yield f"{member.name} is {state}; wait for it, or look into its log: journalctl -u patroni"


def lowered(reasons: Mapping[str, Mapping[str, str]], least: int = 1) -> list[str]:
    """Return the parameters that are lowered, and so concern the primary first; with `least` -1 those raised."""
    found = []
    for name in PRIMARY_FIRST:
        values = reasons.get(name) or {}
        try:
            change = int(values["old_value"]) - int(values["new_value"])
        except (KeyError, TypeError, ValueError):
            continue
        if change * least > 0:
            found.append(name)
    return sorted(found)


def restart(name: str) -> dict[str, str]:
    """Return the step that restarts a member."""
    return {"action": "restart", "member": name, "candidate": "", "text": f"restart PostgreSQL on {name}"}


def switchover(leader: str, candidate: str = "") -> dict[str, str]:
    """Return the step by which a leader hands over, to a candidate or to whichever is the best then."""
    text = f"hand over from {leader} to {candidate or 'the best replica'}"
    return {"action": "switchover", "member": leader, "candidate": candidate, "text": text}


def restart_steps(cluster: Cluster, pending: bool) -> list[dict[str, str]]:
    """Return the steps that restart the members of a cluster, in the order that nobody notices.

    Replicas come first, then the primary hands over, which restarts it. What is lowered is lowered on the primary
    first, in its place: a replica with less than its primary would refuse to run, so Patroni has it wait.

    Parameters:
        cluster: as it is now, with a leader.
        pending: whether only those are restarted that wait for it.
    """
    leader = cluster.leader
    replicas = [member.name for member in cluster.replicas if member.pending or not pending]
    leader_due = leader.pending or not pending
    if lowered(leader.reasons):
        raised = {name for member in cluster.members for name in lowered(member.reasons, -1)}
        before = replicas if raised else []
        waiting = [member.name for member in cluster.replicas if member.pending or not pending]
        return [*map(restart, before), restart(leader.name), *map(restart, waiting)]
    steps = [*map(restart, replicas)]
    if leader_due and cluster.replicas:
        # The old primary starts anew as a replica, so the last step is made only where something is left to do.
        steps += [switchover(leader.name), restart(leader.name)]
    elif leader_due:
        steps += [restart(leader.name)]
    return steps
