"""What a deploy says and decides before and after it changes nodes."""

from __future__ import annotations

import pytest
import yaml

from landscape import ROOT, Landscape, load

deploy = load("plugins/filter/deploy.py", "filter_deploy")
releases = load("plugins/filter/releases.py", "filter_releases_for_deploys")

SERVICE = {
    "name": "orders",
    "server": "gunicorn",
    "interface": "asgi",
    "version": "v2",
    "database": {"migrate": "alembic upgrade head", "migrate_after": "alembic upgrade contract@head"},
}
NODES = {"orders": ["app1", "app2", "app3"]}
HOOK = {"at": "before_switch", "run": "./tell"}


def digests(release: str) -> dict[str, str]:
    return {"sha256": f"digest of {release}", "bundle_sha256": f"bundle of {release}"}


def state(live: str, *, installed: tuple[str, ...] = ("a", "b"), **more: object) -> dict:
    """Return what `release_facts` says of a node's service."""
    known = {
        release: {"version": f"v-{release}", **digests(release), "server": "uvicorn", "interface": "asgi"}
        for release in installed
    }
    return {"live": live, "installed": list(installed), "releases": known, "history": [], **more}


def facts(**nodes: dict) -> list[dict]:
    return [{"item": node, "services": {"orders": its}} for node, its in nodes.items()]


def done(old: str, new: str, outcome: str = "done") -> dict:
    return {"from": old, "to": new, "outcome": outcome}


@pytest.mark.parametrize(
    ("hooks", "refused"),
    [
        ([], ""),
        ([HOOK, HOOK | {"on": "nodes", "services": ["orders"]}], ""),
        ([{"at": "before_switch"}], "deploy_hooks[0] needs `at` and `run`, and may have `on` and `services`"),
        ([HOOK, HOOK | {"who": "me"}], "deploy_hooks[1] needs `at` and `run`, and may have `on` and `services`"),
        ("./tell", "deploy_hooks[0] needs `at` and `run`, and may have `on` and `services`"),
        ([HOOK | {"on": "moon"}], "deploy_hooks[0].on is moon; choose one of controller, nodes"),
    ],
)
def test_hooks_are_refused_by_place_with_what_mends_them(hooks, refused):
    assert deploy.deploy_hooks_refused(hooks) == refused


def test_a_phase_that_does_not_exist_is_told_with_those_that_do():
    refused = deploy.deploy_hooks_refused([HOOK | {"at": "later"}])
    assert refused.startswith("deploy_hooks[0].at is later; choose one of before_prepare, ")
    assert refused.endswith("after_failure")


def test_hooks_are_those_of_the_phase_the_place_and_the_service():
    hooks = [
        HOOK,
        HOOK | {"run": "./on-nodes", "on": "nodes"},
        HOOK | {"run": "./users-only", "services": ["users"]},
        HOOK | {"run": "./later", "at": "after_deploy"},
    ]
    assert deploy.deploy_hooks_at(hooks, "before_switch", "controller", ["orders"]) == [HOOK]
    assert [hook["run"] for hook in deploy.deploy_hooks_at(hooks, "before_switch", "nodes", ["orders"])] == [
        "./on-nodes"
    ]
    assert deploy.deploy_hooks_at(hooks, "before_switch", "nodes", []) == []


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"msg": "it broke"}, "it broke"),
        ({"results": [{"msg": "well"}, {"failed": True, "msg": "a broke"}, {"failed": True, "msg": "b broke"}]},
         "a broke; b broke"),
        ({"cmd": ["x"], "rc": 9, "msg": "non-zero", "stderr": "first\nlast", "stdout": "o"},
         "a command ended with 9:\nfirst\nlast"),
        ({}, "a task failed; see above"),
    ],
)  # fmt: skip
def test_why_something_failed_is_what_it_says_itself(result, reason):
    assert deploy.deploy_reason(result) == reason


def test_hooks_are_told_what_is_to_live():
    assert deploy.deploy_releases({}) == ""
    assert deploy.deploy_releases({"orders": {"id": "a"}, "users": {"id": "b"}}) == "orders=a users=b"


