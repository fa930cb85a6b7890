"""The lab as tests see it: its hosts, its ports, and clients for what it serves.

LAB_INVENTORY chooses another inventory than inventory/lab; relative, it is a path of the project.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
INVENTORY = ROOT / os.environ.get("LAB_INVENTORY", "inventory/lab")
STATE = INVENTORY.parents[1] / ".terrace" / INVENTORY.name
AUTHORITY = STATE / "pki/ca.crt"
# Where a run is had count its tasks, see plugins/callback/host_tasks.py.
HOST_TASKS = ROOT / ".terrace/host-tasks.json"
GATEWAY = "10.77.0.1"

_TOPOLOGY = yaml.safe_load((ROOT / "playbooks/group_vars/all/topology.yml").read_text())
PORTS: dict[str, int] = _TOPOLOGY["topology_ports"]
GROUPS: dict[str, list[str]] = {}
ADDRESSES: dict[str, str] = {}
BALANCERS: list[str] = []
NODES: list[str] = []
# What the load balancers hold in turn; empty where there is none. `virtual` is its name for clients.
_MAIN: dict = yaml.safe_load((INVENTORY / "group_vars/all/main.yml").read_text())
VIRTUAL: str = _MAIN.get("loadbalancer_virtual_address", "")
# What the environment says of its services, and what they are with that.
OWN: dict[str, dict] = yaml.safe_load((INVENTORY / "group_vars/all/services.yml").read_text())["services"]
SERVICES: dict[str, dict] = {
    name: yaml.safe_load((INVENTORY.parents[1] / f"services/{name}.yml").read_text()) | (own or {})
    for name, own in OWN.items()
}


def read_hosts() -> None:
    """Read the inventory's hosts and groups; once more, after it was edited."""
    children = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]
    GROUPS.update({name: list(group.get("hosts", {})) for name, group in children.items()})
    for group in children.values():
        ADDRESSES.update({name: its["ansible_host"] for name, its in group.get("hosts", {}).items() if its})
    BALANCERS[:] = GROUPS["loadbalancer"]
    NODES[:] = GROUPS["app"]


read_hosts()


@dataclass(frozen=True)
class Engine:
    """What a load balancer runs, and where it is looked at."""

    name: str

    @property
    def unit(self) -> str:
        """The unit that a load balancer runs it as."""
        return f"{self.name}@lb"

    @property
    def configuration(self) -> str:
        """The file that it is configured by."""
        return {"haproxy": "/etc/haproxy/lb.cfg", "nginx": "/etc/nginx/lb.conf"}[self.name]

    @property
    def input(self) -> str:
        """What the inputs of its role begin with."""
        return f"{self.name}_lb"


ENGINES = [Engine("haproxy"), Engine("nginx")]


def network_is_up() -> bool:
    """Tell whether the lab's gateway is an address of this machine."""
    shown = subprocess.run(
        ["ip", "-oneline", "-4", "address", "show", "to", GATEWAY], capture_output=True, text=True, check=True
    )
    return GATEWAY in shown.stdout


def environment() -> dict[str, str]:
    """Return the environment variables for Ansible's commands."""
    # Molecule asks for colours, which stand in the way of whoever reads a recap.
    left_out = ("ANSIBLE_FORCE_COLOR", "TERRACE_HOST_TASKS")
    mine = {name: value for name, value in os.environ.items() if name not in left_out}
    return mine | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}


