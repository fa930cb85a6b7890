"""What the samples of a time say: what failed, how long nothing went, when writes were back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .load import KINDS, READS, Sample

# A stall shorter than this is the pace of the load, not an outage.
PACE = 1.0


@dataclass(frozen=True)
class Limit:
    """What a figure may be at most.

    Parameters:
        figure: its name in `figures`.
        most: for the median of several runs.
        worst: for each of them, where that is more.
    """

    figure: str
    most: float
    worst: float | None = None

    def holds(self, value: float | None) -> bool:
        """Tell whether one run's figure is within it. A figure that could not be taken is not."""
        return value is not None and value <= (self.most if self.worst is None else self.worst)


def between(samples: Iterable[Sample], begin: float, end: float) -> list[Sample]:
    """Return the samples that were to start in a time, in that order."""
    return sorted((sample for sample in samples if begin <= sample.start < end), key=lambda sample: sample.start)


def longest_gap(samples: Iterable[Sample], begin: float, end: float) -> tuple[float, float]:
    """Return the longest time without the end of a good answer, and when it ended.

    Parameters:
        samples: of one kind or several.
        begin, end: the time that is looked at; both count as edges.
    """
    ends = sorted(sample.end for sample in samples if sample.outcome == "good" and begin <= sample.end <= end)
    edges = [begin, *ends, end]
    return max((after - before, after) for before, after in pairwise(edges))


def writes_back(samples: Sequence[Sample], at: float, end: float) -> float | None:
    """Return after how many seconds orders could be made again; 0 where they always could, None where they never could.

    It is the first good answer after the last one that failed or was refused, or the end of the longest wait, whichever
    is later.

    Parameters:
        samples: of the kind `write`.
        at: when the fault began.
        end: until when its own consequences are looked at.
    """
    bad = [sample.end for sample in samples if sample.outcome != "good" and at <= sample.start < end]
    good = sorted(sample.end for sample in samples if sample.outcome == "good" and sample.end >= at)
    gap, over = longest_gap(samples, at, max(end, at))
    found = [over] if gap >= PACE else []
    if bad:
        after = [moment for moment in good if moment >= max(bad)]
        if not after:
            return None
        found.append(after[0])
    return max(found) - at if found else 0.0


def cache_back(samples: Iterable[Sample], at: float) -> float | None:
    """Return after how many seconds the cache had taken what it was given after a fault; None if it never did.

    It is seen from outside: a user that the cache did not have, and had when it was asked again.
    """
    given: set[int] = set()
    for sample in sorted(samples, key=lambda sample: sample.start):
        if sample.start < at or sample.outcome != "good" or not sample.user:
            continue
        if sample.cache == "miss":
            given.add(sample.user)
        elif sample.cache == "hit" and sample.user in given:
            return sample.end - at
    return None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of sorted values lies; 0 where there are none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def figures(samples: Iterable[Sample], at: float, healed: float, end: float) -> dict[str, Any]:
    """Return the figures of one fault, as plain data.

    Parameters:
        samples: all that there are.
        at: when the fault began.
        healed: when what was broken came back, or was allowed to.
        end: until when it was watched.
    Returns:
        requests; failed and good by kind; failed_reads, failed_writes (those that may be repeated), failed_creates,
        failed_all; refused (writes); retried and reconnected (requests that needed it, beside the failed); gap (the
        longest time without a good answer of one of the steady kinds), slowest (the longest good answer), stall (the
        longer of both); writes_back, cache_back; p50 and p99 in seconds; why (what failures said, and how often).
    """
    seen = between(samples, at, end)
    failed = Counter(sample.kind for sample in seen if sample.outcome == "failed")
    refused = Counter(sample.kind for sample in seen if sample.outcome == "refused")
    of = {kind: [sample for sample in seen if sample.kind == kind] for kind in KINDS}
    good = [sample for sample in seen if sample.outcome == "good"]
    took = sorted(sample.took for sample in good)
    gaps = {kind: longest_gap(of[kind], at, end)[0] for kind in KINDS if kind != "create"}
    slowest = max(took, default=0.0)
    return {
        "requests": len(seen),
        "good": {kind: sum(sample.outcome == "good" for sample in of[kind]) for kind in KINDS},
        "failed": {kind: failed[kind] for kind in KINDS},
        "failed_reads": sum(failed[kind] for kind in READS),
        "failed_cached": failed["cached"],
        "failed_readonly": failed["readonly"],
        "failed_writes": failed["write"] + refused["write"],
        "failed_creates": failed["create"] + refused["create"],
        "failed_all": failed.total() + refused.total(),
        "refused": refused.total(),
        "retried": sum(sample.retried for sample in seen),
        "reconnected": sum(sample.attempts > 1 for sample in seen),
        "gaps": gaps,
        "gap": max(gaps.values()),
        "slowest": slowest,
        "stall": max(*gaps.values(), slowest),
        "writes_back": writes_back(of["write"], at, healed),
        "cache_back": cache_back(seen, at),
        "p50": percentile(took, 0.5),
        "p99": percentile(took, 0.99),
        "why": dict(Counter(reason(sample) for sample in seen if sample.outcome != "good").most_common(12)),
    }


def reason(sample: Sample) -> str:
    """Return what a bad sample said, short enough to be counted."""
    return f"{sample.kind}: {sample.why[:90]}"
