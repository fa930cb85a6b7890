"""One host of database and cache grows to three while it serves: hosts are added, and site.yml runs once.

It comes after `test_single`, which has made the second machine an app node; the inventory is changed for good.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from itertools import count

import pytest

import lab
from test_single import assert_sound, make_order, make_user

VOTERS = ("cache", "sentinel", "database", "etcd")
HOSTS = ["solo1", "solo2", "solo3"]


class Writer(threading.Thread):
    """Writes something again and again, and keeps what was acknowledged and what was not.

    Parameters:
        write: writes the next thing, and returns what to look for later; anything that it raises is a failure.
        pause: seconds between two writes.
    """

    def __init__(self, write: Callable[[], object], pause: float = 0.5) -> None:
        super().__init__(daemon=True)
        self.write, self.pause = write, pause
        self.kept: list = []
        self.failed: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        # Bounded, whatever happens to the test.
        end = time.monotonic() + 1800
        while not self.over.wait(self.pause) and time.monotonic() < end:
            try:
                self.kept.append(self.write())
            except Exception as error:
                self.failed.append(f"{time.strftime('%T')} {type(error).__name__}: {error}"[:300])

    def stop(self) -> None:
        """Have it end."""
        self.over.set()
        self.join(60)


def started(host: lab.Host) -> dict[str, str]:
    """Return when the daemons that hold data, and the database in one of them, were started on a host."""
    units = {unit: host.show(unit, "InvocationID") for unit in ("patroni", "redis-server@cache", "redis-server@queue")}
    return units | {"postgresql": host.run("stat --format=%Y /var/lib/postgresql/17/main/postmaster.pid")}


def members(host: lab.Host) -> dict[str, str]:
    """Return the roles of PostgreSQL's members, by name."""
    url = f"https://{host.address}:{lab.PORTS['patroni']}/cluster"
    shown = json.loads(host.run(f"curl --fail --silent --cacert /etc/terrace/pki/ca.crt {url}"))["members"]
    return {member["name"]: member["role"] for member in shown if member["state"] in ("running", "streaming")}


@pytest.fixture(scope="module")
def grown(playbook) -> dict:
    """Add hosts to every group that holds data, run site.yml under a light load; return what was written meanwhile."""
    solo = lab.Host("solo1")
    user = make_user().json()
    numbers = count()

    def write_order() -> int:
        order = {"user_id": user["id"], "items": [{"sku": "tea", "quantity": 1, "price_cents": next(numbers)}]}
        made = lab.ask("solo1", "/orders", "POST", order, {"Idempotency-Key": uuid.uuid4().hex}, timeout=20)
        assert made.status == 201, made
        return made.json()["id"]

    def write_queue() -> str:
        item = str(next(numbers))
        answer = solo.run(f"redis-instance cli queue RPUSH terrace-growth {item}")
        assert answer.isdigit(), answer
        return item

    inventory = lab.INVENTORY / "hosts.yml"
    text = inventory.read_text()
    for group in VOTERS:
        alone = f"    {group}:\n      hosts:\n        solo1:\n"
        assert text.count(alone) == 1, group
        new = [f"        solo{n}:" + (f" {{ansible_host: 10.77.0.7{n}}}" if group == "cache" else "") for n in (2, 3)]
        text = text.replace(alone, alone + "\n".join(new) + "\n")
    before = started(solo)
    order = make_order(user)
    inventory.write_text(text)
    made = playbook("molecule/lab/create.yml")
    assert made.returncode == 0, made.stdout[-3000:]
    lab.read_hosts()
    writers = [Writer(write_order), Writer(write_queue, 1)]
    for writer in writers:
        writer.start()
    try:
        done = playbook("site.yml")
    finally:
        for writer in writers:
            writer.stop()
    assert done.returncode == 0, done.stdout[-4000:]
    return {"before": before, "order": order, "orders": writers[0], "queue": writers[1]}


def test_no_write_failed_and_none_is_lost(grown):
    orders, queue = grown["orders"], grown["queue"]
    assert (orders.failed, queue.failed) == ([], [])
    assert len(orders.kept) > 50
    assert len(queue.kept) > 20
    for order in [grown["order"]["id"], *orders.kept]:
        assert lab.ask("solo1", f"/orders/{order}").status == 200, order
    for name in HOSTS:
        held = lab.Host(name).run("redis-instance cli queue LRANGE terrace-growth 0 -1").split()
        assert held == queue.kept, name


def test_the_first_host_was_left_as_it_was(grown):
    assert started(lab.Host("solo1")) == grown["before"]


def test_every_tier_has_three(grown):
    solo = lab.Host("solo1")
    assert members(solo) == {"solo1": "leader", "solo2": "quorum_standby", "solo3": "quorum_standby"}
    pki = "/etc/terrace/pki"
    listed = json.loads(
        solo.run(
            f"etcdctl --write-out=json --endpoints=https://{solo.address}:{lab.PORTS['etcd_client']}"
            f" --cacert={pki}/ca.crt --cert={pki}/host.crt --key={pki}/host.key member list"
        )
    )["members"]
    assert {member["name"]: member.get("isLearner", False) for member in listed} == dict.fromkeys(HOSTS, False)
    for instance in ("cache", "queue"):
        shown = solo.run(f"redis-instance cli {instance} INFO replication")
        assert "role:master" in shown
        assert "connected_slaves:2" in shown
        known = lab.sentinel(solo, f"MASTER {instance}")
        assert (known[known.index("num-other-sentinels") + 1], known[known.index("quorum") + 1]) == ("2", "2")


def test_the_new_hosts_are_sound(grown):
    for name in HOSTS:
        assert_sound(lab.Host(name))


def test_a_second_run_changes_nothing(grown, playbook):
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("changed=0") == done.stdout.count("unreachable=0") == len(HOSTS), done.stdout[-1500:]
