"""Secrets are changed under load: no client notices, the old one is refused, and what was cut off is finished."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from deploys import ENTRY, killed_in, run_of, watched

import lab

pytestmark = pytest.mark.usefixtures("unlocked")
STATE = lab.STATE / ".rotation.yml"
REFUSED = "authentication failed"
Playbook = Callable[..., subprocess.CompletedProcess]


def told(name: str, **more: object) -> list[str]:
    """Return the words of a change."""
    variables = {"rotate_name": name, "deploy_who": "tests", "deploy_origin": "lab", "deploy_watch": 4}
    return ["playbooks/rotate_secret.yml", "--extra-vars", json.dumps(variables | {"deploy_watch_next": 4} | more)]


def generation(name: str) -> int:
    """Return the generation that something is at; AssertionError where a change of it is under way."""
    known = yaml.safe_load(STATE.read_text()) if STATE.exists() else {}
    entry = (known or {}).get(name, {"generation": 1})
    assert "stage" not in entry, entry
    return entry["generation"]


def rotated(playbook: Playbook, name: str, **more: object) -> str:
    """Change a secret, find that no request failed, and return what was said."""
    with lab.Load(ENTRY, "/users?limit=1", clients=2, longest=900, pause=0.2) as users, watched(slow=False) as watch:
        done = playbook(*told(name, **more))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert watch.failed + users.failed == []
    return done.stdout


def begun(name: str) -> subprocess.Popen:
    """Start a change, which prints into a pipe."""
    return run_of([str(lab.ROOT / ".venv/bin/ansible-playbook"), f"--inventory={lab.INVENTORY}", *told(name)])


def environments(host: lab.Host, service: str) -> list[dict[str, str]]:
    """Return the environments of all processes in a service's slice that have its name in theirs."""
    script = f"""
        for group in $(find /sys/fs/cgroup -path '*/svc-{service}.slice/*' -name cgroup.procs); do
            for number in $(cat $group); do
                tr '\\0' '\\n' </proc/$number/environ
                echo
            done
        done"""
    blocks = [block.splitlines() for block in host.run(script).split("\n\n")]
    found = [dict(line.split("=", 1) for line in block if "=" in line) for block in blocks]
    return [its for its in found if its.get("SERVICE_NAME") == service]


def value(hosts: dict[str, lab.Host], service: str, variable: str) -> str:
    """Return the value that every process of a service has on every node; AssertionError where they differ."""
    found = {its[variable] for node in lab.NODES for its in environments(hosts[node], service) if variable in its}
    assert len(found) == 1, f"{variable} has {len(found)} values"
    return found.pop()


def psql(host: lab.Host, url: str, port: int | None = None) -> subprocess.CompletedProcess:
    """Log in to a database by its URL from an app node, by the pooler or past it; the password goes by stdin."""
    parts = urlsplit(url)
    settings = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port or parts.port),
        "PGUSER": unquote(parts.username),
        "PGPASSWORD": unquote(parts.password),
        "PGDATABASE": parts.path.lstrip("/"),
        "PGSSLMODE": "require" if port else "disable",
    }
    lines = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in settings.items())
    return host.try_run("sh -s", stdin=f"{lines}psql --no-psqlrc --no-password -c 'SELECT 1'\n")


def changes_nothing(playbook: Playbook, *words: str) -> None:
    """Find that the whole landscape is as it should be."""
    done = playbook("site.yml", *words)
    assert done.returncode == 0, done.stdout[-4000:]
    counts = re.findall(r"(?m)^(\S+) +: ok=\d+ +changed=(\d+)", done.stdout)
    assert {count for _, count in counts} == {"0"}, re.findall(r"(?m)^changed: .*$", done.stdout)


# Passwords of the database


