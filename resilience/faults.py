"""What is broken, where, and how it is mended again.

A fault acts on whoever has the role at that moment. Where something has to be undone, the host itself is told to do so
before it is done (`systemd-run --on-active`), so that nothing stays broken when this program or its machine ends.
"""

from __future__ import annotations

import fnmatch
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .analysis import Limit
from .environment import RefusedError, playbook, status
from .fleet import Fleet, HostError

# Seconds that something is stopped, cut off or full.
HELD = 60.0
# Seconds that a host without power stays so; one of the database longer than a failover, which is to happen without it.
WITHOUT_POWER = 20.0
DATABASE_WITHOUT_POWER = 40.0
# Seconds in which a host has to be back after a reboot.
BOOT = 300.0
# Where the filler of a disk lies, below the mount point.
FILLER = "terrace-fault-filler"
DATA = "/var/lib/postgresql"

NOTHING_LOST = (Limit("lost", 0), Limit("wrong", 0))


@dataclass(frozen=True)
class Target:
    """What a fault acts on: `host`, the hosts of one that acts on several, and what else it has to know."""

    host: str
    hosts: tuple[str, ...] = ()
    controller: str = ""

    def __str__(self) -> str:
        return ", ".join(self.hosts) or self.host


@dataclass(frozen=True)
class Fault:
    """One thing that happens to an environment.

    Parameters:
        name: by which it is chosen.
        kind: what it is like: host, power, kill, hang, partition, disk, slow, stopped, switchover, reboot.
        title: what it is, for a report.
        find: returns what it acts on.
        inject: does it and returns when, or when it began where it takes a while.
        held: seconds from then until the host undoes it, or until `heal` does.
        heal: undoes what no host undoes by itself.
        needs: hosts that groups must have for the fault to be survived; `virtual`: a virtual address.
        row: the row of the table of figures that it is measured for; empty without one.
        limits: what its figures may be.
        watched: seconds to go on watching once it is over, at least.
        probed: a client on the host itself writes all the while, to see whether a primary that was left behind
            acknowledges anything.
    """

    name: str
    kind: str
    title: str
    find: Callable[[Fleet], Target]
    inject: Callable[[Fleet, Target], float]
    held: float = 0.0
    heal: Callable[[Fleet, Target], None] | None = None
    needs: dict[str, int] = field(default_factory=dict)
    row: str = ""
    limits: tuple[Limit, ...] = NOTHING_LOST
    watched: float = 20.0
    probed: bool = False

    def __str__(self) -> str:
        return self.name

    def unfit(self, fleet: Fleet) -> str:
        """Return why this fault says nothing in an environment; empty where it does."""
        for group, count in self.needs.items():
            if group == "virtual":
                if not fleet.environment.described["virtual"]:
                    return "there is no virtual address (loadbalancer_virtual_address)"
            elif (found := len(fleet.members(group))) < count:
                return f"{group} has {found} of the {count} hosts that it takes"
        return ""


# How commands on a host are put together.


def held(inject: str, heal: str, seconds: float = HELD) -> str:
    """Return a command that breaks something for a while. First it tells systemd to mend it, whatever becomes of us.

    Parameters:
        inject: what breaks it.
        heal: what mends it, without double quotes. Its variables are expanded before anything is broken.
        seconds: how long.
    """
    return (
        "set -eu; systemd-run --quiet --collect --unit=terrace-fault-heal --timer-property=AccuracySec=100ms"
        f' --timer-property=RemainAfterElapse=no --on-active={seconds:g} sh -c "{heal}"; date +%s.%N; {inject}'
    )


def unit_of(daemon: str, fleet: Fleet) -> str:
    """Return the systemd unit of a daemon, as a word of a shell on its host."""
    if daemon in ("supervisor", "worker"):
        return 'svc-users@"$(readlink /srv/terrace/users/live)"'
    return {
        "balancer": f"{fleet.environment.described['engine']}@lb",
        "node-proxy": "haproxy@node",
        "pooler": "pgbouncer",
        "liveness": "terrace-liveness",
        "redis-cache": "redis-server@cache",
        "redis-queue": "redis-server@queue",
        "sentinel": "redis-sentinel",
        "postgresql": "patroni",
    }.get(daemon, daemon)


