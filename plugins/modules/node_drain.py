#!/usr/bin/python
"""Take an app node out, for one service or for all, and back in; its peers answer meanwhile."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_drain
short_description: Drain an app node of one service or of all, at the node proxy, and put it back
description:
  - While a node is drained, its health port says so to balancers and peers, and the node proxy passes what still
    arrives on to a peer. Requests that run end in their slot.
  - It is kept in a file that the proxy reads when it starts, so it survives a reload, a restart and a reboot.
options:
  services:
    description: The services that live on the node.
    type: list
    elements: str
    required: true
  service:
    description: The one that is meant; empty for all.
    type: str
    default: ''
  state:
    description: C(drained), or C(serving) again.
    type: str
    choices: [drained, serving]
    required: true
  wait:
    description: >-
      Seconds. For running requests to end, where the node is drained; for slots to be ready, where it is to serve
      again.
    type: int
    default: 30
  force:
    description: Whether the node is drained although no peer is ready, and put back although no slot is.
    type: bool
    default: false
  file:
    description: What the node is drained of, as the node proxy reads it.
    type: path
    default: /etc/haproxy/node.drained.map
  proxy_socket:
    description: The admin socket of the node proxy.
    type: path
    default: /run/haproxy-node/admin.sock
author: Terrace
"""

EXAMPLES = r"""
- name: Let the peers answer
  node_drain:
    services: [orders, users]
    state: drained

- name: Serve orders again
  node_drain:
    services: [orders, users]
    service: orders
    state: serving
"""

RETURN = r"""
drained:
  description: What the node is drained of afterwards; C(*) is every service.
  type: list
  returned: success
left:
  description: How many requests still ran in its slots when the time was up.
  type: int
  returned: success
"""

import platform
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.haproxy_stat import ask, parse_rows
from ansible.module_utils.releases import SLOTS, utc_now, write_atomically

ALL = "*"
POLL_SECONDS = 0.2
# Balancers and peers ask once a second, at once again where that fails, and believe the second time.
NOTICED_SECONDS = 3.0
# The backends of a service whose servers are its slots, by what follows its name.
LEADING = ("", ".write", ".local", ".any")


class DrainError(Exception):
    """The node cannot be drained, or put back; the text is one line, with its mend."""


def parse(text: str) -> dict[str, str]:
    """Return what a file of the node proxy says: since when the node is drained, by service."""
    rows = (line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in rows}


def wanted(found: dict[str, str], keys: list[str], drained: bool, now: str) -> dict[str, str]:
    """Return what the file is to say.

    Parameters:
        found: what it says.
        keys: what is meant; everything where `*` is among it.
        drained: whether the node is to be drained of that.
        now: the time, for what it was not drained of before.
    Errors:
        DrainError where one service is to be served of a node that is drained of all.
    """
    if drained:
        return found | {key: found.get(key, now) for key in keys}
    if ALL in keys:
        return {}
    if ALL in found:
        raise DrainError("it is drained of all services; put all of them back, by naming none")
    return {key: since for key, since in found.items() if key not in keys}


