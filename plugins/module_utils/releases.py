"""What the release modules share: digests, writing that survives a cut-off run, and the layout on a node."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

ROOT = "/srv/terrace"
MARKER = ".installed"
SLOTS = ("blue", "green")
# What a service's directory says of deploys: what the fleet agreed on, what has begun, and what has ended, a line each.
AGREED = ".deployed.json"
UNDER_WAY = ".deploy.json"
HISTORY = ".deploys.jsonl"
GATE = "terrace-release-gate.service"
NAME_PATTERN = r"^[a-z][a-z0-9-]{0,23}$"
# What is told of an installed release, of what its release.json says.
DESCRIBED = ("version", "commit", "source", "server", "interface", "bundle_sha256", "static")


# How notes on a node write a time: in UTC, to the second.
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def utc_now() -> str:
    """Return the time as notes on a node have it."""
    return datetime.datetime.now(datetime.UTC).strftime(TIME_FORMAT)


class ReleaseError(Exception):
    """A release that cannot be built or installed; the text is one line that says what to mend."""


def sha256_of(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits.

    Raises OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Return the SHA-256, in hexadecimal, of any value that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def normal(name: str) -> str:
    """Return a package's name in the one form in which two spellings compare equal."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bundle_name(sha256: str) -> str:
    """Return the name of the file that holds the wheels of a release's dependencies, by its digest (64 digits)."""
    return f"wheels-{sha256[:24]}.tar"


def write_atomically(path: pathlib.Path, text: str, mode: int = 0o600, group: int = -1) -> None:
    """Write a text file so that a reader, or a run after a power cut, sees all of it or the file before it.

    path: where; its directory exists. text: the content. mode: the permission bits. group: the number of its group;
    without one it is that of the process.
    Raises OSError when the directory is not writable.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fchown(file.fileno(), -1, group)
            os.fsync(file.fileno())
        pathlib.Path(temporary).replace(path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for whoever holds it; the kernel frees it if the process dies.

    path: the lock file; it and its directory are made when missing, and it stays afterwards.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one when the file is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def releases_of(name: str, root: str = ROOT) -> dict[str, Any]:
    """Return what one service has on this node, read from its directories only.

    name: the service. root: the directory above all services.
    Returns: installed (ids, oldest first), releases (id to version, commit, source, server, interface, sha256 of the
    archive, bundle_sha256 of its dependencies' wheels, static (what it has of static files, if anything) and
    installed_at), slots (blue and green to an id, or an empty
    string), live_slot (blue, green or empty), live (the id in that slot, or empty), agreed and serial (the id that the
    fleet agreed on last, and the number of that agreement; empty and 0 where there was none), and under_way (the deploy
    that has begun and was not ended; empty without one).
    """
    home = pathlib.Path(root) / name
    releases = {}
    for directory in sorted((home / "releases").glob("*")):
        marker = read_json(directory / MARKER)
        if marker.get("id") == directory.name:
            described = read_json(directory / "release.json")
            releases[directory.name] = {
                **{key: described.get(key, "") for key in DESCRIBED},
                "sha256": marker.get("sha256", ""),
                "installed_at": marker.get("installed_at", ""),
            }
    slots = {slot: _link(home / slot) for slot in SLOTS}
    live_slot = _link(home / "live")
    live_slot = live_slot if live_slot in SLOTS else ""
    agreed = read_json(home / AGREED)
    return {
        "installed": sorted(releases, key=lambda release: (releases[release]["installed_at"], release)),
        "releases": releases,
        "slots": slots,
        "live_slot": live_slot,
        "live": slots.get(live_slot, ""),
        "agreed": agreed.get("release", ""),
        "serial": int(agreed.get("serial", 0)),
        "under_way": read_json(home / UNDER_WAY),
    }


def agree(home: pathlib.Path, serial: int, release: str) -> None:
    """Note in a service's directory what the fleet agreed on, and the number of that agreement."""
    text = json.dumps({"serial": serial, "release": release})
    write_atomically(home / AGREED, text + "\n", mode=0o644)


def history_of(name: str, root: str = ROOT) -> list[dict[str, Any]]:
    """Return the ended deploys of a service that are noted on this node, oldest first; a damaged line is left out."""
    try:
        lines = (pathlib.Path(root) / name / HISTORY).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def compare_with_peers(module: Any) -> None:
    """Have the node say at once what it runs, and open or shut what its peers' releases tell it to.

    Parameters:
        module: the AnsibleModule. Nothing is done where the node has no such unit (yet).
    """
    systemctl = module.get_bin_path("systemctl", required=True)
    if module.run_command([systemctl, "cat", GATE])[0] == 0:
        # One that runs already may have read what has changed since.
        module.run_command([systemctl, "restart", GATE])


def _link(path: pathlib.Path) -> str:
    """Return the last part of a link's target, or an empty string when it is no link."""
    try:
        return path.readlink().name
    except OSError:
        return ""
