"""One Redis instance on all its hosts, with the Sentinels that watch it: how it is, and how it gets another master.

Sentinel promotes a replica in a tenth of a second, but tells the old master only ten seconds later, which takes writes
until then that nobody will ever see. So writes wait on the old master (a pause that ends by itself) from before the
promotion until it follows the new one, and until the node proxies have noticed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ansible.module_utils.redis_resp import Redis, RedisError, to_pairs

# Users that are not services': they stay connected through a switchover.
OWN_USERS = {"default", "admin", "replica", "sentinel", "monitor"}
# The lowest priority that can be promoted, so the first choice; all others have Redis's own.
CHOSEN, USUAL = 1, 100
POLL_SECONDS = 0.02
# Sentinel reads a replica's priority every ten seconds.
PRIORITY_SECONDS = 25.0
# For the replicas to have all that the master has, once it takes no more; more means that they do not keep up.
CATCH_UP_SECONDS = 3.0
# From the order to Sentinel until a replica is promoted, which takes a tenth of it.
PROMOTE_SECONDS = 6.0
# A node proxy that still leads to the old master finds out by its second check: after 1 s and 200 ms.
NOTICE_SECONDS = 1.5
# How long the old master keeps writes waiting, if nobody tells it otherwise.
PAUSE_MILLISECONDS = 12000


class GroupError(Exception):
    """An operation cannot be done, or was not; the text is one line, with its mend."""


@dataclass(frozen=True)
class View:
    """What all of them say at one time.

    Parameters:
        name: the instance.
        addresses: of its hosts, by name.
        told: the master's address by Sentinel (its own address); empty where that does not answer.
        flags: what a Sentinel says of the master beyond that it is one, such as s_down, and what keeps it from a
            failover, by Sentinel.
        info: each host's replication, by name; empty where it does not answer.
    """

    name: str
    addresses: Mapping[str, str]
    told: Mapping[str, str]
    flags: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def master(self) -> str:
        """Return the host whose instance is the master, where all Sentinels that answer agree; else nothing."""
        agreed = {address for address in self.told.values() if address}
        return next((name for name, address in self.addresses.items() if agreed == {address}), "")

    def follows(self, name: str) -> bool:
        """Return whether a host's instance is a replica of the master, and has all of its data."""
        info = self.info.get(name, {})
        return (
            info.get("role") == "slave"
            and info.get("master_host") == self.addresses.get(self.master)
            and info.get("master_link_status") == "up"
        )

    def problems(self, everyone: bool = False) -> list[str]:
        """Return what is wrong, a line each with its mend.

        Parameters:
            everyone: whether a single Sentinel that does not answer is wrong, too.
        """
        silent = [sentinel for sentinel, address in self.told.items() if not address]
        if 2 * len(silent) >= len(self.told):
            return [f"most Sentinels do not answer ({', '.join(silent)}); start them: systemctl start redis-sentinel"]
        if not self.master:
            said = ", ".join(f"{sentinel} says {address}" for sentinel, address in self.told.items() if address)
            return [f"the Sentinels do not agree on a master of {self.name} ({said}); wait until they do"]
        found = [
            f"Sentinel on {sentinel} says of {self.name}: {flags}; wait until it does not"
            for sentinel, flags in self.flags.items()
            if flags
        ]
        if everyone and silent:
            found.append(f"the Sentinels {', '.join(silent)} do not answer; start them: systemctl start redis-sentinel")
        role = self.info.get(self.master, {}).get("role")
        if role != "master":
            said = f"says it is a {role}" if role else "does not answer"
            found.append(f"{self.name} on {self.master} is to be the master and {said}; wait for a failover")
        for name in self.addresses:
            if name != self.master and not self.follows(name):
                found.append(
                    f"{self.name} on {name} does not follow {self.master}; wait, or look into its log: "
                    f"journalctl -u redis-server@{self.name}"
                )
        return found

    def best(self) -> str:
        """Return the replica that has most of the master's data; empty where none follows."""
        offsets = {
            name: int(self.info[name].get("slave_repl_offset", 0))
            for name in self.addresses
            if self.follows(name) and self.info[name].get("slave_priority") != "0"
        }
        return max(sorted(offsets), key=lambda name: offsets[name], default="")