def test_a_databases_password(hosts, playbook):
    name, number = "orders/database", generation("orders/database")
    before = value(hosts, "orders", "DATABASE_URL")
    said = rotated(playbook, name)
    after = value(hosts, "orders", "DATABASE_URL")
    assert urlsplit(after).username != urlsplit(before).username
    assert generation(name) == number + 1
    for node in lab.NODES:
        for port in (None, lab.PORTS["node_primary"]):
            assert psql(hosts[node], after, port).returncode == 0
            refused = psql(hosts[node], before, port)
            assert refused.returncode != 0
            assert REFUSED in refused.stderr, refused.stderr
        migration = hosts[node].run(
            "cat /etc/terrace/services/orders/migrate.env /etc/terrace/services/orders/service.env"
        )
        assert urlsplit(before).password not in migration
    for database in lab.GROUPS["database"]:
        connected = lab.sql(hosts[database], "SELECT DISTINCT usename FROM pg_stat_activity").splitlines()
        assert urlsplit(before).username not in connected
    for secret in (urlsplit(before).password, urlsplit(after).password):
        assert secret not in said
        assert secret not in STATE.read_text()
    changes_nothing(playbook)


def test_a_databases_password_once_more_by_the_first_login(hosts, playbook):
    """Its logins take turns: that of the first generation comes again, with another password than it had."""
    before = value(hosts, "orders", "DATABASE_URL")
    rotated(playbook, "orders/database")
    after = value(hosts, "orders", "DATABASE_URL")
    for node in lab.NODES:
        assert psql(hosts[node], after).returncode == 0
        assert REFUSED in psql(hosts[node], before).stderr


def test_a_migration_has_the_owners_new_password(hosts):
    """As a deploy would run it, by hand: the session alias, as the owner."""
    [line] = [
        line
        for line in hosts[lab.NODES[0]].run("cat /etc/terrace/services/orders/migrate.env").splitlines()
        if line.startswith("DATABASE_URL=")
    ]
    url = line.partition("=")[2].strip('"')
    assert urlsplit(url).username == "orders_owner"
    assert psql(hosts[lab.NODES[0]], url).returncode == 0


@pytest.mark.parametrize(
    "task",
    [
        # PostgreSQL begins to accept both; poolers do; the first node changes; all have; one is not accepted any more.
        "Keep owners, application roles",
        "Write the settings of the unit, the users and the configuration",
        "Have the other slot take over",
        "Wait for processes that still have it",
        "End the sessions of the old login",
    ],
)
def test_a_change_that_is_cut_off_is_finished_by_the_same_command(hosts, playbook, task):
    name, number = "orders/database", generation("orders/database")
    before = value(hosts, "orders", "DATABASE_URL")
    with watched(slow=False) as watch:
        killed_in(begun(name), task)
        # Somebody else is told what it waits for.
        other = playbook(*told(name, deploy_who="others"))
        assert other.returncode != 0
        assert f"make rotate-secret NAME={name}" in other.stdout, other.stdout[-3000:]
        done = playbook(*told(name))
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    assert generation(name) == number + 1
    after = value(hosts, "orders", "DATABASE_URL")
    assert psql(hosts[lab.NODES[-1]], after).returncode == 0
    assert REFUSED in psql(hosts[lab.NODES[-1]], before).stderr


def test_the_landscapes_run_goes_on_where_a_change_was_cut_off(hosts, playbook):
    """Both say the same of each stage, so a run between the two fails nobody and undoes nothing."""
    name, number = "orders/database", generation("orders/database")
    with watched(slow=False) as watch:
        killed_in(begun(name), "Have the other slot take over")
        done = playbook("site.yml")
        assert done.returncode == 0, done.stdout[-4000:]
        done = playbook(*told(name))
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    assert generation(name) == number + 1


# Passwords of Redis


def redis_says(host: lab.Host, url: str, port: int) -> str:
    """Return what Redis says to a user's password, on the host itself; the password goes by stdin."""
    parts = urlsplit(url)
    words = f"AUTH {unquote(parts.username)} {unquote(parts.password)}\n"
    return host.run(f"redis-cli -h {host.address} -p {port}", stdin=words)


def test_a_redis_password(hosts, playbook):
    name, number = "users/redis", generation("users/redis")
    starts = {host: hosts[host].show("redis-server@cache", "MainPID") for host in lab.GROUPS["cache"]}
    before = value(hosts, "users", "REDIS_URL")
    said = rotated(playbook, name)
    after = value(hosts, "users", "REDIS_URL")
    assert generation(name) == number + 1
    for host in lab.GROUPS["cache"]:
        assert redis_says(hosts[host], after, lab.PORTS["redis_cache"]) == "OK"
        assert "WRONGPASS" in redis_says(hosts[host], before, lab.PORTS["redis_cache"])
        assert hosts[host].show("redis-server@cache", "MainPID") == starts[host]
    assert urlsplit(after).password not in said
    changes_nothing(playbook)


