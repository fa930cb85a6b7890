"""Old releases go; what runs, what ran before and the newest others stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.releases import releases_of

from landscape import load

prune = load("plugins/modules/release_prune.py", "release_prune")


@pytest.fixture
def home(tmp_path) -> Path:
    """A service with six releases, r1 the oldest; r2 is live, and r5 was before."""
    for number in range(1, 7):
        release = tmp_path / f"orders/releases/r{number}"
        release.mkdir(parents=True)
        (release / "file").write_text("content")
        (release / ".installed").write_text(json.dumps({"id": release.name, "installed_at": f"2026-01-0{number}"}))
        (tmp_path / f"orders-r{number}.tar.gz").touch()
    for link, target in (("blue", "releases/r2"), ("green", "releases/r5"), ("live", "blue")):
        (tmp_path / "orders" / link).symlink_to(target)
    return tmp_path / "orders"


def facts(home: Path) -> dict:
    return releases_of("orders", str(home.parent))


@pytest.mark.parametrize(
    ("keep", "protect", "gone"),
    [
        (0, [], ["r1", "r3", "r4", "r6"]),
        (2, [], ["r1", "r3"]),
        (1, ["r3"], ["r1", "r4"]),
        (4, [], []),
        (9, [], []),
    ],
)
def test_what_may_go(home, keep, protect, gone):
    assert prune.surplus(facts(home), keep, protect) == gone


def test_releases_go_with_their_archives(home):
    prune.remove(home / "releases", home.parent, "orders", ["r1", "r3"])
    assert facts(home)["installed"] == ["r2", "r4", "r5", "r6"]
    assert sorted(path.name for path in home.parent.glob("*.tar.gz")) == [f"orders-r{n}.tar.gz" for n in (2, 4, 5, 6)]


def test_bundles_go_that_no_release_names(home):
    """r2 and r4 have one bundle, r3 another; r6 was cut off before it counted as installed."""
    letters = {"2": "a", "3": "b", "4": "a", "6": "c"}
    bundles = {number: home.parent / f"orders-wheels-{letter * 24}.tar" for number, letter in letters.items()}
    for number, letter in letters.items():
        (home / f"releases/r{number}/release.json").write_text(json.dumps({"bundle_sha256": letter * 64}))
    (home / "releases/r6/.installed").unlink()
    # Of a service with such a name, and what is no bundle.
    others = [f"orders-wheels-x-wheels-{'d' * 24}.tar", f"users-wheels-{'d' * 24}.tar", "orders-wheels-odd.tar"]
    unnamed = home.parent / f"orders-wheels-{'d' * 24}.tar"
    for file in (*bundles.values(), unnamed, *(home.parent / other for other in others)):
        file.touch()

    def left() -> set[str]:
        return {path.name for path in home.parent.glob("*.tar")} - set(others)

    prune.remove(home / "releases", home.parent, "orders", ["r1"])
    assert left() == {bundle.name for bundle in bundles.values()}
    prune.remove(home / "releases", home.parent, "orders", ["r3", "r4"])
    assert left() == {bundles["2"].name, bundles["6"].name}
    prune.remove(home / "releases", home.parent, "orders", ["r2"])
    assert left() == {bundles["6"].name}
    assert all((home.parent / other).exists() for other in others)


def test_a_removal_that_was_cut_off_is_finished(home):
    (home / "releases/r1").rename(home / "releases/.gone-r1")
    assert "r1" not in facts(home)["installed"]
    prune.remove(home / "releases", home.parent, "orders", [])
    assert not (home / "releases/.gone-r1").exists()
    assert not (home.parent / "orders-r1.tar.gz").exists()


def test_a_service_with_nothing_live_keeps_the_newest(home):
    for link in ("blue", "green", "live"):
        (home / link).unlink()
    assert prune.surplus(facts(home), 3, []) == ["r1", "r2", "r3"]
