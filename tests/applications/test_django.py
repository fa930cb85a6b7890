"""A Django project as startproject makes it: who logged in with a browser stays so, whatever the nodes go through.

It comes to the lab for these tests, by a second inventory, and is taken away again after them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from browser import Browser, browser
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import lab

sys.path.insert(0, str(lab.ROOT))
from resilience import environment
from resilience.fleet import Fleet

SERVICE = "helpdesk"
NAME = "helpdesk.lab"
USER = f"ada-{uuid.uuid4().hex[:8]}"
PASSWORD = secrets.token_urlsafe(16)
Run = Callable[..., str]


def second_inventory(folder: Path) -> None:
    """Write what is added to the lab's inventory: the service, its secrets, and app nodes that have room for it."""
    own = {"workers": 2, "secrets": ["SECRET_KEY", "DJANGO_SUPERUSER_PASSWORD"]}
    values = {"SECRET_KEY": secrets.token_urlsafe(48), "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    files = {
        "hosts.yml": {"all": {"children": {"app": {}}}},
        "group_vars/app.yml": {"host_memory_mb": 6144},
        "group_vars/all.yml": {"services": lab.OWN | {SERVICE: own}, "vault_services": {SERVICE: values}},
    }
    (folder / "group_vars").mkdir()
    for name, content in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(yaml.safe_dump(content))


def ready(node: str) -> bool:
    """Tell whether a node has a ready slot of the service."""
    try:
        return lab.ask(node, f"/{SERVICE}", port=lab.PORTS["node_health"], timeout=5).status == 200
    except (OSError, lab.HTTPException):
        return False


def releases(hosts: dict[str, lab.Host]) -> dict[str, str]:
    """Return the release that is live on each node."""
    return {node: hosts[node].run(f"basename $(readlink -f /srv/terrace/{SERVICE}/live)") for node in lab.NODES}


def rows(statement: str) -> str:
    """Return what a statement yields in the service's database."""
    return lab.sql(lab.primary(), statement, SERVICE)


def printed(host: lab.Host, identifier: str) -> str:
    """Return what a part of the service wrote into a host's journal."""
    return host.run(f"journalctl --identifier={identifier} --lines=200 --output=cat --no-pager")


@pytest.fixture(scope="module")
def run(hosts, playbook, tmp_path_factory) -> Iterator[Run]:
    """Have the service in the lab, and return a function that runs a playbook on the lab with it."""
    folder = tmp_path_factory.mktemp("second")
    second_inventory(folder)

    def on_both(name: str, **variables: object) -> str:
        # The first inventory stays the one that relative paths start from.
        done = playbook(name, f"--inventory={folder}", "--extra-vars", json.dumps(variables))
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    try:
        on_both("site.yml")
        lab.wait(lambda: all(ready(node) for node in lab.NODES), 60, f"{SERVICE} is ready on every node")
        yield on_both
    finally:
        done = playbook("site.yml")
    assert done.returncode == 0, done.stdout[-6000:]
    for node in lab.NODES:
        left = hosts[node].run(f"systemctl list-units --all --plain --no-legend 'svc-{SERVICE}*.service'")
        assert left == "", node
    assert lab.ask("virtual", "/admin/login/", headers={"Host": NAME}).status == 404
    lab.wait_until_healthy(120)


def command(run: Run, words: str) -> str:
    """Run a command in the service's environment, as `make run` does, and return what the run printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("run_command", words)
        return run("playbooks/run.yml", run_service=SERVICE)


def public_key(balancer: str) -> str:
    """Return the digest of a balancer's public key, once the lab's authority has vouched for its certificate."""
    with (
        socket.create_connection((lab.ADDRESSES[balancer], lab.PORTS["https"]), timeout=10) as plain,
        lab.tls().wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    key = x509.load_der_x509_certificate(shown).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def whole(page: Browser) -> None:
    """Check that the page is the administrator's, and that all of it is there."""
    assert "log out" in page.text().lower(), page.path()
    wrong = [each for each in page.answers() if each["status"] >= 400 and urlsplit(each["url"]).path != "/favicon.ico"]
    assert wrong == []


@pytest.fixture(scope="module")
def visit(run, tmp_path_factory) -> Iterator[tuple[Browser, str]]:
    """Return the page of a browser, which a superuser has logged in with, and the id of the request that did it."""
    create = f"python manage.py createsuperuser --noinput --username {USER} --email {USER}@lab.test"
    made = command(run, f"id -un && {create}")
    assert f"svc-{SERVICE}" in made
    assert "Superuser created successfully." in made
    keys = [public_key(balancer) for balancer in lab.BALANCERS]
    with browser(tmp_path_factory.mktemp("browser"), {NAME: f"{lab.VIRTUAL}:{lab.PORTS['https']}"}, keys) as opened:
        opened.open(f"https://{NAME}/admin/")
        assert opened.path() == "/admin/login/"
        opened.submit("[type=submit]", username=USER, password=PASSWORD)
        assert opened.path() == "/admin/", opened.text()
        whole(opened)
        [login] = [each["headers"]["x-request-id"] for each in opened.answers() if each["status"] == 302]
        yield opened, login