def processes(daemon: str, fleet: Fleet, every: bool) -> str:
    """Return a command that prints process ids of a daemon.

    Parameters:
        daemon: of DAEMONS.
        fleet: the hosts.
        every: all processes that make it up; otherwise the one that the others depend on.
    """
    unit = unit_of(daemon, fleet)
    main = f"systemctl show {unit} --property=MainPID --value"
    if daemon == "worker":
        # Beside the workers a server may have small helpers.
        return f'ps --ppid "$({main})" --sort=-rss --no-headers -o pid | head -n 1'
    if daemon == "postgresql":
        return "pgrep -u postgres -x postgres" if every else f"head -n 1 {DATA}/17/main/postmaster.pid"
    if every and daemon not in ("patroni", "supervisor"):
        # Patroni shares its unit with PostgreSQL, a supervisor with its workers: these are faults of their own.
        return f'cat "/sys/fs/cgroup$(systemctl show {unit} --property=ControlGroup --value)/cgroup.procs"'
    return main


# Whom it hits.


def host(of: Callable[[Fleet], str]) -> Callable[[Fleet], Target]:
    """Return what finds the one host that has a role."""
    return lambda fleet: Target(of(fleet))


def master(instance: str) -> Callable[[Fleet], Target]:
    """Return what finds the host of the master of a Redis instance."""
    return lambda fleet: Target(fleet.master(instance))


def first(group: str) -> Callable[[Fleet], Target]:
    """Return what finds the first host of a group."""
    return lambda fleet: Target(fleet.members(group)[0])


def app_node(fleet: Fleet) -> Target:
    """Return an app node; not the first, on which schedules run."""
    return Target(fleet.members("app")[-1])


def replica(fleet: Fleet) -> Target:
    """Return the host of a synchronous replica that does not lead etcd, which is a fault of its own."""
    leader, found = fleet.etcd_leader(), fleet.replicas()
    return Target(next((name for name in found if name != leader), found[0]))


def everybody(fleet: Fleet) -> Target:
    """Return all hosts."""
    names = tuple(fleet.environment.addresses)
    return Target(names[0], names)


def primary_and_controller(fleet: Fleet) -> Target:
    """Return the primary's host, and from where it is reached."""
    name = fleet.primary()
    if fleet.try_run(name, "command -v nft").returncode:
        raise RefusedError(f"{name} has no nft; run site.yml, or install nftables there")
    return Target(name, controller=fleet.controller(name))


# What happens.


def lose_power(fleet: Fleet, target: Target) -> float:
    """Have all hosts of a target lose their power."""
    return min(fleet.each(target.hosts or (target.host,), fleet.cut_power).values())


def regain_power(fleet: Fleet, target: Target) -> None:
    """Give them their power back."""
    fleet.each(target.hosts or (target.host,), fleet.give_power)


def kill(daemon: str) -> Callable[[Fleet, Target], float]:
    """Return what kills a daemon as a bug or the kernel would."""

    def act(fleet: Fleet, target: Target) -> float:
        ids = processes(daemon, fleet, every=False)
        return fleet.begin(target.host, f"set -eu; ids=$({ids}); date +%s.%N; kill -KILL $ids")

    return act


def hang(daemon: str) -> Callable[[Fleet, Target], float]:
    """Return what stops all processes of a daemon, and has them go on after a while."""

    def act(fleet: Fleet, target: Target) -> float:
        ids = processes(daemon, fleet, every=True)
        # One that is gone by then, since somebody noticed that it hung, is no error.
        command = f"ids=$(echo $({ids})); " + held("kill -STOP $ids", "kill -CONT $ids || true")
        return fleet.begin(target.host, command)

    return act


def stop(unit: str) -> Callable[[Fleet, Target], float]:
    """Return what stops a unit for a while, as somebody would by mistake."""
    return lambda fleet, target: fleet.begin(
        target.host, held(f"systemctl stop {unit}", f"systemctl start {unit}"), timeout=120
    )


