"""The tests of the scenario `single` stand on what the fleet's stand on, with another inventory (LAB_INVENTORY)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))

from fixtures import hosts, playbook, pytest_sessionstart, ready_at_start

__all__ = ["hosts", "playbook", "pytest_sessionstart", "ready_at_start"]