@pytest.fixture(scope="module")
def page(visit) -> Browser:
    """Return the page of the browser."""
    return visit[0]


def open_ticket(page: Browser) -> str:
    """Open a ticket by the admin's form, and return its subject."""
    subject = f"It hums {uuid.uuid4().hex[:8]}"
    page.open(f"https://{NAME}/admin/tickets/ticket/add/")
    page.submit("[name=_save]", subject=subject, body="Since this morning.")
    assert page.path() == "/admin/tickets/ticket/", page.text()
    assert subject in page.text()
    whole(page)
    return subject


def acknowledged(subject: str) -> bool:
    """Tell whether a worker has done its part for a ticket."""
    return rows(f"SELECT acknowledged_at IS NOT NULL FROM tickets_ticket WHERE subject = '{subject}'") == "t"  # noqa: S608


def test_a_session_is_kept_in_redis_alone(hosts, page):
    kept = hosts[lab.GROUPS["cache"][0]].run("redis-instance cli cache SCAN 0 MATCH 'helpdesk:*' COUNT 1000000")
    assert "django.contrib.sessions.cache" in kept
    assert rows("SELECT count(*) FROM django_session") == "0"


def test_a_worker_does_its_part(hosts, page):
    subject = open_ticket(page)
    lab.wait(lambda: acknowledged(subject), 30, "the ticket is acknowledged")
    assert any("acknowledged ticket" in printed(hosts[node], f"{SERVICE}-worker") for node in lab.NODES)


def test_the_scheduled_command_closes_what_is_old(hosts, page):
    subject = open_ticket(page)
    old = f"UPDATE tickets_ticket SET opened_at = now() - interval '31 days' WHERE subject = '{subject}'"  # noqa: S608
    rows(old)
    first = hosts[lab.NODES[0]]
    assert first.show(f"svc-{SERVICE}-close-stale.timer", "ActiveState") == "active"
    first.run(f"systemctl start svc-{SERVICE}-close-stale.service")
    assert rows(f"SELECT closed_at IS NOT NULL FROM tickets_ticket WHERE subject = '{subject}'") == "t"  # noqa: S608
    assert "tickets" in printed(first, f"{SERVICE}-close-stale")


def test_who_is_logged_in_stays_so_in_a_deploy(hosts, run, page):
    before = releases(hosts)
    with lab.Load("virtual", "/admin/login/", headers={"Host": NAME}, clients=2, longest=900, pause=0.3) as load:
        run(
            "playbooks/deploy.yml",
            deploy_services=[SERVICE],
            deploy_version=f"test-{time.time_ns()}",
            deploy_serial=[1],
            deploy_watch=10,
            deploy_wait=0,
            deploy_id=f"{int(time.time())}-{os.getpid()}",
            deploy_who="test_django",
            deploy_origin=socket.gethostname(),
        )
    assert not load.failed, load
    after = releases(hosts)
    assert len(set(after.values())) == 1
    assert not set(after.values()) & set(before.values())
    page.open(f"https://{NAME}/admin/")
    whole(page)
    subject = open_ticket(page)
    lab.wait(lambda: acknowledged(subject), 60, "a worker of the new release acknowledges the ticket")


def test_who_is_logged_in_stays_so_when_the_node_dies_that_served_the_login(hosts, visit, everything_ready, tmp_path):
    page, login = visit
    engine = lab.running_engine(hosts)

    def served() -> list[str]:
        journal = f"journalctl --unit={engine.unit} --since=-2h --grep={login} --output=cat --no-pager --quiet"
        lines = [line for one in lab.BALANCERS for line in hosts[one].try_run(journal).stdout.splitlines()]
        return [json.loads(line)["server"] for line in lines]

    lab.wait(served, 10, "the login is in a balancer's log")
    [node] = served()
    fleet = Fleet(environment.describe(lab.INVENTORY, tmp_path / "reach"))
    fleet.cut_power(node)
    try:
        # Reads are repeated elsewhere; what writes waits until the balancers know.
        end = time.monotonic() + 10
        while time.monotonic() < end:
            page.open(f"https://{NAME}/admin/tickets/ticket/")
            whole(page)
        subject = open_ticket(page)
        lab.wait(lambda: acknowledged(subject), 60, "a worker of another node acknowledges the ticket")
    finally:
        fleet.give_power(node)
        lab.wait(lambda: ready(node), 300, f"{node} serves again", pause=1)

    def runs() -> bool:
        try:
            return hosts[node].try_run("systemctl is-system-running", timeout=15).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    lab.wait(runs, 120, f"{node} runs", pause=1)
    page.open(f"https://{NAME}/admin/")
    whole(page)
