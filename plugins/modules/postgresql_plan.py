#!/usr/bin/python
"""Find out what an operation on the PostgreSQL cluster has to do, and whether it may begin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_plan
short_description: Plan a switchover or a restart of a PostgreSQL cluster, changing nothing
description:
  - Asks Patroni, of this host or of another one, and etcd. Runs on a database host.
options:
  name:
    description: The host's name, which is asked first.
    type: str
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
  etcd_members:
    description: All hosts with etcd, each with C(name) and C(address).
    type: list
    elements: dict
    required: true
  etcd_port:
    description: etcd's port for clients.
    type: int
    required: true
  want:
    description:
      - C(switchover) hands over to O(to), or to the best replica. C(restart) restarts all members, C(pending) those
        that wait for it because of a parameter, and C(settings) these where another one goes on meanwhile.
    type: str
    choices: [switchover, restart, pending, settings]
    required: true
  to:
    description: The member that is to lead.
    type: str
    default: ''
  limited:
    description: Whether the run leaves hosts out, so that not all poolers could be held.
    type: bool
    default: false
  ca_file:
    description: The environment's authority.
    type: path
    default: /etc/terrace/pki/ca.crt
  certificate_file:
    description: The host's certificate, by which etcd knows it.
    type: path
    default: /etc/terrace/pki/host.crt
  key_file:
    description: The key of the certificate.
    type: path
    default: /etc/terrace/pki/host.key
author: Terrace
"""

EXAMPLES = r"""
- name: Ask the cluster what there is to do
  postgresql_plan:
    name: db1
    members: [{name: db1, address: 10.77.0.41}, {name: db2, address: 10.77.0.42}]
    rest_port: 8008
    etcd_members: [{name: db1, address: 10.77.0.41}]
    etcd_port: 2379
    want: switchover
    to: db2
"""

RETURN = r"""
id:
  description: Like that of no other operation.
  type: str
  returned: success
leader:
  description: The member that leads.
  type: str
  returned: success
steps:
  description:
    - What there is to do, in order, each with C(action), C(member), C(candidate), C(since) and C(text).
    - Empty where nothing has to be done.
  type: list
  returned: success
problems:
  description: Why it may not be done, a line each with the mend.
  type: list
  returned: success
pending:
  description: The parameters that wait for a restart, by member.
  type: dict
  returned: success
"""

import uuid
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.patroni_cluster import (
    Cluster,
    Rest,
    ask_cluster,
    cluster_problems,
    restart_steps,
    switchover,
)
from ansible.module_utils.rendezvous import client_context


def plan(cluster: Cluster, want: str, to: str, names: list[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the steps of an operation, and what stands in its way.

    Parameters:
        cluster: as it is now.
        want, to: as of the module.
        names: the members that it should have.
    """
    leader = cluster.leader
    if want in ("pending", "settings") and not any(member.pending for member in cluster.members):
        return [], []
    if want == "settings" and len(names) == 1:
        return [], []
    if want == "switchover":
        if len(names) == 1:
            return [], [
                "there is one database host, and so none to hand over to; `make restart TIER=database` restarts it"
            ]
        if to and to not in names:
            return [], [f"there is no database host {to}; choose one of {', '.join(names)}"]
        if to and leader and leader.name == to:
            return [], []
        # What concerns neither of the two does not stand in the way: one of three may be down.
        concerned = Cluster(tuple(each for each in cluster.members if each.leads), cluster.paused, cluster.synchronous)
        problems = list(cluster_problems(concerned, []))
        if leader and to and (hindrance := cluster.hindrance(to)):
            problems.append(hindrance)
        elif leader and not cluster.best():
            problems += [cluster.hindrance(member.name) for member in cluster.replicas] or ["there is no replica yet"]
        return ([switchover(leader.name, to)] if leader else []), problems
    problems = list(cluster_problems(cluster, names))
    return (restart_steps(cluster, want != "restart") if leader else []), problems


def etcd_problems(module: AnsibleModule) -> list[str]:
    """Return what is wrong with etcd: without most of its members Patroni cannot say who leads."""
    parameters = module.params
    context = client_context(parameters["ca_file"])
    context.load_cert_chain(parameters["certificate_file"], parameters["key_file"])
    members = parameters["etcd_members"]
    down = [m["name"] for m in members if Rest(m["address"], parameters["etcd_port"], context).status("/health") != 200]
    if 2 * (len(members) - len(down)) > len(members):
        return []
    return [f"etcd has no quorum without {', '.join(down)}; start it there: systemctl start etcd"]


def find(module: AnsibleModule, rests: dict[str, Rest]) -> Cluster:
    """Return the cluster as the first member that answers tells it."""
    own = module.params["name"]
    silent = []
    for name in sorted(rests, key=lambda name: name != own):
        try:
            return ask_cluster(rests[name])
        except OSError as error:
            silent.append(f"{name}: {error}")
    module.fail_json(
        msg=f"Patroni answers on no database host; start it: systemctl start patroni ({'; '.join(silent)})"
    )
    raise AssertionError


def started(rest: Rest) -> str:
    """Return since when PostgreSQL runs on a member, as its Patroni says; empty where that does not answer."""
    try:
        _, answer = rest.ask("GET", "/patroni")
    except OSError:
        return ""
    return str(answer.get("postmaster_start_time", "")) if isinstance(answer, dict) else ""


def main() -> None:
    """Run the module."""
    hosts: dict[str, Any] = {"type": "list", "elements": "dict", "required": True}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "members": hosts,
            "rest_port": {"type": "int", "required": True},
            "etcd_members": hosts,
            "etcd_port": {"type": "int", "required": True},
            "want": {"type": "str", "choices": ["switchover", "restart", "pending", "settings"], "required": True},
            "to": {"type": "str", "default": ""},
            "limited": {"type": "bool", "default": False},
            "ca_file": {"type": "path", "default": "/etc/terrace/pki/ca.crt"},
            "certificate_file": {"type": "path", "default": "/etc/terrace/pki/host.crt"},
            "key_file": {"type": "path", "default": "/etc/terrace/pki/host.key", "no_log": False},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    context = client_context(parameters["ca_file"])
    rests = {m["name"]: Rest(m["address"], parameters["rest_port"], context) for m in parameters["members"]}
    cluster = find(module, rests)
    steps, problems = plan(cluster, parameters["want"], parameters["to"], [m["name"] for m in parameters["members"]])
    if steps or problems:
        problems += etcd_problems(module)
    if steps and parameters["limited"]:
        problems.append("the run leaves hosts out, whose poolers could not wait; run it without --limit")
    for step in steps:
        step["since"] = started(rests[step["member"]]) if step["member"] in rests else ""
    module.exit_json(
        changed=False,
        id=uuid.uuid4().hex,
        leader=cluster.leader.name if cluster.leader else "",
        steps=steps,
        problems=problems,
        pending={m.name: sorted(m.reasons) or ["a parameter"] for m in cluster.members if m.pending},
    )


if __name__ == "__main__":
    main()
