"""Backups in a store that talks S3, written by the database hosts themselves: there is no host for backups."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from contextlib import suppress

import pytest
import yaml
from backups import SHOWN, Ledger, clock, have_it_archived, restore, run

import lab

PORT = 9000
# A server of npm's that keeps files as S3 does, with the one key pair that it has.
SERVER = "s3rver@3.7.1"
KEY = "S3RVER"
CERTIFICATE = "/etc/ssl/s3-test.crt"
DATABASES = lab.GROUPS["database"]


def listens() -> bool:
    """Tell whether the store answers."""
    with suppress(OSError), socket.create_connection((lab.GATEWAY, PORT), 1):
        return True
    return False


@pytest.fixture(scope="module")
def store(hosts, tmp_path_factory):
    """A store on this machine, at the lab's gateway, whose certificate the database hosts know."""
    folder, installed = tmp_path_factory.mktemp("store"), lab.ROOT / ".terrace/s3"
    if not (installed / "node_modules/.bin/s3rver").exists():
        subprocess.run(["npm", "install", "--prefix", installed, SERVER], check=True, capture_output=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=store",
         "-addext", f"subjectAltName=IP:{lab.GATEWAY}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    for name in DATABASES:
        hosts[name].run(f"cat >{CERTIFICATE}", stdin=certificate.read_text())
    server = subprocess.Popen(
        [installed / "node_modules/.bin/s3rver", "--silent", "--no-vhost-buckets", "--directory", folder,
         "--address", lab.GATEWAY, "--port", str(PORT), "--key", key, "--cert", certificate,
         "--configure-bucket", "terrace"],
    )  # fmt: skip
    try:
        lab.wait(listens, 30, "the store answers")
        yield folder / "terrace"
    finally:
        server.terminate()
        server.wait(10)
        for name in DATABASES:
            hosts[name].run(f"rm {CERTIFICATE}")


@pytest.fixture(scope="module")
def stored(store, playbook, tmp_path_factory):
    """A function that runs playbooks on the lab as it is without its host for backups, but with the store."""
    root = tmp_path_factory.mktemp("environment")
    inventory = root / "inventory" / lab.INVENTORY.name
    shutil.copytree(lab.INVENTORY, inventory)
    (root / "services").symlink_to(lab.INVENTORY.parents[1] / "services")
    (root / "examples").symlink_to(lab.ROOT / "examples")
    (root / ".terrace").symlink_to(lab.STATE.parent)
    content = yaml.safe_load((inventory / "hosts.yml").read_text())
    del content["all"]["children"]["backup"], content["all"]["children"]["lab"]["children"]["backup"]
    (inventory / "hosts.yml").write_text(yaml.safe_dump(content))
    its = {
        "endpoint": lab.GATEWAY, "port": PORT, "bucket": "terrace", "region": "eu-1", "key": KEY, "secret": KEY,
        "uri_style": "path", "ca_file": CERTIFICATE,
    }  # fmt: skip
    (inventory / "group_vars/all/store.yml").write_text(yaml.safe_dump({"backup_repository": {"s3": its}}))

    def other(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [lab.ROOT / ".venv/bin/ansible-playbook", f"--inventory={inventory}", *words],
            cwd=lab.ROOT, env=lab.environment() | {"ANSIBLE_STRATEGY": "mitogen_linear"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    try:
        done = other("site.yml", "--limit=database,etcd")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        yield other
    finally:
        done = playbook("site.yml", "--limit=backup,database,etcd")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        done = run(playbook, "backup_now", backup_kind="full")
        assert done.returncode == 0, done.stdout[-3000:]
        lab.wait_until_healthy(timeout=120)


def test_the_first_backup_is_there_and_encrypted(store, stored):
    done = run(stored, "backups", backups_format="json")
    assert done.returncode == 0, done.stdout
    assert (store / "terrace").is_dir()
    kept = [path for path in store.rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not any(b"PG_VERSION" in path.read_bytes() for path in kept)


def test_it_is_backed_up_proven_and_told(stored):
    for name, given in (("backup_now", {"backup_kind": "full"}), ("backup_proof", {})):
        done = run(stored, name, **given)
        assert done.returncode == 0, done.stdout[-3000:]
    done = stored("playbooks/status.yml", "--extra-vars=status_format=json")
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_time_comes_back_in_place(stored):
    ledger = Ledger()
    ledger.write(10)
    before, acknowledged = clock(), dict(ledger.orders)
    ledger.write(10)
    have_it_archived()
    name = f"store-{time.time():.0f}"
    restore(stored, name, restore_time=before)
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == acknowledged
    lab.wait_until_ready(timeout=90)
    restore(stored, f"{name}-back", restore_point=f"before-{name}")
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == ledger.orders
    lab.wait_until_ready(timeout=90)


def test_another_database_host_leads_and_backups_go_on(hosts, stored):
    """Whichever host is a replica takes the backup, and what was proven counts on all."""
    move = {"switchover_what": "postgresql", "switchover_to": "", "switchover_force": False}
    done = run(stored, "switchover", **move)
    assert done.returncode == 0, done.stdout[-3000:]
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    for name, given in (("backup_now", {"backup_kind": "incr"}), ("backup_proof", {})):
        done = run(stored, name, **given)
        assert done.returncode == 0, done.stdout[-3000:]
    told = json.loads(hosts[DATABASES[0]].run("pgbackrest --stanza=terrace --output=json info"))[0]
    assert told["backup"][-1]["type"] == "incr"
