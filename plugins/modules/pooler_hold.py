#!/usr/bin/python
"""Have an app node's pooler hold and release its clients as the conductor of an operation says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pooler_hold
short_description: Hold and release an app node's pooler, as the conductor of an operation on the database says
description:
  - To be run with C(async), on all app nodes at once, before M(postgresql_step) runs on a database host.
  - Looks for the conductor on each database host, and does as it says. While the pooler is held, a process of its own
    sees to it that it is released, whatever becomes of this one.
  - Ends when the conductor says so, or when none was heard of for O(patience) seconds.
options:
  name:
    description: The node's name.
    type: str
    required: true
  members:
    description: The hosts on one of which the conductor listens, each with C(name) and C(address).
    type: list
    elements: dict
    required: true
  port:
    description: The conductor's port.
    type: int
    required: true
  token:
    description: The secret of this operation.
    type: str
    required: true
  ca_file:
    description: The authority of the conductor's certificate.
    type: path
    default: /etc/terrace/pki/ca.crt
  patience:
    description: Seconds without a conductor after which it ends.
    type: int
    default: 600
  socket_directory:
    description: Where the pooler's unix socket is.
    type: path
    default: /run/postgresql
  socket_port:
    description: The pooler's port, which names the socket.
    type: int
    default: 6432
  proxy_socket:
    description: The admin socket of the node proxy.
    type: path
    default: /run/haproxy-node/admin.sock
author: Terrace
"""

EXAMPLES = r"""
- name: Have the pooler wait for its orders
  pooler_hold:
    name: app1
    members: [{name: db1, address: 10.77.0.41}]
    port: 8009
    token: "{{ one_time_token }}"
  async: 1800
  poll: 0
"""

