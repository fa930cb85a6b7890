#!/usr/bin/python
"""Tell what a host has beside its hardware: addresses, listening sockets, free space, the time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_facts
short_description: Tell a host's addresses, listeners, free space and time
description:
  - Reads what the kernel tells and changes nothing. It needs no tool on the host.
options:
  address:
    description: An address or a name that should be the host's own.
    type: str
    required: true
  ports:
    description: The TCP ports whose listeners are wanted.
    type: list
    elements: int
    default: []
  paths:
    description: Where free space is wanted. Of a path that does not exist yet, its nearest parent counts.
    type: list
    elements: path
    default: []
  asked:
    description: The controller's time as it asked, in seconds since the epoch. It is returned unchanged.
    type: float
    default: 0
author: Terrace
"""

EXAMPLES = r"""
- name: Ask who listens on port 80
  host_facts:
    address: 10.0.0.11
    ports: [80]
    paths: [/srv]
"""

RETURN = r"""
addresses:
  description: All addresses of the host's interfaces.
  type: list
  returned: always
resolved:
  description: What C(address) is, as addresses; empty where it is a name that the host cannot resolve.
  type: list
  returned: always
listeners:
  description: Who listens on the wanted ports, each with address, port, pid, process and systemd unit.
  type: list
  returned: always
space:
  description: Of each path the free MiB of its filesystem, and what tells one filesystem from another.
  type: list
  returned: always
terrace:
  description: Whether a run of this project has set up a daemon here before.
  type: bool
  returned: always
time:
  description: The host's time, in seconds since the epoch.
  type: float
  returned: always
asked:
  description: The parameter.
  type: float
  returned: always
"""

import ipaddress
import os
import re
import socket
import sys
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

LISTEN = "0A"


def decoded(word: str) -> str:
    """Return the address that /proc/net/tcp writes as hexadecimal, in words of four bytes of the host's own order."""
    raw = bytes.fromhex(word)
    ordered = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4)) if sys.byteorder == "little" else raw
    address = ipaddress.ip_address(ordered)
    return str(getattr(address, "ipv4_mapped", None) or address)


def sockets(table: str, ports: set[int]) -> list[tuple[str, int, str]]:
    """Return address, port and inode of what listens on one of the ports, out of a table such as /proc/net/tcp."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, port = fields[1].split(":")
        if fields[3] == LISTEN and int(port, 16) in ports:
            found.append((decoded(address), int(port, 16), fields[9]))
    return found


def local_addresses(trie: str, inet6: str) -> list[str]:
    """Return the host's addresses out of /proc/net/fib_trie and /proc/net/if_inet6."""
    found = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", trie)
    found += [str(ipaddress.ip_address(bytes.fromhex(line.split()[0]))) for line in inet6.splitlines()]
    return sorted(set(found))


def unit_of(cgroup: str) -> str:
    """Return the systemd unit out of /proc/PID/cgroup; empty for a process of none."""
    units = re.findall(r"([^/\n]+\.(?:service|scope))(?=/|$)", cgroup, re.MULTILINE)
    return units[-1] if units else ""


def read(path: str) -> str:
    """Return a file of /proc; a process may be gone by the time that it is looked at, a table missing."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def owners(inodes: set[str]) -> dict[str, int]:
    """Return, by inode of a socket, the first process that has it open."""
    found: dict[str, int] = {}
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):
        try:
            links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        for link in links:
            if link.startswith("socket:[") and link[8:-1] in inodes:
                found[link[8:-1]] = pid
    return found


def listeners(ports: set[int]) -> list[dict]:
    """Return who listens on the ports."""
    open_sockets = [entry for name in ("tcp", "tcp6") for entry in sockets(read(f"/proc/net/{name}"), ports)]
    by_inode = owners({inode for _, _, inode in open_sockets})
    found = []
    for address, port, inode in open_sockets:
        pid = by_inode.get(inode, 0)
        process = read(f"/proc/{pid}/comm").strip()
        found.append(
            {
                "address": address,
                "port": port,
                "pid": pid,
                "process": process,
                "unit": unit_of(read(f"/proc/{pid}/cgroup")),
            }
        )
    return found


def space(path: str) -> dict:
    """Return the free MiB where a path is, or would be, and its filesystem."""
    place = Path(path)
    while not place.exists():
        place = place.parent
    filesystem = os.statvfs(place)
    free = filesystem.f_bavail * filesystem.f_frsize // 1024**2
    return {"path": path, "free_mb": free, "filesystem": str(os.stat(place).st_dev)}


def resolved(address: str) -> list[str]:
    """Return the addresses of a name; an address is its own."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(address, None)})
    except OSError:
        return []


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "ports": {"type": "list", "elements": "int", "default": []},
            "paths": {"type": "list", "elements": "path", "default": []},
            "asked": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    now = time.time()
    module.exit_json(
        changed=False,
        addresses=local_addresses(read("/proc/net/fib_trie"), read("/proc/net/if_inet6")),
        resolved=resolved(module.params["address"]),
        listeners=listeners(set(module.params["ports"])),
        space=[space(path) for path in module.params["paths"]],
        terrace=Path("/var/lib/terrace/units").exists(),
        time=now,
        asked=module.params["asked"],
    )


if __name__ == "__main__":
    main()
