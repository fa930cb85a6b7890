#!/usr/bin/python
"""Say how a member of etcd first joins its cluster, and have it join one that runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member
short_description: Have a host without data found a cluster of etcd with others, or join the one that they run
description:
  - A host without data joins the cluster that other members run as a learner, is started, and gets its vote once it
    holds what they hold. So it never stands in the way of a majority.
  - Where no member has data, the file says that all of them found the cluster together; starting them is not done here.
  - A member that was there before under the same address, and has lost its data, is replaced.
  - A learner whose run was cut off gets its vote.
  - One host at a time, since a cluster takes one learner at a time.
options:
  name:
    description: The member's name.
    type: str
    required: true
  members:
    description: The name and the address of every member, this one among them.
    type: list
    elements: dict
    required: true
  client_port:
    description: The members' port for clients.
    type: int
    required: true
  peer_port:
    description: The members' port for each other.
    type: int
    required: true
  cluster_name:
    description: The cluster's name, which keeps it apart from others.
    type: str
    required: true
  data_directory:
    description: Where the member's data is.
    type: path
    required: true
  bootstrap_file:
    description: The file of variables that says how the member first joins. Only a host without data gets it.
    type: path
    required: true
  founded:
    description: Whether another member has data, so that there is a cluster already.
    type: bool
    required: true
  ca_file:
    description: The authority of all certificates of the cluster.
    type: path
    required: true
  certificate_file:
    description: The certificate that this host shows.
    type: path
    required: true
  key_file:
    description: Its key.
    type: path
    required: true
  timeout:
    description: Seconds that a learner has to take over what the others hold.
    type: int
    default: 120
author: Terrace
"""

EXAMPLES = r"""
- name: Say how the member joins
  etcd_member:
    name: db2
    members: [{name: db1, address: 10.0.0.41}, {name: db2, address: 10.0.0.42}]
    client_port: 2379
    peer_port: 2380
    cluster_name: terrace
    data_directory: /var/lib/etcd/terrace
    bootstrap_file: /etc/default/etcd-bootstrap
    founded: true
    ca_file: /etc/terrace/pki/ca.crt
    certificate_file: /etc/terrace/pki/host.crt
    key_file: /etc/terrace/pki/host.key
"""

RETURN = r"""
actions:
  description: What was done, in order, out of C(remove), C(add), C(found), C(start) and C(promote).
  type: list
  returned: always
"""

import json
import os
import socket
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.systemd_unit import UnitError, systemctl

# Seconds that one question to the cluster may take, and a connection to a member.
PATIENCE = 10
CONNECT = 3
# etcd changes its members only while all that have a vote have been connected for 5 s (its HealthInterval), which one
# that has just got its vote has not. So long it may take to say so.
UNHEALTHY = 30


class SilentError(Exception):
    """No member answered; the message is what etcdctl said of the last one."""


def steps(members: list[dict], name: str, url: str) -> list[str]:
    """Return what a host without data has to do before it can start: out of `remove` and `add`.

    Parameters:
        members: those of the running cluster, as `etcdctl member list` tells them.
        name: this host's name.
        url: its address for the other members.
    """
    mine = [member for member in members if url in member["peerURLs"] or member.get("name") == name]
    # A member has no name until it was started once: then it was added, and may start as it is.
    if mine and not mine[0].get("name"):
        return []
    return ["remove", "add"] if mine else ["add"]


def bootstrap(cluster_name: str, state: str, url: str, members: dict[str, str]) -> str:
    """Return the variables by which a member first joins.

    Parameters:
        cluster_name: the cluster's name.
        state: `new` for a cluster that its members found together, `existing` for one that runs.
        url: the member's own address for the others.
        members: the address of each member, by name.
    """
    return (
        "# From Terrace. How this member joined at its first start; etcd does not read it once it has data.\n\n"
        f'ETCD_INITIAL_CLUSTER_TOKEN="{cluster_name}"\n'
        f'ETCD_INITIAL_CLUSTER_STATE="{state}"\n'
        f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{url}"\n'
        f'ETCD_INITIAL_CLUSTER="{",".join(f"{name}={its}" for name, its in members.items())}"\n'
    )


