"""A large, realistic data set, and real use of it through both load balancers."""

from __future__ import annotations

import time
import uuid

import pytest

import lab

USERS, ORDERS = 100_000, 1_000_000


def run(playbook, service: str, command: str, monkeypatch) -> str:
    """Run a one-off command in a service's live release, as `make run` does."""
    monkeypatch.setenv("run_command", command)
    done = playbook("playbooks/run.yml", "--extra-vars", f'{{"run_service": "{service}"}}')
    assert done.returncode == 0, done.stdout
    return done.stdout


def query(hosts, database: str, statement: str) -> list[str]:
    """Return the lines that a statement yields on the database host itself."""
    return lab.sql(lab.primary(), statement, database).split()


def test_the_large_data_set_is_loaded(hosts, playbook, monkeypatch):
    run(playbook, "users", f"python -m users.load --count {USERS}", monkeypatch)
    run(playbook, "orders", f"python -m orders.load --count {ORDERS} --users {USERS}", monkeypatch)
    assert int(query(hosts, "users", "SELECT count(*) FROM users")[0]) >= USERS
    assert int(query(hosts, "orders", "SELECT count(*) FROM orders")[0]) >= ORDERS


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_users_are_created_read_changed_and_removed(balancer):
    email = f"{uuid.uuid4().hex}@example.com"
    made = lab.ask(balancer, "/users", "POST", {"email": email, "name": "Grace", "city": "Arlington"})
    assert made.status == 201
    where = made.headers["location"]
    assert where == f"/users/{made.json()['id']}"
    reads = [lab.ask(balancer, where) for _ in range(4)]
    assert [read.headers["x-cache"] for read in reads] == ["miss", "hit", "hit", "hit"]
    assert {read.body for read in reads} == {made.body}
    assert {read.headers["x-served-by"] for read in reads} <= set(lab.NODES)
    assert lab.ask(balancer, "/users", "POST", {"email": email, "name": "Again"}).status == 409
    changed = lab.ask(balancer, where, "PATCH", {"city": "New York"})
    assert (changed.status, changed.json()["city"]) == (200, "New York")
    assert lab.ask(balancer, where).json()["city"] == "New York"
    assert lab.ask(balancer, where, "DELETE").status == 204
    assert lab.ask(balancer, where).status == 404


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_a_loaded_user_is_missed_then_hit(balancer):
    number = 50_000 + lab.BALANCERS.index(balancer) * 1000 + int(time.time()) % 1000
    first, second = (lab.ask(balancer, f"/users/{number}") for _ in range(2))
    assert (first.status, first.headers["x-cache"], second.headers["x-cache"]) == (200, "miss", "hit")
    assert first.body == second.body


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_orders_are_made_once_paged_and_read_back(balancer, hosts):
    user = lab.ask(balancer, "/users", "POST", {"email": f"{uuid.uuid4().hex}@example.com", "name": "Ada"}).json()["id"]
    made = []
    for number in range(7):
        order = {"user_id": user, "items": [{"sku": f"tea-{number}", "quantity": number + 1, "price_cents": 250}]}
        key = {"Idempotency-Key": uuid.uuid4().hex}
        first = lab.ask(balancer, "/orders", "POST", order, key)
        again = lab.ask(balancer, "/orders", "POST", order, key)
        assert (first.status, again.status) == (201, 201), first.body
        assert first.body == again.body
        assert lab.ask(balancer, "/orders", "POST", order | {"user_id": user + 1}, key).status == 422
        made.append(first.json())
    lab.wait_for_replicas()
    seen, after = [], None
    while True:
        page = lab.ask(balancer, f"/orders?user_id={user}&limit=3" + (f"&after={after}" if after else "")).json()
        assert len(page["orders"]) <= 3
        seen += page["orders"]
        after = page["next"]
        if not after:
            break
    assert [order["id"] for order in seen] == sorted((order["id"] for order in made), reverse=True)
    for order in made:
        read = lab.ask(balancer, f"/orders/{order['id']}").json()
        assert (read["id"], read["user_id"], read["items"]) == (order["id"], user, order["items"])
    assert lab.ask(balancer, "/orders?limit=101").status == 422
    assert lab.ask(balancer, "/orders", "POST", {"user_id": 2**40, "items": made[0]["items"]}).status in (404, 422)


def test_all_orders_of_a_loaded_user_are_paged_without_a_gap(hosts):
    wanted = query(hosts, "orders", "SELECT id FROM orders WHERE user_id = 4242 ORDER BY id DESC")
    assert len(wanted) > 1
    seen, after = [], None
    while True:
        page = lab.ask("lb2", "/orders?user_id=4242&limit=2" + (f"&after={after}" if after else "")).json()
        seen += [str(order["id"]) for order in page["orders"]]
        after = page["next"]
        if not after:
            break
    assert seen == wanted
