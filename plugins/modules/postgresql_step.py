#!/usr/bin/python
"""Carry out one step of an operation on the PostgreSQL cluster, while the poolers of app nodes hold their clients."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_step
short_description: Hand over a PostgreSQL cluster, or restart one member, while the poolers hold their clients
description:
  - Runs on one database host, the conductor, which the poolers of all app nodes connect to (M(pooler_hold)).
  - Nothing is held longer than twice O(drain) and O(hold) seconds, and less if anything fails.
options:
  step:
    description: One of the steps of M(postgresql_plan), or one whose action is C(end), which lets the poolers go.
    type: dict
    required: true
  name:
    description: The host's name.
    type: str
    required: true
  address:
    description: The host's address, on which it listens for poolers.
    type: str
    required: true
  port:
    description: The port on which it listens for poolers.
    type: int
    required: true
  token:
    description: The secret of this operation.
    type: str
    required: true
  poolers:
    description: The app nodes whose poolers are to come.
    type: list
    elements: str
    required: true
  members:
    description: All database hosts, each with C(name) and C(address).
    type: list
    elements: dict
    required: true
  rest_port:
    description: The port of Patroni's REST API.
    type: int
    required: true
  rest_password:
    description: Its password.
    type: str
    required: true
  primary_port:
    description: The local port of app nodes that leads to the primary.
    type: int
    required: true
  replica_port:
    description: The local port of app nodes that leads to replicas.
    type: int
    required: true
  force:
    description: Whether to go on where a pooler did not come, or a transaction did not end.
    type: bool
    default: false
  gather:
    description: Seconds for the poolers to come.
    type: int
    default: 20
  drain:
    description: Seconds for running transactions to end, those of replicas and then those of the primary.
    type: float
    default: 3
  hold:
    description: Seconds that the poolers hold their clients at most after that; twice that while the primary restarts.
    type: float
    default: 15
  settle:
    description: Seconds for all members to be well again afterwards.
    type: int
    default: 300
  socket_directory:
    description: Where PostgreSQL's unix socket is on this host.
    type: path
    default: /run/postgresql
  handover_marker:
    description: A file that has the leader's C(before_stop) of Patroni stop PostgreSQL at once, while it is new.
    type: path
    default: /run/terrace-handover
  postgresql_port:
    description: PostgreSQL's port, which names the socket.
    type: int
    default: 5432
  ca_file:
    description: The environment's authority.
    type: path
    default: /etc/terrace/pki/ca.crt
  certificate_file:
    description: The host's certificate, good for O(address).
    type: path
    default: /etc/terrace/pki/host.crt
  key_file:
    description: The key of the certificate.
    type: path
    default: /etc/terrace/pki/host.key
author: Terrace
"""

EXAMPLES = r"""
- name: Hand over to db2
  postgresql_step:
    step: {action: switchover, member: db1, candidate: db2}
    name: db1
    address: 10.77.0.41
    port: 8009
    token: "{{ one_time_token }}"
    poolers: [app1, app2]
    members: [{name: db1, address: 10.77.0.41}, {name: db2, address: 10.77.0.42}]
    rest_port: 8008
    rest_password: "{{ patroni_rest_password }}"
    primary_port: 5432
    replica_port: 5433
"""

