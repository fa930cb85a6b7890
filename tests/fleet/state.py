"""All that a run of site.yml leaves on a host, so that two runs can be compared file by file and unit by unit.

What differs between two hosts that are right (keys, times, which of two slots is live) is left out or named alike.
"""

from __future__ import annotations

import json
from pathlib import Path

from lab import Host

# One call of a script there is quicker than hundreds of commands.
COLLECT = Path(__file__).with_name("on_host.py").read_text()


def collect(host: Host) -> dict:
    """Return the state of a host: its files, releases, units, processes, packages, roles and databases.

    `problems` are daemons that do not run on the files beside them; a right host has none.
    """
    return json.loads(host.run("python3 -", stdin=COLLECT, timeout=180))


def differences(one: object, other: object, where: str = "") -> list[str]:
    """Return what differs between two states, a line each with its place."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted(one.keys() | other.keys()):
            place = f"{where} {key}".strip()
            if key not in one or key not in other:
                found.append(f"{place}: only in the {'second' if key not in one else 'first'}")
            else:
                found += differences(one[key], other[key], place)
        return found
    if isinstance(one, list) and isinstance(other, list) and where in ("packages", "postgresql settings"):
        return [f"{where}: {line}" for line in sorted(set(map(str, one)) ^ set(map(str, other)))]
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]