def test_a_node_goes_back_to_what_lived_there():
    back = deploy.deploy_back(
        {"orders": {"id": "b", "server": "gunicorn", "interface": "asgi"}}, {"orders": state("a")}
    )
    assert back["orders"] == {"id": "a", "new": False, "node": "", "server": "uvicorn", "interface": "asgi"}
    assert deploy.deploy_back({"orders": {"id": "b", "server": "s", "interface": "i"}}, {})["orders"]["id"] == ""


def test_what_is_about_to_happen_is_told():
    told = deploy.deploy_told(
        "deploy",
        {"orders": {"id": "b"}},
        [SERVICE],
        {"orders": ["app2", "app1"]},
        facts(app1=state("a"), app2=state("b", under_way={"id": "17"})),
        ["app3"],
        [HOOK],
    )
    assert told == [
        "deploy of orders: release b (v-b) on app1, app2",
        "  app1 runs a",
        "  app2 runs it already",
        "  before the first node: alembic upgrade head",
        "  app1 alone first, the others after it",
        "  after the last node: alembic upgrade contract@head",
        "  finishes 17, which was never ended",
        "  before switch, on the controller: ./tell",
        "app3 cannot be reached, and will be shut on return until site.yml or a deploy ran there",
    ]


@pytest.mark.parametrize(
    ("its", "expected"),
    [
        ({"app1": {}, "app2": {}}, "it broke\nNothing that lives was touched."),
        (
            {"app1": {"deploy_prepared": True, "deploy_reverted": True}, "app2": {"deploy_prepared": True}},
            "it broke\napp1 went back to what lived before, and so do all others that serve.",
        ),
        (
            {
                "app1": {"deploy_prepared": True, "deploy_stuck": "no space"},
                "app2": {"deploy_prepared": True, "deploy_begun": True},
            },
            "it broke\nNo node went back to what lived before, and so do all others that serve.\n"
            "These could not go back; see `make releases`, and deploy again: app1: no space\n"
            "app2 could not be reached any more; shut on return until site.yml ran there.",
        ),
        (
            {"app1": {"deploy_prepared": True, "deploy_done": True, "deploy_unfinished": "no space"}},
            "All nodes run the new release, but what comes after that failed. app1: no space",
        ),
    ],
)  # fmt: skip
def test_what_failed_is_told_with_how_the_nodes_were_left(its, expected):
    assert deploy.deploy_outcome(list(its), its, ["it broke"]) == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1, 2], ["a", "bc", "de"]),
        (["100%"], ["abcde"]),
        ([1, "50%"], ["a", "bc", "de"]),
        (["1%"], ["a", "b", "c", "d", "e"]),
        ([1, 9], ["a", "bcde"]),
    ],
)
def test_nodes_are_switched_in_batches_of_the_sizes_that_were_asked_for(sizes, expected):
    assert deploy.deploy_batched(list("abcde"), sizes) == [list(batch) for batch in expected]


@pytest.mark.parametrize("sizes", [[], [0], ["some"], [-1], ["0%"]])
def test_a_batch_of_no_size_is_refused(sizes):
    with pytest.raises(ValueError, match="deploy_serial"):
        deploy.deploy_batched(["a"], sizes)


def test_no_playbook_goes_back_from_a_batch_that_is_a_play_of_its_own():
    """Ansible ends the whole run, and not only the play, where all hosts of a `serial` batch are lost or failed."""
    plays = yaml.safe_load((ROOT / "playbooks/deploy_switch.yml").read_text())
    assert [play["name"] for play in plays if "serial" in play] == []


def rollback(asked: str = "", **nodes: dict) -> dict:
    return releases.releases_rollback([SERVICE], NODES, facts(**nodes), asked)["orders"]


def test_a_rollback_goes_to_the_release_before():
    its = state("b", agreed="b", serial=4, history=[done("0", "a"), done("a", "b"), done("b", "c", "reverted")])
    assert rollback(app1=its, app2=its) == {
        "id": "a", **digests("a"), "new": False, "node": "app1", "settled": True, "serial": 5,
        "server": "uvicorn", "interface": "asgi",
    }  # fmt: skip


