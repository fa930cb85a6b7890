"""Which release a node is to run."""

from __future__ import annotations

import hashlib

import jinja2
import pytest
import yaml

from landscape import ROOT, load

releases = load("plugins/filter/releases.py", "filter_releases")
NODES = {"orders": ["app1", "app2", "app3"], "users": ["app2"]}
DECLARED = {"version": "v2", "server": "gunicorn", "interface": "asgi", "source": {"path": "x"}}
SERVICES = [{"name": "orders"} | DECLARED, {"name": "users"} | DECLARED]
BUILT_FOR = {"server": "gunicorn", "interface": "asgi"}


def answer(node: str, **live: str) -> dict:
    """Return what release_facts says of a node, given its live releases; each has an older one installed, too."""
    return {
        "item": node,
        "services": {name: {"live": live.get(name, ""), "installed": ["old"]} for name in ("orders", "users")},
    }


def told(node: str, **release: object) -> dict:
    """Return what release_facts says of a node on which orders is live, as a release of which that is known."""
    services = answer(node, orders="o1")["services"]
    services["orders"]["releases"] = {"o1": {"sha256": "digest of o1", "bundle_sha256": "bundle of o1"} | release}
    return {"item": node, "services": services}


# What all nodes run that have noted no agreement is the first one.
FIRST = {"settled": True, "serial": 1}
UNKNOWN = {"sha256": "", "bundle_sha256": ""}
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
    assert releases.releases_digest(str(tmp_path / "b")) == ""


def test_services_that_live_nowhere():
    assert releases.releases_unborn(SERVICES, [answer("app1"), answer("app2", users="u1"), UNREACHED]) == [SERVICES[0]]
    assert releases.releases_unborn(SERVICES, []) == SERVICES
    assert releases.releases_unborn(SERVICES, [answer("app1", orders="o1", users="u1")]) == []


def test_what_is_deployed_is_built_though_it_lives():
    facts = [answer("app1", orders="o1", users="u1")]
    assert releases.releases_unborn(SERVICES, facts, ["orders"]) == [SERVICES[0]]
    named = releases.releases_versioned(SERVICES, ["orders"], "v3")
    assert [service["version"] for service in named] == ["v3"]
    assert releases.releases_versioned(SERVICES, ["orders"], "") == [SERVICES[0]]


def test_every_node_gets_what_is_deployed():
    facts = [answer("app1", orders="o1", users="u1"), answer("app2", orders="o1"), UNREACHED]
    built = [{"item": {"name": "orders"}, "id": "o2", "sha256": "d", "bundle_sha256": "b"}]
    plan = releases.releases_plan(SERVICES, NODES, facts, built, ["orders"])
    files = {"sha256": "d", "bundle_sha256": "b"}
    assert plan["orders"] == {"id": "o2", **files, "new": True, "node": "", "settled": False, "serial": 1} | BUILT_FOR
    assert plan["users"]["id"] == "u1"
    missing = [{"name": "orders", "id": "o2", **files, "node": ""}]
    assert releases.releases_missing(plan, ["orders", "users"], facts, "app1") == missing
    facts[0]["services"]["orders"]["installed"].append("o2")
    assert releases.releases_missing(plan, ["orders", "users"], facts, "app1") == []
    assert releases.releases_first_on(plan, NODES, "app1", ["app1", "app2"]) == ["orders"]


def test_a_service_that_lives_nowhere_gets_what_was_built():
    files = {"sha256": "d", "bundle_sha256": "b"}
    built = [{"item": {"name": "orders"}, "id": "o1", **files}, {"item": {"name": "users"}, "skipped": True}]
    assert releases.releases_plan(SERVICES, NODES, [answer("app1")], built) == {
        "orders": {"id": "o1", **files, "new": True, "node": "", **FIRST} | BUILT_FOR,
        "users": {"id": "", **UNKNOWN, "new": True, "node": "", **FIRST} | BUILT_FOR,
    }


def test_a_service_that_lives_somewhere_stays_as_most_nodes_have_it():
    facts = [
        answer("app1", orders="o1", users="u1"),
        answer("app2", orders="o2"),
        answer("app3", orders="o2"),
        UNREACHED,
    ]
    built = [{"item": {"name": "orders"}, "id": "o3"}]
    assert releases.releases_plan(SERVICES, NODES, facts, built) == {
        "orders": {"id": "o2", **UNKNOWN, "new": False, "node": "app2", "settled": False, "serial": 0} | BUILT_FOR,
        "users": {"id": "u1", **UNKNOWN, "new": False, "node": "app1", **FIRST} | BUILT_FOR,
    }


def test_a_node_that_a_service_has_left_counts_only_where_no_other_runs_it():
    facts = [answer("app1", users="old"), answer("app2", users="u2")]
    assert releases.releases_plan(SERVICES, NODES, facts, [])["users"]["id"] == "u2"
    assert releases.releases_plan(SERVICES, NODES, facts[:1], [])["users"]["id"] == "old"


def test_what_a_live_release_was_built_for_stays():
    plan = releases.releases_plan(SERVICES, NODES, [told("app1", server="granian", interface="wsgi")], [])
    assert plan["orders"] == {
        "id": "o1",
        "sha256": "digest of o1",
        "bundle_sha256": "bundle of o1",
        "new": False,
        "node": "app1",
        "server": "granian",
        "interface": "wsgi",
        **FIRST,
    }