def cut_off(fleet: Fleet, target: Target) -> float:
    """Cut a host off from all but this machine and itself."""
    return _filtered(
        fleet,
        target,
        f"""chain input {{
            type filter hook input priority -300; policy drop;
            iifname lo accept
            {{family}} saddr {target.controller} accept
        }}
        chain output {{
            type filter hook output priority -300; policy drop;
            oifname lo accept
            {{family}} daddr {target.controller} accept
        }}""",
    )


def cut_off_from_etcd(fleet: Fleet, target: Target) -> float:
    """Cut a host, and a member of etcd that runs on it, off from the other members; all else gets through."""
    ports = (
        f"{{ {', '.join(str(fleet.environment.described['ports'][name]) for name in ('etcd_client', 'etcd_peer'))} }}"
    )
    lines = "\n".join(f"tcp {way} {ports} drop" for way in ("dport", "sport"))
    chains = [
        f"chain {way} {{\ntype filter hook {way} priority -300; policy accept;\n{interface} lo accept\n{lines}\n}}"
        for way, interface in (("input", "iifname"), ("output", "oifname"))
    ]
    return _filtered(fleet, target, "\n".join(chains))


def _filtered(fleet: Fleet, target: Target, chains: str) -> float:
    """Have nftables filter what a host sends and receives for a while, in a table of its own."""
    family = "ip6" if ":" in target.controller else "ip"
    rules = shlex.quote(f"table inet terrace_fault {{\n{chains.replace('{family}', family)}\n}}\n")
    return fleet.begin(
        target.host, held(f"printf %s {rules} | nft -f -", "nft delete table inet terrace_fault"), timeout=30
    )


def fill_disk(fleet: Fleet, target: Target) -> float:
    """Fill the volume that PostgreSQL's data lies on, and empty it after a while."""
    place = f"{DATA}/{FILLER}"
    # Almost all of it at once, without writing; the last of it byte by byte, since the file system keeps books there.
    fill = (
        f"free=$(df --output=avail --block-size=1 {DATA} | tail -n 1);"
        f" fallocate --length=$((free > 33554432 ? free - 16777216 : 1)) {place};"
        f" ! dd if=/dev/zero of={place} oflag=append conv=notrunc bs=64K status=none 2>/dev/null"
    )
    return fleet.begin(target.host, held(fill, f"rm -f {place}"), timeout=120)


def data_volume(fleet: Fleet) -> Target:
    """Return the primary's host, where its data lies on a volume of its own."""
    name = fleet.primary()
    if fleet.run(name, f"stat --format=%m {DATA}") == "/":
        raise RefusedError(f"the data of {name} lies on its root volume; a full one says nothing of PostgreSQL alone")
    return Target(name)


def slow(fleet: Fleet, target: Target) -> float:
    """Make a host's network slow: late and lossy where the kernel can (netem), narrow where it cannot (tbf)."""
    device = f"$(ip -oneline address show to {fleet.environment.addresses[target.host]} | awk '{{ print $2; exit }}')"
    inject = (
        "tc qdisc replace dev $device root netem delay 200ms 50ms loss 1% 2>/dev/null"
        " || tc qdisc replace dev $device root tbf rate 512kbit burst 16kb latency 400ms"
    )
    return fleet.begin(target.host, f"device={device}; " + held(inject, "tc qdisc del dev $device root"))


def switch_over(what: str) -> Callable[[Fleet, Target], float]:
    """Return what moves a role in an orderly way to the best other host."""

    def act(fleet: Fleet, target: Target) -> float:
        at = time.time()
        done = playbook(fleet.environment.inventory, "playbooks/switchover.yml", switchover_what=what)
        if done.returncode:
            raise HostError(f"the switchover of {what} failed:\n{done.stdout[-4000:]}")
        return at

    return act


def reboot_all(fleet: Fleet, target: Target) -> float:
    """Reboot the hosts of a tier in turn; the next one when all is well again."""
    at = time.time()
    for number, name in enumerate(target.hosts, 1):
        before = fleet.boot(name)
        fleet.try_run(name, "systemctl reboot", timeout=20)
        wait(lambda name=name, before=before: fleet.boot(name) not in ("", before), BOOT, f"{name} is back")
        if number < len(target.hosts):
            wait(lambda: status(fleet.environment).healthy, BOOT, f"all is well after {name}", pause=3)
    return at


