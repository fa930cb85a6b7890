"""Operations and faults on a lab that is up (`make test-operations`); they stand on what the fleet's tests stand on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))

from fixtures import everything_ready, folder, hosts, playbook, pytest_sessionstart, ready_at_start, unlocked

# Its checks are told like those of a test.
pytest.register_assert_rewrite("backups", "deploys")

__all__ = ["everything_ready", "folder", "hosts", "playbook", "pytest_sessionstart", "ready_at_start", "unlocked"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Operate first, and break hosts after that."""
    items.sort(key=lambda item: item.path.name == "test_resilience.py")
