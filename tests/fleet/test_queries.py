"""Declared queries are tried on a replica, by a reader who cannot write; a deploy stops at a gate that fails."""

from __future__ import annotations

import json
import subprocess

import pytest

import lab
from lab import sql

TABLE = "terrace_probe"
ROWS = 20000
# What the environment adds to the queries of `orders`: by name the query, and what comes of it.
DECLARED = {
    "probe-holds": {
        "query": "SELECT note FROM terrace_probe WHERE owner = $1",
        "parameters": [7],
        "expect": {"index": [f"{TABLE}_owner_idx"], "buffers": 60},
    },
    "probe-scan": {"query": "SELECT count(*) FROM terrace_probe WHERE note = $1", "parameters": ["it's; $1"]},
    "probe-buffers": {
        "query": "SELECT note FROM terrace_probe WHERE owner = $1",
        "parameters": [7],
        "expect": {"buffers": 2},
    },
    "probe-slow": {"query": "SELECT pg_sleep($1)", "parameters": [30], "expect": {"seconds": 1}},
    "probe-writes": {"query": "WITH gone AS (DELETE FROM terrace_probe RETURNING id) SELECT count(*) FROM gone"},
    "probe-missing": {
        "query": "SELECT note FROM terrace_probe WHERE owner = $1",
        "parameters": [7],
        "expect": {"index": [f"{TABLE}_nowhere_idx"]},
    },
    "probe-two": {"query": "SELECT 1; COMMIT; DROP TABLE terrace_probe"},
    "probe-small": {
        "query": "SELECT count(*) FROM terrace_probe WHERE note = $1",
        "parameters": ["x"],
        "expect": {"index": [f"{TABLE}_owner_idx"], "scan": 2 * ROWS},
    },
}


def services(queries: dict) -> dict:
    """Return what the environment says of its services where `orders` has further queries."""
    own = {name: dict(its or {}) for name, its in lab.OWN.items()}
    own["orders"]["database"] = {"queries": queries}
    return own


