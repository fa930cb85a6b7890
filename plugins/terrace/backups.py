"""What can be restored, and from what, as `make backups` tells it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from terrace.status import age, table

KINDS = {"full": "full", "diff": "since the full one", "incr": "since the one before"}


def lines(facts: Mapping[str, Any], now: float) -> list[str]:
    """Return what a repository has, as lines.

    Parameters:
        facts: what the module `backup_facts` returns.
        now: the time, in seconds since the epoch.
    """
    if facts["wrong"]:
        return [f"pgBackRest says of the repository: {facts['wrong']}"]
    if not facts["backups"]:
        return ["There is no backup yet, so nothing can be restored. Take one: make backup"]
    rows = [["BACKUP", "KIND", "TAKEN", "TOOK", "DATABASES", "STORED", ""]]
    rows += [
        [
            its["label"],
            KINDS.get(its["type"], its["type"]),
            f"{time(its['end'])} ({age(now - its['end'])} ago)",
            f"{its['end'] - its['begin']} s",
            size(its["size"]),
            size(its["stored"]),
            "PAGES WITH ERRORS" if its["error"] else "",
        ]
        for its in reversed(facts["backups"])
    ]
    oldest, last = facts["backups"][0]["end"], max(facts["until"], facts["backups"][-1]["end"])
    stored = sum(its["stored"] for its in facts["backups"])
    return [
        *table(rows),
        "",
        f"Any time can be restored, from {time(oldest)} to {time(last)}: the last WAL came {age(now - last)} ago.",
        f"The backups take {size(stored)}, without WAL.",
    ]


def time(seconds: float) -> str:
    """Return a time, given in seconds since the epoch, as `make restore` takes it: in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S+00")


def size(count: int) -> str:
    """Return a number of bytes in the largest unit of which it is one or more."""
    for unit, of in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("kB", 1024)):
        if count >= of:
            return f"{count / of:.1f} {unit}"
    return f"{count} B"