class Cluster:
    """The cluster as its members tell it.

    Parameters:
        module: the AnsibleModule, whose parameters say where they are.
    """

    def __init__(self, module) -> None:
        self.module = module
        self.parameters = module.params
        self.others = [m["address"] for m in self.parameters["members"] if m["name"] != self.parameters["name"]]
        self.urls = {m["name"]: self._url(m["address"], "peer_port") for m in self.parameters["members"]}
        self.own = self.urls[self.parameters["name"]]

    def _url(self, address: str, port: str) -> str:
        host = f"[{address}]" if ":" in address else address
        return f"https://{host}:{self.parameters[port]}"

    def ask(self, *words: str) -> dict:
        """Return what the first other member that answers says to an etcdctl command; SilentError where none does."""
        said, refused = "there is no other member", ""
        for address in self.others:
            endpoint = self._url(address, "client_port")
            # Where nobody listens, as on all hosts of a cluster to be, etcdctl would try again until its time is over.
            try:
                socket.create_connection((address, self.parameters["client_port"]), CONNECT).close()
            except OSError as error:
                said = f"{endpoint}: {error.strerror or error}"
                continue
            code, out, err = self.module.run_command(
                [
                    *("etcdctl", "--write-out=json", f"--endpoints={endpoint}", f"--dial-timeout={CONNECT}s"),
                    *(f"--command-timeout={PATIENCE}s", f"--cacert={self.parameters['ca_file']}"),
                    *(f"--cert={self.parameters['certificate_file']}", f"--key={self.parameters['key_file']}", *words),
                ],
                environ_update={"ETCDCTL_API": "3"},
            )
            if code == 0:
                return json.loads(out)
            said = (err.strip() or out.strip()).splitlines()[-1]
            # What the cluster says counts for more than that another member is away.
            refused = said if "etcdserver:" in said else refused
        raise SilentError(refused or said)

    def change(self, *words: str) -> None:
        """Change the members, as soon as the cluster allows it; SilentError where it does not."""
        end = time.monotonic() + UNHEALTHY
        while True:
            try:
                self.ask("member", *words)
                return
            except SilentError as error:
                if "unhealthy cluster" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(1)

    def members(self) -> list[dict]:
        """Return the members as the cluster knows them; SilentError where nobody answers."""
        return self.ask("member", "list")["members"]

    def mine(self) -> dict:
        """Return what the cluster knows of this member, or nothing; SilentError where nobody answers."""
        return next((member for member in self.members() if self.own in member["peerURLs"]), {})

    def promote(self, timeout: int) -> None:
        """Give this learner its vote, as soon as it holds enough; SilentError after the timeout in seconds."""
        end = time.monotonic() + timeout
        while (mine := self.mine()).get("isLearner"):
            try:
                self.ask("member", "promote", f"{mine['ID']:x}")
            except SilentError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)


def write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = Path(f"{path}.new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    fresh.replace(path)


def join(module, cluster: Cluster, members: list[dict]) -> list[str]:
    """Join a running cluster with a host that has no data; return what that took, or would take.

    Parameters:
        module: the AnsibleModule.
        cluster: the cluster.
        members: its members before.
    """
    parameters = module.params
    actions = [*steps(members, parameters["name"], cluster.own), "start", "promote"]
    if module.check_mode:
        return actions
    if "remove" in actions:
        gone = [m for m in members if cluster.own in m["peerURLs"] or m.get("name") == parameters["name"]]
        for member in gone:
            cluster.change("remove", f"{member['ID']:x}")
    if "add" in actions:
        cluster.change("add", parameters["name"], f"--peer-urls={cluster.own}", "--learner")
    known = {member.get("name") or parameters["name"]: member["peerURLs"][0] for member in cluster.members()}
    write(parameters["bootstrap_file"], bootstrap(parameters["cluster_name"], "existing", cluster.own, known))
    systemctl(module, "daemon-reload")
    systemctl(module, "reset-failed", "etcd", check=False)
    systemctl(module, "start", "etcd")
    cluster.promote(parameters["timeout"])
    return actions


def found(module, cluster: Cluster) -> list[str]:
    """Say that all members found the cluster together; return what that took, or would take."""
    parameters = module.params
    text = bootstrap(parameters["cluster_name"], "new", cluster.own, cluster.urls)
    path = Path(parameters["bootstrap_file"])
    if path.exists() and path.read_text() == text:
        return []
    if not module.check_mode:
        write(str(path), text)
    return ["found"]


def main() -> None:
    text, path = {"type": "str", "required": True}, {"type": "path", "required": True}
    port = {"type": "int", "required": True}
    module = AnsibleModule(
        argument_spec={
            "name": text,
            "members": {"type": "list", "elements": "dict", "required": True},
            "client_port": port,
            "peer_port": port,
            "cluster_name": text,
            "data_directory": path,
            "bootstrap_file": path,
            "founded": {"type": "bool", "required": True},
            "ca_file": path,
            "certificate_file": path,
            "key_file": path,
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    cluster = Cluster(module)
    empty = not os.path.exists(f"{module.params['data_directory']}/member")
    began = Path(module.params["bootstrap_file"])
    actions = []
    try:
        try:
            members = cluster.members()
        except SilentError as error:
            # A founder that was never started is what the others may be waiting for.
            unfinished = began.exists() and 'STATE="new"' in began.read_text()
            if empty and module.params["founded"] and not unfinished:
                module.fail_json(
                    msg=f"Another member of etcd has data, but none answers ({error}). Bring those up that were there "
                    "before, and run again: a new cluster beside the old one would forget who the primary is."
                )
            actions = found(module, cluster) if empty and not unfinished else []
        else:
            if empty:
                actions = join(module, cluster, members)
            elif any(cluster.own in member["peerURLs"] and member.get("isLearner") for member in members):
                actions = ["promote"]
                if not module.check_mode:
                    cluster.promote(module.params["timeout"])
    except SilentError as error:
        module.fail_json(msg=f"etcd does not take {module.params['name']} as a member: {error}")
    except (UnitError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(actions), actions=actions)


if __name__ == "__main__":
    main()
