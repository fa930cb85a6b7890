"""What was acknowledged and what failed, kept so that it outlives this program.

A ledger is a file of JSON, a line an entry, each written through before the next request is made. So whatever ends the
harness, what the environment promised is known, and can be compared with what it has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Write:
    """A write that was sent.

    Parameters:
        kind: `write`, an order; `create`, a user.
        key: what it can be found by: of an order the SKU and Idempotency-Key, of a user the address.
        body: what was sent.
        at: when the answer came, in seconds since 1970.
        number: the id that was given to it; 0 where it was not acknowledged.
    """

    kind: str
    key: str
    body: dict[str, Any]
    at: float
    number: int = 0


@dataclass
class Entries:
    """What a ledger holds.

    acknowledged, unknown: the writes that were answered with success, and those of which nobody knows.
    failed: requests that failed or were refused. events: faults and what else happened.
    """

    acknowledged: list[Write] = field(default_factory=list)
    unknown: list[Write] = field(default_factory=list)
    failed: list[dict] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)


class Ledger:
    """A ledger that is being written.

    Parameters:
        path: the file; what it has is kept, and added to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def acknowledge(self, write: Write) -> None:
        """Keep a write that was answered with success."""
        self._add("acknowledged", vars(write))

    def fail(self, what: dict, write: Write | None = None) -> None:
        """Keep a request that failed, and the write that it may or may not have made."""
        self._add("failed", what)
        if write:
            self._add("unknown", vars(write))

    def event(self, event: str, at: float, /, **more: Any) -> None:
        """Keep that something happened."""
        self._add("events", {"event": event, "at": at, **more})

    def _add(self, entry: str, values: dict) -> None:
        self._file.write(json.dumps({"entry": entry, **values}) + "\n")
        self._file.flush()


def read(path: Path) -> Entries:
    """Return what a ledger holds. A last line that was cut off says nothing, and is left out."""
    entries = Entries()
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            values = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise
        kind = values.pop("entry")
        getattr(entries, kind).append(Write(**values) if kind in ("acknowledged", "unknown") else values)
    return entries
