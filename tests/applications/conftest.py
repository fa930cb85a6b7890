"""Applications that are not ours, on a lab that is up (`make test-applications`)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))

from fixtures import everything_ready, hosts, playbook, pytest_sessionstart, ready_at_start

__all__ = ["everything_ready", "hosts", "playbook", "pytest_sessionstart", "ready_at_start"]
