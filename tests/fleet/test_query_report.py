"""`make query-report` on the real cluster: the index that a workload lacks, those that nobody needs, and no value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import lab
from lab import sql
from state import collect, differences

DATABASE = "orders"
# They stand in statements and in rows, and may stand in no report.
PASSWORD, LITERAL, NUMBER = "advised-p4ssw0rd", "advised-l1teral", 48_151_623

MAKE = """
CREATE TABLE advised (id bigserial PRIMARY KEY, owner int, kind text, idle int, twice int);
INSERT INTO advised (owner, kind, idle, twice)
    SELECT number % 5000, 'LITERAL', number, number FROM generate_series(1, 150000) number;
CREATE INDEX advised_idle ON advised (idle);
CREATE INDEX advised_twice ON advised (twice);
CREATE INDEX advised_again ON advised (twice);
ANALYZE advised;
""".replace("LITERAL", LITERAL)
# Read by what has no index, two hundred times; and commands that are not normalised.
READ = "SELECT id, idle FROM advised WHERE owner = OWNER AND kind <> 'NUMBER' /* LITERAL */;\n"
WORK = "".join(READ.replace("OWNER", str(owner)) for owner in range(200))
WORK += """
SELECT count(*) FROM advised WHERE twice = 7;
CREATE ROLE advised_role PASSWORD 'SECRET';
ALTER ROLE advised_role PASSWORD 'SECRET';
DROP ROLE advised_role;
"""
WORK = WORK.replace("NUMBER", str(NUMBER)).replace("LITERAL", LITERAL).replace("SECRET", PASSWORD)
# The rows that were put in would count as writes.
FRESH = "SELECT pg_stat_force_next_flush(); SELECT pg_stat_reset_single_table_counters('advised'::regclass);"
FORGET = "SELECT pg_stat_statements_reset(0, oid) FROM pg_database WHERE datname = 'orders'"


@pytest.fixture(scope="module")
def worked() -> Iterator[lab.Host]:
    """Have a table and a workload of this test's alone; the primary's host. Both are gone afterwards."""
    primary = lab.primary()
    try:
        sql(primary, MAKE, DATABASE)
        sql(primary, FRESH, DATABASE)
        sql(primary, FORGET)
        sql(primary, WORK, DATABASE)
        lab.wait_for_replicas()
        yield primary
    finally:
        sql(primary, "DROP TABLE IF EXISTS advised; DROP ROLE IF EXISTS advised_role;", DATABASE)


@pytest.fixture(scope="module")
def told(worked, tmp_path_factory) -> tuple[dict, str, str]:
    """Return the report as data, what was printed of it, and the page; nothing of the cluster changed for it."""
    before, folder = collect(worked)["postgresql"], tmp_path_factory.mktemp("report")
    done = lab.make("query-report", "FORMAT=json", f"OUT={folder}/report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert differences(before, collect(worked)["postgresql"]) == []
    return json.loads(done.stdout), done.stdout + done.stderr, Path(folder, "report.html").read_text()


@pytest.fixture(scope="module")
def orders(told) -> dict:
    """Return what is told of the database."""
    return next(database for database in told[0]["databases"] if database["name"] == DATABASE)


def test_every_host_was_read(told):
    assert {name for name, host in told[0]["hosts"].items() if host["reached"] and host["known"]} == set(
        lab.GROUPS["database"]
    )
    # A replica tries, so that the primary has no part in it.
    assert told[0]["advisor"] in set(lab.GROUPS["database"]) - {lab.primary().name}


def test_the_missing_index_is_advised_and_nothing_else_of_its_table(orders):
    advised = [one for one in orders["advice"] if one["table"] == "advised"]
    assert [one["declared"]["columns"] for one in advised] == [["owner"]]
    [query] = advised[0]["queries"]
    assert query["after"] < query["before"] / 10
    assert advised[0]["lines"].startswith("database:\n  indexes:\n    advised:\n      - columns: [owner]\n")
    assert advised[0]["file"] == "services/orders.yml"


def test_what_nobody_needs_is_found(orders):
    assert "advised_idle" in {one["name"] for one in orders["unused"]}
    needless = {one["name"]: one["by"] for one in orders["redundant"]}
    assert {"advised_twice", "advised_again"} & set(needless)
    assert not {"advised_twice", "advised_again"} <= set(needless)


def test_no_value_is_told(told):
    _, printed, page = told
    for text in (printed, page):
        assert "advised" in text
        assert not [value for value in (PASSWORD, LITERAL, str(NUMBER)) if value in text]
    assert "CREATE ROLE" in printed


def test_nothing_hypothetical_is_left(worked):
    for name in lab.GROUPS["database"]:
        assert sql(lab.Host(name), "SELECT count(*) FROM terrace.hypopg_list_indexes", DATABASE) == "0"


def test_services_have_no_part_in_it(worked):
    """The schema of hypopg is the administrator's."""
    for role in ("orders_owner", "orders_app", "orders_reader"):
        assert sql(worked, f"SELECT has_schema_privilege('{role}', 'terrace', 'USAGE')", DATABASE) == "f"


def test_the_summary_is_printed(worked, tmp_path):
    done = lab.make("query-report", f"OUT={tmp_path}/again.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orders: Add an index on advised: owner: saves about" in done.stdout
    assert done.stdout.rstrip().endswith("again.html")
    assert Path(tmp_path, "again.html").stat().st_size > 10_000
