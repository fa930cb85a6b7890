"""What a HAProxy instance says of its servers, through its admin socket."""

from __future__ import annotations

import socket

# How the servers of the backend of replicas end that stand for the primary, which is used while there is no replica.
PRIMARIES = ".primary"


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
    ask(path, "; ".join(commands), timeout=2)


def leave_out_replica(path: str, name: str) -> None:
    """Have a node proxy send nobody to a replica, until `take_in_replicas`; raises OSError where it is not reached."""
    ask(path, f"set server postgresql.replica/{name} state maint", timeout=2)


def take_in_replicas(path: str) -> None:
    """Have a node proxy use those that `leave_out_replica` named again, each once a check of its has passed.

    Left to itself, the proxy would use them at once, and find out later that one is the primary now.

    Errors:
        OSError where the proxy is not reached.
    """
    for row in parse_rows(ask(path, "show stat -1 4 -1", timeout=2), ","):
        if row["pxname"] == "postgresql.replica" and row["status"] == "MAINT":
            server = f"postgresql.replica/{row['svname']}"
            ask(path, f"set server {server} state ready; set server {server} health down", timeout=2)


def replicas_up(path: str) -> set[str]:
    """Return the replicas that take connections; raises OSError where the proxy is not reached."""
    return {name for name in servers_up(path).get("postgresql.replica", ()) if not name.endswith(PRIMARIES)}


def servers_up(path: str) -> dict[str, set[str]]:
    """Return the names of the servers that take connections, by backend; a backend without any is there, too."""
    found: dict[str, set[str]] = {}
    for row in parse_rows(ask(path, "show stat -1 4 -1", timeout=2), ","):
        up = found.setdefault(row["pxname"], set())
        if row["status"].startswith(("UP", "no check")):
            up.add(row["svname"])
    return found
