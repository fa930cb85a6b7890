"""`make plan` on hosts that are up: it names what a run would change, host by host, and changes nothing."""

from __future__ import annotations

CONFIGURATION = "/etc/haproxy/lb.cfg"
STATE = f"sha256sum {CONFIGURATION}; systemctl show --property=NReloads,MainPID haproxy@lb"
PLAN = ("playbooks/plan.yml", "--check", "--diff", "--limit=lb1,cache1")


def test_a_plan_names_what_would_change_and_changes_nothing(hosts, playbook, monkeypatch):
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "plan")
    before = hosts["lb1"].run(STATE)
    planned = playbook(*PLAN, "--extra-vars", '{"haproxy_timeout_idle": "50s"}')
    assert planned.returncode == 3, planned.stdout[-3000:]
    lines = planned.stdout.splitlines()
    told = lines[lines.index("lb1") :]
    assert f"    change {CONFIGURATION}" in told
    assert f"    reload haproxy@lb ({CONFIGURATION} differs)" in told
    assert "Nothing would change on cache1." in told
    assert told[-1] == "1 host would change. Nothing was changed."
    assert hosts["lb1"].run(STATE) == before

    nothing = playbook(*PLAN)
    assert nothing.returncode == 0, nothing.stdout[-3000:]
    assert nothing.stdout.splitlines()[-1] == "A run would change nothing."
