"""A lock of the environment: one holds it, others are told who, and a dead one's is broken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from landscape import load

lock = load("plugins/modules/fleet_lock.py", "fleet_lock")
ANNA = {"id": "1", "who": "anna", "origin": "laptop", "what": "deploy orders v2"}
BEN = {"id": "2", "who": "ben", "origin": "desk", "what": "rollback users"}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "terrace/lock.json"


def test_one_holds_it_and_may_take_it_again(file):
    assert lock.take(file, ANNA, "held", True) == ({}, True)
    holder, changed = lock.take(file, ANNA, "held", True)
    assert (holder["who"], changed) == ("anna", False)
    assert lock.take(file, ANNA, "released", True)[1] is True
    assert lock.take(file, ANNA, "released", True) == ({}, False)


def test_who_comes_later_is_told_who_has_it(file):
    lock.take(file, ANNA, "held", True)
    with pytest.raises(lock.LockedError, match=r"^anna on laptop since 20\S+Z for: deploy orders v2$"):
        lock.take(file, BEN, "held", True)
    assert lock.take(file, BEN, "released", True)[1] is False
    holder, changed = lock.take(file, BEN, "broken", True)
    assert (holder["who"], changed) == ("anna", True)
    assert lock.take(file, BEN, "held", True) == ({}, True)


def test_to_look_changes_nothing(file):
    assert lock.take(file, ANNA, "held", False) == ({}, True)
    assert not file.exists()
    lock.take(file, ANNA, "held", True)
    assert lock.take(file, ANNA, "released", False)[1] is True
    assert file.exists()


def test_of_many_who_come_at_once_one_has_it(file):
    def come(number: int) -> bool:
        try:
            return lock.take(file, ANNA | {"id": str(number)}, "held", True)[1]
        except lock.LockedError:
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(come, range(64))) == 1


def test_a_damaged_file_holds_nobody_off(file):
    file.parent.mkdir()
    file.write_text("{")
    assert lock.take(file, BEN, "held", True) == ({}, True)
