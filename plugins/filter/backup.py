"""What pgBackRest is told, on a host that keeps backups and on one that has a database."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace import backups
from terrace.status import PROOF_DAYS

UNITS = "/etc/systemd/system"
KINDS = ("full", "diff", "incr")
# What a repository in a store that talks S3 has to be told, and what it may be.
S3_KEYS = ("bucket", "endpoint", "key", "region", "secret")
S3_OPTIONS = {
    "path": "repo1-path",
    "port": "repo1-storage-port",
    "uri_style": "repo1-s3-uri-style",
    "ca_file": "repo1-storage-ca-file",
}


def backup_repository(repository: Mapping) -> dict[str, str]:
    """Return pgBackRest's options for the place where backups are.

    Parameters:
        repository: either `path`, a directory, or `s3` with `endpoint`, `bucket`, `region`, `key` and `secret`; beside
            it `path` (within the bucket), `port`, `uri_style` (host or path) and `ca_file`, if not the system's.
    Errors:
        AnsibleFilterError, where it is neither, both, or lacks something.
    Source:
        https://pgbackrest.org/configuration.html#section-repository
    """
    if set(repository) not in ({"path"}, {"s3"}):
        raise AnsibleFilterError("pgbackrest_repository: give either path or s3")
    if "path" in repository:
        return {"repo1-type": "posix", "repo1-path": str(repository["path"])}
    store = repository["s3"] or {}
    if missing := [key for key in S3_KEYS if not store.get(key)]:
        raise AnsibleFilterError(f"pgbackrest_repository.s3: {', '.join(missing)} is missing; give it")
    if unknown := sorted(set(store) - {*S3_KEYS, *S3_OPTIONS}):
        known = ", ".join(sorted({*S3_KEYS, *S3_OPTIONS}))
        raise AnsibleFilterError(f"pgbackrest_repository.s3: {unknown[0]} is not known; known are {known}")
    return {
        "repo1-type": "s3",
        "repo1-path": "/terrace",
        "repo1-s3-bucket": store["bucket"],
        "repo1-s3-endpoint": store["endpoint"],
        "repo1-s3-key": store["key"],
        "repo1-s3-key-secret": store["secret"],
        "repo1-s3-region": store["region"],
        **{option: str(store[key]) for key, option in S3_OPTIONS.items() if store.get(key)},
    }


def backup_databases(
    databases: Iterable[Mapping], own: str, port: int, certificates: Mapping[str, str], instance: Mapping
) -> dict[str, str]:
    """Return pgBackRest's options for the database hosts, as the one sees them that takes or restores backups.

    Parameters:
        databases: the hosts, each with `name` and `address`.
        own: this host's name. Where it is one of them, it is the first, and is reached without the network.
        port: of the others' pgBackRest.
        certificates: `ca`, `cert` and `key`, the files by which hosts know each other.
        instance: options that are alike on all of them, by their names without `pgN-`: `path`, `port`, ...
    Source:
        https://pgbackrest.org/configuration.html#section-stanza; the first one is the one that is restored to.
    """
    found: dict[str, str] = {}
    for number, host in enumerate(sorted(databases, key=lambda host: host["name"] != own), 1):
        prefix = f"pg{number}"
        if host["name"] != own:
            found |= {f"{prefix}-host": host["address"], f"{prefix}-host-type": "tls", f"{prefix}-host-port": str(port)}
            found |= {f"{prefix}-host-{what}-file": path for what, path in certificates.items()}
        found |= {f"{prefix}-{name}": str(value) for name, value in instance.items()}
    return found


def backup_timers(schedule: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the timers of a schedule, each with its `kind` and time (`at`), and its unit's `name`, `src` and `dest`.

    Parameters:
        schedule: by kind of backup (full, diff, incr) when it is taken, as of systemd's OnCalendar; empty is never.
    Errors:
        AnsibleFilterError, where a kind is not known.
    """
    if unknown := sorted(set(schedule) - set(KINDS)):
        raise AnsibleFilterError(f"pgbackrest_schedule: there is no kind {unknown[0]}; known are {', '.join(KINDS)}")
    return [
        {
            "kind": kind,
            "at": at,
            "name": f"terrace-backup@{kind}.timer",
            "src": "terrace-backup@.timer.j2",
            "dest": f"{UNITS}/terrace-backup@{kind}.timer",
        }
        for kind in KINDS
        if (at := schedule.get(kind))
    ]


def restored_told(verb: str, name: str, host: str, printed: str) -> list[str]:
    """Return in lines what came of a command of terrace-restored.

    Parameters:
        verb: create, drop or list.
        name: the instance's.
        host: where it is.
        printed: what the command printed, JSON or nothing.
    """
    if verb == "drop":
        return [f"{name} is gone."]
    socket = f"/var/lib/terrace/restored/{name}/socket"
    if verb == "create":
        found = json.loads(printed)
        return [
            f"{name} is there, from the backup {found['backup']}: read in {found['restore_seconds']} s, and its WAL in "
            f"{found['replay_seconds']} s.",
            f"Look at it: make ssh HOST={host}, and there: sudo -u postgres psql -h {socket} DATABASE",
            f"It takes room until you drop it: make restored-drop NAME={name}",
        ]
    return [
        f"{its['name']}: {its['state']}, {its['bytes'] >> 20} MB, on {host} at {its['socket']}"
        for its in json.loads(printed)
    ] or ["There is no instance that was restored."]


