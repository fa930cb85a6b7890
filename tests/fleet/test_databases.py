"""A declared database of no service, and the drop of one that is no longer declared."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import yaml

import lab
from lab import sql

sys.path.insert(0, str(lab.ROOT / "plugins/filter"))
from services import derive

DECLARED = yaml.safe_load((lab.INVENTORY / "group_vars/all/services.yml").read_text())["databases"]["reports"]
# Runs a statement through the pooler of an app node, over TLS, as a process there would.
THROUGH = """
import sys, psycopg
url, statement = sys.stdin.read().split("\\n", 1)
with psycopg.connect(url, connect_timeout=10) as connection:
    print(*connection.execute(statement).fetchone())
"""
ROLES = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname LIKE 'forgotten%'"
FORGOTTEN = """
CREATE ROLE forgotten_owner; CREATE ROLE forgotten_app; CREATE ROLE forgotten_reader;
CREATE ROLE forgotten_app_a LOGIN IN ROLE forgotten_app; CREATE ROLE forgotten_app_b LOGIN IN ROLE forgotten_app;
"""


def through_pooler(alias: str, login: str, statement: str) -> tuple[int, str]:
    """Return how a statement ended that an app node sent to an alias of the pooler, and what came back."""
    key = (lab.STATE / "vault_key").read_text().split()[0]
    password = derive(key, f"postgresql/reports/{login}")
    url = f"postgresql://reports_{login}:{password}@127.0.0.1:{lab.PORTS['pgbouncer']}/{alias}"
    node = lab.Host("app2")
    done = node.try_run(
        f"/srv/terrace/users/live/venv/bin/python -c '{THROUGH}'", stdin=f"{url}?sslmode=disable\n{statement}"
    )
    return done.returncode, (done.stdout or done.stderr).strip()


def test_it_has_what_is_declared_of_it():
    primary = lab.primary()
    known = "SELECT datdba::regrole, datconnlimit FROM pg_database WHERE datname = 'reports'"
    assert sql(primary, known) == f"reports_owner|{DECLARED['connections']}"
    assert sql(primary, "SHOW work_mem", "reports") == DECLARED["settings"]["work_mem"]
    assert set(DECLARED["extensions"]) <= set(sql(primary, "SELECT extname FROM pg_extension", "reports").split())
    others = "SELECT bool_or(has_database_privilege(rolname, 'reports', 'CONNECT')) FROM pg_roles"
    assert sql(primary, f"{others} WHERE rolname IN ('users_app_a', 'orders_app_a', 'orders_reader')") == "f"


@pytest.mark.parametrize(("alias", "replica"), [("reports", False), ("reports_session", False), ("reports_read", True)])
def test_the_poolers_lead_to_it(alias, replica):
    asked = "SELECT current_user, current_database(), pg_is_in_recovery()"
    assert through_pooler(alias, "app_a", asked) == (0, f"reports_app_a reports {replica}")


def test_its_application_cannot_change_the_schema():
    code, said = through_pooler("reports", "app_a", "CREATE TABLE public.intruder (id int)")
    assert code
    assert "permission denied" in said


@pytest.fixture
def forgotten() -> Iterator[lab.Host]:
    """Have a database that no inventory declares, with its roles; the primary's host. Both are gone afterwards."""
    primary = lab.primary()
    try:
        sql(primary, FORGOTTEN)
        sql(primary, "CREATE DATABASE forgotten OWNER forgotten_owner")
        sql(primary, "SET ROLE forgotten_owner; CREATE TABLE kept AS SELECT 1 AS id", "forgotten")
        yield primary
    finally:
        sql(primary, "DROP DATABASE IF EXISTS forgotten WITH (FORCE)")
        for role in ("app_a", "app_b", "app", "reader", "owner"):
            sql(primary, f"DROP ROLE IF EXISTS forgotten_{role}")


def test_one_that_is_not_declared_is_dropped_when_its_name_is_said_and_nobody_is_connected(forgotten):
    there = "SELECT count(*) FROM pg_database WHERE datname = 'forgotten'"
    mistyped = lab.make("database-drop", "NAME=forgotten", "CONFIRM=forgoten", "FORCE=1")
    assert mistyped.returncode
    assert "Nothing was dropped" in mistyped.stdout
    assert "forgotten_owner" in mistyped.stdout
    assert sql(forgotten, there) == "1"

    done = lab.make("database-drop", "NAME=forgotten", "CONFIRM=forgotten", "FORCE=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sql(forgotten, there) == "0"
    assert sql(forgotten, ROLES) == ""
