"""Send the hostile requests to a balancer, and hold what a recorder behind it got against what may arrive.

    python trial.py ADDRESS PORT HOST AUTHORITY CLIENT LOG [PART OF A NAME]

AUTHORITY is the file of the certificate authority, or `-` for a port without TLS.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cases
import judge
import wire


@dataclass
class Result:
    """What became of one hostile request: the answers, what reached the service, and what of it was harmful."""

    case: cases.Hostile
    mark: bytes
    answers: list[str]
    arrived: list[judge.Request] = field(default_factory=list)
    harm: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = " ".join(self.answers[:6]) or "closed"
        return f"{self.case.name}: {said}; {len(self.arrived)} arrived" + "".join(f"\n    {each}" for each in self.harm)


def send(target: wire.Target, chosen: Iterable[cases.Hostile], workers: int = 8) -> list[Result]:
    """Send hostile requests, several at a time, and return the answers."""
    run = format(time.time_ns(), "x")

    def one(numbered: tuple[int, cases.Hostile]) -> Result:
        number, case = numbered
        mark = f"m{run}{number:03}m".encode()
        try:
            answer = wire.exchange(target, case.sent(target, mark), case.wait, case.protocol)
        except OSError as error:
            return Result(case, mark, [f"no connection: {error}"])
        return Result(case, mark, wire.statuses(answer, case.protocol))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, enumerate(chosen)))


def told(results: list[Result], recorded: dict, client: str) -> list[str]:
    """Put what was recorded to the results, and return what reached the service by no request of ours.

    Parameters:
        results: of `send`.
        recorded: of `judge.connections`.
        client: the address that sent them.
    """
    by_mark = {result.mark: result for result in results}
    strange = []
    for stream in recorded.values():
        last = None
        for request in judge.requests(stream):
            mark = re.search(rb"m[0-9a-f]{16}\d{3}m", request.raw)
            found = by_mark.get(mark[0]) if mark else None
            # What has no mark is what was left of the one before.
            if found is None and not request.wrong and not mark and is_check(request):
                continue
            found = last = found or (last if not mark else None)
            if found is None:
                if not mark:
                    strange.append(repr(request.raw[:200]))
                continue
            found.arrived.append(request)
            found.harm += judge.harm(request, client)
    for result in results:
        if len(result.arrived) > result.case.most:
            result.harm.append(f"{len(result.arrived)} requests arrived, {result.case.most} may")
    return strange


def is_check(request: judge.Request) -> bool:
    """Say whether a request is one of the balancers' and proxies' own, or another client's."""
    return request.method in (b"GET", b"HEAD", b"OPTIONS", b"POST") and request.target.startswith(b"/")


def main() -> int:
    """Run all of them, and tell what is harmful."""
    address, port, host, authority, client, log, *part = sys.argv[1:]
    target = wire.Target(address, int(port), host, None if authority == "-" else Path(authority))
    chosen = [case for case in cases.ALL if not part or part[0] in case.name]
    if target.authority is None:
        chosen = [case for case in chosen if not case.frames]
    results = send(target, chosen)
    time.sleep(0.5)
    strange = told(results, judge.connections(Path(log)), client)
    for result in results:
        print(result)
    print(*strange, sep="\n")
    bad = [result for result in results if result.harm]
    arrived = sum(1 for result in results if result.arrived)
    print(f"{len(results)} sent, {arrived} arrived, {len(bad)} harmful, {len(strange)} strange")
    return 1 if bad or strange else 0


if __name__ == "__main__":
    sys.exit(main())
