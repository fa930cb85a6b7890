"""One machine becomes three (`make test-growing`), in the environment of the scenario `single` (LAB_INVENTORY)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "single"))
sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))

from fixtures import hosts, playbook, pytest_sessionstart, ready_at_start

__all__ = ["hosts", "playbook", "pytest_sessionstart", "ready_at_start"]