PLAN = {
    "orders": {"id": "o1", "sha256": "d1", "bundle_sha256": "b1", "new": False, "node": "app1"},
    "users": {"id": "old", "sha256": "d2", "bundle_sha256": "b2", "new": True, "node": ""},
}


def test_what_a_node_lacks():
    facts = [answer("app1", orders="o1"), answer("app2")]
    assert releases.releases_missing(PLAN, ["orders", "users"], facts, "app2") == [
        {"name": "orders", "id": "o1", "sha256": "d1", "bundle_sha256": "b1", "node": "app1"}
    ]
    assert releases.releases_missing(PLAN, ["orders", "users"], facts, "app1") == []


def test_a_node_that_did_not_answer_lacks_everything():
    assert releases.releases_missing(PLAN, ["orders", "users"], [], "app3") == [
        {"name": "orders", "id": "o1", "sha256": "d1", "bundle_sha256": "b1", "node": "app1"},
        {"name": "users", "id": "old", "sha256": "d2", "bundle_sha256": "b2", "node": ""},
    ]


def test_a_live_release_is_left_alone():
    assert releases.releases_missing(PLAN, ["orders"], [answer("app1", orders="another")], "app1") == []


def test_each_release_has_two_files_to_ship():
    digests = {"sha256": "a" * 64, "bundle_sha256": f"{'b' * 24}{'c' * 40}"}
    missing = {"name": "orders", "id": "o1", **digests, "node": "app1"}
    archive, bundle = releases.releases_files([missing], "/kept", "/cache")
    assert archive == {
        "here": "/kept/orders/o1.tar.gz",
        "there": "/cache/orders-o1.tar.gz",
        "sha256": "a" * 64,
        "node": "app1",
    }
    assert bundle == {
        "here": f"/kept/orders/wheels-{'b' * 24}.tar",
        "there": f"/cache/orders-wheels-{'b' * 24}.tar",
        "sha256": digests["bundle_sha256"],
        "node": "app1",
    }
    # The module's files are those that were shipped.
    tasks = yaml.safe_load((ROOT / "roles/releases/tasks/ship.yml").read_text())
    given = next(task["release_install"] for task in tasks if "release_install" in task)
    known = {"item": missing, "__releases_cache": "/cache"}
    assert jinja2.Template(given["archive"]).render(known) == archive["there"]
    assert jinja2.Template(given["bundle"]).render(known) == bundle["there"]


LIVE = {"version": "v2", "server": "gunicorn", "interface": "asgi", "source": {"kind": "path", "origin": ""}}


@pytest.mark.parametrize(
    ("live", "declared", "line"),
    [
        ({}, {}, None),
        ({"version": "v1"}, {}, "orders: version v2 is declared, v1 is live"),
        ({"version": ""}, {}, "orders: version v2 is declared, none is live"),
        ({"version": "v1"}, {"version": ""}, None),
        ({"server": "granian"}, {}, "orders: server gunicorn is declared, granian is live"),
        (
            {},
            {"static": {"url": "/static/"}},
            "orders: static files at /static/ are declared, at no address they are live",
        ),
        (
            {"static": {"url": "/a/"}},
            {"static": {"url": "/b/"}},
            "orders: static files at /b/ are declared, at /a/ they are live",
        ),
        ({"static": {"url": "/a/"}}, {"static": {"url": "/a/"}}, None),
        (
            {"static": {"url": "/a/"}},
            {"static": None},
            "orders: static files at no address are declared, at /a/ they are live",
        ),
        (
            {"source": {"kind": "pypi", "origin": "httpbin"}},
            {},
            "orders: source path x is declared, pypi httpbin is live",
        ),
        (
            {"source": {"kind": "git", "origin": "https://example.com/a"}},
            {"source": {"git": "https://me:secret@example.com/a"}},
            None,
        ),
        (
            {"source": {"kind": "git", "origin": "https://example.com/a"}},
            {"source": {"git": "https://me:secret@example.com/b"}},
            "orders: source git https://example.com/b is declared, git https://example.com/a is live",
        ),
    ],
)
def test_a_declaration_that_is_not_what_is_live_is_told(live, declared, line):
    services = [SERVICES[0] | declared, SERVICES[1]]
    facts = [told("app1", **LIVE | live), told("app2", **LIVE | live), UNREACHED]
    assert releases.releases_other(services, NODES, facts) == ([line] if line else [])


def test_nothing_is_told_of_a_service_that_is_live_nowhere_or_of_a_release_that_says_nothing():
    assert releases.releases_other(SERVICES, NODES, [answer("app1")]) == []
    assert releases.releases_other(SERVICES, NODES, [told("app1")]) == []


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
    plan = {name: {"id": id, **UNKNOWN, "new": True, "node": ""} for name, id in (("orders", ""), ("users", "u1"))}
    assert releases.releases_missing(plan, ["orders", "users"], [answer("app1")], "app1") == [
        {"name": "users", "id": "u1", **UNKNOWN, "node": ""}
    ]
