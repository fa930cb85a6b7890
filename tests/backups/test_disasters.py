"""The rows of docs/disaster.md that no other test has: what is gone is replaced, and what was saved of it is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import pytest
from backups import (
    KEEPER,
    SHOWN,
    Ledger,
    another_key,
    have_it_archived,
    leader,
    looked_at,
    operator,
    replace,
    run,
    told,
)

import lab


@pytest.fixture(autouse=True)
def whole(hosts, unlocked):
    """Begin and end with nothing wrong with the lab."""
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    yield
    lab.wait_until_healthy(timeout=180)


def queue(*commands: str) -> str:
    """Return what the queue's master answers to commands, in lines."""
    master = lab.Host(lab.redis_master("queue"))
    return master.run("redis-instance cli queue --no-raw", stdin="\n".join(commands))


def test_a_host_of_every_tier_is_lost_at_once(hosts, playbook):
    """A load balancer, a node, a master of Redis and the primary: bare machines in their places, and one run."""
    ledger = Ledger()
    ledger.write(10)
    lost = [lab.GROUPS["loadbalancer"][0], lab.NODES[0], lab.redis_master("queue"), lab.primary().name]
    replace(playbook, lost)
    lab.wait(lambda: leader() not in ("", lost[-1]), 60, "another one leads", pause=1)
    lab.wait(lambda: lab.ask("virtual", "/users", "POST", lab.new_user()).status == 201, 60, "writes go on", pause=1)
    ledger.write(10)
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)
    lab.wait_until_ready(timeout=90)
    ledger.write(10)
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == ledger.orders


def test_the_host_for_backups_is_lost(hosts, playbook):
    """Databases go on; the new host begins a history of its own, with a backup that is proven."""
    ledger = Ledger()
    ledger.write(10)
    replace(playbook, [KEEPER])
    ledger.write(10)
    code, status = lab.status()
    assert code == 3
    assert any(problem.startswith(KEEPER) for problem in status["problems"]), status["problems"]
    done = playbook("site.yml", "--limit=backup,database,etcd")
    assert done.returncode == 0, done.stdout[-3000:]
    lab.wait_until_healthy(timeout=120)
    told = json.loads(hosts[KEEPER].run("pgbackrest --stanza=terrace --output=json info"))[0]
    assert [backup["type"] for backup in told["backup"]] == ["full"]
    proof = json.loads(hosts[KEEPER].run("cat /var/lib/terrace/backup-proof.json"))
    assert (proof["problems"], proof["backup"]) == ([], told["backup"][0]["label"])
    ledger.write(10)
    have_it_archived()
    with looked_at(playbook) as look:
        assert ledger.kept(look(SHOWN)) == ledger.orders


def test_all_redis_hosts_are_lost(hosts, playbook):
    """The queue holds what its last snapshot before held, though there is one of the empty queue since."""
    queue("DEL saved:list", "RPUSH saved:list a b c", 'SET saved:bytes "\\xff\\x00\\xfe"')
    before = queue("LRANGE saved:list 0 -1", "DUMP saved:bytes")
    hosts[KEEPER].run("systemctl start terrace-redis-backup@queue.service")
    snapshot = json.loads(hosts[KEEPER].run("terrace-redis-backup list queue"))[-1]["short_id"]
    replace(playbook, lab.GROUPS["cache"])
    done = playbook("site.yml", "--limit=backup,cache,sentinel")
    assert done.returncode == 0, done.stdout[-3000:]
    lab.wait_until_ready(timeout=120)
    hosts[KEEPER].run("systemctl start terrace-redis-backup@queue.service")
    assert queue("EXISTS saved:list") == "(integer) 0"
    done = run(
        playbook, "restore_queue", restore_confirm=lab.INVENTORY.name, restore_backup=snapshot, **operator("queue")
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert queue("LRANGE saved:list 0 -1", "DUMP saved:bytes") == before
    queue("DEL saved:list saved:bytes")


def make(*words: str, home: os.PathLike) -> subprocess.CompletedProcess:
    """Run make as somebody else with a home of theirs; AssertionError where it fails."""
    its = lab.environment() | {"XDG_CONFIG_HOME": f"{home}/.config", "MITOGEN": "1"}
    its.pop("ANSIBLE_STRATEGY", None)
    done = subprocess.run(["make", *words], cwd=lab.ROOT, env=its, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done


def test_the_machine_that_one_works_on_is_lost(tmp_path):
    """An environment that was exported, and imported on another machine, finds every host as it wants it."""
    root, name = tmp_path / "ops", lab.INVENTORY.name
    inventory = root / "inventory" / name
    shutil.copytree(lab.INVENTORY, inventory)
    shutil.copytree(lab.ROOT / "services", root / "services")
    shutil.copytree(lab.STATE / "pki", inventory / ".pki")
    # What the lab has instead of a vault becomes one.
    variables = inventory / "group_vars/all"
    main = (variables / "main.yml").read_text()
    main = main.replace('"{{ lab_state }}/pki"', '"{{ inventory_dir }}/.pki"')
    head = main.index("lab_state:")
    main = main[:head] + f"lab_state: {lab.STATE}" + main[main.index("\n", head) :]
    (variables / "main.yml").write_text(main)
    key = (lab.STATE / "vault_key").read_text().split()[0]
    (variables / "vault.yml").write_text(json.dumps({"vault_key": key, "vault_services": {}}))
    passwords = tmp_path / "passwords"
    passwords.mkdir()
    for each in ("vault", "export"):
        (passwords / each).write_text(f"{each} {time.time_ns()}\n")
    (inventory / ".vault-password").symlink_to(passwords / "vault")
    subprocess.run(
        [lab.ROOT / ".venv/bin/ansible-vault", "encrypt", f"--vault-password-file={passwords}/vault",
         variables / "vault.yml"],
        check=True, capture_output=True,
    )  # fmt: skip
    file, home = tmp_path / "lab.export", tmp_path / "home"
    given = (f"FILE={file}", f"EXPORT_PASSWORD={passwords}/export")
    make("environment-export", f"ENV={inventory}", *given, home=home)
    shutil.rmtree(root)
    (passwords / "vault").unlink()
    back = tmp_path / "elsewhere"
    make("environment-import", f"DIR={back}", *given, home=home)
    # Releases are built again from what services say, below the environment's own folder; examples are this project's.
    (back / "examples").symlink_to(lab.ROOT / "examples")
    make("status", f"ENV={back}/inventory/{name}", home=home)
    # Services have what they run: where it was built does not matter.
    done = make("plan", f"ENV={back}/inventory/{name}", home=home)
    assert done.stdout.splitlines()[-1] == "A run would change nothing.", done.stdout


def test_a_fleet_without_any_database_host_comes_back_from_the_repository(hosts, playbook):
    ledger = Ledger()
    ledger.write(10)
    have_it_archived()
    replace(playbook, lab.GROUPS["database"])
    # All others are as they were.
    limit = "--limit=backup,database,etcd"
    # An empty cluster would take the place of one that is only not to be read.
    with another_key(hosts[KEEPER]):
        assert "vault_key is not the one" in told(playbook("site.yml", "--limit=database,etcd"))
    assert "`make site RESTORE=1` brings them back" in told(playbook("site.yml", limit))
    done = playbook("site.yml", limit, "--extra-vars", json.dumps({"site_restore": True}))
    assert done.returncode == 0, done.stdout[-3000:]
    assert ledger.kept(lab.sql(lab.primary(), SHOWN, "orders")) == ledger.orders
    lab.wait_until_ready(timeout=120)
    lab.wait_until_healthy(timeout=120)