@pytest.mark.skipif(len(lab.GROUPS["cache"]) < 2, reason="there is one host of Redis")
def test_a_redis_password_holds_after_a_switchover(hosts, playbook):
    """Whoever leads knows it: an access list is each instance's own."""
    with watched(slow=False) as watch:
        done = playbook("playbooks/switchover.yml", "--extra-vars", '{"switchover_what": "cache"}')
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    url = value(hosts, "users", "REDIS_URL")
    assert {redis_says(hosts[host], url, lab.PORTS["redis_cache"]) for host in lab.GROUPS["cache"]} == {"OK"}


# Certificates and the authority


def shown(host: str) -> bytes:
    """Return the certificate that a load balancer shows to who trusts the authority."""
    with lab.tls().wrap_socket(
        socket.create_connection((lab.ADDRESSES[host], lab.PORTS["https"]), timeout=10), server_hostname=host
    ) as connection:
        return connection.getpeercert(binary_form=True)


def test_certificates(hosts, playbook):
    before = {name: hosts[name].run("cat /etc/terrace/pki/host.crt /etc/terrace/pki/host.key") for name in hosts}
    balancers = {name: shown(name) for name in lab.BALANCERS}
    trusted = lab.AUTHORITY.read_text()
    rotated(playbook, "certificates")
    for name, host in hosts.items():
        crt, key = (host.run(f"cat /etc/terrace/pki/host.{end}") for end in ("crt", "key"))
        assert crt not in before[name]
        assert key not in before[name]
        assert host.file("/etc/terrace/pki/host.key") == ("640", "root", "terrace-pki")
        assert host.try_run("test -e /etc/terrace/pki/next.key").returncode == 1
    assert lab.AUTHORITY.read_text() == trusted
    for name in lab.BALANCERS:
        assert shown(name) != balancers[name]
    lab.wait(lab.whole_cluster, 60, "the cluster is whole")
    changes_nothing(playbook)


FORMER = "/run/terrace-former"


@pytest.fixture
def former(hosts) -> Iterator[lab.Host]:
    """Keep a host's pair of before the change, as whoever got hold of it would."""
    host = hosts[lab.GROUPS["etcd"][0]]
    host.run(f"install -d -m 700 {FORMER} && cp -p /etc/terrace/pki/host.crt /etc/terrace/pki/host.key {FORMER}")
    yield host
    host.run(f"rm -r {FORMER}")


def etcd_takes(host: lab.Host, pair: str) -> bool:
    """Tell whether etcd takes a client with a key and a certificate."""
    command = (
        "curl --silent --show-error --fail --max-time 5 --cacert /etc/terrace/pki/ca.crt"
        f" --cert {pair}/host.crt --key {pair}/host.key https://{host.address}:{lab.PORTS['etcd_client']}/health"
    )
    return host.try_run(command).returncode == 0


def test_the_authority(hosts, playbook, former, tmp_path):
    old = tmp_path / "old.crt"
    old.write_text(lab.AUTHORITY.read_text())
    name, number = "authority", generation("authority")
    rotated(playbook, name)
    assert generation(name) == number + 1
    trusted = lab.AUTHORITY.read_text()
    assert trusted.count("BEGIN CERTIFICATE") == 1
    assert trusted != old.read_text()
    for host in hosts.values():
        assert host.run("cat /etc/terrace/pki/ca.crt") == trusted.strip()
        host.run("openssl verify -CAfile /etc/terrace/pki/ca.crt /etc/terrace/pki/host.crt")
    # Who trusts the old one takes nobody, and who was vouched for by it is taken by nobody.
    for balancer in lab.BALANCERS:
        context = ssl.create_default_context(cafile=str(old))
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            socket.create_connection((lab.ADDRESSES[balancer], lab.PORTS["https"]), timeout=10) as plain,
        ):
            context.wrap_socket(plain, server_hostname=balancer)
    assert etcd_takes(former, "/etc/terrace/pki")
    assert not etcd_takes(former, FORMER)
    lab.wait(lab.whole_cluster, 60, "the cluster is whole")
    changes_nothing(playbook)


