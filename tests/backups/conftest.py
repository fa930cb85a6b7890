"""What backups have to stand, on a lab that is up (`make test-backups`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
sys.path.insert(0, str(Path(__file__).parents[1] / "operations"))

from fixtures import everything_ready, hosts, playbook, pytest_sessionstart, ready_at_start, unlocked

# Its checks are told like those of a test.
pytest.register_assert_rewrite("backups", "deploys")

__all__ = ["everything_ready", "hosts", "playbook", "pytest_sessionstart", "ready_at_start", "unlocked"]