RETURN = r"""
said:
  description: What was done, in one line.
  type: str
  returned: success
leader:
  description: The member that leads now.
  type: str
  returned: success
seconds:
  description: How long there was no primary, or the member was away.
  type: float
  returned: when something was done
held:
  description: By app node, how long its pooler held its clients, and a C(note) where something was not right.
  type: dict
  returned: when something was done
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.guard import guarded
from ansible.module_utils.patroni_cluster import Cluster, ClusterError, Rest, ask_cluster, cluster_problems
from ansible.module_utils.postgresql_wire import Session, WireError, connect
from ansible.module_utils.rendezvous import Conductor, client_context, server_context

# Each look is a connection by TLS to a member that has enough to do.
POLL_SECONDS = 0.1
# Patroni tells others of a change by its next round, which is seconds away.
SETTLE_POLL_SECONDS = 0.5
# What a pooler may take for an answer, beyond what it was told to wait for.
ANSWER_SECONDS = 10.0
# For the rest of the cluster to be well before a step begins.
BEFORE_SECONDS = 60
# For Patroni to act by a changed configuration: several of its rounds.
CONFIGURED_SECONDS = 30


class Request(threading.Thread):
    """A request to Patroni that is answered when all is over, while others look at what becomes of it.

    Parameters:
        rest: whom to ask.
        path, body: what for.
        timeout: seconds for the answer.
    """

    def __init__(self, rest: Rest, path: str, body: dict[str, Any], timeout: float) -> None:
        super().__init__(daemon=True)
        self._rest, self._words, self._timeout = rest, (path, body), timeout
        # 0 while there is no answer.
        self.status, self.text = 0, ""

    def run(self) -> None:
        """Send it and wait."""
        path, body = self._words
        try:
            self.status, answer = self._rest.ask("POST", path, body, self._timeout)
            self.text = str(answer)
        except OSError as error:
            # The member may be about to restart: what becomes of it is seen otherwise.
            self.text = str(error)


class Operation:
    """One step, on the conductor.

    Parameters:
        parameters: the module's.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        context = client_context(parameters["ca_file"])
        self.rests = {
            member["name"]: Rest(member["address"], parameters["rest_port"], context, parameters["rest_password"])
            for member in parameters["members"]
        }
        self.held: dict[str, dict[str, Any]] = {}

    def cluster(self) -> Cluster:
        """Return the cluster as the first member that answers tells it; raises ClusterError where none does."""
        for name in sorted(self.rests, key=lambda name: name != self.parameters["name"]):
            try:
                return ask_cluster(self.rests[name])
            except OSError:
                continue
        raise ClusterError("Patroni answers on no database host; start it: systemctl start patroni")

    def run(self, step: dict[str, str]) -> dict[str, Any]:
        """Carry out a step and return what to report; raises ClusterError where it cannot be, or was not."""
        if step["action"] == "end":
            with self.conductor() as conductor:
                conductor.gather(ANSWER_SECONDS)
                conductor.dismiss()
            return {"changed": False, "said": "the poolers were let go"}
        return self.hand_over(step) if step["action"] == "switchover" else self.restart(step)

    def conductor(self) -> Conductor:
        """Return what listens for the poolers."""
        its = self.parameters
        context = server_context(its["certificate_file"], its["key_file"])
        return Conductor(its["address"], its["port"], context, its["token"], its["poolers"])

    def hand_over(self, step: dict[str, str]) -> dict[str, Any]:
        """Have a replica lead, and the leader follow it."""
        cluster = self.cluster()
        leader = cluster.leader
        if leader is None or cluster.paused:
            raise ClusterError(next(cluster_problems(cluster, [])))
        if leader.name == step["candidate"]:
            return {"changed": False, "said": f"{leader.name} leads already", "leader": leader.name}
        if leader.name != step["member"]:
            raise ClusterError(f"{leader.name} leads now, no longer {step['member']}; run it again")
        candidate = step["candidate"] or cluster.best()
        if not candidate:
            raise ClusterError("; ".join(cluster.hindrance(member.name) for member in cluster.replicas))
        if hindrance := cluster.hindrance(candidate):
            raise ClusterError(hindrance)
        self.write_out(leader.name)

        request = Request(
            self.rests[leader.name],
            "/switchover",
            {"leader": leader.name, "candidate": candidate},
            self.parameters["settle"],
        )

        def has_moved() -> bool:
            if self.rests[candidate].is_primary():
                return True
            if request.status >= 400:
                raise ClusterError(f"Patroni did not hand over to {candidate}: {request.text}")
            return False

        def act(deadline: float) -> str:
            with self.stopped_at_once(leader.name):
                request.start()
                return candidate if self.within(deadline, has_moved) else ""

        with self.named_replicas(leader.name, candidate):
            start = time.monotonic()
            seconds = self.hold(act, self.parameters["hold"], moved=True, without=candidate)
            if not has_moved():
                self.wait(has_moved, f"{candidate} leads")
                seconds = time.monotonic() - start
        self.settle(candidate, [candidate, leader.name])
        return self.report(f"{candidate} leads now instead of {leader.name}, after {seconds:.1f} s", candidate, seconds)

    @contextlib.contextmanager
    def stopped_at_once(self, leader: str) -> Iterator[None]:
        """Have the leader, where it is this host, stop PostgreSQL before Patroni does: it would look a second later."""
        marker = Path(self.parameters["handover_marker"])
        if leader == self.parameters["name"]:
            marker.touch()
        try:
            yield
        finally:
            marker.unlink(missing_ok=True)

    @contextlib.contextmanager
    def named_replicas(self, leader: str, candidate: str) -> Iterator[None]:
        """Have commits wait for replicas by name meanwhile, where they wait for a quorum of them otherwise.

        When a leader is gone, Patroni has all but the candidate wait two seconds before they follow the new one. By a
        quorum, nothing is committed until then. By names, Patroni has a new primary begin without any, and names its
        replicas once they follow. Until that nobody else may lead, so nothing that was acknowledged can be lost.

        Parameters:
            leader, candidate: who leads, and who is to.
        Errors:
            ClusterError where the candidate does not become one of those named.
        """
        _, config = self.rests[leader].ask("GET", "/config")
        if config.get("synchronous_mode") != "quorum" or config.get("synchronous_mode_strict"):
            yield
            return
        count = config.get("synchronous_node_count")

        def by_quorum() -> None:
            self.configure({"synchronous_mode": "quorum", "synchronous_node_count": count})

        its = self.parameters
        longest = (
            CONFIGURED_SECONDS + its["gather"] + 2 * its["drain"] + its["hold"] + its["settle"] + 3 * ANSWER_SECONDS
        )
        with guarded(by_quorum, longest):
            self.configure({"synchronous_mode": True, "synchronous_node_count": len(self.rests) - 1})

            def is_named() -> bool:
                # PostgreSQL first: Patroni calls a member so at once, from what was true of the quorum.
                if not self.waits_for(leader, candidate):
                    return False
                member = self.cluster().member(candidate)
                return member is not None and member.role == "sync_standby"

            if not self.within(time.monotonic() + CONFIGURED_SECONDS, is_named):
                raise ClusterError(
                    f"{candidate} did not become a synchronous replica within {CONFIGURED_SECONDS} s; look into "
                    f"Patroni's log on {leader}: journalctl -u patroni"
                )
            yield

    def waits_for(self, leader: str, replica: str) -> bool:
        """Return whether commits on the leader wait for a replica by its name."""
        replication = self.rests[leader].told().get("replication", [])
        return any(each.get("application_name") == replica and each.get("sync_state") == "sync" for each in replication)

    def configure(self, settings: dict[str, Any]) -> None:
        """Change the cluster's configuration through the first member that does it; ClusterError where none does."""
        said = ""
        for name in sorted(self.rests):
            try:
                status, answer = self.rests[name].ask("PATCH", "/config", settings)
            except OSError as error:
                said = f"{name}: {error}"
                continue
            if status == 200:
                return
            said = f"{name}: {status} {answer}"
        raise ClusterError(f"Patroni does not take the configuration {settings}; {said}; run site.yml to set it right")

    def restart(self, step: dict[str, str]) -> dict[str, Any]:
        """Restart PostgreSQL on a member, in its role."""
        name = step["member"]
        cluster = self.well_besides(name)
        member, leader = cluster.member(name), cluster.leader
        if member is None:
            raise ClusterError(f"{name} is no member of the cluster; start Patroni there: systemctl start patroni")
        before = self.started(name)
        if not member.pending and step.get("since") and before and before != step["since"]:
            return {"changed": False, "said": f"{name} has been restarted meanwhile", "leader": leader.name}
        if member.leads:
            self.write_out(name)
        request = Request(self.rests[name], "/restart", {}, self.parameters["settle"])

        def is_back() -> bool:
            if request.status >= 400:
                raise ClusterError(f"Patroni did not restart {name}: {request.text}")
            if self.started(name) in ("", before):
                return False
            return self.rests[name].is_primary() if member.leads else self.rests[name].status("/replica") == 200

        primary = name if member.leads else leader.name

        def act(deadline: float) -> str:
            request.start()
            return primary if self.within(deadline, is_back) else ""

        start = time.monotonic()
        stays = not member.leads
        seconds = self.hold(act, 2 * self.parameters["hold"], stays=stays, without=name if stays else "")
        if not is_back():
            self.wait(is_back, f"PostgreSQL runs again on {name}")
            seconds = time.monotonic() - start
        self.settle(primary, list(self.rests))
        return self.report(f"{name} was restarted, in {seconds:.1f} s", primary, seconds)

    def report(self, said: str, leader: str, seconds: float) -> dict[str, Any]:
        """Return what to report of a step that was made."""
        longest = max((held["seconds"] for held in self.held.values()), default=0.0)
        poolers = f"{len(self.held)} poolers held their clients, for {longest:.1f} s at most"
        notes = "".join(f"; {name}: {held['note']}" for name, held in sorted(self.held.items()) if held["note"])
        return {
            "changed": True,
            "said": f"{said}; {poolers}{notes}",
            "leader": leader,
            "seconds": round(seconds, 3),
            "held": self.held,
        }

    def hold(
        self,
        act: Callable[[float], str],
        longest: float,
        *,
        moved: bool = False,
        stays: bool = False,
        without: str = "",
    ) -> float:
        """Do something while the poolers hold their clients; return how long it took.

        Parameters:
            act: does it until a deadline, and returns who leads then, or nothing where it is not done by then.
            longest: seconds that it may take while clients are held.
            moved: whether another member leads afterwards.
            stays: whether the primary stays as it is. Nobody is held then once all use other replicas.
            without: the replica that is not to be used meanwhile.
        Errors:
            ClusterError where not all clients could be held; nothing was done then. And what `act` raises.
        """
        its = self.parameters
        with self.conductor() as conductor:
            missing = conductor.gather(its["gather"])
            if missing and not its["force"]:
                raise ClusterError(
                    f"the poolers of {', '.join(missing)} did not come, and their clients would see errors; "
                    "look into it, or say FORCE=1"
                )
            primary = ""
            try:
                longest = its["settle"] if stays else longest
                message = {
                    "do": "hold",
                    "ports": [its["replica_port"], *([] if stays else [its["primary_port"]])],
                    "reads": its["replica_port"],
                    "without": without,
                    "drain": its["drain"],
                    "force": its["force"],
                    "seconds": longest,
                }
                answers = conductor.tell(message, 2 * its["drain"] + ANSWER_SECONDS)
                if (late := late_poolers(answers)) and not its["force"]:
                    raise ClusterError(
                        f"not all transactions ended within {its['drain']:.0f} s ({late}); nothing was done. "
                        "Try it again when they have, or break them by FORCE=1"
                    )
                start = time.monotonic()
                primary = act(start + longest - 1)
                seconds = time.monotonic() - start
            finally:
                released = conductor.tell({"do": "release", "primary": primary, "moved": moved}, ANSWER_SECONDS)
                self.held = {
                    name: {"seconds": answer.get("seconds", 0.0), "note": answer.get("note") or answer.get("error", "")}
                    for name, answer in released.items()
                }
                self.held |= {name: {"seconds": 0.0, "note": note} for name, note in conductor.absent.items()}
        return seconds

    def write_out(self, leader: str) -> None:
        """Have the leader write its memory to disk before, where it is this host: so it stops sooner."""
        if leader != self.parameters["name"]:
            return
        try:
            client = connect(
                self.parameters["socket_directory"],
                self.parameters["postgresql_port"],
                timeout=self.parameters["settle"],
            )
            with Session(client, "postgres", "postgres") as session:
                session.query("CHECKPOINT")
        except (OSError, WireError) as error:
            raise ClusterError(f"PostgreSQL on {leader} does not write its memory to disk: {error}") from error

    def started(self, name: str) -> str:
        """Return since when PostgreSQL runs on a member; empty where nobody says."""
        return str(self.rests[name].told().get("postmaster_start_time", ""))

    def well_besides(self, name: str) -> Cluster:
        """Return the cluster once all of it is well but one member; raises ClusterError where it does not become so."""
        deadline = time.monotonic() + BEFORE_SECONDS
        while True:
            cluster = self.cluster()
            problems = list(cluster_problems(cluster, list(self.rests), besides=name))
            if not problems:
                return cluster
            if time.monotonic() >= deadline:
                raise ClusterError("; ".join(problems))
            time.sleep(SETTLE_POLL_SECONDS)

    def settle(self, leader: str, names: list[str]) -> None:
        """Wait until a member leads, and all of these are well; raises ClusterError where it does not come to that.

        What the cluster says of a replica is seconds old. So each is asked whether it has replayed what the leader had
        written by now: before that it would start by the settings that the leader had before it was restarted.
        """
        written = 0

        def is_well() -> bool:
            nonlocal written
            try:
                cluster = self.cluster()
            except ClusterError:
                return False
            leads = cluster.leader is not None and cluster.leader.name == leader
            if not leads or not all((member := cluster.member(name)) and member.well for name in names):
                return False
            written = written or self.position(leader, "location")
            replicas = [name for name in names if name != leader]
            return written > 0 and all(self.position(name, "replayed_location") >= written for name in replicas)

        self.wait(is_well, f"{leader} leads, and the others follow")

    def position(self, name: str, which: str) -> int:
        """Return a member's `location` or `replayed_location` in the log of changes, in bytes; 0 where it says none."""
        return int((self.rests[name].told().get("xlog") or {}).get(which) or 0)

    @staticmethod
    def within(deadline: float, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds, as quickly as can be; return whether it does before a deadline."""
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; raises ClusterError where it does not in time."""
        deadline = time.monotonic() + self.parameters["settle"]
        while not condition():
            if time.monotonic() >= deadline:
                problems = "; ".join(cluster_problems(self.cluster(), list(self.rests)))
                raise ClusterError(
                    f"after {self.parameters['settle']} s it is still not so that {what}: {problems or 'look again'}"
                )
            time.sleep(SETTLE_POLL_SECONDS)


def late_poolers(answers: dict[str, dict[str, Any]]) -> str:
    """Return who did not hold its clients, and why; empty where all do."""
    late = []
    for name, answer in sorted(answers.items()):
        if answer.get("error"):
            late.append(f"{name}: {answer['error']}")
        elif answer.get("busy"):
            late.append(f"{name}: {', '.join(answer['busy'])}")
    return "; ".join(late)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "dict", "required": True},
            "name": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "token": {"type": "str", "required": True, "no_log": True},
            "poolers": {"type": "list", "elements": "str", "required": True},
            "members": {"type": "list", "elements": "dict", "required": True},
            "rest_port": {"type": "int", "required": True},
            "rest_password": {"type": "str", "required": True, "no_log": True},
            "primary_port": {"type": "int", "required": True},
            "replica_port": {"type": "int", "required": True},
            "force": {"type": "bool", "default": False},
            "gather": {"type": "int", "default": 20},
            "drain": {"type": "float", "default": 3.0},
            "hold": {"type": "float", "default": 15.0},
            "settle": {"type": "int", "default": 300},
            "socket_directory": {"type": "path", "default": "/run/postgresql"},
            "handover_marker": {"type": "path", "default": "/run/terrace-handover"},
            "postgresql_port": {"type": "int", "default": 5432},
            "ca_file": {"type": "path", "default": "/etc/terrace/pki/ca.crt"},
            "certificate_file": {"type": "path", "default": "/etc/terrace/pki/host.crt"},
            "key_file": {"type": "path", "default": "/etc/terrace/pki/host.key", "no_log": False},
        },
        supports_check_mode=True,
    )
    step = module.params["step"]
    if module.check_mode:
        module.exit_json(changed=step["action"] != "end", said=f"would {step.get('text', 'end')}")
    operation = Operation(module.params)
    try:
        result = operation.run(step)
    except (ClusterError, OSError) as error:
        module.fail_json(msg=str(error), held=operation.held)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
