"""One load balancer holds the virtual address: one that works, and always the same one as long as it does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

import lab

HEALTH = "/.well-known/terrace/balancer"
# Seconds in which another balancer has the address: three adverts that did not come, or two checks without an answer.
DEAD, BROKEN = 2, 3
# Seconds in which nothing may move any more: longer than two answers and three adverts, after which it would have.
SETTLED = 3


@pytest.fixture(autouse=True)
def one_holder(hosts):
    """Begin and end with one holder, keepalived and an engine on each balancer."""

    def right() -> bool:
        return len(lab.holders(hosts)) == 1 and all(
            hosts[balancer].show("keepalived", "ActiveState") == "active"
            and lab.ask(balancer, HEALTH, port=lab.PORTS["http"], timeout=5).status == 200
            for balancer in lab.BALANCERS
        )

    lab.wait(right, 20, "one holder")
    yield
    lab.wait(right, 20, "one holder")


def holder_and_other(hosts: dict[str, lab.Host]) -> tuple[str, str]:
    """Return who holds the address, and who does not."""
    [holder] = lab.holders(hosts)
    return holder, next(balancer for balancer in lab.BALANCERS if balancer != holder)


def moves_to(hosts: dict[str, lab.Host], other: str, seconds: float) -> None:
    """Wait until another balancer holds the address alone, and see that it keeps it."""
    took = lab.wait(lambda: lab.holders(hosts) == [other], seconds, f"{other} holds the address", pause=0.05)
    time.sleep(SETTLED)
    assert lab.holders(hosts) == [other], f"taken after {took:.2f} s, and lost again"


def test_requests_through_it_are_answered_and_trust_its_certificate(engine):
    assert lab.ask("virtual", "/users?limit=1").status == 200
    assert lab.ask("virtual", "/get", headers={"Host": "httpbin.lab"}).status == 200
    redirect = lab.ask("virtual", "/users", port=lab.PORTS["http"])
    assert redirect.headers["location"] == f"https://{lab.VIRTUAL}/users"


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_every_balancer_listens_on_it_and_says_that_it_works(hosts, engine, balancer):
    listening = hosts[balancer].run("ss --tcp --listening --numeric --no-header")
    assert {f"{lab.VIRTUAL}:{lab.PORTS[name]}" for name in ("http", "https")} <= {
        line.split()[3] for line in listening.splitlines()
    }
    for port in (lab.PORTS["http"], lab.PORTS["https"]):
        answer = lab.ask(balancer, HEALTH, port=port)
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert answer.headers["content-type"] == "text/plain"
    assert lab.ask(balancer, "/nothing").status == 404
    journal = f"journalctl --unit={engine.unit} --since=-10s --output=cat --no-pager"
    lab.wait(lambda: '"/nothing"' in hosts[balancer].run(journal), 10, "what was not found is logged")
    assert HEALTH not in hosts[balancer].run(journal)


def test_a_balancer_whose_engine_hangs_gives_it_up_and_does_not_take_it_back(hosts, engine):
    holder, other = holder_and_other(hosts)
    hosts[holder].run(f"systemctl kill --signal=STOP {engine.unit}")
    try:
        moves_to(hosts, other, BROKEN)
        assert lab.ask("virtual", "/users?limit=1").status == 200
    finally:
        hosts[holder].run(f"systemctl kill --signal=CONT {engine.unit}")
    time.sleep(SETTLED)
    assert lab.holders(hosts) == [other]


def test_keepalived_stops_and_starts_and_no_request_fails(hosts, engine):
    """Twice, so that the address moves there and back; requests that are under way get their answers."""
    with lab.Load("virtual", "/users?limit=1", clients=4) as load:
        for _ in lab.BALANCERS:
            holder, other = holder_and_other(hosts)
            hosts[holder].run("systemctl stop keepalived")
            moves_to(hosts, other, DEAD)
            hosts[holder].run("systemctl start keepalived")
            time.sleep(SETTLED)
            assert lab.holders(hosts) == [other]
    assert load.good > 50
    assert not load.failed, load
    assert load.worst < DEAD, load


def test_a_killed_keepalived_leaves_no_address_behind(hosts):
    holder, _ = holder_and_other(hosts)
    hosts[holder].run("systemctl kill --signal=KILL keepalived")
    lab.wait(lambda: hosts[holder].show("keepalived", "ActiveState") == "active", 10, "keepalived runs again")
    time.sleep(SETTLED)
    assert len(lab.holders(hosts)) == 1


def test_a_stopped_keepalived_gives_way_when_it_goes_on(hosts):
    """Meanwhile both have the address, and both answer."""
    holder, other = holder_and_other(hosts)
    with lab.Load("virtual", "/users?limit=1", clients=2) as load:
        hosts[holder].run("systemctl kill --signal=STOP keepalived")
        try:
            lab.wait(lambda: other in lab.holders(hosts), DEAD, f"{other} takes the address", pause=0.05)
        finally:
            hosts[holder].run("systemctl kill --signal=CONT keepalived")
        moves_to(hosts, other, DEAD)
    assert not load.failed, load


@contextlib.contextmanager
def apart(hosts: dict[str, lab.Host]) -> Iterator[None]:
    """Have no packet get from one balancer to another: each is told a wrong place for the others."""
    pairs = [(hosts[one], lab.ADDRESSES[two]) for one in lab.BALANCERS for two in lab.BALANCERS if one != two]
    try:
        for balancer, peer in pairs:
            balancer.run(f"ip neighbour replace {peer} lladdr 02:00:00:00:00:01 nud permanent dev eth0")
        yield
    finally:
        for balancer, peer in pairs:
            balancer.run(f"ip neighbour delete {peer} dev eth0")


def test_two_that_were_apart_agree_on_one(hosts):
    with lab.Load("virtual", "/users?limit=1", clients=2) as load:
        with apart(hosts):
            lab.wait(lambda: lab.holders(hosts) == lab.BALANCERS, DEAD, "each takes the address", pause=0.05)
        lab.wait(lambda: len(lab.holders(hosts)) == 1, DEAD, "one of them gives it up", pause=0.05)
        [holder] = lab.holders(hosts)
        time.sleep(SETTLED)
        assert lab.holders(hosts) == [holder]
    assert not load.failed, load


def test_a_changed_setting_moves_nothing(hosts, playbook):
    """keepalived takes it up by a reload; so does it when it is changed back."""
    before = lab.holders(hosts)
    started = {balancer: hosts[balancer].show("keepalived", "InvocationID") for balancer in lab.BALANCERS}
    with lab.Load("virtual", "/users?limit=1", clients=2) as load:
        for settings in ('{"keepalived_check_rise": 3, "keepalived_advert": 0.4}', "{}"):
            done = playbook("playbooks/loadbalancer.yml", "--tags=keepalived", "--extra-vars", settings)
            assert done.returncode == 0, done.stdout
            assert done.stdout.count("changed=2 ") == len(lab.BALANCERS), done.stdout
            assert lab.holders(hosts) == before
    assert started == {balancer: hosts[balancer].show("keepalived", "InvocationID") for balancer in lab.BALANCERS}
    assert load.reopened == 0
    assert not load.failed, load
