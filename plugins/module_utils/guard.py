"""What has to be undone is undone, whatever becomes of whoever did it: a process of its own sees to it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def guarded(release: Callable[[], None], seconds: float) -> Iterator[None]:
    """Have a process of its own call `release` unless this one comes to the end of the block in time.

    It is in a session of its own and ignores what ends a login's processes, so it outlives whatever kills this one.

    Parameters:
        release: what undoes what the block does; it may be called although all is undone.
        seconds: how long the block may take.
    """
    watched, kept = os.pipe()
    middle = os.fork()
    if middle == 0:
        # The second fork leaves nobody who would have to wait for the guard.
        if os.fork():
            os._exit(0)
        try:
            _guard(watched, release, seconds)
        finally:
            os._exit(0)
    os.waitpid(middle, 0)
    os.close(watched)
    try:
        yield
    finally:
        # Where the release fails, the guard goes on trying.
        try:
            release()
            os.write(kept, b".")
        finally:
            os.close(kept)


def _guard(watched: int, release: Callable[[], None], seconds: float) -> None:
    os.setsid()
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(name, signal.SIG_IGN)
    # Whoever waits for the end of the first process's output must not wait for this one.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, watched)
    os.closerange(watched + 1, 65536)
    ready, _, _ = select.select([watched], [], [], seconds)
    if ready and os.read(watched, 1):
        return
    for _ in range(60):
        try:
            release()
        except Exception:
            time.sleep(1)
        else:
            return
