"""What `make releases` tells."""

from __future__ import annotations

import sys

from landscape import ROOT

sys.path.insert(0, str(ROOT / "plugins"))

from terrace.releases import lines, report

SERVICES = [{"name": "orders", "version": "v2"}]
NODES = {"orders": ["app2", "app1", "app3"]}
RECORD = {
    "id": "17", "kind": "deploy", "who": "anna", "origin": "laptop", "from": "a", "to": "b", "version": "v2",
    "begun": "2026-11-28T10:00:00Z", "ended": "2026-11-28T10:00:40Z", "seconds": 40, "outcome": "done", "reason": "",
}  # fmt: skip


def answer(live: str, *records: dict, lock: dict | None = None, **more: object) -> dict:
    """Return what a node answers."""
    known = {release: {"version": f"v{number}", "commit": "0123456789abcdef"} for number, release in enumerate("ab", 1)}
    its = {"live": live, "live_slot": "blue", "installed": ["a", "b"], "releases": known, "history": list(records)}
    return {"services": {"orders": its | more}, "lock": lock or {}}


def test_it_tells_what_each_node_has_and_what_was_deployed():
    reverted = RECORD | {"id": "18", "outcome": "reverted", "reason": "it broke", "ended": "2026-11-28T11:00:00Z"}
    data = report(SERVICES, NODES, {node: answer("b", RECORD, reverted) for node in NODES["orders"]})
    assert data["services"]["orders"]["problems"] == []
    assert [each["nodes"] for each in data["services"]["orders"]["deploys"]] == [["app1", "app2", "app3"]] * 2
    said = "\n".join(lines(data))
    assert "orders   app1  b     v2       0123456789ab  blue  a" in said
    assert "anna@laptop  40 s  reverted [1]" in said
    assert said.endswith("[1] orders 2026-11-28T10:00:00Z reverted: it broke")


def test_what_is_not_as_it_should_be_stands_out():
    begun = RECORD | {"id": "19"}
    data = report(
        SERVICES,
        NODES,
        {"app1": answer("b", under_way=begun), "app2": answer("a", lock={"who": "ben", "since": "now"}), "app3": None},
    )
    disagree, cut_off, declared = data["services"]["orders"]["problems"][1:]
    assert data["services"]["orders"]["problems"][0] == "orders: app3 cannot be reached"
    assert disagree.startswith("orders: nodes disagree on what lives: app1 b, app2 a; `make deploy`")
    assert "the deploy 19 of anna from 2026-11-28T10:00:00Z has not ended" in cut_off
    assert declared == "orders: version v1 and v2 lives, v2 is declared; declare what lives, or deploy"
    assert lines(data)[-1].startswith("locked by ben on None since now")