@pytest.mark.parametrize("task", ["Ask each port for its certificate", "Restart etcd", "Sign what it asks for"])
def test_a_change_of_the_authority_that_is_cut_off_is_finished_by_the_same_command(hosts, playbook, task):
    name, number = "authority", generation("authority")
    with watched(slow=False) as watch:
        killed_in(begun(name), task)
        done = playbook(*told(name))
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    assert generation(name) == number + 1
    assert lab.AUTHORITY.read_text().count("BEGIN CERTIFICATE") == 1


def test_the_authority_waits_where_both_are_trusted(playbook):
    """So that clients outside can be given both, before one of them signs."""
    said = rotated(playbook, "authority", rotate_pause=True)
    assert "repeat the command without PAUSE" in said
    assert lab.AUTHORITY.read_text().count("BEGIN CERTIFICATE") == 2
    changes_nothing(playbook)
    rotated(playbook, "authority")
    assert lab.AUTHORITY.read_text().count("BEGIN CERTIFICATE") == 1


# What is refused, and what is only said


def test_to_ask_what_would_be_done_changes_nothing(hosts, playbook):
    before = STATE.read_text() if STATE.exists() else ""
    done = playbook(*told("orders/database", rotate_check=True))
    assert done.returncode == 0, done.stdout[-4000:]
    assert "change of orders/database" in done.stdout
    assert (STATE.read_text() if STATE.exists() else "") == before
    assert re.search(r"changed=[1-9]", done.stdout) is None


def test_a_name_of_nothing_is_told_what_there_is(playbook):
    done = playbook(*told("orders/" + secrets.token_hex(4)))
    assert done.returncode != 0
    for name in ("orders/database", "users/database", "users/redis", "certificates", "authority"):
        assert name in done.stdout, done.stdout[-2000:]


def test_nothing_secret_is_in_what_is_committed():
    known = Path(lab.STATE / "vault_key").read_text().strip()
    assert known not in STATE.read_text()
    assert not re.search(r"[A-Za-z0-9_-]{43}", STATE.read_text())


# A service's own secrets: at the end, since a run of the landscape without the one that is made here takes it away


def declared(secret: str) -> dict:
    """Return variables by which the service `orders` has secrets of its own; one of them may keep it from starting."""
    services = {name: dict(own or {}) for name, own in lab.OWN.items()}
    services["orders"]["secrets"] = ["DATABASE_POOL_SIZE"]
    return {"services": services, "vault_services": {"orders": {"DATABASE_POOL_SIZE": secret}}}


@pytest.fixture(scope="module")
def own_secret(hosts, playbook) -> Iterator[None]:
    """Give the service a secret of its own, and take it away again."""
    done = playbook("playbooks/app.yml", "--extra-vars", json.dumps(declared("5")))
    assert done.returncode == 0, done.stdout[-4000:]
    yield
    done = playbook("playbooks/app.yml")
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.usefixtures("own_secret")
def test_a_secret_of_a_service(hosts, playbook):
    assert value(hosts, "orders", "DATABASE_POOL_SIZE") == "5"
    rotated(playbook, "orders/DATABASE_POOL_SIZE", **declared("6"))
    assert value(hosts, "orders", "DATABASE_POOL_SIZE") == "6"
    # Who repeats it is told that there is nothing to do, and no slot changes.
    slots = {node: hosts[node].live_slot("orders") for node in lab.NODES}
    said = rotated(playbook, "orders/DATABASE_POOL_SIZE", **declared("6"))
    assert "put it there first: make secrets" in said
    assert {node: hosts[node].live_slot("orders") for node in lab.NODES} == slots


@pytest.mark.usefixtures("own_secret")
def test_a_secret_that_does_not_work_leaves_all_nodes_with_the_one_before(hosts, playbook):
    before = value(hosts, "orders", "DATABASE_POOL_SIZE")
    with watched(slow=False) as watch:
        more = declared("0") | {"python_service_start_timeout": 15}
        done = playbook(*told("orders/DATABASE_POOL_SIZE", **more))
    assert done.returncode != 0
    assert "went back to what lived before" in done.stdout, done.stdout[-4000:]
    assert watch.failed == []
    assert value(hosts, "orders", "DATABASE_POOL_SIZE") == before
    for node in lab.NODES:
        assert f'DATABASE_POOL_SIZE="{before}"' in hosts[node].run("cat /etc/terrace/services/orders/service.env")
