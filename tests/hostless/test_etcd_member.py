"""How a host without data joins etcd: what it has to do first, and what it is told."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from landscape import load

module = load("plugins/modules/etcd_member.py", "etcd_member")
URLS = {"db1": "https://10.0.0.41:2380", "db2": "https://10.0.0.42:2380", "db3": "https://10.0.0.43:2380"}


def member(name: str, url: str, **more) -> dict:
    """Return a member as `etcdctl member list` tells it; one that was never started has no name."""
    return {"ID": 10501334649042878790, "peerURLs": [url], **({"name": name} if name else {}), **more}


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ([member("db1", URLS["db1"])], ["add"]),
        # A run was cut off after it had added the member.
        ([member("db1", URLS["db1"]), member("", URLS["db2"], isLearner=True)], []),
        # The host lost its disk, or came back under another address.
        ([member("db1", URLS["db1"]), member("db2", URLS["db2"])], ["remove", "add"]),
        ([member("db1", URLS["db1"]), member("db2", "https://10.0.0.99:2380")], ["remove", "add"]),
    ],
)
def test_what_a_host_without_data_does_first(members, wanted):
    assert module.steps(members, "db2", URLS["db2"]) == wanted


def test_founders_name_each_other():
    lines = module.bootstrap("terrace", "new", URLS["db2"], URLS).splitlines()
    assert 'ETCD_INITIAL_CLUSTER_STATE="new"' in lines
    assert f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{URLS["db2"]}"' in lines
    assert f'ETCD_INITIAL_CLUSTER="{",".join(f"{name}={url}" for name, url in URLS.items())}"' in lines


@pytest.fixture
def cluster():
    """Return a cluster whose members listen, the first of them silent, and the commands that were asked."""
    asked = []

    def run_command(words, environ_update):
        asked.append(words)
        if any(word.startswith("--endpoints=https://127.0.0.41:") for word in words):
            return 1, "", "{}\ncontext deadline exceeded"
        return 0, json.dumps({"members": [member("db2", "https://127.0.0.42:2380", isLearner=True)]}), ""

    with socket.create_server(("127.0.0.41", 0)) as first:
        port = first.getsockname()[1]
        with socket.create_server(("127.0.0.43", port)):
            parameters = {
                "name": "db2",
                "members": [{"name": f"db{n}", "address": f"127.0.0.4{n}"} for n in (1, 2, 3)],
                **{"client_port": port, "peer_port": 2380},
                **{"ca_file": "ca", "certificate_file": "crt", "key_file": "key"},
            }
            yield module.Cluster(SimpleNamespace(params=parameters, run_command=run_command)), asked


def endpoints(asked: list[list[str]]) -> list[str]:
    """Return the addresses that etcdctl was to ask."""
    return [word.partition("https://")[2].partition(":")[0] for words in asked for word in words if "--endp" in word]


def test_another_member_is_asked_where_one_is_silent(cluster):
    its, asked = cluster
    assert its.mine()["isLearner"]
    assert endpoints(asked) == ["127.0.0.41", "127.0.0.43"]


def test_a_member_to_which_nobody_listens_is_not_asked(cluster):
    its, asked = cluster
    its.others = ["127.0.0.42"]
    with pytest.raises(module.SilentError, match=r"^https://127\.0\.0\.42:\d+: Connection refused$"):
        its.members()
    assert asked == []


def test_nobody_answers(cluster):
    its, _ = cluster
    its.others = its.others[:1]
    with pytest.raises(module.SilentError, match=r"^context deadline exceeded$"):
        its.members()


UNHEALTHY = "Error: etcdserver: unhealthy cluster"


def test_a_change_waits_until_the_cluster_is_healthy(cluster, monkeypatch):
    """One that has just got its vote has not been connected for long enough, and the next host comes at once."""
    its, _ = cluster
    answers = iter([(1, "", UNHEALTHY)] * 4 + [(0, "{}", "")])
    its.module.run_command = lambda words, environ_update: next(answers)
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    its.change("add", "db2", "--learner")
    assert next(answers, None) is None
    # Two members were asked each time.
    assert waited == [1, 1]


def test_a_change_that_stays_refused_is_told_by_what_the_cluster_said(cluster, monkeypatch):
    its, _ = cluster
    its.module.run_command = lambda words, environ_update: (1, "", UNHEALTHY)
    # Nobody listens there, and that is not why.
    its.others = ["127.0.0.41", "127.0.0.42"]
    monkeypatch.setattr(module, "UNHEALTHY", 0)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with pytest.raises(module.SilentError, match=rf"^{UNHEALTHY}$"):
        its.change("add", "db2", "--learner")
