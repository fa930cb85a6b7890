"""The report: one page of HTML that needs nothing else, with drawings in SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import jinja2

from .analysis import percentile
from .load import KINDS, Sample

LABELS = {
    "cached": "reads from the cache",
    "uncached": "reads past the cache",
    "readonly": "reads from a replica",
    "write": "writes that may be repeated",
    "create": "writes that may not",
}
FIGURES = {
    "failed_reads": "failed reads",
    "failed_writes": "failed or refused idempotent writes",
    "failed_all": "failed or refused requests",
    "failed_cached": "failed reads from the cache",
    "failed_readonly": "failed reads from a replica",
    "stall": "longest stall, s",
    "writes_back": "writes back after, s",
    "cache_back": "cache takes writes again after, s",
    "lost": "acknowledged writes lost",
    "wrong": "writes wrong or doubled",
    "two_primaries": "writes acknowledged by two primaries",
    "probe_lost": "writes lost that a client on the host made",
}
# How wide a drawing is in its own units, and what is beside it.
WIDTH, LEFT, RIGHT = 1000, 200, 22
# Answers in seconds that the scale of latency begins and ends with.
FASTEST, SLOWEST = 0.002, 60.0
LEVELS = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Mark:
    """A time that a drawing points out: from when until when, and what it is called."""

    begin: float
    end: float
    text: str


@dataclass(frozen=True)
class Slice:
    """The requests that were to start in one step of time: how many there were of each outcome, and how long the good
    ones took, in order."""

    begin: float
    good: int
    refused: int
    failed: int
    took: tuple[float, ...]


def slices(samples: Sequence[Sample], begin: float, end: float, step: float) -> list[Slice]:
    """Return the requests of a time, cut into steps."""
    count = max(math.ceil((end - begin) / step), 1)
    parts: list[list[Sample]] = [[] for _ in range(count)]
    for sample in samples:
        if begin <= sample.start < end:
            parts[min(int((sample.start - begin) / step), count - 1)].append(sample)
    return [
        Slice(
            begin + number * step,
            *(sum(sample.outcome == outcome for sample in part) for outcome in ("good", "refused", "failed")),
            tuple(sorted(sample.took for sample in part if sample.outcome == "good")),
        )
        for number, part in enumerate(parts)
    ]


class Drawing:
    """Requests, what each kind met with, and latency over a time.

    Parameters:
        samples: all that there are.
        begin, end: the time.
        marks: what happened in it.
        zero: the time that counts as 0; the axis shows seconds from there, or minutes where it is long.
    """

    def __init__(
        self, samples: Sequence[Sample], begin: float, end: float, marks: Sequence[Mark], zero: float
    ) -> None:  # fmt: skip
        self._samples, self._begin, self._end, self._zero = samples, begin, end, zero
        self._marks = marks
        # Steps of whole halves of seconds, about 240 of them.
        self._step = max(math.ceil((end - begin) / 240 * 2) / 2, 0.5)
        self._parts: list[str] = []

    def svg(self) -> str:
        """Return the drawing."""
        top = 30
        below = self._bars(top, 130)
        below = self._lanes(below + 26)
        below = self._latency(below + 26, 130)
        self._time_axis(below)
        height = below + 34
        marks = "".join(self._mark(mark, number, top, below) for number, mark in enumerate(self._marks, 1))
        said = "Requests, outcomes by kind, and latency over time"
        return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}">{marks}{"".join(self._parts)}</svg>'

    def _x(self, moment: float) -> float:
        share = (moment - self._begin) / (self._end - self._begin)
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 2)

    def _add(self, part: str) -> None:
        self._parts.append(part)

    def _text(self, x: float, y: float, text: str, style: str = "axis", anchor: str = "end") -> None:
        self._add(f'<text x="{x}" y="{y}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>')

    def _bars(self, top: float, height: float) -> float:
        """Draw how many requests there were a second, by outcome; return where the drawing ends."""
        parts = slices(self._samples, self._begin, self._end, self._step)
        most = max((part.good + part.refused + part.failed for part in parts), default=0) / self._step
        # A tenth of it stays free, so that a spike is seen as one.
        scale = height / max(most * 1.1, 1)
        self._text(LEFT - 10, top + height - most * scale + 4, f"{most:.0f}/s")
        self._text(LEFT - 10, top + height, "0")
        self._text(10, top + height / 2, "requests", "lane", "start")
        for part in parts:
            y = top + height
            x, width = self._x(part.begin), self._x(part.begin + self._step) - self._x(part.begin)
            for outcome in ("good", "refused", "failed"):
                if count := getattr(part, outcome):
                    tall = round(max(count / self._step * scale, 1.5 if outcome != "good" else 0), 2)
                    y -= tall
                    self._add(f'<rect class="{outcome}" x="{x}" y="{y:.2f}" width="{width:.2f}" height="{tall}"/>')
        self._base(top + height)
        return top + height

    def _lanes(self, top: float) -> float:
        """Draw a lane for each kind, coloured by the worst that its requests met with; return where they end."""
        for number, kind in enumerate(KINDS):
            y = top + number * 18
            of = [sample for sample in self._samples if sample.kind == kind]
            self._text(10, y + 10, LABELS[kind], "lane", "start")
            # Neighbours of one colour are drawn as one.
            runs: list[list] = []
            for part in slices(of, self._begin, self._end, self._step):
                worst = "failed" if part.failed else "refused" if part.refused else "good" if part.good else "none"
                if runs and runs[-1][0] == worst:
                    runs[-1][2] = part.begin + self._step
                else:
                    runs.append([worst, part.begin, part.begin + self._step])
            for worst, begin, end in runs:
                if worst != "none":
                    x = self._x(begin)
                    self._add(
                        f'<rect class="{worst}" x="{x}" y="{y}" width="{self._x(end) - x:.2f}" height="12" rx="1.5"/>'
                    )
        return top + len(KINDS) * 18

    def _latency(self, top: float, height: float) -> float:
        """Draw how long good answers took, on a scale of powers; return where the drawing ends."""

        def y(seconds: float) -> float:
            share = math.log(max(seconds, FASTEST) / FASTEST) / math.log(SLOWEST / FASTEST)
            return round(top + height - min(share, 1.0) * height, 2)

        self._text(10, top + height / 2, "latency", "lane", "start")
        for level in LEVELS:
            self._add(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(level)}" y2="{y(level)}"/>')
            self._text(LEFT - 10, y(level) + 4, f"{level * 1000:.0f} ms" if level < 1 else f"{level:.0f} s")
        parts = [part for part in slices(self._samples, self._begin, self._end, self._step) if part.took]
        for style, value in (
            ("worst", lambda part: part.took[-1]),
            ("median", lambda part: percentile(part.took, 0.5)),
        ):
            points = [(self._x(part.begin + self._step / 2), y(value(part)), part.begin) for part in parts]
            path, before = "", -math.inf
            for x, height_there, begin in points:
                # A line across a time without answers would tell of some.
                path += f"{'L' if begin - before < 1.5 * self._step else 'M'}{x} {height_there}"
                before = begin
            if path:
                self._add(f'<path class="{style}" d="{path}"/>')
        self._base(top + height)
        return top + height

    def _base(self, y: float) -> None:
        self._add(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')

    def _time_axis(self, y: float) -> None:
        length = self._end - self._begin
        step = next(
            step for step in (5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 1e9) if length / step <= 12
        )
        first = math.ceil((self._begin - self._zero) / step)
        for number in range(first, int((self._end - self._zero) / step) + 1):
            seconds = number * step
            x = self._x(self._zero + seconds)
            self._add(f'<line class="base" x1="{x}" x2="{x}" y1="{y}" y2="{y + 5}"/>')
            self._text(x, y + 20, f"{seconds / 60:g} min" if step >= 60 else f"{seconds:g} s", "axis", "middle")

    def _mark(self, mark: Mark, number: int, top: float, bottom: float) -> str:
        x, until = self._x(mark.begin), self._x(mark.end)
        # Names beside each other would cover each other where there are many.
        up = 0 if len(self._marks) < 8 else (number % 2) * 11 - 3
        anchor = "end" if x > WIDTH - 200 else "start"
        return (
            f'<rect class="mark" x="{x}" y="{top - 8}" width="{max(until - x, 1.2):.2f}" height="{bottom - top + 8}"/>'
            f'<line class="mark-edge" x1="{x}" x2="{x}" y1="{top - 12}" y2="{bottom}"/>'
            f'<text x="{x + (-4 if anchor == "end" else 2)}" y="{top - 14 - up}" class="mark-text"'
            f' text-anchor="{anchor}">{escape(mark.text)}</text>'
        )


def shown(value: Any) -> str:
    """Return a figure as it is read."""
    if value is None:
        return "never"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def render(results: dict[str, Any], samples: Sequence[Sample]) -> str:
    """Return the page of a run.

    Parameters:
        results: as of `Session.results`.
        samples: all of the run.
    """
    done = [outcome for outcome in results["outcomes"] if not outcome["skipped"]]
    seen = [outcome for outcome in done if outcome["at"]]
    overview = ""
    if samples:
        marks = [
            Mark(outcome["at"], outcome["healed"] or outcome["at"], str(number) if len(seen) > 8 else outcome["fault"])
            for number, outcome in enumerate(seen, 1)
        ]
        overview = Drawing(samples, results["begun"], results["ended"], marks, results["begun"]).svg()
    sections = [
        outcome
        | {
            "number": number,
            "drawing": Drawing(
                samples,
                outcome["begin"],
                outcome["end"],
                [Mark(outcome["at"], outcome["healed"], "fault, until mended")],
                outcome["at"],
            ).svg()
            if outcome["end"]
            else "",
        }
        for number, outcome in enumerate(seen, 1)
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "clock": lambda moment: f"{datetime.fromtimestamp(moment):%H:%M:%S}"}
    return environment.get_template("page.html.j2").render(
        results=results,
        done=done,
        sections=sections,
        skipped=[outcome for outcome in results["outcomes"] if outcome["skipped"]],
        unbegun=[outcome for outcome in done if not outcome["at"]],
        overview=overview,
        figures=FIGURES,
        labels=LABELS,
        requests=len(samples),
        good=sum(sample.outcome == "good" for sample in samples),
        refused=sum(sample.outcome == "refused" for sample in samples),
        failed=sum(sample.outcome == "failed" for sample in samples),
        retried=sum(sample.retried for sample in samples),
        date=f"{datetime.fromtimestamp(results['begun']):%Y-%m-%d %H:%M}",
    )
