"""The fleet's tests: which come first and last, and what they share."""

from __future__ import annotations

import pytest

from fixtures import everything_ready, hosts, playbook, pytest_sessionstart, ready_at_start

__all__ = ["everything_ready", "hosts", "playbook", "pytest_sessionstart", "ready_at_start"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Load the data first and reboot hosts last; the rest in the order of the files."""
    first, last = "test_data.py", "test_reboot.py"
    items.sort(key=lambda item: (item.path.name == last, item.path.name != first))