def test_a_rollback_of_a_deploy_that_was_cut_off_goes_to_what_it_found():
    cut = {"agreed": "a", "serial": 4, "under_way": {"id": "17", "from": "a"}, "history": [done("0", "a")]}
    assert rollback(app1=state("b", **cut), app2=state("a", **cut))["id"] == "a"


@pytest.mark.parametrize("asked", ["a", "v-a"])
def test_a_rollback_goes_to_the_release_that_was_asked_for(asked):
    assert rollback(asked, app1=state("b", agreed="b", serial=4))["id"] == "a"


@pytest.mark.parametrize(
    ("asked", "its", "refused"),
    [
        ("", state("a"), "orders: there is no release before the one that lives"),
        ("", state("b", agreed="b", history=[done("gone", "b")]), "orders: there is no release before the one"),
        ("zzz", state("b"), r"orders: zzz is no release of those that are installed; choose one of a \(v-a\), b"),
        ("v", state("b", installed=("v1", "v2")), "orders: v is more than one release"),
    ],
)
def test_a_rollback_to_nowhere_is_refused(asked, its, refused):
    with pytest.raises(releases.AnsibleFilterError, match=refused):
        rollback(asked, app1=its)


def plan(*, deployed: tuple[str, ...] = (), **nodes: dict) -> dict:
    built = [{"item": {"name": "orders"}, "id": "new", "sha256": "d"}] if deployed else []
    return releases.releases_plan([SERVICE], NODES, facts(**nodes), built, list(deployed))["orders"]


def test_a_node_gets_what_the_fleet_agreed_on_though_more_nodes_have_another():
    """Two of three were down while it was deployed."""
    told = plan(app1=state("b", agreed="b", serial=4), app2=state("a", agreed="a", serial=3), app3=state("a", serial=3))
    assert (told["id"], told["node"], told["settled"], told["serial"]) == ("b", "app1", True, 4)


def test_nothing_is_agreed_on_while_a_deploy_is_under_way():
    cut = {"agreed": "a", "serial": 3}
    told = plan(app1=state("b", under_way={"id": "17"}, **cut), app2=state("a", **cut), app3=state("a", **cut))
    assert (told["id"], told["settled"], told["serial"]) == ("a", False, 0)


def test_nodes_that_agree_without_having_noted_it_have_agreed():
    told = plan(app1=state("a"), app2=state("a"))
    assert (told["settled"], told["serial"]) == (True, 1)
    told = plan(app1=state("a"), app2=state("b"), app3=state("b"))
    assert (told["id"], told["settled"], told["serial"]) == ("b", False, 0)


def test_what_is_deployed_is_the_next_agreement():
    told = plan(deployed=("orders",), app1=state("b", agreed="b", serial=4))
    assert (told["id"], told["new"], told["settled"], told["serial"]) == ("new", True, False, 5)


def test_only_what_is_deployed_counts_and_only_where_it_was_reached():
    services = [SERVICE, {"name": "users"}]
    assert releases.releases_versioned(services, [], "") == services
    assert releases.releases_versioned(services, ["users"], "v9") == [{"name": "users", "version": "v9"}]
    nodes = NODES | {"users": ["app1"]}
    assert releases.releases_reached(nodes, [], []) == nodes
    assert releases.releases_reached(nodes, ["orders"], ["app1", "app3"]) == {"orders": ["app1", "app3"]}


def test_a_service_that_is_not_on_a_node_yet_is_told(tmp_path):
    found = {"orders": {"live": "1f0c5ad0b2c9"}, "users": {"live": ""}, "other": {"live": ""}}
    landscape = Landscape(
        ROOT / "inventory/lab", lab_state=str(tmp_path), deploy_services=["orders", "users"], deploy_before=found
    )
    assert landscape.value("app1", "deploy_unborn") == ["users"]
