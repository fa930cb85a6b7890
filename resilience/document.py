"""`make resilience-report`: writes what runs of the harness measured into docs/resilience.md, between its markers.

What a page says has to be kept with it, so the figures go to resilience/results.json, which is committed; without
folders of runs the page is written anew from that.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .environment import ROOT
from .faults import CATALOGUE
from .page import FIGURES, shown

# The benchmark knows how to say which machine and commit it was.
sys.path.insert(0, str(ROOT / "bench"))
import results as bench

KEPT = ROOT / "resilience/results.json"
PAGE = ROOT / "docs/resilience.md"
BEGIN, END = "<!-- figures: make resilience-report -->", "<!-- end of figures -->"
# What is kept of each fault's figures.
SHOWN = (
    *FIGURES,
    *(
        "requests",
        "failed_creates",
        "refused",
        "retried",
        "reconnected",
        "gap",
        "slowest",
        "well",
        "acknowledged",
        "inside",
    ),
)


def gather(folders: Iterable[Path | str]) -> dict[str, Any]:
    """Return the figures of some runs, by fault, as plain data.

    Parameters:
        folders: of runs, as the harness left them; `FOLDER:FAULT,FAULT` takes only these faults (names or patterns) of
            one, where others were measured anew.
    """
    faults: dict[str, list[dict]] = {}
    names, rates = [], set()
    for each in folders:
        folder, _, wanted = str(each).partition(":")
        found = json.loads((Path(folder) / "results.json").read_text())
        names.append(found["name"])
        rates.add(found["rate"])
        for outcome in found["outcomes"]:
            name = outcome["fault"]
            if not outcome["skipped"] and any(fnmatch(name, pattern) for pattern in (wanted or "*").split(",")):
                # One that could not be measured counts, too.
                kept = {figure: outcome["figures"][figure] for figure in SHOWN if figure in outcome["figures"]}
                faults.setdefault(name, []).append(kept | {"problems": outcome["problems"]})
    return {
        "runs": names,
        "rate": max(rates),
        "commit": bench.commit(),
        "machine": bench.machine(),
        "faults": {fault.name: faults[fault.name] for fault in CATALOGUE if fault.name in faults},
    }


def spread(values: list[Any]) -> str:
    """Return the median and the worst of a figure; a figure that could not be taken is the worst there is."""
    if None in values:
        return f"never in {values.count(None)} of {len(values)}"
    median, worst = statistics.median(values), max(values)
    return shown(worst) if median == worst else f"{shown(float(median))} / {shown(worst)}"


def tables(kept: dict[str, Any]) -> str:
    """Return the figures as Markdown: the rows that have limits, then all faults."""
    rows, others = [], []
    for fault in CATALOGUE:
        if runs := kept["faults"].get(fault.name):
            for limit in fault.limits if fault.row else ():
                values = [run.get(limit.figure) for run in runs]
                most = shown(limit.most) + (f" (worst {shown(limit.worst)})" if limit.worst is not None else "")
                median = None if None in values else statistics.median(values)
                holds = median is not None and median <= limit.most and all(map(limit.holds, values))
                said = "yes" if holds else "**no**"
                rows.append([fault.row, FIGURES[limit.figure], spread(values), most, str(len(runs)), said])
            others.append(
                [f"`{fault.name}`", fault.title, str(len(runs))]
                + [
                    spread([run.get(name) for run in runs])
                    for name in ("failed_all", "refused", "retried", "stall", "writes_back", "lost", "well")
                ]
            )
    machine = kept["machine"]
    counted = ["failed or refused", "refused", "repeated", "stall", "writes back", "lost", "well after"]
    where = f"{machine['cores']} cores of {machine['processor']}, which load and all hosts shared"
    return "\n".join(
        [
            f"Measured at commit {kept['commit']} with {kept['rate']:g} requests a second on {where}. Median / worst.",
            "",
            *_table(["fault", "figure", "seen", "may be", "runs", "holds"], rows),
            "",
            "All faults; seconds where not counted:",
            "",
            *_table(["`FAULTS=`", "what happens", "runs", *counted], others),
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def write(kept: dict[str, Any]) -> None:
    """Put the figures into the page."""
    text = PAGE.read_text()
    block = f"{BEGIN}\n\n{tables(kept)}\n\n{END}"
    PAGE.write_text(re.sub(rf"(?s){re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, text))


def main() -> None:
    """Take over the runs that are named, or the newest of the lab, and write the page."""
    folders: list[Path | str] = list(sys.argv[1:])
    if not folders:
        found = sorted((ROOT / ".terrace/resilience/lab").glob("*/results.json"))
        folders = [path.parent for path in found[-1:]]
    if folders:
        KEPT.write_text(json.dumps(gather(folders), indent=1) + "\n")
    if not KEPT.exists():
        sys.exit("resilience: nothing was measured yet; run make resilience")
    write(json.loads(KEPT.read_text()))
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
