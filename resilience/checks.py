"""What is looked at after a fault: is everything acknowledged there, were there two primaries, does site.yml rest?"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from .environment import site
from .fleet import Fleet
from .ledger import Entries, Write

PROBE = "terrace-fault-probe"
PROBED = "terrace_resilience"


@dataclass
class Verdict:
    """How a ledger and the databases agree.

    acknowledged: writes that were looked for. lost: those that are not there. wrong: those that are there otherwise
    than they were acknowledged, or twice. unknown, arrived: writes without an answer, and how many of them are there.
    """

    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unknown: int = 0
    arrived: int = 0


def compare(entries: Entries, orders: Iterable[list[str]], users: Iterable[list[str]]) -> Verdict:
    """Return how what a ledger holds agrees with what the databases hold.

    Parameters:
        entries: the ledger.
        orders: rows of SKU, id, user_id, quantity, price_cents and total_cents of all orders of the run.
        users: rows of e-mail address, id, name and city of all users of the run.
    """
    there: dict[str, dict[str, list[tuple]]] = {"write": defaultdict(list), "create": defaultdict(list)}
    for key, number, *values in orders:
        there["write"][key].append((int(number), *map(int, values)))
    for key, number, *values in users:
        there["create"][key].append((int(number), *values))
    verdict = Verdict()
    sent: dict[str, set[str]] = {"write": set(), "create": set()}
    for write in entries.acknowledged:
        verdict.acknowledged += 1
        sent[write.kind].add(write.key)
        found = there[write.kind].get(write.key, [])
        if not found:
            verdict.lost.append(f"{write.key}, acknowledged at {write.at:.3f} as {write.number}")
        elif found != [(write.number, *expected(write))]:
            verdict.wrong.append(f"{write.key}: {found} for {(write.number, *expected(write))}")
    for write in entries.unknown:
        if write.key in sent[write.kind]:
            continue
        sent[write.kind].add(write.key)
        verdict.unknown += 1
        found = there[write.kind].get(write.key, [])
        verdict.arrived += len(found) > 0
        if len(found) > 1 or any(row[1:] != expected(write) for row in found):
            verdict.wrong.append(f"{write.key}, of which nobody heard: {found} for {expected(write)}")
    return verdict


def expected(write: Write) -> tuple:
    """Return what a write has to look like in the database, its id left out."""
    if write.kind == "create":
        return write.body["name"], write.body["city"]
    [item] = write.body["items"]
    quantity, price = item["quantity"], item["price_cents"]
    return write.body["user_id"], quantity, price, quantity * price


def verify(fleet: Fleet, entries: Entries, name: str) -> Verdict:
    """Return how a run's whole ledger agrees with the primary.

    Parameters:
        fleet: the hosts.
        entries: what the ledger held before this was called: what is under way meanwhile is not looked at.
        name: of the run.
    """
    # Orders of an earlier time need not be read. One that was sent before the first answer came is a little older.
    first = min((write.number for write in entries.acknowledged if write.kind == "write"), default=0) - 10_000
    host = fleet.primary()
    orders = fleet.sql(
        "orders",
        "SELECT i.sku, o.id, o.user_id, i.quantity, i.price_cents, o.total_cents FROM order_items i"
        f" JOIN orders o ON o.id = i.order_id WHERE i.order_id >= {first} AND starts_with(i.sku, '{name}-')",
        host,
    )
    users = fleet.sql("users", f"SELECT email, id, name, city FROM users WHERE starts_with(email, '{name}-')", host)
    return compare(entries, orders, users)


# Two primaries.


def begin_probe(fleet: Fleet, host: str, seconds: float) -> None:
    """Have the primary's host write into its own PostgreSQL twice a second, and note what was acknowledged."""
    fleet.sql("postgres", f"CREATE TABLE IF NOT EXISTS {PROBED} (number int, at timestamptz DEFAULT now())", host)
    fleet.sql("postgres", f"TRUNCATE {PROBED}", host)
    # psql that is killed acknowledged nothing; neither did one that was told that the standby did not confirm.
    script = (
        f"number=0; end=$(($(date +%s) + {int(seconds)}));"
        " while [ $(date +%s) -lt $end ]; do number=$((number + 1));"
        " if timeout 5 runuser -u postgres -- psql --no-psqlrc -q -h /run/postgresql -d postgres -v ON_ERROR_STOP=1"
        f' -c "INSERT INTO {PROBED} (number) VALUES ($number)" >/run/{PROBE}.said 2>&1 && [ ! -s /run/{PROBE}.said ];'
        f" then echo $number $(date +%s.%N) >>/run/{PROBE}; fi; sleep 0.4; done"
    )
    fleet.run(
        host,
        f"cd / && rm -f /run/{PROBE} && systemd-run --quiet --collect --unit={PROBE}"
        f" --expand-environment=no sh -c {shlex.quote(script)}",
    )


def end_probe(fleet: Fleet, host: str, at: float) -> dict[str, int]:
    """Return what became of the probe's writes.

    Parameters:
        fleet: the hosts.
        host: where the probe ran.
        at: when the fault began.
    Returns:
        inside: writes that PostgreSQL there acknowledged to the probe after the fault. two_primaries: those of them
        that it acknowledged when another one had already been promoted. probe_lost: acknowledged ones that are gone.
    """
    fleet.try_run(host, f"systemctl stop {PROBE}", timeout=30)
    told = [line.split() for line in fleet.run(host, f"cat /run/{PROBE} 2>/dev/null || true").splitlines()]
    late = [float(moment) for _, moment in told if float(moment) > at]
    promoted = [moment for moment in fleet.promotions() if moment > at]
    now = fleet.primary()
    there = {row[0] for row in fleet.sql("postgres", f"SELECT number FROM {PROBED}", now)}
    fleet.sql("postgres", f"DROP TABLE {PROBED}", now)
    return {
        "inside": len(late),
        "two_primaries": sum(moment > promoted[0] for moment in late) if promoted and now != host else 0,
        "probe_lost": sum(number not in there for number, _ in told),
    }


# Rest.


def unsettled(fleet: Fleet) -> list[str]:
    """Run site.yml and return what it changed: tasks, daemons that are other processes, roles that moved."""
    before, roles = fleet.daemons(), fleet.roles()
    changed = site(fleet.environment)
    found = [f"{host}: {count} tasks changed something" for host, count in changed.items() if count]
    for host, units in fleet.daemons().items():
        for unit in sorted(units.keys() | before[host].keys()):
            if units.get(unit) != before[host].get(unit):
                found.append(f"{host}: {unit} is not the process that it was")
    found += [f"the {role} was {roles[role]} and is {who}" for role, who in fleet.roles().items() if who != roles[role]]
    return found


def counted(verdict: Verdict) -> dict[str, int]:
    """Return a verdict as figures."""
    return Counter(
        acknowledged=verdict.acknowledged,
        lost=len(verdict.lost),
        wrong=len(verdict.wrong),
        unknown=verdict.unknown,
        arrived=verdict.arrived,
    )
