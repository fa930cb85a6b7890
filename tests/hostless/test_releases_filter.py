"""Which release a node is to run."""

from __future__ import annotations

import hashlib

from landscape import load

releases = load("plugins/filter/releases.py", "filter_releases")
NODES = {"orders": [{"name": "app1"}, {"name": "app2"}, {"name": "app3"}], "users": [{"name": "app2"}]}
SERVICES = [{"name": "orders"}, {"name": "users"}]


def answer(node: str, **live: str) -> dict:
    """Return what release_facts says of a node, given its live releases; each has an older one installed, too."""
    return {
        "item": node,
        "services": {name: {"live": live.get(name, ""), "installed": ["old"]} for name in ("orders", "users")},
    }


UNREACHED = {"item": "app9", "unreachable": True, "msg": "no route"}


def test_services_of_a_node():
    assert releases.releases_of(NODES, "app2") == ["orders", "users"]
    assert releases.releases_of(NODES, "app3") == ["orders"]
    assert releases.releases_of(NODES, "lb1") == []


def test_source_paths_start_from_the_project(tmp_path):
    assert releases.releases_source({"path": "examples/../x"}, str(tmp_path)) == {"path": str(tmp_path / "x")}
    assert releases.releases_source({"path": "/srv/x"}, str(tmp_path)) == {"path": "/srv/x"}
    assert releases.releases_source({"git": "https://example.com/x"}, str(tmp_path)) == {"git": "https://example.com/x"}


def test_digest_of_an_archive(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100000)
    assert releases.releases_digest(str(tmp_path / "a")) == hashlib.sha256(b"x" * 100000).hexdigest()


def test_services_that_live_nowhere():
    assert releases.releases_unborn(SERVICES, [answer("app1"), answer("app2", users="u1"), UNREACHED]) == [
        {"name": "orders"}
    ]
    assert releases.releases_unborn(SERVICES, []) == SERVICES
    assert releases.releases_unborn(SERVICES, [answer("app1", orders="o1", users="u1")]) == []


def test_a_service_that_lives_nowhere_gets_what_was_built():
    built = [{"item": {"name": "orders"}, "id": "o1"}, {"item": {"name": "users"}, "skipped": True}]
    assert releases.releases_plan(SERVICES, [answer("app1")], built) == {
        "orders": {"id": "o1", "new": True, "node": ""},
        "users": {"id": "", "new": True, "node": ""},
    }


def test_a_service_that_lives_somewhere_stays_as_most_nodes_have_it():
    facts = [
        answer("app1", orders="o1", users="u1"),
        answer("app2", orders="o2"),
        answer("app3", orders="o2"),
        UNREACHED,
    ]
    built = [{"item": {"name": "orders"}, "id": "o3"}]
    assert releases.releases_plan(SERVICES, facts, built) == {
        "orders": {"id": "o2", "new": False, "node": "app2"},
        "users": {"id": "u1", "new": False, "node": "app1"},
    }


PLAN = {"orders": {"id": "o1", "new": False, "node": "app1"}, "users": {"id": "old", "new": True, "node": ""}}


def test_what_a_node_lacks():
    facts = [answer("app1", orders="o1"), answer("app2")]
    assert releases.releases_missing(PLAN, ["orders", "users"], facts, "app2") == [
        {"name": "orders", "id": "o1", "node": "app1"}
    ]
    assert releases.releases_missing(PLAN, ["orders", "users"], facts, "app1") == []


def test_a_node_that_did_not_answer_lacks_everything():
    assert releases.releases_missing(PLAN, ["orders", "users"], [], "app3") == [
        {"name": "orders", "id": "o1", "node": "app1"},
        {"name": "users", "id": "old", "node": ""},
    ]


def test_a_live_release_is_left_alone():
    assert releases.releases_missing(PLAN, ["orders"], [answer("app1", orders="another")], "app1") == []


def test_the_first_node_of_a_run():
    plan = {name: {"id": "x", "new": True, "node": ""} for name in NODES}
    everywhere = ["app3", "app2", "app1"]
    first = {host: releases.releases_first_on(plan, NODES, host, everywhere) for host in everywhere}
    assert first == {"app1": ["orders"], "app2": ["users"], "app3": []}
    assert releases.releases_first_on(plan, NODES, "app3", ["app3"]) == ["orders"]
    assert releases.releases_first_on(plan, NODES, "app1", []) == []
    plan["orders"]["new"] = False
    assert releases.releases_first_on(plan, NODES, "app1", everywhere) == []


def test_filters_are_offered_by_name():
    filters = releases.FilterModule().filters()
    assert set(filters) == {name for name in vars(releases) if name.startswith("releases_")}


def test_check_mode_ships_nothing_that_has_yet_to_be_resolved():
    """There a release that no lock is kept for has no id, and so no archive either."""
    plan = {"orders": {"id": "", "new": True, "node": ""}, "users": {"id": "u1", "new": True, "node": ""}}
    assert releases.releases_missing(plan, ["orders", "users"], [answer("app1")], "app1") == [
        {"name": "users", "id": "u1", "node": ""}
    ]
