"""All that a deploy has to stand, on a lab that is up (`make test-deploys`), with either engine, or one machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
sys.path.insert(0, str(Path(__file__).parents[1] / "operations"))

from fixtures import everything_ready, folder, hosts, playbook, pytest_sessionstart, ready_at_start, unlocked

# Its checks are told like those of a test.
pytest.register_assert_rewrite("deploys")

__all__ = ["everything_ready", "folder", "hosts", "playbook", "pytest_sessionstart", "ready_at_start", "unlocked"]
