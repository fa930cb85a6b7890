"""One measurement: h2load at one place for a few seconds, and what it saw of each request."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Which answers count, of all in the order in which they came: at first connections still open and TLS is agreed on, at
# last some clients have nothing left to ask.
FIRST, LAST = 0.2, 0.9

# Answers a second that the last load of its kind saw, by place, first path and connections.
_rates: dict[tuple[Place, str, int], float] = {}


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

    How many takes about as long as is asked for; where that is not known yet, a short load tells. (h2load can also be
    given a time, but then it does not end where TLS is slow: version 1.52.)

    Parameters:
        place: where.
        lists: paths to ask for, one after the other and again. There is one h2load process for each list, since the
            connections of one process all begin with the first path.
        connections: how many, over all processes.
        seconds: about how long.
        headers: further headers.
        body: sent with POST; without one it is GET.
    Errors:
        LoadError, where h2load ends with an error, takes far too long, or too little was answered.
    """
    kind = (place, lists[0][0], connections)
    if kind not in _rates:
        _rates[kind] = _run(place, lists, connections, max(5 * connections, 50), 30, headers or {}, body).rate
    count = max(int(_rates[kind] * seconds), 5 * connections)
    seen = _run(place, lists, connections, count, 30 + 5 * seconds, headers or {}, body)
    _rates[kind] = seen.rate
    return seen


def _run(
    place: Place, lists: list[list[str]], connections: int, count: int, longest: float, headers: dict, body: str
) -> Seen:
    with tempfile.TemporaryDirectory(prefix="terrace-bench-") as folder:
        each = [
            (Path(folder) / str(number), paths, connections // len(lists), count // len(lists))
            for number, paths in enumerate(lists)
        ]
        running = [_start(base, place, *what, headers, body) for base, *what in each]
        end = time.monotonic() + longest
        try:
            for process in running:
                said, _ = process.communicate(timeout=max(end - time.monotonic(), 0.1))
                if process.returncode:
                    raise LoadError(f"{place}: h2load ended with {process.returncode}: {said}")
        except subprocess.TimeoutExpired:
            raise LoadError(f"{place}: {count} requests were not answered in {longest:.0f} s") from None
        finally:
            for process in running:
                process.kill()
                process.wait()
        lines = [line for log in Path(folder).glob("*.log") for line in log.read_text().splitlines()]
    return summary(lines, sum(asked for *_, asked in each), str(place))


def _start(
    base: Path, place: Place, paths: list[str], connections: int, count: int, headers: dict[str, str], body: str
) -> subprocess.Popen:
    base.with_suffix(".uris").write_text("".join(f"{place.url}{path}\n" for path in paths))
    command = [
        "h2load", "--h1", "--threads=1", f"--clients={connections}", f"--requests={count}",
        f"--input-file={base}.uris", f"--log-file={base}.log",
    ]  # fmt: skip
    if place.socket:
        command += [f"--base-uri=unix:{place.socket}"]
    if body:
        base.with_suffix(".body").write_text(body)
        command += [f"--data={base}.body"]
    command += [f"--header={name}: {value}" for name, value in headers.items()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def summary(lines: list[str], sent: int, place: str) -> Seen:
    """Return what h2load's log says: a line a request, with its start in µs, its status, and its µs.

    Parameters:
        lines: of all processes that ran at the same time.
        sent: how many requests were to be sent; those without a line failed.
        place: named in errors.
    Errors:
        LoadError, where too little was answered to say anything.
    """
    rows = [tuple(int(part) for part in line.split("\t")) for line in lines]
    statuses = Counter(str(status) for _, status, _ in rows if status > 0)
    answered = sorted((start + took, took) for start, status, took in rows if status > 0)
    if failed := sent - len(answered):
        statuses["failed"] = failed
    counted = answered[int(len(answered) * FIRST) : int(len(answered) * LAST)]
    if len(counted) < 10:
        raise LoadError(f"{place}: {len(answered)} answers to {sent} requests; statuses {dict(statuses)}")
    percentiles = statistics.quantiles((took / 1000 for _, took in counted), n=100, method="inclusive")
    return Seen(
        rate=(len(counted) - 1) / max(counted[-1][0] - counted[0][0], 1) * 1e6,
        p50=percentiles[49],
        p99=percentiles[98],
        answers=len(answered),
        statuses=dict(statuses),
    )


def all_good(seen: Seen, place: str) -> None:
    """Raise LoadError where anything but a 2xx was answered."""
    bad = {status: count for status, count in seen.statuses.items() if not status.startswith("2")}
    if bad:
        raise LoadError(f"{place}: not all were answered with 2xx: {bad}")
