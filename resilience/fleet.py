"""The hosts: commands on them over SSH, who of them has which role at the moment, and their power."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from .environment import ROOT, Environment

SSH = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2"),
    "-o",
    "LogLevel=ERROR",
)
# Becomes root where the user is not; quotes once for each shell on the way.
AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -c {0}; else exec sudo -n sh -c {0}; fi'


class HostError(Exception):
    """A host did not do what it was told; the text says which, what, and what it said."""


@dataclass(frozen=True)
class Power:
    """How a host loses its power and gets it back.

    Parameters:
        off, on: commands for this machine in a shell's words, with {host} and {address}. Without them a host is
            reset by its own kernel, and returns by itself.
    """

    off: str = ""
    on: str = ""


def power_of(environment: Environment) -> Power:
    """Return how an environment's hosts lose their power: as it says itself, or as the lab's containers do."""
    if not environment.lab:
        return Power(environment.described["power_off"], environment.described["power_on"])
    return power_of_lab()


def power_of_lab() -> Power:
    """Return how the lab's containers lose their power: cut off first, so that no goodbye of a process gets out."""
    podman = shlex.quote(str(ROOT / "molecule/lab/podman"))
    return Power(
        off=f"pid=$({podman} inspect --format '{{{{.State.Pid}}}}' {{host}})"
        f" && nsenter --target $pid --net ip link set dev eth0 down && {podman} kill {{host}}",
        on=f"{podman} start {{host}}",
    )


