"""One measurement: h2load at one place for a few seconds, and what it saw of each request."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SETTLE = 0.5  # seconds at the start that count for nothing: connections open, TLS is agreed on


class LoadError(Exception):
    """A load that did not go as it had to; the text says where and what came back."""


@dataclass(frozen=True)
class Place:
    """Where requests are sent.

    url: scheme and authority, such as https://10.77.0.11. socket: a unix socket to use instead of the authority.
    """

    url: str
    socket: str = ""


@dataclass(frozen=True)
class Seen:
    """What one load saw.

    rate: answers a second. p50, p99: milliseconds from a request's first byte to its answer's last. answers: how many
    there were in all. statuses: how many by status, and `failed` for those without one.
    """

    rate: float
    p50: float
    p99: float
    answers: int
    statuses: dict[str, int]


def available() -> None:
    """End the program with a line where h2load is not installed."""
    try:
        subprocess.run(["h2load", "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit("bench: h2load does not run here; install it (apt-get install nghttp2-client)")


def run(
    place: Place, lists: list[list[str]], connections: int, seconds: float, headers: dict[str, str] | None = None,
    body: str = "",
) -> Seen:  # fmt: skip
    """Send requests over HTTP/1.1 on kept connections, each connection one at a time.

    Parameters:
        place: where.
        lists: paths to ask for, one after the other and again. There is one h2load process for each list, since the
            connections of one process all begin with the first path.
        connections: how many, over all processes.
        seconds: how long, SETTLE included.
        headers: further headers.
        body: sent with POST; without one it is GET.
    Errors:
        LoadError, where h2load ends with an error or nothing was answered.
    """
    with tempfile.TemporaryDirectory(prefix="terrace-bench-") as folder:
        running = [
            _start(Path(folder) / str(number), place, paths, connections // len(lists), seconds, headers or {}, body)
            for number, paths in enumerate(lists)
        ]
        for process in running:
            said, _ = process.communicate(timeout=seconds + 60)
            if process.returncode:
                raise LoadError(f"{place}: h2load ended with {process.returncode}: {said}")
        lines = [line for log in Path(folder).glob("*.log") for line in log.read_text().splitlines()]
    return summary(lines, seconds, str(place))


def _start(
    base: Path, place: Place, paths: list[str], connections: int, seconds: float, headers: dict[str, str], body: str
) -> subprocess.Popen:
    base.with_suffix(".uris").write_text("".join(f"{place.url}{path}\n" for path in paths))
    command = [
        "h2load", "--h1", "--threads=1", f"--clients={connections}", f"--duration={seconds * 1000:.0f}ms",
        f"--input-file={base}.uris", f"--log-file={base}.log",
    ]  # fmt: skip
    if place.socket:
        command += [f"--base-uri=unix:{place.socket}"]
    if body:
        base.with_suffix(".body").write_text(body)
        command += [f"--data={base}.body"]
    command += [f"--header={name}: {value}" for name, value in headers.items()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def summary(lines: list[str], seconds: float, place: str) -> Seen:
    """Return what h2load's log says: a line a request, with its start in µs, its status, and its µs.

    Parameters:
        lines: of all processes that ran at the same time.
        seconds: how long they ran.
        place: named in errors.
    Errors:
        LoadError, where no request was answered after SETTLE.
    """
    rows = [tuple(int(part) for part in line.split("\t")) for line in lines]
    begin = min((start for start, _, _ in rows), default=0) + SETTLE * 1e6
    taken = sorted(took / 1000 for start, status, took in rows if start >= begin and status > 0)
    statuses = Counter("failed" if status <= 0 else str(status) for _, status, _ in rows)
    if len(taken) < 2:
        raise LoadError(f"{place}: {len(taken)} answers; statuses {dict(statuses)}")
    percentiles = statistics.quantiles(taken, n=100, method="inclusive")
    return Seen(
        rate=len(taken) / (seconds - SETTLE),
        p50=percentiles[49],
        p99=percentiles[98],
        answers=sum(status > 0 for _, status, _ in rows),
        statuses=dict(statuses),
    )


def all_good(seen: Seen, place: str) -> None:
    """Raise LoadError where anything but a 2xx was answered."""
    bad = {status: count for status, count in seen.statuses.items() if not status.startswith("2")}
    if bad:
        raise LoadError(f"{place}: not all were answered with 2xx: {bad}")