class Node:
    """This node, as its proxy knows it.

    Parameters:
        socket: the proxy's admin socket.
        file: what the node is drained of.
    """

    def __init__(self, socket: str, file: str) -> None:
        self._socket = socket
        self._file = Path(file)

    def ask(self, command: str) -> str:
        """Send the proxy a command and return the answer; raises DrainError where it cannot be reached."""
        try:
            return ask(self._socket, command)
        except OSError as error:
            raise DrainError(
                f"the node proxy does not answer on {self._socket} ({error.strerror or error}): "
                "see `systemctl status haproxy@node`"
            ) from error

    def rows(self) -> list[dict[str, str]]:
        """Return the proxy's statistics of all servers."""
        return parse_rows(self.ask("show stat -1 4 -1"), ",")

    def ready(self, backend: str) -> bool:
        """Return whether a backend has a server that takes requests."""
        return any(row["pxname"] == backend and row["status"].startswith("UP") for row in self.rows())

    def running(self, services: list[str]) -> int:
        """Return how many requests run in the slots of services."""
        backends = [name + end for name in services for end in LEADING]
        return sum(int(row["scur"] or 0) for row in self.rows() if row["pxname"] in backends and row["svname"] in SLOTS)

    def drained(self) -> dict[str, str]:
        """Return what the node is drained of, and since when."""
        try:
            return parse(self._file.read_text())
        except FileNotFoundError as error:
            raise DrainError(f"{self._file} is missing: let site.yml set the node proxy up") from error

    def known(self) -> dict[str, str]:
        """Return what the running proxy holds the node to be drained of."""
        shown = self.ask(f"show map {self._file}")
        # Each line begins with the entry's own address.
        return parse("\n".join(line.partition(" ")[2] for line in shown.splitlines()))

    def write(self, entries: dict[str, str]) -> None:
        """Say what the node is drained of, first to whatever starts next, then to the proxy that runs."""
        text = "".join(f"{key} {since}\n" for key, since in sorted(entries.items()))
        stat = self._file.stat()
        if self._file.read_text() != text:
            write_atomically(self._file, text, mode=0o640, group=stat.st_gid)
        known = self.known()
        commands = [f"del map {self._file} {key}" for key in known if key not in entries]
        commands += [f"add map {self._file} {key} {since}" for key, since in entries.items() if key not in known]
        for command in commands:
            if answer := self.ask(command).strip():
                raise DrainError(f"the node proxy refused `{command}`: {answer}")


def hindered(node: Node, services: list[str], wait: float, drain: bool, changes: bool) -> None:
    """Refuse what would leave requests with nobody to answer them.

    Parameters:
        node, services: the node, and the services that are meant.
        wait: seconds for slots to be ready.
        drain: whether the node is to be drained, or put back.
        changes: whether it is not already.
    Errors:
        DrainError where peers, or the node's own slots, are not ready.
    """
    if drain and (alone := [name for name in services if not node.ready(f"{name}.peers")]):
        raise DrainError(
            f"no peer is ready for {', '.join(alone)}: who would answer? See `make status`, or say FORCE=1"
        )
    if drain or not changes:
        return

    deadline = time.monotonic() + wait
    while late := [name for name in services if not node.ready(f"{name}.local")]:
        if time.monotonic() >= deadline:
            raise DrainError(
                f"{', '.join(late)} did not become ready here within {wait} s, so it stays drained; "
                f"see `make logs SERVICE={late[0]}`, or say FORCE=1"
            )
        time.sleep(POLL_SECONDS)


def change(node: Node, parameters: dict, check_mode: bool) -> dict[str, object]:
    """Drain the node, or put it back, and return what to report; raises DrainError where it cannot be."""
    drain, name = parameters["state"] == "drained", parameters["service"]
    if name and name not in parameters["services"]:
        raise DrainError(f"{name} does not live here; choose one of {', '.join(parameters['services']) or 'none'}")
    meant = [name] if name else parameters["services"]
    found = node.drained()
    entries = wanted(found, [name or ALL], drain, utc_now())
    if not parameters["force"]:
        hindered(node, meant, parameters["wait"], drain, found != entries)
    changed = found != entries
    left = 0
    if not check_mode:
        node.write(entries)
        if drain:
            time.sleep(NOTICED_SECONDS if changed else 0)
            deadline = time.monotonic() + parameters["wait"]
            while (left := node.running(meant)) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
    return {"changed": changed, "drained": sorted(entries), "left": left}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "service": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["drained", "serving"], "required": True},
            "wait": {"type": "int", "default": 30},
            "force": {"type": "bool", "default": False},
            "file": {"type": "path", "default": "/etc/haproxy/node.drained.map"},
            "proxy_socket": {"type": "path", "default": "/run/haproxy-node/admin.sock"},
        },
        supports_check_mode=True,
    )
    try:
        node = Node(module.params["proxy_socket"], module.params["file"])
        module.exit_json(**change(node, module.params, module.check_mode))
    except (DrainError, OSError) as error:
        module.fail_json(msg=f"{platform.node()}: {error}")


if __name__ == "__main__":
    main()