def check(**more: object) -> tuple[int, dict]:
    """Return how `make check-queries FORMAT=json` ends, and what it prints."""
    done = subprocess.run(
        [lab.ROOT / ".venv/bin/ansible-playbook", f"--inventory={lab.INVENTORY}", "playbooks/check_queries.yml",
         "--extra-vars", json.dumps({"queries_format": "json"} | more)],
        cwd=lab.ROOT,
        env=lab.environment() | {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STDOUT_CALLBACK": "lines"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def leader() -> lab.Host:
    """Return the host of the primary, once every other host follows it."""
    lab.wait(lab.whole_cluster, 90, "every replica follows the primary", pause=1)
    return lab.primary()


@pytest.fixture(scope="module")
def table(leader):
    """Have a table in the database of orders while the tests of this file run, as a migration makes one."""
    drop = "DROP TABLE IF EXISTS terrace_probe;"
    make = """
        SET ROLE orders_owner;
        CREATE TABLE terrace_probe (id int PRIMARY KEY, owner int NOT NULL, note text NOT NULL);
        INSERT INTO terrace_probe SELECT n, n % 1000, repeat('x', 50) FROM generate_series(1, 20000) AS n;
        CREATE INDEX terrace_probe_owner_idx ON terrace_probe (owner);
        ANALYZE terrace_probe;
    """
    sql(leader, drop + make, "orders")
    yield
    sql(lab.primary(), drop, "orders")


@pytest.fixture(scope="module")
def told(table) -> dict:
    """Return what is told of all of DECLARED in one run, and that it failed."""
    code, told = check(queries_of="orders", services=services(DECLARED))
    assert code == 3
    assert told["ok"] is False
    return told


@pytest.fixture(scope="module")
def results(told) -> dict[str, dict]:
    """Return what is told of each query, by name."""
    return {each["name"]: each for each in told["queries"]}


def live(hosts: dict[str, lab.Host]) -> dict[str, str]:
    """Return by node the release of orders that lives there."""
    return {node: hosts[node].run("cd /srv/terrace/orders; readlink $(readlink live)") for node in lab.NODES}


def verdicts(result: dict, verdict: str) -> dict[str, str]:
    """Return the expectations of a query with a verdict, and what was found of each."""
    return {each["expectation"]: each["found"] for each in result["findings"] if each["verdict"] == verdict}


def test_a_replica_runs_them(told, leader):
    """The table was made a moment ago: it replays what the primary wrote before it begins."""
    if len(lab.GROUPS["database"]) == 1:
        assert (told["host"], told["replica"]) == (leader.name, False)
    else:
        assert told["replica"] is True
        assert told["host"] in set(lab.GROUPS["database"]) - {leader.name}


def test_a_query_that_is_as_expected(results):
    its = results["probe-holds"]
    assert its["ok"], its
    assert set(verdicts(its, "holds")) == {
        "ends within 5 s",
        f"uses the index {TABLE}_owner_idx",
        "reads at most 60 buffers",
        "no sequential scan of a table with more than 10,000 rows",
    }
    assert (its["rows"], its["plan"]) == (ROWS / 1000, "")


@pytest.mark.parametrize(
    ("name", "expectation", "found", "plan"),
    [
        (
            "probe-scan",
            "no sequential scan of a table with more than 10,000 rows",
            f"{TABLE}, {ROWS:,} rows",
            f"Seq Scan on {TABLE}",
        ),
        ("probe-buffers", "reads at most 2 buffers", "", f"{TABLE}_owner_idx"),
        ("probe-slow", "ends within 1 s", "it was cut off", "Result"),
        (
            "probe-missing",
            f"uses the index {TABLE}_nowhere_idx",
            "there is no index of that name; declare it, or mend the name",
            f"{TABLE}_owner_idx",
        ),
    ],
)
def test_what_is_not_as_expected_is_told_with_its_plan(results, name, expectation, found, plan):
    its = results[name]
    assert its["ok"] is False
    failed = verdicts(its, "fails")
    assert list(failed) == [expectation]
    assert failed[expectation] == (found or f"{its['buffers']:,}")
    assert plan in its["plan"]


def test_an_index_of_a_small_table_is_not_judged(results):
    assert results["probe-small"]["ok"]
    assert list(verdicts(results["probe-small"], "not judged")) == [f"uses the index {TABLE}_owner_idx"]


def test_nothing_is_written_and_no_second_statement_is_run(results, leader):
    assert results["probe-writes"]["error"].endswith("in a read-only transaction")
    assert results["probe-two"]["error"] == "cannot insert multiple commands into a prepared statement"
    assert sql(leader, "SELECT count(*) FROM terrace_probe", "orders") == str(ROWS)


def test_the_examples_are_as_they_expect():
    code, told = check()
    assert code == 0, [each for each in told["queries"] if not each["ok"]]
    assert {each["service"] for each in told["queries"]} >= {"orders", "users"}


def test_a_deploy_stops_before_its_first_node_where_a_gate_is_not_as_expected(hosts, table, playbook, everything_ready):
    before = live(hosts)
    own = services({"probe-scan": DECLARED["probe-scan"] | {"gate": True}})
    # Another label makes another release, which would live if nothing stopped it.
    own["orders"]["version"] = "gated"
    told = {"deploy_services": ["orders"], "deploy_id": "queries-test", "deploy_who": "tests", "deploy_origin": "lab"}
    done = playbook("playbooks/deploy.yml", "--extra-vars", json.dumps(told | {"services": own}))
    assert done.returncode != 0, done.stdout[-3000:]
    assert "orders/probe-scan: NOT AS EXPECTED" in done.stdout
    said = " ".join(done.stdout[done.stdout.rindex("Say what failed") :].split())
    assert f"orders/probe-scan: no sequential scan of a table with more than 10,000 rows: {TABLE}" in said
    assert live(hosts) == before