class Fleet:
    """The hosts of an environment.

    Parameters:
        environment: theirs.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment, self.power = environment, power_of(environment)
        self.members = environment.members

    def try_run(self, host: str, command: str, timeout: float = 60) -> subprocess.CompletedProcess:
        """Run a shell command as root on a host and return how it ended; 124 where it took too long."""
        remote = AS_ROOT.format(shlex.quote(command))
        words = [str(self.environment.state / host), *SSH, remote]
        try:
            return subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(words, 124, "", f"no end in {timeout:g} s")

    def run(self, host: str, command: str, timeout: float = 60) -> str:
        """Run a shell command as root on a host and return what it printed.

        Errors:
            HostError, where it fails.
        """
        done = self.try_run(host, command, timeout)
        if done.returncode:
            raise HostError(f"{host}: {command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def each(self, hosts: Iterable[str], what: Callable[[str], object]) -> dict[str, object]:
        """Return what a function returns for each host, asked all at once."""
        hosts = list(hosts)
        with ThreadPoolExecutor(max_workers=max(len(hosts), 1)) as pool:
            return dict(zip(hosts, pool.map(what, hosts), strict=True))

    def controller(self, host: str) -> str:
        """Return the address from which a host is reached, as it sees it."""
        words = [str(self.environment.state / host), *SSH, "echo $SSH_CONNECTION"]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )  # fmt: skip
        if done.returncode or not done.stdout.split():
            raise HostError(f"{host} does not say from where it is reached: {done.stdout}{done.stderr}")
        return done.stdout.split()[0]

    # Who is what at the moment.

    def _first(self, hosts: Iterable[str], command: str, what: str) -> str:
        """Return what the first of several hosts that can says; one that is down or hangs must not be asked alone."""
        said = []
        for host in hosts:
            done = self.try_run(host, command, timeout=15)
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.strip()
            said.append(f"{host}: {done.stderr.strip()[-300:]}")
        raise HostError(f"nobody says {what}:\n" + "\n".join(said))

    def cluster(self) -> list[dict]:
        """Return the members of the PostgreSQL cluster as Patroni lists them."""
        command = "timeout 10 patronictl -c /etc/patroni/config.yml list --format json"
        return json.loads(self._first(self.members("database"), command, "who is in the cluster"))

    def primary(self) -> str:
        """Return the host of the PostgreSQL primary."""
        for member in self.cluster():
            if member["Role"] in ("Leader", "Standby Leader") and member["State"] == "running":
                return member["Member"]
        raise HostError("the cluster has no primary")

    def replicas(self) -> list[str]:
        """Return the hosts of its replicas, the synchronous ones first."""
        others = [member for member in self.cluster() if "Leader" not in member["Role"]]
        ordered = sorted(others, key=lambda member: (member["Role"] == "Replica", member["Member"]))
        return [member["Member"] for member in ordered]

    def promotions(self) -> list[float]:
        """Return when primaries were promoted, in seconds since 1970, the earliest first."""
        command = "timeout 10 patronictl -c /etc/patroni/config.yml history --format json"
        told = json.loads(self._first(self.members("database"), command, "when a primary was promoted"))
        return [datetime.fromisoformat(line["Timestamp"]).timestamp() for line in told if line.get("Timestamp")]

    def etcd_leader(self) -> str:
        """Return the host of the leader of etcd."""
        pki = "/etc/terrace/pki"
        told = self._first(
            self.members("etcd"),
            f"ETCDCTL_API=3 timeout 10 etcdctl --cacert={pki}/ca.crt --cert={pki}/host.crt --key={pki}/host.key"
            ' --endpoints="$(. /etc/default/etcd; echo "$ETCD_ADVERTISE_CLIENT_URLS")" endpoint status --cluster'
            " --write-out=json 2>/dev/null || true",
            "who leads etcd",
        )
        for endpoint in json.loads(told):
            answer = endpoint["Status"]
            if answer["leader"] == answer["header"]["member_id"]:
                return self.environment.host_at(endpoint["Endpoint"].split("//")[1].rsplit(":", 1)[0].strip("[]"))
        raise HostError("etcd has no leader")

    def master(self, instance: str) -> str:
        """Return the host of the master of a Redis instance, as a Sentinel says."""
        address = self._first(
            self.members("sentinel"),
            ". /etc/redis/sentinel.env; REDISCLI_AUTH=$PASSWORD timeout 5 redis-cli --no-auth-warning"
            ' -h "$(awk \'$1 == "bind" { print $2 }\' /etc/redis/sentinel.conf)"'
            f" -p {self.environment.described['ports']['sentinel']}"
            f" SENTINEL GET-MASTER-ADDR-BY-NAME {instance} | head -n 1",
            f"who is master of {instance}",
        )
        return self.environment.host_at(address)

    def holder(self) -> str:
        """Return the balancer that clients reach: which has the virtual address, or the first where there is none."""
        virtual, balancers = self.environment.described["virtual"], self.members("loadbalancer")
        if not virtual:
            return balancers[0]
        # Every balancer has it on its loopback device, too, so that it still answers what arrives while it moves.
        asked = self.each(
            balancers, lambda host: self.try_run(host, f"ip -oneline address show scope global to {virtual}", 15)
        )
        holders = [host for host, done in asked.items() if virtual in done.stdout]
        if len(holders) != 1:
            raise HostError(f"{virtual} is on {' and '.join(holders) or 'no balancer'}")
        return holders[0]

    def roles(self) -> dict[str, str]:
        """Return who is primary and who is master of each Redis instance: what a run of site.yml has to leave alone."""
        return {"primary": self.primary()} | {
            f"master of {instance}": self.master(instance) for instance in ("cache", "queue")
        }

    def units(self, host: str) -> dict[str, str]:
        """Return for each running unit of a host its invocation and main process."""
        shown = self.run(
            host,
            "systemctl list-units --plain --no-legend --type=service --state=running 'haproxy@*' 'nginx@*' 'svc-*'"
            " 'terrace-*' 'pgbouncer*' 'patroni*' 'etcd*' 'redis-*' 'keepalived*' 'pgbackrest' | awk '{ print $1 }'"
            " | xargs -r systemctl show --property=Id,InvocationID,MainPID",
        )
        found = {}
        for block in filter(None, shown.split("\n\n")):
            of = dict(line.split("=", 1) for line in block.splitlines())
            found[of["Id"]] = f"{of['InvocationID']} {of['MainPID']}"
        return found

    def daemons(self) -> dict[str, dict[str, str]]:
        """Return the units of every host."""
        return self.each(self.environment.addresses, self.units)

    # Time, power and boots.

    def begin(self, host: str, command: str, timeout: float = 60) -> float:
        """Run a command that first prints the time (`date +%s.%N`), and return when that was, by this machine's clock.

        A host's clock may be off by a little; what it says counts as far as it can be true.

        Errors:
            HostError, where it fails.
        """
        before = time.time()
        said = self.run(host, command, timeout).splitlines()
        return min(max(float(said[0]), before), time.time())

    def boot(self, host: str) -> str:
        """Return what tells one boot of a host from another; empty while it does not answer."""
        # In a container the kernel's own boot id stays: the start of its first process does not.
        done = self.try_run(host, "cut -d ' ' -f 22 /proc/1/stat; cat /proc/sys/kernel/random/boot_id", timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    def cut_power(self, host: str) -> float:
        """Have a host lose its power at once and return when."""
        at = time.time()
        if self.power.off:
            self._here(self.power.off, host)
        else:
            self.run(
                host, "echo 1 > /proc/sys/kernel/sysrq; (sleep 0.5; echo b > /proc/sysrq-trigger) >/dev/null 2>&1 &"
            )
            at = time.time() + 0.5
        return at

    def give_power(self, host: str) -> None:
        """Give a host its power back."""
        if self.power.on:
            self._here(self.power.on, host)

    def _here(self, command: str, host: str) -> None:
        """Run a command of this machine for a host."""
        filled = command.replace("{host}", host).replace("{address}", self.environment.addresses[host])
        done = subprocess.run(["sh", "-c", filled], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise HostError(f"{filled}: {done.returncode}\n{done.stdout}{done.stderr}")

    def sql(self, database: str, statement: str, host: str = "") -> list[list[str]]:
        """Return the rows that a statement yields as PostgreSQL's administrator, by default on the primary."""
        psql = f"psql --no-psqlrc -v ON_ERROR_STOP=1 -qAt -F '\t' -h /run/postgresql -d {shlex.quote(database)}"
        command = f"cd / && runuser -u postgres -- {psql} -c {shlex.quote(statement)}"
        return [line.split("\t") for line in self.run(host or self.primary(), command, timeout=300).splitlines()]
