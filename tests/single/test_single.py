"""One machine in every group serves everything; a second app node is an edit and a run, and fails no request."""

from __future__ import annotations

import subprocess
import time

import pytest

import lab

DAEMONS = [
    *("haproxy@lb", "haproxy@node", "pgbouncer", "terrace-liveness"),
    *("patroni", "etcd", "redis-server@cache", "redis-server@queue", "redis-sentinel"),
]
HTTPBIN = {"Host": "httpbin.lab"}


@pytest.fixture(scope="module")
def solo(hosts) -> lab.Host:
    return hosts["solo1"]


def make_user() -> lab.Answer:
    """Make a user through the load balancer and return the answer."""
    made = lab.ask("solo1", "/users", "POST", {"email": f"{time.time_ns()}@example.com", "name": "Ada", "city": "Rome"})
    assert made.status == 201, made.body
    return made


def make_order(user: dict) -> dict:
    """Make an order of a user and return it."""
    order = {"user_id": user["id"], "items": [{"sku": "tea", "quantity": 2, "price_cents": 450}]}
    made = lab.ask("solo1", "/orders", "POST", order)
    assert made.status == 201, made.body
    return made.json()


def assert_sound(host: lab.Host) -> None:
    """Check that a host runs, without a failed unit, and listens exactly where the table of ports says."""
    assert host.run("systemctl is-system-running") == "running"
    shown = host.run("ss --tcp --listening --numeric --no-header")
    assert {line.split()[3] for line in shown.splitlines()} == lab.expected_listeners(host.name)


def test_it_is_in_every_group(hosts):
    assert set(hosts) == {"solo1"}
    assert [group for group, members in lab.GROUPS.items() if members not in (["solo1"], [])] == []
    assert len([group for group, members in lab.GROUPS.items() if members]) == 7


def test_a_run_that_changes_nothing_is_short():
    """Every task is a round trip to every host; the bound is docs/benchmarks.md's."""
    assert lab.host_tasks()["solo1"] <= 79


def test_it_is_healthy():
    told = lab.wait_until_healthy(timeout=60)
    assert told["address"] == {"virtual": None, "holders": []}
    assert (told["postgresql"]["primary"], told["etcd"]["leader"]) == ("solo1", "solo1")
    assert {name: its["master"] for name, its in told["redis"].items()} == {"cache": "solo1", "queue": "solo1"}


def test_its_environment_is_kept_outside_of_inventory():
    assert lab.ROOT / "inventory" not in lab.INVENTORY.parents
    assert (lab.INVENTORY.parents[1] / ".terrace/releases/users").is_dir()


def test_it_runs_and_listens_where_the_table_says(solo):
    assert_sound(solo)


@pytest.mark.parametrize("unit", DAEMONS)
def test_every_daemon_runs_there(solo, unit):
    assert solo.run(f"systemctl is-active {unit}") == "active"


def test_all_three_services_answer():
    user = make_user().json()
    order = make_order(user)
    where = f"/users/{user['id']}"
    reads = [lab.ask("solo1", where) for _ in range(2)]
    assert [read.status for read in reads] == [200, 200]
    assert reads[-1].headers["x-cache"] == "hit"
    assert reads[-1].headers["x-served-by"] == "solo1"
    assert lab.ask("solo1", f"/orders/{order['id']}").json()["user_id"] == user["id"]
    assert lab.ask("solo1", "/get?a=1", headers=HTTPBIN).json()["args"] == {"a": "1"}


def test_plain_http_leads_to_https():
    redirected = lab.ask("solo1", "/users?limit=1", port=lab.PORTS["http"])
    assert redirected.status == 308
    assert redirected.headers["location"].startswith("https://")


@pytest.fixture(scope="module")
def second(playbook) -> lab.Host:
    """Edit the inventory, and return the bare machine that it names now."""
    inventory = lab.INVENTORY / "hosts.yml"
    nodes = "    app:\n      hosts:\n        solo1:\n"
    text = inventory.read_text()
    assert text.count(nodes) == 1
    inventory.write_text(text.replace(nodes, nodes + "        solo2: {ansible_host: 10.77.0.72}\n"))
    made = playbook("molecule/lab/create.yml")
    assert made.returncode == 0, made.stdout[-3000:]
    lab.read_hosts()
    return lab.Host("solo2")


def test_a_mirror_that_fails_ends_the_run_and_is_named(second, playbook):
    """The lab's package cache is every host's mirror; the next test installs what is missing."""
    cache = [lab.ROOT / "molecule/lab/podman", "stop", "--time=0", "packages"]
    subprocess.run(cache, check=True, capture_output=True)
    try:
        done = playbook("site.yml", "--limit=solo2")
    finally:
        subprocess.run([lab.ROOT / "molecule/lab/podman", "start", "packages"], check=True, capture_output=True)
    assert done.returncode != 0
    assert "Install the packages of the host and of all its roles" in done.stdout
    assert "10.77.0.2" in done.stdout, done.stdout[-3000:]


def test_a_full_disk_ends_the_run_and_is_named(second, playbook):
    """The next run finds the space, and mends what this one left."""
    second.run("mkdir -p /srv/terrace && mount -t tmpfs -o size=6m full /srv/terrace")
    try:
        done = playbook("site.yml", "--limit=solo2")
    finally:
        second.run("umount /srv/terrace")
    assert done.returncode != 0
    assert "No space left on device" in done.stdout, done.stdout[-3000:]
    assert lab.ask("solo1", "/users?limit=1").status == 200


def test_a_second_app_node_is_an_edit_and_a_run(second, playbook):
    user = make_user().json()
    order = make_order(user)
    with lab.Load("solo1", "/users?limit=1", clients=2, longest=1200) as load:
        done = playbook("site.yml")
        still = load.good
        lab.wait(lambda: load.good > still + 20 or load.failed, 30, "requests go on after the run")
    assert done.returncode == 0, done.stdout[-3000:]
    assert not load.failed, load
    assert load.good > 100
    assert lab.NODES == ["solo1", "solo2"]
    lab.wait_until_ready(60)
    # What was written before is there, whichever node answers.
    seen = set()
    for _ in range(60):
        answer = lab.ask("solo1", f"/users/{user['id']}")
        assert (answer.status, answer.json()["email"]) == (200, user["email"])
        seen.add(answer.headers["x-served-by"])
    assert seen == {"solo1", "solo2"}
    kept = lab.ask("solo1", f"/orders/{order['id']}").json()
    assert (kept["user_id"], kept["items"]) == (user["id"], order["items"])
    for name in lab.NODES:
        assert_sound(lab.Host(name))


def test_the_new_node_runs_the_releases_that_the_first_runs():
    first, second = (
        [lab.Host(node).run(f"basename $(readlink -f /srv/terrace/{service}/live)") for service in lab.SERVICES]
        for node in ("solo1", "solo2")
    )
    assert first == second


def test_both_nodes_write():
    answers = [make_user() for _ in range(40)]
    assert {answer.headers["x-served-by"] for answer in answers} == {"solo1", "solo2"}
    assert make_order(answers[-1].json())["total_cents"] == 900