RETURN = r"""
holds:
  description: Each time that the pooler was held, with C(seconds), and C(note) where something was not as it should be.
  type: list
  returned: success
note:
  description: Why it ended.
  type: str
  returned: success
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.guard import guarded
from ansible.module_utils.haproxy_stat import (
    follow_primary,
    leave_out_replica,
    replicas_up,
    servers_up,
    take_in_replicas,
)
from ansible.module_utils.pooler import Pooler
from ansible.module_utils.postgresql_wire import WireError
from ansible.module_utils.rendezvous import Peer, client_context, join

POLL_SECONDS = 0.05
SEARCH_SECONDS = 0.2
# For the node proxy to lead to the new primary, which its own checks find in this time where it cannot be told.
FOLLOW_SECONDS = 5.0
# What the guard allows beyond all that the block may take.
MARGIN_SECONDS = 2.0


def follows(up: dict[str, set[str]], primary: str, moved: bool) -> bool:
    """Return whether a node proxy leads to a primary, and to nothing else.

    One that was a replica until now must no longer count as one: its connections would be cut when the proxy notices.

    Parameters:
        up: what `servers_up` returned.
        primary: the primary's name.
        moved: whether it became the primary just now.
    """
    return up.get("postgresql.primary") == {primary} and not (moved and primary in up.get("postgresql.replica", ()))


class Node:
    """This node, while an operation lasts.

    Parameters:
        parameters: the module's.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        self.pooler = Pooler(parameters["socket_directory"], parameters["socket_port"])
        self.context = client_context(parameters["ca_file"])
        self.holds: list[dict[str, Any]] = []
        self.unreleased = ""

    def search(self) -> Peer | None:
        """Return the conductor, if it listens anywhere now."""
        for member in self.parameters["members"]:
            try:
                return join(member["address"], self.parameters["port"], self.context, self.greeting)
            except OSError:
                continue
        return None

    def greeting(self) -> dict[str, Any]:
        """Return who this is, and whether its pooler can be held: one that does not run has no clients to hold."""
        who = {"token": self.parameters["token"], "name": self.parameters["name"]}
        try:
            self.pooler.databases()
        except (OSError, WireError) as error:
            return who | {"ready": False, "note": f"its pooler does not answer: {error}"}
        return who | {"ready": True}

    def attend(self) -> str:
        """Look for the conductor again and again, and do as it says; return why that ended."""
        heard = time.monotonic()
        while time.monotonic() - heard < self.parameters["patience"]:
            conductor = self.search()
            if conductor is None:
                time.sleep(SEARCH_SECONDS)
                continue
            try:
                message = conductor.receive(self.parameters["patience"])
                if message["do"] == "end":
                    return "the operation has ended"
                self.hold(conductor, message)
            except (OSError, ValueError, KeyError):
                # The conductor is gone, which ends a hold too; the next step has another one.
                time.sleep(SEARCH_SECONDS)
            finally:
                conductor.close()
            heard = time.monotonic()
        return f"nothing was heard of the operation for {self.parameters['patience']} s"

    def hold(self, conductor: Peer, message: dict[str, Any]) -> None:
        """Hold the pooler until the conductor has it released, or is gone, or too slow.

        Parameters:
            conductor: who said so.
            message: what `set_aside` takes, and `seconds`, for what follows.
        """
        drain, seconds = float(message["drain"]), float(message["seconds"])
        start = time.monotonic()
        self.holds.append({"seconds": 0.0, "note": ""})

        def held() -> float:
            return round(time.monotonic() - start, 3)

        try:
            with guarded(self.release, 2 * drain + seconds + FOLLOW_SECONDS + MARGIN_SECONDS):
                busy = self.set_aside(message)
                if not any(database.held for database in self.pooler.databases()):
                    self.holds[-1]["seconds"] = held()
                conductor.send({"busy": busy})
                order = conductor.receive(seconds)
                if order.get("primary") and not self.follow(order["primary"], bool(order.get("moved"))):
                    self.holds[-1]["note"] = f"the node proxy did not find {order['primary']} in time"
        except WireError as error:
            self.holds[-1]["note"] = self.unreleased = str(error)
        except OSError as error:
            self.holds[-1]["note"] = f"the conductor was lost: {error}"
            raise
        finally:
            self.holds[-1]["seconds"] = self.holds[-1]["seconds"] or held()
        conductor.send(self.holds[-1])

    def set_aside(self, message: dict[str, Any]) -> list[str]:
        """Hold the clients of all that is about to move, and return the databases of which a transaction still runs.

        Clients of replicas are held only until none uses the one that is concerned, and go on with others then.

        Parameters:
            message: `ports`, the local ports of which clients are to be held, with `reads`, that of replicas, always
                among them; `without`, the replica that is not to be used then, or nothing; `drain`, the seconds for
                running transactions of each, and whether others are broken (`force`).
        """
        proxy, reads, drain = self.parameters["proxy_socket"], message["reads"], float(message["drain"])
        busy = self.pooler.hold([reads], drain)
        if busy and not message["force"]:
            return busy
        if message["without"]:
            leave_out_replica(proxy, message["without"])
        moving = [port for port in message["ports"] if port != reads]
        # Without a replica that is left, they lead to the primary.
        if not moving or replicas_up(proxy):
            self.pooler.release([reads])
        return busy + self.pooler.hold(moving, drain)

    def release(self) -> None:
        """Undo all that a hold did."""
        self.pooler.release()
        take_in_replicas(self.parameters["proxy_socket"])

    def follow(self, primary: str, moved: bool) -> bool:
        """Have the node proxy lead to a primary, and return whether it came to that."""
        deadline = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < deadline:
            try:
                follow_primary(self.parameters["proxy_socket"], primary)
                if follows(servers_up(self.parameters["proxy_socket"]), primary, moved):
                    return True
            except OSError:
                # It may be about to be replaced by a reload.
                pass
            time.sleep(POLL_SECONDS)
        return False


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "members": {"type": "list", "elements": "dict", "required": True},
            "port": {"type": "int", "required": True},
            "token": {"type": "str", "required": True, "no_log": True},
            "ca_file": {"type": "path", "default": "/etc/terrace/pki/ca.crt"},
            "patience": {"type": "int", "default": 600},
            "socket_directory": {"type": "path", "default": "/run/postgresql"},
            "socket_port": {"type": "int", "default": 6432},
            "proxy_socket": {"type": "path", "default": "/run/haproxy-node/admin.sock"},
        },
    )
    try:
        node = Node(module.params)
        note = node.attend()
    except OSError as error:
        module.fail_json(msg=f"pooler of {module.params['name']}: {error}")
    if node.unreleased:
        module.fail_json(
            msg=f"pooler of {module.params['name']}: {node.unreleased}; "
            "release it: sudo -u postgres psql -h /run/postgresql -p 6432 -U pgbouncer pgbouncer -c 'RESUME NAME'",
            holds=node.holds,
        )
    module.exit_json(changed=bool(node.holds), holds=node.holds, note=note)


if __name__ == "__main__":
    main()
