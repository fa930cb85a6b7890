"""What tests of backups stand on: a ledger of what was acknowledged, and the operations of backups."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator

import lab

KEEPER = lab.GROUPS["backup"][0]
REPOSITORY = "/var/lib/pgbackrest"
CONFIGURATION = "/etc/pgbackrest/pgbackrest.conf"


class Ledger:
    """Orders that were acknowledged, in the order in which they were, with the time of the database after each."""

    def __init__(self) -> None:
        self.user = lab.ask("virtual", "/users", "POST", lab.new_user()).json()["id"]
        self.orders: dict[int, str] = {}

    def write(self, count: int) -> None:
        """Place so many orders, each with content of its own."""
        for _ in range(count):
            sku = f"ledger-{len(self.orders)}"
            body = {"user_id": self.user, "items": [{"sku": sku, "quantity": 1, "price_cents": 100}]}
            answer = lab.ask("virtual", "/orders", "POST", body)
            assert answer.status == 201, answer
            self.orders[answer.json()["id"]] = sku

    def kept(self, rows: str) -> dict[int, str]:
        """Return those of its orders that are among what SHOWN printed."""
        found = dict(line.split("|") for line in rows.splitlines())
        return {int(number): sku for number, sku in found.items() if int(number) in self.orders}


SHOWN = "SELECT orders.id, sku FROM orders JOIN order_items ON order_id = orders.id"


def clock() -> str:
    """Return the time of the database, as `make restore` takes it."""
    return lab.sql(lab.primary(), "SELECT clock_timestamp() AT TIME ZONE 'UTC' || '+00'")


def run(
    playbook: Callable[..., subprocess.CompletedProcess], name: str, **given: object
) -> subprocess.CompletedProcess:
    """Run one of the playbooks of backups with what it is given."""
    return playbook(f"playbooks/{name}.yml", "--extra-vars", json.dumps(given))


def operator(name: str) -> dict[str, str]:
    """Return what a restore is told of itself and of who makes it, under a name, which is its lock's, too."""
    return {"restore_id": name, "restore_lock": name, "restore_who": "test", "restore_origin": "here"}


def restore(playbook, name: str, **given: object) -> None:
    """Restore the lab in place, under a name; AssertionError where it fails."""
    done = run(playbook, "restore", restore_confirm=lab.INVENTORY.name, **operator(name), **given)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    lab.wait(lab.whole_cluster, 120, "every member follows the primary", pause=1)


def told(done: subprocess.CompletedProcess) -> str:
    """Return what a run that failed printed, in one line; AssertionError where it did not fail."""
    assert done.returncode != 0, done.stdout[-2000:]
    return " ".join(done.stdout.split())


def replace(playbook: Callable[..., subprocess.CompletedProcess], names: list[str]) -> None:
    """Have these hosts be gone with all that they had, and bare machines be in their places."""
    for name in names:
        words = [lab.ROOT / "molecule/lab/podman", "rm", "--force", "--volumes", "--time=0", name]
        subprocess.run(words, check=True, capture_output=True)
    done = playbook("molecule/lab/create.yml")
    assert done.returncode == 0, done.stdout[-2000:]


def have_it_archived() -> None:
    """Have the repository have all that was written until now, which else takes a minute."""
    lab.primary().run("systemctl start terrace-marker && cd / && sudo -u postgres pgbackrest --stanza=terrace check")


def leader() -> str:
    """Return the host of the primary; empty where there is none, or nobody says."""
    try:
        return lab.primary().name
    except AssertionError:
        return ""


@contextlib.contextmanager
def damaged(keeper: lab.Host) -> Iterator[str]:
    """Have one byte of the newest large file of a backup be another one, and put it back; yields the file."""
    file = keeper.run(f"find {REPOSITORY}/backup/terrace -path '*/bundle/*' -type f -size +100k | sort | tail -1")
    flip = "import sys\nf=open(sys.argv[1],'r+b');f.seek(50000);b=f.read(1);f.seek(50000);f.write(bytes([b[0]^255]))"
    keeper.run(f"python3 - {file}", stdin=flip)
    try:
        yield file
    finally:
        keeper.run(f"python3 - {file}", stdin=flip)


@contextlib.contextmanager
def another_key(keeper: lab.Host) -> Iterator[None]:
    """Have pgBackRest on the host for backups read the repository with a key that is not its own."""
    keeper.run(f"sed --in-place=.kept 's/^repo1-cipher-pass=.*/repo1-cipher-pass={'0' * 32}/' {CONFIGURATION}")
    try:
        yield
    finally:
        keeper.run(f"mv {CONFIGURATION}.kept {CONFIGURATION}")


@contextlib.contextmanager
def looked_at(playbook: Callable[..., subprocess.CompletedProcess], **given: str) -> Iterator[Callable[[str], str]]:
    """Restore beside the cluster, and drop it in the end; yields what asks the copy of the database orders in SQL.

    Parameters:
        given: restore_time, restore_point or restore_backup.
    """
    wanted = {"restore_name": "look", "restore_time": "", "restore_point": "", "restore_backup": ""}
    done = run(playbook, "restore_beside", restore_verb="create", **(wanted | given))
    assert done.returncode == 0, done.stdout[-2000:]
    look = "cd / && sudo -u postgres psql -h /var/lib/terrace/restored/look/socket -XAt orders"
    try:
        yield lambda statement: lab.Host(KEEPER).run(look, stdin=statement)
    finally:
        done = run(playbook, "restore_beside", restore_verb="drop", **wanted)
        assert done.returncode == 0, done.stdout[-2000:]


def have_wal_full(count: int) -> list[str]:
    """Have the primary begin so many files of WAL, and return the names of those that it ended."""
    primary, names = lab.primary(), []
    for _ in range(count):
        lab.sql(primary, "SELECT pg_logical_emit_message(true, 'test', 'fills')")
        names.append(lab.sql(primary, "SELECT pg_walfile_name(pg_current_wal_lsn())"))
        lab.sql(primary, "SELECT pg_switch_wal()")
    return names
