"""What the fleet's tests compare of hosts holds still where nothing differs."""

from __future__ import annotations

from landscape import load

on_host = load("tests/fleet/on_host.py", "on_host")


def test_a_timer_whose_service_runs_at_this_moment_is_a_timer_that_waits(monkeypatch):
    line = "terrace-release-gate.timer loaded active {} When releases are let in"
    told = {}
    for state in ("waiting", "running", "elapsed"):
        shown = {"list-unit-files": "", "list-units": line.format(state)}
        monkeypatch.setattr(on_host, "run", lambda _, verb, *words, shown=shown: shown[verb])
        told[state] = on_host.units()["terrace-release-gate.timer now"]
    assert told["running"] == told["waiting"] == ["loaded", "active", "waiting"]
    assert told["elapsed"] == ["loaded", "active", "elapsed"]
