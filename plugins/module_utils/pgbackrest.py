"""What a repository of pgBackRest has, out of what its command `info` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

# What it says of a stanza: https://pgbackrest.org/command.html#command-info
WELL, NO_STANZA, NO_BACKUP = 0, 1, 2
# What it says of a file that another key, or none, was used for.
STRANGE = ("FormatError", "CryptoError")
KEY = "it cannot be read with this environment's key: vault_key is not the one that it was written with"
# A file of WAL has 16 MB, and a name of three numbers: its timeline, and 4 GB of WAL in 256 files.
PER_LOG = 256
# Several files are handed over at once, so a later one may come first.
SETTLED_SECONDS = 60


def _wrong(stanza: Mapping[str, Any]) -> str:
    """Return in words what `info` says is wrong with a repository; empty where nothing is."""
    if stanza["status"]["code"] in (WELL, NO_BACKUP):
        return ""
    said = " ".join(repository.get("status", {}).get("message", "") for repository in stanza.get("repo", ()))
    if any(kind in said for kind in STRANGE) and "unable to load info file" in said:
        return KEY
    return f"{stanza['status']['message']}: {said.splitlines()[0]}" if said.strip() else stanza["status"]["message"]


def parse_info(text: str) -> dict[str, Any]:
    """Return what `pgbackrest info --output=json` prints of one stanza.

    Parameters:
        text: what it printed.
    Returns:
        `wrong`, in words, or empty; `known`, whether there is a stanza; `taking`, whether a backup is being taken;
        `archive`, by its id (version and history) the first and the last file of WAL, `min` and `max`; and `backups`
        as they were taken: each with `label`, `type`, `begin` and `end` (seconds since the epoch), `size` and `stored`
        (bytes of the databases, and those that it added to the repository), whether pages have an `error`, `needs`,
        the labels of backups that it cannot be restored without, and `archive`, its first and last file of WAL.
    """
    # With another key it quotes what it took for text, with every byte as it is.
    stanza = next(
        iter(json.loads(text, strict=False)), {"status": {"code": NO_STANZA, "message": "missing stanza path"}}
    )
    return {
        "wrong": _wrong(stanza),
        "known": stanza["status"]["code"] != NO_STANZA,
        "taking": bool(stanza["status"].get("lock", {}).get("backup", {}).get("held")),
        "archive": {each["id"]: {"min": each["min"], "max": each["max"]} for each in stanza.get("archive", [])},
        "backups": [
            {
                "label": backup["label"],
                "type": backup["type"],
                "begin": backup["timestamp"]["start"],
                "end": backup["timestamp"]["stop"],
                "size": backup["info"]["size"],
                "stored": backup["info"]["repository"]["delta"],
                "error": bool(backup.get("error")),
                "needs": backup.get("reference") or [],
                "archive": backup["archive"],
            }
            for backup in stanza.get("backup", [])
        ],
    }


def _number(segment: str) -> int:
    """Return which file of WAL it is, counted from the first, whatever its timeline."""
    return int(segment[8:16], 16) * PER_LOG + int(segment[16:24], 16)


def missing_wal(files: Mapping[str, float], first: str, now: float) -> str:
    """Return the last file of WAL before the first one that a repository lacks; empty where it lacks none.

    What comes after it cannot be restored, until there is a backup that begins later.

    Parameters:
        files: when each file came that the repository has, in seconds since the epoch, by its name; names may go on
            after the 24 digits of the file.
        first: the one with which the newest backup begins.
        now: the time, in seconds since the epoch. What came within the last minute may be ahead of others.
    """
    timelines: dict[str, dict[int, str]] = {}
    for name, came in files.items():
        if re.match(r"[0-9A-F]{24}-", name) and name[:24] >= first and now - came > SETTLED_SECONDS:
            timelines.setdefault(name[:8], {})[_number(name)] = name[:24]
    before = ""
    for _, its in sorted(timelines.items()):
        numbers = sorted(its)
        # A timeline begins within the file in which it left another one, or with the next.
        if before and numbers[0] > _number(before) + 1:
            return before
        for one, other in pairwise(numbers):
            if other != one + 1:
                return its[one]
        before = max(before, its[numbers[-1]], key=lambda name: _number(name) if name else -1)
    return ""