def tier(group: str) -> Callable[[Fleet], Target]:
    """Return what finds all hosts of a group, those with a role last, so that it moves only once."""

    def find(fleet: Fleet) -> Target:
        roles = {
            "loadbalancer": lambda: [fleet.holder()],
            "cache": lambda: [fleet.master("queue"), fleet.master("cache")],
            "database": lambda: [fleet.primary()],
        }.get(group, list)()
        names = fleet.members(group)
        ordered = [name for name in names if name not in roles] + [name for name in names if name in roles]
        return Target(ordered[0], tuple(ordered))

    return find


def wait(condition: Callable[[], bool], timeout: float, what: str, pause: float = 1.0) -> float:
    """Wait until a condition holds and return how many seconds it took.

    Errors:
        HostError, where it does not hold in time.
    """
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > timeout:
            raise HostError(f"after {timeout:g} s still not: {what}")
        time.sleep(pause)
    return time.monotonic() - begin


# The catalogue.

# How many hosts it takes for clients to be served meanwhile.
DATABASES = {"database": 2, "etcd": 3}
REDIS = {"cache": 2, "sentinel": 3}
BALANCERS = {"loadbalancer": 2, "virtual": 1}

# Who is hit.
DAEMONS: dict[str, tuple[str, Callable[[Fleet], Target], dict[str, int]]] = {
    "keepalived": ("keepalived of the balancer with the address", host(Fleet.holder), BALANCERS),
    "balancer": ("the engine of the balancer with the address", host(Fleet.holder), BALANCERS),
    "node-proxy": ("an app node's proxy", app_node, {"app": 2}),
    "pooler": ("an app node's pooler", app_node, {"app": 2}),
    "supervisor": ("a service's supervisor", app_node, {"app": 2}),
    "worker": ("a service's worker", app_node, {"app": 2}),
    "liveness": ("an app node's watch over its services", app_node, {}),
    "redis-cache": ("the master of Redis's cache", master("cache"), REDIS),
    "redis-queue": ("the master of Redis's queue", master("queue"), REDIS),
    "sentinel": ("a Sentinel", first("sentinel"), {"sentinel": 3}),
    "patroni": ("the primary's Patroni", host(Fleet.primary), DATABASES),
    "postgresql": ("the primary", host(Fleet.primary), DATABASES),
    "etcd": ("the leader of etcd", host(Fleet.etcd_leader), {"etcd": 3}),
}  # fmt: skip

ONE_PRIMARY = (Limit("two_primaries", 0), Limit("probe_lost", 0), *NOTHING_LOST)
UNNOTICED = (Limit("failed_all", 0), Limit("stall", 3), *NOTHING_LOST)
WRITES_BACK = (
    Limit("writes_back", 25, worst=30),
    Limit("failed_cached", 0),
    Limit("failed_readonly", 0),
    *NOTHING_LOST,
)


def _without_power(
    name: str, title: str, find: Callable[[Fleet], Target], needs: dict[str, int], row: str = "",
    limits: tuple[Limit, ...] = NOTHING_LOST,
) -> Fault:  # fmt: skip
    """Return the fault that a host loses its power, and gets it back."""
    held = DATABASE_WITHOUT_POWER if "database" in needs else WITHOUT_POWER
    return Fault(name, "host", title, find, lose_power, held, regain_power, needs, row=row, limits=limits)