def make(target: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the Makefile's on the environment as users do, whatever a make above has set."""
    return subprocess.run(
        ["make", target, f"ENV={os.path.relpath(INVENTORY, ROOT)}", *words],
        cwd=ROOT,
        env={name: value for name, value in environment().items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
    )


def kill_family(pid: int) -> None:
    """Kill a process and all that descend from it: Ansible's workers have sessions of their own."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    for member in found:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def host_tasks() -> dict[str, int]:
    """Return how many tasks ran on each host in the last run that counted its tasks.

    AssertionError where no run was counted, or one of other hosts.
    """
    assert HOST_TASKS.exists(), f"nothing was counted; run site.yml with TERRACE_HOST_TASKS={HOST_TASKS}"
    counted = json.loads(HOST_TASKS.read_text())["hosts"]
    assert set(counted) - {"localhost"} == set(ADDRESSES), f"{HOST_TASKS} is of another run: {counted}"
    return counted


class Host:
    """A host of the lab, over SSH as the administrator.

    Parameters:
        name: its name in the inventory.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ADDRESSES[name]
        self._ssh = [
            "ssh", "-i", str(STATE / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={STATE}/ssh/known_hosts",
            "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "ControlMaster=auto", "-o", "ControlPersist=60",
            "-o", f"ControlPath=/tmp/terrace-{os.getpid()}-%C", f"admin@{self.address}",
        ]  # fmt: skip

    def try_run(self, command: str, stdin: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess:
        """Run a shell command as root and return how it ended.

        Parameters:
            command: in the shell's words.
            stdin: what it reads.
            timeout: seconds after which it is given up (subprocess.TimeoutExpired).
        """
        return subprocess.run(
            [*self._ssh, f"sudo sh -c {shlex.quote(command)}"],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self, command: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run a shell command as root and return what it printed; AssertionError where it fails."""
        done = self.try_run(command, stdin, timeout)
        assert done.returncode == 0, f"{self.name}: {command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """Return one property of a systemd unit."""
        return self.run(f"systemctl show {shlex.quote(unit)} --property={name} --value")

    def live_slot(self, service: str) -> str:
        """Return which slot of a service is live here."""
        return self.run(f"readlink /srv/terrace/{service}/live")

    def file(self, path: str) -> tuple[str, str, str]:
        """Return mode, owner and group of a file."""
        mode, owner, group = self.run(f"stat --format='%a %U %G' {shlex.quote(path)}").split()
        return mode, owner, group


def patroni(host: Host, path: str) -> dict:
    """Return what Patroni answers on a host; AssertionError where it does not."""
    url = f"https://{host.address}:{PORTS['patroni']}{path}"
    return json.loads(host.run(f"curl --fail --silent --max-time 5 --cacert /etc/terrace/pki/ca.crt {url}", timeout=20))


def cluster(host: Host | None = None) -> dict:
    """Return what Patroni tells of its cluster: the first database host that answers, or this one.

    Of other members than the one asked it is as old as their last turn, up to ten seconds.
    """
    asked = [host] if host else [Host(name) for name in GROUPS["database"]]
    for one in asked:
        with suppress(AssertionError, subprocess.TimeoutExpired):
            return patroni(one, "/cluster")
    raise AssertionError(f"Patroni answers on none of {', '.join(one.name for one in asked)}")


def primary() -> Host:
    """Return the host of the current primary; AssertionError where there is none."""
    leaders = [member["name"] for member in cluster()["members"] if member["role"] == "leader"]
    assert len(leaders) == 1, leaders
    return Host(leaders[0])


def whole_cluster() -> bool:
    """Tell whether PostgreSQL has a primary, and every other member follows it and counts for its commits.

    Each member is asked for its own state: the others may not know yet that it stops, as after a switchover.
    """
    try:
        told = cluster()["members"]
        own = {name: patroni(Host(name), "/patroni") for name in GROUPS["database"]}
    except (AssertionError, subprocess.TimeoutExpired):
        return False
    leaders = [member["name"] for member in told if member["role"] == "leader"]
    return (
        sorted(member["role"] for member in told) == ["leader"] + ["quorum_standby"] * (len(own) - 1)
        and [name for name, its in own.items() if its["role"] == "primary"] == leaders
        and all(its["state"] == "running" for its in own.values())
        and all(its.get("replication_state") == "streaming" for name, its in own.items() if name not in leaders)
    )


def sql(host: Host, statement: str, database: str = "postgres") -> str:
    """Return what a statement yields, as the operating system's user postgres on the host itself."""
    psql = "psql -h /run/postgresql --no-psqlrc --tuples-only --no-align -v ON_ERROR_STOP=1"
    return host.run(f"cd / && sudo -u postgres {psql} {database}", stdin=statement)


def wait_for_replicas() -> None:
    """Wait until replicas show all that was written until now: lists come from one of them."""
    leader = primary()
    written = sql(leader, "SELECT pg_current_wal_lsn()")
    shown = "SELECT coalesce(bool_and(replay_lsn >= :'written'), true) FROM pg_stat_replication;"
    statement = f"\\set written {written}\n{shown}"
    wait(lambda: sql(leader, statement) == "t", 60, "the replicas show all that was written")


def sentinel(host: Host, command: str) -> list[str]:
    """Return the lines that a host's Sentinel answers to a command: names and values in turn."""
    return host.run(
        f". /etc/redis/sentinel.env; REDISCLI_AUTH=$PASSWORD redis-cli -h {host.address}"
        f" -p {PORTS['sentinel']} SENTINEL {command}"
    ).split("\n")


def redis_master(instance: str) -> str:
    """Return the host that is the master of an instance."""
    address = sentinel(Host(GROUPS["sentinel"][0]), f"GET-MASTER-ADDR-BY-NAME {instance}")[0]
    return next(name for name, its in ADDRESSES.items() if its == address)


def expected_listeners(name: str) -> set[str]:
    """Return what listens on a host by the table of ports, as address:port."""
    address = ADDRESSES[name]
    of = [group for group, members in GROUPS.items() if name in members]
    on_address = {
        "loadbalancer": ["http", "https"],
        "app": ["node_health"],
        "cache": ["redis_cache", "redis_queue"],
        "sentinel": ["sentinel"],
        "database": ["postgresql", "patroni", "pgbackrest"],
        "etcd": ["etcd_client", "etcd_peer"],
        "backup": ["pgbackrest"],
        "edge": ["http", "https"],
    }
    wanted = {f"0.0.0.0:{PORTS['ssh']}", f"[::]:{PORTS['ssh']}"}
    wanted |= {f"{address}:{PORTS[port]}" for group in of for port in on_address.get(group, [])}
    if "loadbalancer" in of and VIRTUAL:
        wanted |= {f"{VIRTUAL}:{PORTS[port]}" for port in on_address["loadbalancer"]}
    together = _MAIN.get("loadbalancer_engine", "haproxy") == "haproxy" and len(BALANCERS) > 1
    if "loadbalancer" in of and together and any(service.get("limits") for service in SERVICES.values()):
        wanted.add(f"{address}:{PORTS['limits']}")
    if "app" in of:
        wanted |= {f"{address}:{service['port']}" for service in SERVICES.values()}
        local = ["pgbouncer", "node_primary", "node_replica", "node_cache", "node_queue"]
        wanted |= {f"127.0.0.1:{PORTS[port]}" for port in local}
        needed = {need for service in SERVICES.values() for need in service.get("needs", [])}
        wanted |= {f"127.0.0.1:{SERVICES[need]['port']}" for need in needed}
    return wanted


def wait(condition: Callable[[], object], timeout: float, what: str, pause: float = 0.3) -> float:
    """Wait until a condition holds and return how many seconds it took; AssertionError after the timeout."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout, f"after {timeout} s still not: {what}"
        time.sleep(pause)
    return time.monotonic() - start


@dataclass
class Answer:
    """An HTTP answer: its status, its headers (by lower-case name) and its body."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw_headers: list[tuple[str, str]] = field(default_factory=list)

    def json(self):
        """Return the body as JSON."""
        return json.loads(self.body)

    @classmethod
    def of(cls, response: HTTPResponse) -> Answer:
        """Return the answer that a response carries, its body read."""
        body = response.read()
        pairs = response.getheaders()
        return cls(response.status, {name.lower(): value for name, value in pairs}, body, pairs)


def tls() -> ssl.SSLContext:
    """Return a TLS context that trusts the lab's authority and nobody else."""
    return ssl.create_default_context(cafile=str(AUTHORITY))


def holders(hosts: dict[str, Host]) -> list[str]:
    """Return the load balancers that hold the virtual address, and tell the network so."""
    # On the loopback interface all of them have it, with the scope of the host.
    asked = f"ip -oneline -4 address show to {VIRTUAL} scope global"
    return [balancer for balancer in BALANCERS if hosts[balancer].run(asked)]


def connect(host: str, port: int | None = None, timeout: float = 40) -> HTTPConnection:
    """Return a connection to a host of the lab, or to `virtual`: TLS on the load balancers' port, plain elsewhere."""
    address = VIRTUAL if host == "virtual" else ADDRESSES[host]
    if port in (None, PORTS["https"]):
        return HTTPSConnection(address, PORTS["https"], context=tls(), timeout=timeout)
    return HTTPConnection(address, port, timeout=timeout)


def ask(
    host: str, path: str, method: str = "GET", body=None, headers: dict | None = None, port: int | None = None,
    timeout: float = 40,
) -> Answer:  # fmt: skip
    """Send one request on a connection of its own and return the answer.

    Parameters:
        host: a host of the lab, or `virtual`.
        path: path and query.
        method: the HTTP method.
        body: bytes, or anything else to be sent as JSON.
        headers: further headers.
        port: the port; by default HTTPS.
        timeout: seconds.
    """
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    connection = connect(host, port, timeout)
    try:
        connection.request(method, path, body=body, headers=headers)
        return Answer.of(connection.getresponse())
    finally:
        connection.close()


def wait_until_ready(timeout: float) -> None:
    """Wait until every service has a ready slot on every node, and the load balancers know it."""

    def ready() -> bool:
        try:
            nodes = all(
                ask(node, f"/{service}", port=PORTS["node_health"], timeout=5).status == 200
                for node in NODES
                for service in SERVICES
            )
            return nodes and all(
                ask(balancer, "/status/200", headers={"Host": "httpbin.lab"}, timeout=5).status == 200
                and ask(balancer, "/users?limit=1", timeout=5).status == 200
                and ask(balancer, "/orders?limit=1", timeout=5).status == 200
                for balancer in BALANCERS
            )
        except (OSError, HTTPException):
            return False

    wait(ready, timeout, "every service ready on every node", pause=1)


def status(*words: str) -> tuple[int, dict]:
    """Return how the lab is, as `make status FORMAT=json` tells it: the exit code of the run, and what it printed.

    The code is 0 where all is healthy and 3 where something is wrong; AssertionError where neither can be told.

    Parameters:
        words: further arguments of ansible-playbook.
    """
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", f"--inventory={INVENTORY}", "--extra-vars=status_format=json",
         "playbooks/status.yml", *words],
        cwd=ROOT,
        env=environment() | {"ANSIBLE_STDOUT_CALLBACK": "lines"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, json.loads(done.stdout)


def wait_until_healthy(timeout: float) -> dict:
    """Wait until nothing is wrong with the lab and return its status; AssertionError with the problems otherwise."""
    end = time.monotonic() + timeout
    while True:
        code, told = status()
        if code == 0:
            return told
        assert time.monotonic() < end, "\n".join(told["problems"])


class Load:
    """Clients on kept connections, until stopped. Bounded in number and time.

    A request whose reused connection closed before any byte of the answer is sent once more on a new one, as clients
    do, if it is safe or carries an Idempotency-Key; those are counted as `reopened`. Anything else but a 2xx counts as
    failed.

    Parameters:
        host: the host that they ask, or `virtual`.
        path: what they ask for.
        port: its port; by default HTTPS.
        clients: how many.
        headers: further headers.
        keyed: whether each request carries an Idempotency-Key of its own.
        method, body: the request, GET without a body by default.
        longest: seconds after which they end by themselves.
        pause: seconds between two requests of a client. The machine is small: a load that leaves it no time would test
            the machine.
        begun: whether to wait for the first answers before anything else happens.
    """

    def __init__(
        self, host: str, path: str, port: int | None = None, clients: int = 3, headers: dict | None = None,
        method: str = "GET", body: Callable[[], dict] | None = None, longest: float = 300,
        pause: float = 0.1, keyed: bool = False, begun: bool = True,
    ) -> None:  # fmt: skip
        self.host, self.path, self.port, self.clients = host, path, port, clients
        self.headers, self.method, self.body = headers or {}, method, body
        self.longest, self.pause, self.keyed, self.begun = longest, pause, keyed, begun
        self.good = 0
        self.reopened = 0
        self.failed: list[str] = []
        # When each answer came, by time.monotonic, and how long it took, in seconds.
        self.took: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        self._end = time.monotonic() + self.longest
        for thread in self._threads:
            thread.start()
        if self.begun:
            wait(lambda: self.good >= self.clients or self.failed, 30, "the load has begun")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _client(self) -> None:
        connection, fresh = connect(self.host, self.port, 20), True
        while not self._stop.is_set() and time.monotonic() < self._end:
            body = json.dumps(self.body()).encode() if self.body else None
            headers = self.headers | ({"Content-Type": "application/json"} if body else {})
            headers |= {"Idempotency-Key": str(uuid.uuid4())} if self.keyed else {}
            start = time.monotonic()
            for attempt in (1, 2):
                try:
                    connection.request(self.method, self.path, body=body, headers=headers)
                    answer = Answer.of(connection.getresponse())
                except (OSError, HTTPException) as error:
                    connection.close()
                    # Python tells a write that found the connection reset as an SSLEOFError.
                    closed = isinstance(error, (ConnectionError, ssl.SSLEOFError)) and not fresh
                    connection, was_fresh = connect(self.host, self.port, 20), fresh
                    fresh = True
                    if attempt == 1 and closed and (self.method == "GET" or self.keyed) and not was_fresh:
                        with self._lock:
                            self.reopened += 1
                        continue
                    with self._lock:
                        self.failed.append(f"{type(error).__name__}: {error}")
                else:
                    fresh = answer.headers.get("connection", "").lower() == "close"
                    if fresh:
                        # Opened anew by itself, it would trust what was trusted when it was made.
                        connection = connect(self.host, self.port, 20)
                    with self._lock:
                        if 200 <= answer.status < 300:
                            self.good += 1
                        else:
                            self.failed.append(f"{answer.status} {answer.body[:100]!r}")
                break
            with self._lock:
                now = time.monotonic()
                self.took.append((now, now - start))
            time.sleep(self.pause)

    @property
    def worst(self) -> float:
        """The longest that an answer took, in seconds."""
        return max((seconds for _, seconds in self.took), default=0.0)

    def __repr__(self) -> str:
        shown = self.failed[:5]
        return (
            f"{self.good} good, {self.reopened} reopened, {len(self.failed)} failed {shown}, worst {self.worst:.2f} s"
        )


def running_engine(hosts: dict[str, Host]) -> Engine:
    """Return the engine that all load balancers run; ValueError where they disagree or run both."""
    [running] = {
        tuple(engine for engine in ENGINES if hosts[balancer].show(engine.unit, "ActiveState") == "active")
        for balancer in BALANCERS
    }
    [engine] = running
    return engine


def new_user() -> dict:
    """Return what makes a user, like no other."""
    return {"email": f"{uuid.uuid4()}@example.com", "name": "Ada", "city": "Rome"}


def writes(balancer: str, clients: int = 2) -> Load:
    """Return clients that POST without Idempotency-Key, twice a second each: nobody repeats what they send."""
    return Load(balancer, "/users", clients=clients, method="POST", body=new_user, pause=0.5)


def change_engine(hosts: dict[str, Host], playbook: Callable[..., subprocess.CompletedProcess], engine: Engine) -> None:
    """Have site.yml bring up an engine on the load balancers, with clients on each, of whom none may notice."""
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(balancer, "/users?limit=1", clients=3)) for balancer in BALANCERS]
        posts = [stack.enter_context(writes(balancer)) for balancer in BALANCERS]
        done = playbook("site.yml", "--limit=loadbalancer", f"--extra-vars=loadbalancer_engine={engine.name}")
    assert done.returncode == 0, done.stdout
    assert all(load.good > 50 for load in loads), loads
    assert all(load.good > 10 for load in posts), posts
    assert not any(load.failed for load in loads + posts), loads + posts
    assert running_engine(hosts) == engine
