"""What every part has in common: where results are kept, and what machine and commit they are of."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "bench/results"


def rounds(default: int = 3) -> int:
    """Return how often each thing is measured: ROUNDS of the environment."""
    given = os.environ.get("ROUNDS") or str(default)
    if not given.isdecimal() or not 1 <= int(given) <= 100:
        sys.exit(f"bench: ROUNDS is {given!r}; has to be a number from 1 to 100")
    return int(given)


def share(figures: Iterable[float], whole: Iterable[float]) -> float:
    """Return the median over the rounds of a figure as a part of another one of the same round."""
    return statistics.median(one / other for one, other in zip(figures, whole, strict=True))


def command(part: str) -> str:
    """Return what repeats a part as it was run."""
    given = [
        f"{name}='{os.environ[name]}'" for name in ("ROUNDS", "SECONDS", "ENGINES", "SIZES") if os.environ.get(name)
    ]
    return " ".join([*given, "bench/run", part])


def say(line: str) -> None:
    """Print a line of progress at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def machine() -> dict[str, object]:
    """Return what was measured on: cores, memory in MB, processor, kernel, and its load of the last five minutes."""
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(memory.split()[1]) // 1024,
        "processor": models[0].split(":", 1)[1].strip() if models else platform.machine(),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[1], 1),
    }


def commit() -> str:
    """Return the short id of the commit, with a + where files differ from it."""
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.strip()


def save(part: str, command: str, measured: dict) -> Path:
    """Keep what a part measured, with machine, date and command, and return where.

    Parameters:
        part: the name of the file.
        command: what repeats the measurement.
        measured: plain data.
    """
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{part}.json"
    kept = {
        "part": part,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "command": command,
        "machine": machine(),
        "measured": measured,
    }
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(kept, indent=1) + "\n")
    unfinished.rename(path)
    return path


def load(part: str) -> dict | None:
    """Return what `save` kept of a part; None where it was never measured."""
    path = FOLDER / f"{part}.json"
    return json.loads(path.read_text()) if path.exists() else None


def spread(figures: Iterable[float]) -> dict[str, float]:
    """Return the median of figures, and the smallest and largest of them."""
    figures = list(figures)
    return {"median": statistics.median(figures), "min": min(figures), "max": max(figures)}
