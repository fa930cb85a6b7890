"""What nodes note of deploys: what has begun, what came of it, and what the fleet agreed on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from landscape import load

record = load("plugins/modules/deploy_record.py", "deploy_record")
releases = load("plugins/module_utils/releases.py", "module_utils_releases_for_records")

ASKED = {"id": "17", "kind": "deploy", "who": "anna", "origin": "laptop", "reason": "", "serial": 5, "keep": 3}


@pytest.fixture
def home(tmp_path) -> Path:
    """Return a service's directory with two releases, the older one live and agreed on."""
    home = tmp_path / "orders"
    for release in ("old", "new"):
        directory = home / "releases" / release
        directory.mkdir(parents=True)
        (directory / ".installed").write_text(json.dumps({"id": release, "installed_at": release}))
        (directory / "release.json").write_text(json.dumps({"version": f"v-{release}", "commit": f"c-{release}"}))
    (home / "blue").symlink_to("releases/old")
    (home / "live").symlink_to("blue")
    (home / ".deployed.json").write_text(json.dumps({"serial": 4, "release": "old"}))
    return home


def facts(home: Path) -> dict:
    return releases.releases_of("orders", str(home.parent))


def asked(**more: object) -> dict:
    return ASKED | {"release": "new", "state": "done"} | more


def test_what_begins_is_under_way_and_says_what_it_found(home):
    begun = record.begin(home, asked(), facts(home))
    assert begun | {"begun": ""} == {
        **{key: ASKED[key] for key in ("id", "kind", "who", "origin")},
        **{"from": "old", "to": "new", "begun": "", "version": "v-new", "commit": "c-new"},
    }
    assert facts(home)["under_way"] == begun
    assert record.begin(home, asked(), facts(home)) == begun


def test_what_is_done_is_agreed_on_and_noted(home):
    record.begin(home, asked(), facts(home))
    record.end(home, asked(), facts(home))
    after = facts(home)
    assert (after["agreed"], after["serial"], after["under_way"]) == ("new", 5, {})
    [noted] = releases.history_of("orders", str(home.parent))
    assert (noted["outcome"], noted["from"], noted["to"], noted["who"]) == ("done", "old", "new", "anna")


@pytest.mark.parametrize("state", ["reverted", "failed"])
def test_what_was_taken_back_changes_no_agreement(home, state):
    record.begin(home, asked(), facts(home))
    record.end(home, asked(state=state, reason="it broke"), facts(home))
    after = facts(home)
    assert (after["agreed"], after["serial"], after["under_way"]) == ("old", 4, {})
    assert releases.history_of("orders", str(home.parent))[-1]["reason"] == "it broke"


def test_a_late_word_of_an_older_deploy_changes_no_agreement(home):
    record.end(home, asked(serial=4), facts(home))
    assert facts(home)["agreed"] == "old"


def test_what_never_ended_is_noted_as_cut_off_and_what_it_found_is_kept(home):
    """The release of a deploy that was cut off was never agreed on: nobody goes back to it."""
    record.begin(home, asked(), facts(home))
    (home / "blue").unlink()
    (home / "blue").symlink_to("releases/new")
    begun = record.begin(home, asked(id="18"), facts(home))
    assert begun["from"] == "old"
    assert [each["outcome"] for each in releases.history_of("orders", str(home.parent))] == ["cut off"]


def test_only_the_last_deploys_stay_noted(home):
    for number in range(5):
        record.end(home, asked(id=str(number), serial=10 + number), facts(home))
    assert [each["id"] for each in releases.history_of("orders", str(home.parent))] == ["2", "3", "4"]


def test_a_damaged_line_of_the_history_is_left_out(home):
    record.end(home, asked(), facts(home))
    with (home / ".deploys.jsonl").open("a") as file:
        file.write('{"id": "half')
    assert [each["id"] for each in releases.history_of("orders", str(home.parent))] == ["17"]


@pytest.mark.parametrize(
    ("begun", "ended", "seconds"),
    [("2026-11-28T10:00:00Z", "2026-11-28T10:01:05Z", 65), ("", "2026-11-28T10:01:05Z", 0)],
)
def test_how_long_it_took(begun, ended, seconds):
    assert record.seconds_between(begun, ended) == seconds
