"""Provisions the scenario's bare machine by runs that are killed at random points, and keeps what they lead to.

test_interrupted.py compares it with the state after a run that nobody interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fleet"))

import lab
import state
from interrupt import KILLS, SEED, by_mitogen, complete_run, interrupted_runs, playbook_command

KEPT = lab.STATE / "interrupted.json"
# Roughly what a first run has; interrupted_runs mends the figure where a run has fewer.
TASKS = 70


def main() -> None:
    """Kill runs, every third one a plain one; let one end, and write the state of the machine."""
    print(f"seed {SEED}", flush=True)
    command = playbook_command("site.yml")
    interrupted_runs(KILLS, lambda number: by_mitogen(command) if number % 3 else command, TASKS, SEED)
    complete_run(by_mitogen(command))
    KEPT.write_text(json.dumps(state.collect(lab.Host("solo1"))))


if __name__ == "__main__":
    main()
