"""PostgreSQL under Patroni, its etcd, the poolers: secure from the first boot, and alive when a part is not."""

from __future__ import annotations

import json
import time
import uuid

import pytest

import lab
from lab import sql

PKI = "/etc/terrace/pki"


@pytest.fixture
def db():
    """Return the host of the primary, once every other host follows it."""
    lab.wait(lab.whole_cluster, 90, "every replica follows the primary", pause=1)
    return lab.primary()


def rest(host) -> str:
    """Return where Patroni answers on a host."""
    return f"https://{host.address}:{lab.PORTS['patroni']}"


# Runs a statement from an app node with a service's own environment: through the pooler, the node proxy, and TLS.
THROUGH = """
import os, sys, psycopg
with psycopg.connect(os.environ[sys.argv[1]], connect_timeout=10) as connection:
    for row in connection.execute(sys.stdin.read()):
        print(*row)
"""


def through_pooler(node, statement: str, url: str = "DATABASE_URL", environment: str = "service"):
    """Return how a statement ended that was sent from an app node with the environment of users."""
    node.run("cat >/run/terrace-test.py", stdin=THROUGH)
    return node.try_run(
        "systemd-run --quiet --pipe --wait --collect --property=EnvironmentFile="
        f"/etc/terrace/services/users/{environment}.env "
        f"/srv/terrace/users/live/venv/bin/python /run/terrace-test.py {url}",
        stdin=statement,
    )


def test_the_cluster_has_a_leader_and_its_settings(db):
    assert {member["name"] for member in lab.cluster()["members"]} == set(lab.GROUPS["database"])
    config = json.loads(db.run(f"curl --fail --silent --cacert {PKI}/ca.crt {rest(db)}/config"))
    assert config["failsafe_mode"] is True
    assert config["synchronous_mode"] == "quorum"
    assert sql(db, "SHOW synchronous_standby_names").startswith("ANY 1 (")


def test_what_cannot_be_changed_later_is_right(db):
    wanted = {
        "data_checksums": "on",
        "wal_level": "logical",
        "archive_mode": "on",
        "password_encryption": "scram-sha-256",
        "ssl": "on",
        "server_encoding": "UTF8",
        "listen_addresses": db.address,
        "max_connections": "200",
    }
    for name, value in wanted.items():
        assert sql(db, f"SHOW {name}") == value, name
    assert sql(db, "SELECT datcollate FROM pg_database WHERE datname = 'orders'") == "C.UTF-8"
    # A quarter of what the system, etcd and Patroni leave of the 4096 MiB that the lab's inventory states.
    assert sql(db, "SHOW shared_buffers") == f"{(4096 - 409 - 96 - 96) // 4}MB"


def test_the_rest_interface_changes_nothing_without_a_password(db):
    code = "curl --silent --output /dev/null --write-out '%{http_code}'"
    refused = db.run(f"{code} --cacert {PKI}/ca.crt -X PATCH -d '{{\"ttl\": 30}}' {rest(db)}/config")
    assert refused == "401"


def test_etcd_answers_only_clients_of_its_own(db, hosts):
    url = f"https://{db.address}:{lab.PORTS['etcd_client']}/health"
    assert db.try_run(f"curl --fail --silent --cacert {PKI}/ca.crt {url}").returncode != 0
    own = f"curl --fail --silent --cacert {PKI}/ca.crt --cert {PKI}/host.crt --key {PKI}/host.key {url}"
    assert json.loads(db.run(own))["health"] == "true"
    # An app node's certificate is good for a server, not for a client.
    assert hosts["app1"].try_run(own).returncode != 0


def test_connections_without_tls_are_refused(db):
    refused = db.try_run(
        f"PGPASSWORD=x psql 'host={db.address} user=users_app_a dbname=users sslmode=disable' -c 'SELECT 1'"
    )
    assert refused.returncode != 0
    assert "no encryption" in refused.stderr


@pytest.mark.parametrize("url", ["DATABASE_URL", "DATABASE_READ_URL", "DATABASE_SESSION_URL"])
def test_the_pooler_serves_each_alias_over_tls(hosts, url):
    statement = "SELECT current_user, ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    done = through_pooler(hosts["app2"], statement, url)
    assert done.returncode == 0, done.stderr
    user, encrypted, version = done.stdout.split()
    assert (user, encrypted, version) == ("users_app_a", "True", "TLSv1.3")


def test_the_application_cannot_change_the_schema(hosts):
    done = through_pooler(hosts["app1"], "CREATE TABLE public.intruder (id int)")
    assert done.returncode != 0
    assert "permission denied" in done.stderr


def test_the_application_cannot_enter_another_database(hosts):
    done = through_pooler(hosts["app1"], "SELECT has_database_privilege('users_app_a', 'orders', 'CONNECT')")
    assert done.stdout.strip() == "False"


