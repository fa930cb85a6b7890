"""Each host is rebooted, one at a time; all comes back by itself, and where a peer exists no request fails."""

from __future__ import annotations

import uuid

import pytest

import lab

pytestmark = pytest.mark.usefixtures("back_home")


def reboot(host: lab.Host) -> None:
    """Reboot a host and wait until it runs again."""
    before = host.run("cat /proc/1/stat").split()[21]
    host.try_run("systemctl reboot", timeout=20)

    def back() -> bool:
        try:
            now = host.try_run("cat /proc/1/stat && systemctl is-system-running", timeout=15)
        except lab.subprocess.TimeoutExpired:
            return False
        return now.returncode == 0 and now.stdout.split()[21] != before

    lab.wait(back, 90, f"{host.name} runs again", pause=1)


@pytest.mark.parametrize("name", lab.NODES)
def test_an_app_node_reboots_and_no_request_fails(hosts, name):
    with lab.Load("lb1", "/users?limit=1", clients=4) as load:
        reboot(hosts[name])
        lab.wait_until_ready(90)
    assert load.good > 50
    assert not load.failed, load


@pytest.mark.parametrize("name", lab.BALANCERS)
def test_a_load_balancer_reboots_and_the_other_serves(hosts, name):
    """It gives the virtual address away before its engine ends, and does not take it back."""
    other = next(balancer for balancer in lab.BALANCERS if balancer != name)
    with (
        lab.Load(other, "/users?limit=1", clients=2) as load,
        lab.Load("virtual", "/users?limit=1", clients=2) as virtual,
    ):
        reboot(hosts[name])
        lab.wait_until_ready(60)
    assert not load.failed, load
    assert not virtual.failed, virtual
    assert lab.holders(hosts) == [other]


@pytest.mark.parametrize("name", [lab.GROUPS["cache"][0], lab.GROUPS["database"][0]])
def test_a_host_with_data_reboots_and_the_stack_goes_on(hosts, name):
    """Whatever leads there is led elsewhere meanwhile; nothing that was acknowledged is lost."""
    before = lab.ask("lb1", "/users/1").body
    made = []
    with lab.Load("lb1", "/users/1", clients=3) as load:
        reboot(hosts[name])
        for _ in range(5):
            email = f"{name}-{uuid.uuid4().hex}@example.com"
            answer = lab.ask(
                "lb2", "/users", "POST", {"email": email, "name": "R"}, {"Idempotency-Key": uuid.uuid4().hex}
            )
            if answer.status == 201:
                made.append(answer.json()["id"])
        lab.wait(lab.whole_cluster, 120, "every replica follows the primary", pause=1)
        lab.wait_until_ready(90)
    assert not load.failed, load
    assert lab.ask("lb1", "/users/1").body == before
    assert made
    assert {lab.ask("lb2", f"/users/{user}").status for user in made} == {200}
