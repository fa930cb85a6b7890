"""What a HAProxy instance says of its servers, through its admin socket."""

from __future__ import annotations

import socket


def ask(path: str, command: str, timeout: float = 10) -> str:
    """Send one command to an admin socket and return the answer; raises OSError where it cannot be reached."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")


def parse_rows(text: str, separator: str) -> list[dict[str, str]]:
    """Return the rows of a table that HAProxy prints, whose line of names starts with `# `."""
    lines = [line for line in text.splitlines() if line.strip()]
    start = next((number for number, line in enumerate(lines) if line.startswith("# ")), None)
    if start is None:
        return []
    names = lines[start][2:].split(separator)
    return [dict(zip(names, line.split(separator), strict=False)) for line in lines[start + 1 :]]


def follow_primary(path: str, primary: str) -> None:
    """Have a node proxy know at once what its checks would find within seconds: who the primary is, and who is not.

    A former replica no longer counts as one, either: its connections would be cut when the checks come to that. They
    go on, and correct what is wrong here.

    Parameters:
        path: the admin socket.
        primary: the name of the server.
    Errors:
        OSError where the proxy cannot be reached.
    """
    known = servers_up(path)
    commands = [f"set server postgresql.primary/{primary} health up"]
    commands += [
        f"set server postgresql.primary/{name} health down"
        for name in known.get("postgresql.primary", set()) - {primary}
    ]
    if primary in known.get("postgresql.replica", ()):
        commands.append(f"set server postgresql.replica/{primary} health down")
    for command in commands:
        ask(path, command, timeout=2)


def leave_out_replica(path: str, name: str) -> None:
    """Have a node proxy send nobody to a replica, until `take_in_replicas`; raises OSError where it is not reached."""
    ask(path, f"set server postgresql.replica/{name} state maint", timeout=2)


def take_in_replicas(path: str) -> None:
    """Have a node proxy ask all replicas again whether they can be used; raises OSError where it is not reached."""
    for row in parse_rows(ask(path, "show stat -1 4 -1", timeout=2), ","):
        if row["pxname"] == "postgresql.replica" and row["status"] == "MAINT":
            ask(path, f"set server postgresql.replica/{row['svname']} state ready", timeout=2)


def servers_up(path: str) -> dict[str, set[str]]:
    """Return the names of the servers that take connections, by backend; a backend without any is there, too."""
    found: dict[str, set[str]] = {}
    for row in parse_rows(ask(path, "show stat -1 4 -1", timeout=2), ","):
        up = found.setdefault(row["pxname"], set())
        if row["status"].startswith(("UP", "no check")):
            up.add(row["svname"])
    return found