CATALOGUE: tuple[Fault, ...] = (
    _without_power("host-app", "an app node loses its power", app_node, {"app": 2}, row="app node killed",
                   limits=(Limit("failed_reads", 0), Limit("failed_writes", 0), Limit("stall", 2), *NOTHING_LOST)),
    _without_power("host-balancer", "the balancer with the address loses its power", host(Fleet.holder), BALANCERS,
                   row="load balancer with the address killed", limits=(Limit("stall", 2), *NOTHING_LOST)),
    _without_power("host-redis", "the host of the cache's master loses its power",
                   master("cache"), REDIS, row="Redis master killed",
                   limits=(Limit("failed_all", 0), Limit("cache_back", 6), *NOTHING_LOST)),
    Fault("switchover-postgresql", "switchover", "a switchover of PostgreSQL", host(Fleet.primary),
          switch_over("postgresql"), needs=DATABASES, row="switchover of PostgreSQL", limits=UNNOTICED),
    Fault("switchover-cache", "switchover", "a switchover of Redis's cache",
          master("cache"), switch_over("cache"), needs=REDIS, row="switchover of Redis",
          limits=UNNOTICED),
    Fault("switchover-queue", "switchover", "a switchover of Redis's queue",
          master("queue"), switch_over("queue"), needs=REDIS, limits=UNNOTICED),
    _without_power("host-primary", "the primary's host loses its power", host(Fleet.primary), DATABASES,
                   row="primary's host killed", limits=WRITES_BACK),
    Fault("partition-primary", "partition", "the primary's host is cut off from all others", primary_and_controller,
          cut_off, HELD, needs=DATABASES, row="partition of the primary",
          limits=ONE_PRIMARY, probed=True),
    Fault("partition-etcd", "partition", "the primary's host is cut off from etcd alone", primary_and_controller,
          cut_off_from_etcd, HELD, needs=DATABASES, limits=ONE_PRIMARY, probed=True),
    _without_power("host-replica", "the host of a synchronous replica loses its power", replica,
                   {"database": 3, "etcd": 3}),
    _without_power("host-etcd", "the host of etcd's leader loses its power", host(Fleet.etcd_leader), DATABASES),
    *(Fault(f"kill-{name}", "kill", f"kill -9 of {title}", find, kill(name), needs=needs)
      for name, (title, find, needs) in DAEMONS.items()),
    *(Fault(f"hang-{name}", "hang", f"{title} hangs for {HELD:g} s", find, hang(name), HELD, needs=needs,
            probed=name == "patroni")
      for name, (title, find, needs) in DAEMONS.items()),
    Fault("full-disk", "disk", f"the primary's disk is full for {HELD:g} s", data_volume, fill_disk, HELD,
          needs=DATABASES),
    Fault("slow-app", "slow", f"the network of an app node is slow for {HELD:g} s", app_node, slow, HELD,
          needs={"app": 2}),
    Fault("stopped-pooler", "stopped", f"an app node's pooler is stopped for {HELD:g} s", app_node, stop("pgbouncer"),
          HELD, needs={"app": 2}),
    Fault("stopped-node-proxy", "stopped", f"an app node's proxy is stopped for {HELD:g} s", app_node,
          stop("haproxy@node"), HELD, needs={"app": 2}),
    Fault("reboot-loadbalancer", "reboot", "a rolling reboot of the balancers", tier("loadbalancer"), reboot_all,
          needs=BALANCERS),
    Fault("reboot-app", "reboot", "a rolling reboot of the app nodes", tier("app"), reboot_all, needs={"app": 2}),
    Fault("reboot-cache", "reboot", "a rolling reboot of the Redis hosts", tier("cache"), reboot_all, needs=REDIS),
    Fault("reboot-database", "reboot", "a rolling reboot of the database hosts", tier("database"), reboot_all,
          needs=DATABASES),
    Fault("power", "power", "all hosts lose their power at once", everybody, lose_power, 10.0, regain_power,
          watched=30),
)  # fmt: skip


def choose(words: Iterable[str]) -> list[Fault]:
    """Return the faults that words choose, in the order of the catalogue: names, kinds, or patterns; none means all.

    Errors:
        RefusedError, where a word chooses nothing.
    """
    words = list(words)
    chosen = set()
    for word in words:
        found = {fault.name for fault in CATALOGUE if fault.kind == word or fnmatch.fnmatchcase(fault.name, word)}
        if not found:
            kinds = ", ".join(dict.fromkeys(fault.kind for fault in CATALOGUE))
            names = ", ".join(fault.name for fault in CATALOGUE)
            raise RefusedError(f"there is no fault {word!r}; there are {names}; of the kinds {kinds}")
        chosen |= found
    return [fault for fault in CATALOGUE if not words or fault.name in chosen]
