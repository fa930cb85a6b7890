"""Redis gets another master without losing a write: what is decided from what is found, and all on real daemons."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.redis_group import CHOSEN, Group, GroupError, View
from ansible.module_utils.redis_resp import Redis, RedisError, encode, parse_info, to_pairs

HOSTS = {"cache1": "127.0.0.31", "cache2": "127.0.0.32", "cache3": "127.0.0.33"}
PORT, SENTINEL = 26479, 26579
PASSWORD, WATCHERS = "admin-of-tests", "watchers-of-tests"


def view(master: str = "cache1", **changed) -> View:
    """Return a group in which all is well, but for what is changed."""
    info = {
        name: {"role": "slave", "master_host": HOSTS[master], "master_link_status": "up", "slave_repl_offset": "9"}
        for name in HOSTS
    }
    info[master] = {"role": "master"}
    its = {"told": dict.fromkeys(HOSTS.values(), HOSTS[master]), "flags": {}, "info": info} | changed
    return View("cache", HOSTS, **its)


def test_a_group_in_which_all_is_well():
    found = view()
    assert found.problems() == []
    assert found.master == "cache1"
    assert found.best() == "cache2"


def test_the_best_replica_has_most_data_and_may_be_promoted():
    info = view().info | {"cache3": view().info["cache3"] | {"slave_repl_offset": "10"}}
    assert view(info=info).best() == "cache3"
    never = info | {"cache3": info["cache3"] | {"slave_priority": "0"}}
    assert view(info=never).best() == "cache2"
    assert view(info=info | {name: {} for name in ("cache2", "cache3")}).best() == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"told": dict.fromkeys(HOSTS.values(), "")}, "most Sentinels do not answer"),
        ({"told": {"a": HOSTS["cache1"], "b": HOSTS["cache2"], "c": ""}}, "the Sentinels do not agree on a master"),
        ({"told": {"a": "127.0.0.99", "b": "", "c": "127.0.0.99"}}, "the Sentinels do not agree on a master"),
        ({"flags": {"127.0.0.31": "s_down"}}, "says of cache: s_down"),
        ({"info": view().info | {"cache1": {}}}, "is to be the master and does not answer"),
        ({"info": view().info | {"cache1": {"role": "slave"}}}, "is to be the master and says it is a slave"),
        ({"info": view().info | {"cache3": {}}}, "cache on cache3 does not follow cache1"),
        (
            {"info": view().info | {"cache2": view().info["cache2"] | {"master_link_status": "down"}}},
            "cache on cache2 does not follow cache1",
        ),
    ],
)
def test_what_is_wrong_is_said(changed, said):
    [problem] = view(**changed).problems()
    assert said in problem


def test_a_minority_of_sentinels_may_be_away():
    told = {"a": HOSTS["cache1"], "b": HOSTS["cache1"], "c": ""}
    assert view(told=told).problems() == []
    [problem] = view(told=told).problems(everyone=True)
    assert "the Sentinels c do not answer" in problem


def test_commands_and_answers():
    assert encode("SET", "a b", 1) == b"*3\r\n$3\r\nSET\r\n$3\r\na b\r\n$1\r\n1\r\n"
    assert parse_info("# Replication\r\nrole:master\r\nslave0:ip=a,port=1\r\n") == {
        "role": "master",
        "slave0": "ip=a,port=1",
    }
    assert to_pairs(["ip", "127.0.0.1", "flags", "master"]) == {"ip": "127.0.0.1", "flags": "master"}
    assert to_pairs(None) == {}


@pytest.fixture
def answering() -> Iterator[tuple[Redis, list[bytes]]]:
    """A client, and what its server is going to answer."""
    answers: list[bytes] = [b"+OK\r\n"]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                for byte in answers.pop(0):
                    # As slowly as a network may bring it.
                    connection.sendall(bytes([byte]))

    threading.Thread(target=serve, daemon=True).start()
    with listener, Redis("127.0.0.1", listener.getsockname()[1], "secret") as client:
        yield client, answers


def test_every_kind_of_answer_is_read(answering):
    client, answers = answering
    answers += [b"*4\r\n$3\r\na\r\n\r\n:12\r\n$-1\r\n*1\r\n+x\r\n", b"*-1\r\n", b"-ERR no such thing\r\n", b"+PONG\r\n"]
    assert client.call("X") == ["a\r\n", 12, None, ["x"]]
    assert client.call("X") is None
    with pytest.raises(RedisError, match="no such thing"):
        client.call("X")
    assert client.call("PING") == "PONG", "it can be used after an error"


def test_what_speaks_another_protocol_is_refused(answering):
    client, answers = answering
    answers.append(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ConnectionAbortedError):
        client.call("PING")


# With daemons


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Iterator[Group]:
    """Three instances and three Sentinels on addresses of this machine; cache1 has the master."""
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server on this machine")
    root = tmp_path_factory.mktemp("redis")
    rules = (Path(__file__).parents[2] / "roles/redis/templates/redis.acl.j2").read_text()
    sentinel_rule = next(line for line in rules.splitlines() if line.startswith("user sentinel "))
    allowed = sentinel_rule.split("}} ", 1)[1]
    daemons = []
    for name, address in HOSTS.items():
        folder = root / name
        folder.mkdir()
        (folder / "acl").write_text(
            f"user default reset off\nuser admin on >{PASSWORD} ~* &* +@all\n"
            f"user replica on >{PASSWORD} +ping +psync +replconf\nuser sentinel on >{WATCHERS} {allowed}\n"
            f"user shop on >{PASSWORD} ~* &* +@all -@admin -@dangerous\n"
        )
        follow = "" if name == "cache1" else f"replicaof {HOSTS['cache1']} {PORT}\n"
        (folder / "redis.conf").write_text(
            f"bind {address}\nport {PORT}\ndir {folder}\naclfile {folder}/acl\nreplica-announce-ip {address}\n"
            f"masteruser replica\nmasterauth {PASSWORD}\nmin-replicas-to-write 1\nmin-replicas-max-lag 2\n"
            f"repl-diskless-sync-delay 0\nsave ''\n{follow}"
        )
        (folder / "sentinel.conf").write_text(
            f"bind {address}\nport {SENTINEL}\ndir {folder}\nrequirepass {WATCHERS}\nsentinel announce-ip {address}\n"
            f"sentinel monitor cache {HOSTS['cache1']} {PORT} 2\nsentinel auth-user cache sentinel\n"
            f"sentinel auth-pass cache {WATCHERS}\nsentinel down-after-milliseconds cache 5000\n"
            "sentinel failover-timeout cache 10000\n"
        )
        for words in (["redis.conf"], ["sentinel.conf", "--sentinel"]):
            log = (folder / f"{words[0]}.log").open("wb")
            command = ["redis-server", str(folder / words[0]), *words[1:]]
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
    made = Group("cache", PORT, HOSTS, list(HOSTS.values()), SENTINEL, PASSWORD, WATCHERS)
    try:
        made.wait_until_well(60)
        yield made
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(20)


class Writers:
    """Clients of the service that count up, each on the master as a node proxy would find it, until the block ends."""

    def __init__(self, group: Group, clients: int = 4) -> None:
        self.group, self.acknowledged, self.refused, self.worst = group, set(), [], 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _connect(self) -> Redis:
        while True:
            for address in HOSTS.values():
                with Redis(address, PORT, PASSWORD, "admin") as admin:
                    told = admin.replication()
                if told["role"] == "master" and int(told["connected_slaves"]):
                    return Redis(address, PORT, PASSWORD, "shop", timeout=15)
            time.sleep(0.1)

    def _write(self, client: int) -> None:
        connection, number = self._connect(), 0
        while not self._stop.is_set():
            number += 1
            start = time.monotonic()
            while True:
                try:
                    connection.call("SADD", f"seen-{client}", number)
                except OSError:
                    # The connection was closed, as by a proxy: the next one leads to the new master.
                    connection.close()
                    connection = self._connect()
                except RedisError as error:
                    self.refused.append(str(error))
                    break
                else:
                    self.acknowledged.add((client, number))
                    break
            self.worst = max(self.worst, time.monotonic() - start)
            time.sleep(0.01)
        connection.close()


@pytest.mark.parametrize("named", [True, False])
def test_a_switchover_loses_nothing_and_refuses_nothing(group, named):
    old = group.look().master
    # By itself Sentinel would choose the other one as well, sometimes.
    to = max(name for name in HOSTS if name != old) if named else ""
    with Writers(group) as writers:
        time.sleep(0.5)
        new, seconds = group.hand_over(to)
        time.sleep(0.5)
    found = group.wait_until_well(10, master=new)
    assert new == to or (not to and new != old)
    assert seconds < 6
    assert writers.refused == []
    assert len(writers.acknowledged) > 50
    with group.server(found.master) as master:
        kept = {(client, int(number)) for client in range(4) for number in master.call("SMEMBERS", f"seen-{client}")}
        assert writers.acknowledged <= kept
        assert master.pairs("CONFIG", "GET", "replica-priority")["replica-priority"] == "100"


def test_a_master_that_nobody_follows_stays_and_its_writes_go_on(group):
    view = group.look()
    with group.server(view.master) as master, pytest.raises(GroupError, match="choose one that follows"):
        group.hand_over(view.master)
    with group.server(view.master) as master:
        assert master.call("SET", "a", 1) == "OK"


def test_what_a_switchover_that_was_cut_off_left_is_set_back(group):
    with group.server("cache2") as server:
        server.call("CONFIG", "SET", "replica-priority", CHOSEN)
        group.tidy()
        assert server.pairs("CONFIG", "GET", "replica-priority")["replica-priority"] == "100"
