"""Backups: the first one is there and proven, WAL follows it, nobody reads or reaches the repository who should not."""

from __future__ import annotations

import json
import subprocess
import uuid

import pytest

import lab

KEEPER = lab.GROUPS["backup"][0]


def facts() -> dict:
    """Return what `make backups FORMAT=json` prints."""
    done = subprocess.run(
        [lab.ROOT / ".venv/bin/ansible-playbook", f"--inventory={lab.INVENTORY}", "--extra-vars=backups_format=json",
         "playbooks/backups.yml"],
        cwd=lab.ROOT,
        env=lab.environment() | {"ANSIBLE_STDOUT_CALLBACK": "lines"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_backup_is_taken_and_proven_by_the_run_that_founds_the_cluster(hosts):
    told = facts()
    assert told["wrong"] == ""
    assert told["backups"][0]["type"] == "full"
    proof = json.loads(hosts[KEEPER].run("cat /var/lib/terrace/backup-proof.json"))
    assert proof["problems"] == []
    assert proof["backup"] in [backup["label"] for backup in told["backups"]]


def test_wal_follows_without_anybody_asking(hosts):
    primary = lab.primary()
    lab.sql(primary, "SELECT pg_switch_wal()")
    last = lab.sql(primary, "SELECT pg_walfile_name(pg_current_wal_lsn())")

    def archived() -> bool:
        name = lab.sql(primary, "SELECT last_archived_wal FROM pg_stat_archiver")
        return name[:24] >= f"{last[:8]}{int(last[8:], 16) - 1:016X}"

    lab.wait(archived, 30, f"what was written before {last} is archived", pause=1)
    assert hosts[KEEPER].try_run("ls /var/lib/pgbackrest/archive/terrace/*/*/ | grep -q .").returncode == 0


def test_what_is_kept_is_encrypted_and_its_key_is_for_those_who_need_it(hosts):
    keeper = hosts[KEEPER]
    # The beginning of what OpenSSL's cipher writes: https://docs.openssl.org/3.0/man1/openssl-enc/
    assert keeper.run("head -c 8 /var/lib/pgbackrest/backup/terrace/backup.info") == "Salted__"
    assert keeper.file("/etc/pgbackrest/pgbackrest.conf") == ("640", "root", "postgres")
    others = [host for name, host in hosts.items() if name not in lab.GROUPS["backup"]]
    assert [host.name for host in others if host.try_run("grep -rq cipher-pass /etc/pgbackrest").returncode == 0] == []


# Databases may ask the host for backups, and it may ask them. Nobody else may, and neither may they one another.
@pytest.mark.parametrize(("asker", "asked"), [("backup", "backup"), ("database", "database")])
def test_a_certificate_of_the_environment_is_not_enough_to_be_let_in(hosts, asker, asked):
    pki = "/etc/terrace/pki"
    address = lab.ADDRESSES[lab.GROUPS[asked][-1]]
    words = (
        f"pgbackrest --no-config --stanza=terrace --repo1-host={address} --repo1-host-type=tls "
        f"--repo1-host-port={lab.PORTS['pgbackrest']} --repo1-host-ca-file={pki}/ca.crt "
        f"--repo1-host-cert-file={pki}/host.crt --repo1-host-key-file={pki}/host.key repo-ls"
    )
    done = hosts[lab.GROUPS[asker][0]].try_run(f"cd / && runuser -u postgres -- {words}")
    assert done.returncode != 0
    assert "access denied" in done.stdout + done.stderr


def test_backups_and_proofs_are_timed_on_the_host_that_keeps_them_and_markers_on_databases(hosts):
    kept = ["terrace-backup@full", "terrace-backup@diff", "terrace-backup@incr", "terrace-backup-proof"]
    wanted = {KEEPER: kept} | {name: ["terrace-marker"] for name in lab.GROUPS["database"]}
    found = {
        name: [timer for timer in timers if hosts[name].show(f"{timer}.timer", "ActiveState") == "active"]
        for name, timers in wanted.items()
    }
    assert found == wanted


def test_only_the_primary_writes_markers():
    count = "SELECT count(*) FROM terrace.marker"
    assert int(lab.sql(lab.primary(), count)) >= 1
    written = "SELECT extract(epoch FROM now() - max(written)) FROM terrace.marker"
    assert float(lab.sql(lab.primary(), written)) < 90


def test_the_queue_is_saved_from_whichever_host_is_its_master(hosts):
    keeper, key = hosts[KEEPER], f"saved-{uuid.uuid4()}"
    master = hosts[lab.redis_master("queue")]
    master.run(f"redis-instance cli queue SET {key} yes EX 600")
    keeper.run("systemctl start terrace-redis-backup@queue.service")
    found = json.loads(keeper.run("cat /var/lib/terrace/redis-backup-queue.json"))
    assert (found["problem"], found["master"]) == ("", master.address)
    snapshots = json.loads(keeper.run("terrace-redis-backup list queue"))
    shown = keeper.run(f"terrace-redis-backup show queue {snapshots[-1]['id']} | grep --count --text {key}")
    assert shown == "1"
    # Nothing of it lies open there.
    assert keeper.try_run(f"grep --recursive --quiet {key} /var/lib/restic").returncode == 1
    assert keeper.file("/var/lib/restic") == ("700", "root", "root")