def restore_primary(members: Iterable[Mapping], hostvars: Mapping) -> str:
    """Return the name of the host that said that it leads (`restore_member`, an answer of Patroni's); empty for nobody.

    Parameters:
        members: the database hosts, each with its `name`.
        hostvars: their variables.
    """
    for member in members:
        told = (hostvars[member["name"]].get("restore_member") or {}).get("json") or {}
        if told.get("role") in ("primary", "master") and told.get("state") == "running":
            return member["name"]
    return ""


def restore_reached(members: Iterable[Mapping], hostvars: Mapping) -> str:
    """Return the name of the first database host that could be reached; empty where none was.

    Parameters:
        members: the database hosts, each with its `name`.
        hostvars: their variables, with `restore_member` where it was asked who leads.
    """
    asked = {member["name"]: hostvars[member["name"]].get("restore_member") or {} for member in members}
    return next((name for name, answer in asked.items() if "status" in answer), "")


def database_there(members: Iterable[Mapping], hostvars: Mapping) -> str:
    """Return the name of the first database host on which databases were found (`database_there`); empty for none.

    Parameters:
        members: the database hosts, each with its `name`.
        hostvars: their variables.
    """
    for member in members:
        found = hostvars[member["name"]].get("database_there") or {}
        if (found.get("stat") or {}).get("exists"):
            return member["name"]
    return ""


def proof_problem(text: str, now: float) -> str:
    """Return in words why nothing proves that a backup can be restored; empty where the last proof does.

    Parameters:
        text: what the last proof noted, JSON, or nothing.
        now: the time, in seconds since the epoch.
    """
    if not text:
        return "It was never proven that what is backed up can be restored"
    proof = json.loads(text)
    if proof["problems"]:
        return f"The last proof of the backups found: {'; '.join(proof['problems'])}"
    if now - proof["at"] > PROOF_DAYS * 86400:
        return f"It was last proven {backups.age(now - proof['at'])} ago that what is backed up can be restored"
    return ""


def proof_newest(takers: Iterable[str], hostvars: Mapping) -> str:
    """Return what the newest proof noted, JSON, of those that hosts told of (`backup_proof_noted`); empty for none.

    Parameters:
        takers: the names of the hosts that prove backups.
        hostvars: their variables.
    """
    noted = [(hostvars[name].get("backup_proof_noted") or {}).get("stdout") for name in takers]
    return max(filter(None, noted), key=lambda text: json.loads(text)["at"], default="")


def snapshot_chosen(snapshots: list[Mapping], wanted: str) -> Mapping:
    """Return the snapshot of Redis that is wanted, the newest where none is named; nothing where there is none.

    Parameters:
        snapshots: as `restic snapshots --json` prints them, the oldest first.
        wanted: an id, or its beginning of eight digits, which people see.
    """
    found = [each for each in snapshots if not wanted or wanted in (each["id"], each["short_id"])]
    return found[-1] if found else {}


def snapshots_told(snapshots: list[Mapping]) -> str:
    """Return in words which snapshots of Redis there are, and when they were taken (UTC).

    Parameters:
        snapshots: as `restic snapshots --json` prints them.
    """
    return ", ".join(f"{each['short_id']} ({each['time'][:19].replace('T', ' ')})" for each in snapshots)


def restore_time_told(seconds: float) -> str:
    """Return a time, given in seconds since the epoch, as it is said: in UTC."""
    return backups.time(seconds)


def restore_told(plan: Mapping, name: str, founder: str, now: float, lives: bool) -> list[str]:
    """Return in lines what a restore in place means.

    Parameters:
        plan: what `terrace-restored plan` printed.
        name: of the restore.
        founder: the host on which the cluster is founded anew.
        now: the time, in seconds since the epoch.
        lives: whether there is a primary, whose data are saved first.
    """
    lost = backups.age(max(0, now - plan["reached"]))
    size = backups.size(plan["bytes"])
    return [
        f"All databases go back to {backups.time(plan['reached'])}, {lost} before now, on all database hosts: what was "
        "written since is gone from them.",
        f"They are read from the backup {plan['backup']} ({size}) on {founder}, and the other hosts follow it. Until "
        "then no service runs.",
        f"What is there now stays in the repository, and can be had back: make restore POINT=before-{name}"
        if lives
        else "There is no primary now: what the repository does not have yet cannot be had back afterwards.",
    ]


class FilterModule:
    """Filters for the settings of backups."""

    def filters(self) -> dict:
        """Return the filters by name."""
        return {
            function.__name__: function
            for function in (
                *(backup_databases, backup_repository, backup_timers, restored_told),
                *(
                    database_there,
                    proof_newest,
                    proof_problem,
                    snapshot_chosen,
                    snapshots_told,
                    restore_primary,
                    restore_reached,
                    restore_time_told,
                    restore_told,
                ),
            )
        }