def test_the_owner_migrates_over_the_session_alias(hosts):
    done = through_pooler(hosts["app1"], "SELECT current_user", environment="migrate")
    assert done.stdout.strip() == "users_owner", done.stderr


def test_the_reader_cannot_write(db):
    assert sql(db, "SELECT has_table_privilege('users_reader', 'users', 'SELECT')", "users") == "t"
    assert sql(db, "SELECT has_table_privilege('users_reader', 'users', 'INSERT')", "users") == "f"


def test_secrets_are_for_their_daemons_alone(hosts, db):
    assert db.file("/etc/patroni/config.yml") == ("640", "root", "postgres")
    mode, _, _ = hosts["app1"].file("/etc/pgbouncer/userlist.txt")
    assert mode in ("600", "640")
    assert hosts["app1"].try_run("sudo -u nobody cat /etc/pgbouncer/userlist.txt").returncode != 0


def new_user() -> dict:
    """Return a user that nobody has made before."""
    return {"email": f"{uuid.uuid4().hex}@example.com", "name": "Ada"}


def test_writes_go_on_while_etcd_is_away_for_longer_than_a_leader_lasts(hosts, db):
    members = [hosts[name] for name in lab.GROUPS["etcd"]]
    for member in members:
        member.run("systemctl stop etcd")
    try:
        start, written = time.monotonic(), 0
        # Twice the time for which the key of a leader lasts (patroni_ttl).
        while time.monotonic() - start < 40:
            answer = lab.ask("lb1", "/users", "POST", new_user())
            assert answer.status == 201, f"{time.monotonic() - start:.0f} s after etcd stopped: {answer}"
            written += 1
            time.sleep(0.5)
    finally:
        # The first two wait for each other.
        for member in members:
            member.run("systemctl start --no-block etcd")
    assert written > 20
    lab.wait(
        lambda: db.try_run(f"curl --fail --silent --cacert {PKI}/ca.crt {rest(db)}/primary").returncode == 0,
        60,
        "the primary leads again",
    )
    assert lab.primary().name == db.name


def test_postgresql_is_brought_back_by_patroni(db):
    before = sql(db, "SELECT pg_postmaster_start_time()")
    db.run("kill -9 $(head -n 1 /var/lib/postgresql/17/main/postmaster.pid)")
    lab.wait(lambda: lab.ask("lb2", "/users", "POST", new_user()).status == 201, 60, "writes are accepted again")
    assert sql(db, "SELECT pg_postmaster_start_time()") != before


@pytest.mark.parametrize("unit", ["patroni", "etcd"])
def test_daemons_of_the_database_come_back(db, unit):
    before = db.show(unit, "MainPID")
    db.run(f"systemctl kill --signal=KILL --kill-whom=main {unit}")
    lab.wait(lambda: db.show(unit, "MainPID") not in (before, "0"), 30, f"{unit} runs again")
    lab.wait(lambda: lab.ask("lb1", "/users", "POST", new_user()).status == 201, 60, "writes are accepted")


def test_the_pooler_comes_back(hosts):
    node = hosts["app3"]
    before = node.show("pgbouncer", "MainPID")
    node.run("systemctl kill --signal=KILL pgbouncer")
    lab.wait(lambda: node.show("pgbouncer", "MainPID") not in (before, "0"), 20, "pgbouncer runs again")
    lab.wait(
        lambda: lab.ask("app3", "/users?limit=1", port=lab.SERVICES["users"]["port"]).status == 200, 20, "app3 serves"
    )


def etcd_members(host) -> dict[str, bool]:
    """Return the members that etcd knows, by name, and whether each may vote."""
    shown = json.loads(
        host.run(
            f"etcdctl --write-out=json --endpoints=https://{host.address}:{lab.PORTS['etcd_client']}"
            f" --cacert={PKI}/ca.crt --cert={PKI}/host.crt --key={PKI}/host.key member list"
        )
    )
    return {member.get("name", ""): not member.get("isLearner", False) for member in shown["members"]}


def test_a_member_of_etcd_that_lost_its_disk_is_replaced_by_a_run(hosts, db, playbook):
    lost = hosts[next(name for name in lab.GROUPS["etcd"] if name != db.name)]
    lost.run("systemctl stop etcd && rm -rf /var/lib/etcd/* /etc/default/etcd-bootstrap")
    done = playbook("playbooks/database.yml", "--tags=etcd")
    assert done.returncode == 0, done.stdout[-3000:]
    assert etcd_members(lost) == dict.fromkeys(lab.GROUPS["etcd"], True)
    assert lab.primary().name == db.name


def test_a_replica_that_lost_its_disk_copies_the_primary_anew(hosts, db):
    lost = hosts[next(name for name in lab.GROUPS["database"] if name != db.name)]
    lost.run(
        "systemctl stop patroni && find /var/lib/postgresql/17/main -mindepth 1 -delete && systemctl start patroni"
    )
    lab.wait(lab.whole_cluster, 120, "the replica follows again", pause=1)
    assert lab.primary().name == db.name
