#!/usr/bin/python
"""Wait until all members of etcd are well, say who leads, and have another one lead."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_well
short_description: Wait until all members of etcd are well, and have another one lead where that is wanted
description:
  - Runs on a host whose certificate etcd accepts. With all members well, one of three may be restarted.
options:
  members:
    description: All members, each with C(name) and C(address).
    type: list
    elements: dict
    required: true
  port:
    description: Their port for clients.
    type: int
    required: true
  seconds:
    description: How long that may take.
    type: int
    default: 60
  leave:
    description: The member that is not to lead, as long as there is another one.
    type: str
    default: ''
  ca_file:
    description: The environment's authority.
    type: path
    default: /etc/terrace/pki/ca.crt
  certificate_file:
    description: The host's certificate.
    type: path
    default: /etc/terrace/pki/host.crt
  key_file:
    description: The key of the certificate.
    type: path
    default: /etc/terrace/pki/host.key
author: Terrace
"""

EXAMPLES = r"""
- name: Wait until etcd is well
  etcd_well:
    members: [{name: db1, address: 10.77.0.41}]
    port: 2379
"""

RETURN = r"""
leader:
  description: The member that leads.
  type: str
  returned: success
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.patroni_cluster import Rest
from ansible.module_utils.rendezvous import client_context

POLL_SECONDS = 0.5


def leading(answers: dict[str, Any]) -> tuple[str, list[str]]:
    """Return who leads, and which members do not say that it does.

    Parameters:
        answers: what each member says of its own status; None of one that does not answer.
    """
    leaders = {answer["leader"] for answer in answers.values() if answer}
    leader = leaders.pop() if len(leaders) == 1 else ""
    name = next((n for n, answer in answers.items() if answer and answer["header"]["member_id"] == leader), "")
    return name, sorted(n for n, answer in answers.items() if not answer or not name)


class Members:
    """All members of etcd.

    Parameters:
        parameters: the module's.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        context = client_context(parameters["ca_file"])
        context.load_cert_chain(parameters["certificate_file"], parameters["key_file"])
        self.rests = {m["name"]: Rest(m["address"], parameters["port"], context) for m in parameters["members"]}

    def ask(self, name: str) -> dict[str, Any] | None:
        """Return a member's status, or nothing where it is not well."""
        rest = self.rests[name]
        if rest.status("/health") != 200:
            return None
        try:
            status, answer = rest.ask("POST", "/v3/maintenance/status", {})
        except OSError:
            return None
        return answer if status == 200 and isinstance(answer, dict) and answer.get("leader") else None

    def wait(self, seconds: float) -> tuple[str, dict[str, Any]]:
        """Return who leads and what all members say, once all are well; without a leader where they do not get so."""
        deadline = time.monotonic() + seconds
        while True:
            answers = {name: self.ask(name) for name in self.rests}
            leader, unwell = leading(answers)
            if not unwell or time.monotonic() >= deadline:
                return ("" if unwell else leader), answers
            time.sleep(POLL_SECONDS)

    def move(self, leader: str, answers: dict[str, Any]) -> str:
        """Have another member lead, and return what the leader says against it."""
        target = next(name for name in sorted(self.rests) if name != leader)
        body = {"targetID": answers[target]["header"]["member_id"]}
        status, answer = self.rests[leader].ask("POST", "/v3/maintenance/transfer-leadership", body, timeout=10)
        return "" if status == 200 else str(answer)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "members": {"type": "list", "elements": "dict", "required": True},
            "port": {"type": "int", "required": True},
            "seconds": {"type": "int", "default": 60},
            "leave": {"type": "str", "default": ""},
            "ca_file": {"type": "path", "default": "/etc/terrace/pki/ca.crt"},
            "certificate_file": {"type": "path", "default": "/etc/terrace/pki/host.crt"},
            "key_file": {"type": "path", "default": "/etc/terrace/pki/host.key", "no_log": False},
        },
        supports_check_mode=True,
    )
    its = module.params
    try:
        members = Members(its)
        leader, answers = members.wait(its["seconds"])
        if not leader:
            silent = ", ".join(name for name, answer in answers.items() if not answer) or "its members disagree"
            module.fail_json(msg=f"etcd is not well: {silent}; look into its log: journalctl -u etcd")
        moves = leader == its["leave"] and len(answers) > 1
        if moves and not module.check_mode:
            if refused := members.move(leader, answers):
                module.fail_json(msg=f"etcd's leader {leader} does not hand over: {refused}")
            leader, _ = members.wait(its["seconds"])
    except OSError as error:
        module.fail_json(msg=f"etcd cannot be asked: {error}")
    module.exit_json(changed=moves, leader=leader)


if __name__ == "__main__":
    main()