class Group:
    """An instance on its hosts.

    Parameters:
        name: the instance, as Sentinel calls it.
        port: its port.
        addresses: of its hosts, by name.
        sentinels: addresses of the Sentinels.
        sentinel_port: their port.
        password: of the user `admin`.
        sentinel_password: the Sentinels' own.
    """

    def __init__(
        self,
        name: str,
        port: int,
        addresses: Mapping[str, str],
        sentinels: list[str],
        sentinel_port: int,
        password: str,
        sentinel_password: str,
    ) -> None:
        self.name, self.port, self.addresses = name, port, dict(addresses)
        self.sentinels, self.sentinel_port = list(sentinels), sentinel_port
        self._password, self._sentinel_password = password, sentinel_password

    def server(self, name: str) -> Redis:
        """Return a connection to the instance of a host, as its administrator."""
        return Redis(self.addresses[name], self.port, self._password, "admin")

    def sentinel(self, address: str) -> Redis:
        """Return a connection to a Sentinel."""
        return Redis(address, self.sentinel_port, self._sentinel_password)

    def look(self) -> View:
        """Return what all of them say now."""
        told, flags, info = dict.fromkeys(self.sentinels, ""), {}, {}
        for address in self.sentinels:
            with contextlib.suppress(OSError, RedisError), self.sentinel(address) as sentinel:
                state = sentinel.pairs("SENTINEL", "MASTER", self.name)
                told[address] = state.get("ip", "")
                flags[address] = ", ".join(flag for flag in state.get("flags", "").split(",") if flag != "master")
                try:
                    sentinel.call("SENTINEL", "CKQUORUM", self.name)
                except RedisError as error:
                    flags[address] = str(error)
        for name in self.addresses:
            with contextlib.suppress(OSError, RedisError), self.server(name) as server:
                info[name] = server.replication()
        return View(self.name, self.addresses, told, flags, info)

    def wait_until_well(self, seconds: float, master: str = "", everyone: bool = False) -> View:
        """Return what all of them say, once nothing is wrong.

        Parameters:
            seconds: how long that may take.
            master: the host that is to have the master, where it matters.
            everyone: whether each single Sentinel has to answer.
        Errors:
            GroupError where it does not come to that.
        """
        deadline = time.monotonic() + seconds
        while True:
            view = self.look()
            problems = view.problems(everyone=everyone)
            if not problems and master not in ("", view.master):
                problems = [f"the Sentinels say that {view.master} has the master of {self.name}, not {master}"]
            if not problems:
                return view
            if time.monotonic() >= deadline:
                raise GroupError("; ".join(problems))
            time.sleep(0.3)

    def tidy(self) -> None:
        """Set back the priority that a switchover which was cut off has left."""
        for name in self.addresses:
            with contextlib.suppress(OSError), self.server(name) as server:
                if server.pairs("CONFIG", "GET", "replica-priority").get("replica-priority") == str(CHOSEN):
                    server.call("CONFIG", "SET", "replica-priority", USUAL)

    def hand_over(self, to: str = "") -> tuple[str, float]:
        """Have a replica be the master.

        Parameters:
            to: its host; whichever has most of the data where none is named.
        Returns:
            The host that has the master now, and the seconds for which writes waited.
        Errors:
            GroupError where that cannot be, or did not happen. Writes wait no longer then.
        """
        self.tidy()
        view = self.look()
        old = view.master
        candidate = to or view.best()
        if problems := view.problems():
            raise GroupError("; ".join(problems))
        if not candidate or not view.follows(candidate):
            raise GroupError(f"{candidate or 'no host'} has a replica of {self.name}; choose one that follows {old}")
        watching = next(address for address, master in view.told.items() if master)
        with (
            self.sentinel(watching) as sentinel,
            self._preferred(candidate, sentinel) if to and len(self.addresses) > 2 else contextlib.nullcontext(),
        ):
            start = time.monotonic()
            new = self._move(sentinel, old, candidate)
            seconds = time.monotonic() - start
        self.wait_until_well(60, master=new)
        if to and new != to:
            raise GroupError(f"Sentinel made {new} the master of {self.name} instead of {to}; run it again")
        return new, seconds

    def replication(self, name: str) -> dict[str, str]:
        """Return the replication of a host's instance; empty where it does not answer.

        Each time on a connection of its own: Sentinel ends all connections of an instance that gets another role.
        """
        with contextlib.suppress(OSError, RedisError), self.server(name) as server:
            return server.replication()
        return {}

    @contextlib.contextmanager
    def _preferred(self, name: str, sentinel: Redis) -> Iterator[None]:
        """Have Sentinel prefer a replica while the block lasts."""
        with self.server(name) as replica:
            before = replica.pairs("CONFIG", "GET", "replica-priority")["replica-priority"]
            replica.call("CONFIG", "SET", "replica-priority", CHOSEN)
        try:

            def is_known() -> bool:
                shown = [to_pairs(each) for each in sentinel.call("SENTINEL", "REPLICAS", self.name)]
                return any(
                    each["ip"] == self.addresses[name] and each["slave-priority"] == str(CHOSEN) for each in shown
                )

            if not wait(is_known, PRIORITY_SECONDS):
                raise GroupError(f"Sentinel does not hear that {name} is preferred; look into its log")
            yield
        finally:
            with self.server(name) as replica:
                replica.call("CONFIG", "SET", "replica-priority", before)

    def _move(self, sentinel: Redis, old: str, candidate: str) -> str:
        """Have Sentinel promote a replica while the master's writes wait, and the old master follow it."""
        others = [name for name in self.addresses if name != old]
        ordered = follows = False
        with self.server(old) as master:
            master.call("CLIENT", "PAUSE", PAUSE_MILLISECONDS, "WRITE")
            # What it wrote before the pause has to be there.
            written = int(master.replication()["master_repl_offset"])
        try:
            if not wait(
                lambda: int(self.replication(candidate).get("slave_repl_offset", -1)) >= written, CATCH_UP_SECONDS
            ):
                raise GroupError(
                    f"{self.name} on {candidate} does not catch up with {old}; try it again with less load"
                )
            try:
                sentinel.call("SENTINEL", "FAILOVER", self.name)
            except RedisError as error:
                raise GroupError(f"Sentinel does not fail {self.name} over: {error}") from error
            ordered = True
            promoted: list[str] = []

            def is_promoted() -> bool:
                promoted.extend(name for name in others if self.replication(name).get("role") == "master")
                return bool(promoted)

            if not wait(is_promoted, PROMOTE_SECONDS):
                raise GroupError(f"Sentinel promoted no replica of {self.name} in time; look into its log")
            new = promoted[0]
            with self.server(old) as master:
                self._demote(master, self.addresses[new])
            demoted = time.monotonic()
            follows = True
            if not wait(lambda: has_replica(self.replication(new)), PROMOTE_SECONDS):
                raise GroupError(f"{self.name} on {new} has no replica yet; look into the log of {old}")
            time.sleep(max(0.0, demoted + NOTICE_SECONDS - time.monotonic()))
            return new
        finally:
            # A replica that is promoted later than expected would not get what was written here: then the pause ends
            # by itself.
            if follows or not ordered:
                with self.server(old) as master:
                    if follows:
                        # What still waits here would be told that a replica takes no writes.
                        master.transaction(*kills(master))
                    master.call("CLIENT", "UNPAUSE")

    def _demote(self, server: Redis, address: str) -> None:
        """Have the old master follow the new one, and its clients connect anew; it keeps their writes waiting."""
        server.transaction(*kills(server), ("REPLICAOF", address, self.port), ("CONFIG", "REWRITE"))


def kills(server: Redis) -> list[tuple[str, ...]]:
    """Return the commands that end the connections of services to a server."""
    return [("CLIENT", "KILL", "USER", user) for user in server.call("ACL", "USERS") if user not in OWN_USERS]


def has_replica(replication: Mapping[str, str]) -> bool:
    """Return whether a master sends all that it writes to a replica."""
    return any(name.startswith("slave") and ",state=online," in value for name, value in replication.items())


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, and return whether it does in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
