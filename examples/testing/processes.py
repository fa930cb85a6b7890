"""Starting and ending processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(true: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait for something.

    Args:
        true: Asked again and again.
        seconds: How long to wait at most.
        what: Says what did not happen.

    Raises:
        AssertionError: It did not happen.
    """
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, f"{what}: not within {seconds} s"
        time.sleep(0.02)


class Process:
    """A running process, its output in a file.

    Args:
        command: What to run.
        directory: Where.
        environment: All of its variables.
        output: A file for what it prints.
        user: An account to run it as; None is whoever runs the tests.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        directory: Path,
        environment: Mapping[str, str],
        output: Path,
        user: str | None = None,
    ) -> None:
        self.output = output
        account = (
            {} if user is None else {"user": user, "group": user if user != "nobody" else "nogroup", "extra_groups": []}
        )
        with output.open("wb") as sink:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **account,
            )
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def printed(self) -> str:
        """Return everything it printed so far."""
        return self.output.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for its end; return the exit status."""
        return self._popen.wait(seconds)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and whatever it started, for certain."""
        if self.running:
            self.send(signal.SIGCONT)
            self.send(number)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(10)


@contextmanager
def scratch_directory(prefix: str) -> Iterator[Path]:
    """Give a directory below /tmp that other accounts can enter, and remove it."""
    path = Path(tempfile.mkdtemp(prefix=f"terrace-{prefix}-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
