"""What an operation on PostgreSQL makes of what Patroni says: whether it may begin, and in which order it goes."""

from __future__ import annotations

import pytest
from ansible.module_utils.patroni_cluster import (
    MOST_LAG,
    Cluster,
    Member,
    cluster_problems,
    lowered,
    read_cluster,
    restart_steps,
)

from landscape import load

NAMES = ["db1", "db2", "db3"]
plan = load("plugins/modules/postgresql_plan.py", "postgresql_plan").plan
etcd_well = load("plugins/modules/etcd_well.py", "etcd_well")
late_poolers = load("plugins/modules/postgresql_step.py", "postgresql_step").late_poolers


def cluster(synchronous: str = "quorum", paused: bool = False, **changed: dict) -> Cluster:
    """Return a cluster that db1 leads and in which all is well, but for what is changed of a member."""
    own = {
        "db1": {"role": "leader", "state": "running"},
        "db2": {"role": "quorum_standby", "state": "streaming", "lag": 0},
        "db3": {"role": "quorum_standby", "state": "streaming", "lag": 0},
    }
    return Cluster(
        tuple(Member(name=name, **its | changed.get(name, {})) for name, its in own.items() if changed.get(name) != {}),
        paused,
        synchronous,
    )


def pending(**values: tuple[int, int]) -> dict:
    """Return what a member says that waits for a restart: by parameter the old and the new value."""
    return {
        "pending": True,
        "reasons": {name: {"old_value": str(old), "new_value": str(new)} for name, (old, new) in values.items()},
    }


def order(of: Cluster, want: str = "settings") -> list[str]:
    """Return the steps of a plan, in short, and that nothing stands in its way."""
    steps, problems = plan(of, want, "", NAMES)
    assert problems == []
    return [f"{step['action']} {step['member']}" for step in steps]


def test_patronis_words_are_read():
    answer = {
        "members": [
            {"name": "db1", "role": "leader", "state": "running"},
            {
                "name": "db2", "role": "sync_standby", "state": "streaming", "lag": 16, "pending_restart": True,
                "pending_restart_reason": {"wal_level": {"old_value": "replica", "new_value": "logical"}},
                "tags": {"nofailover": True},
            },
            {"name": "db3", "role": "replica", "state": "start failed", "lag": "unknown"},
        ],
        "pause": True,
    }  # fmt: skip
    found = read_cluster(answer, {"synchronous_mode": True})
    assert found.paused
    assert found.synchronous == "on"
    assert found.leader.name == "db1"
    assert [member.well for member in found.members] == [True, True, False]
    assert found.member("db2").pending
    assert found.member("db3").lag is None
    assert read_cluster({}, {"synchronous_mode": "quorum"}).synchronous == "quorum"
    assert read_cluster({}, {}).leader is None


def test_a_cluster_in_which_all_is_well():
    assert list(cluster_problems(cluster(), NAMES)) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"paused": True}, "Patroni is paused"),
        ({"db1": {"role": "replica", "state": "streaming", "lag": 0}}, "no member leads"),
        ({"db3": {}}, "db3 is no member of the cluster"),
        ({"db3": {"state": "start failed", "lag": None}}, "db3 is start failed as quorum_standby"),
        ({"db3": {"lag": 99 * MOST_LAG}}, "1584 MiB behind"),
    ],
)
def test_what_is_wrong_is_said(changed, said):
    [problem] = cluster_problems(cluster(**changed), NAMES)
    assert said in problem


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"db2": {}}, "db2 is no member of the cluster; db1, db3 are"),
        ({"db2": {"tags": {"nofailover": True}}}, "may never lead"),
        ({"db2": {"state": "running"}}, "does not follow the primary, it is running"),
        ({"db2": {"lag": MOST_LAG + 1}}, "is behind the primary, by 16 MiB"),
        ({"db2": {"lag": None}}, "nobody knows how far"),
        ({"synchronous": "on", "db2": {"role": "replica"}, "db3": {"role": "sync_standby"}}, "choose db3"),
    ],
)
def test_who_may_not_lead_is_refused(changed, said):
    steps, [problem] = plan(cluster(**changed), "switchover", "db2", NAMES)
    assert said in problem
    assert [step["candidate"] for step in steps] == ["db2"]


def test_the_best_is_synchronous_and_least_behind():
    assert cluster(db2={"lag": 5}).best() == "db3"
    assert cluster(db3={"role": "replica"}).best() == "db2"
    assert cluster(db2={"state": "starting"}, db3={"state": "starting"}).best() == ""


def test_a_switchover_to_the_leader_has_nothing_to_do():
    assert plan(cluster(), "switchover", "db1", NAMES) == ([], [])


def test_a_switchover_does_not_mind_a_third_host_that_is_down():
    assert order(cluster(db3={"state": "stopped", "lag": None}), "switchover") == ["switchover db1"]
    steps, [problem] = plan(cluster(db2={}, db3={}), "switchover", "", NAMES)
    assert problem == "there is no replica yet"
    assert len(steps) == 1


def test_what_is_not_there_is_refused():
    assert plan(cluster(), "switchover", "db9", NAMES)[1] == [
        "there is no database host db9; choose one of db1, db2, db3"
    ]
    _, [alone] = plan(cluster(db2={}, db3={}), "switchover", "", ["db1"])
    assert "make restart TIER=database" in alone


def test_all_restart_replicas_first():
    assert order(cluster(), "restart") == ["restart db2", "restart db3", "switchover db1", "restart db1"]


def test_one_member_restarts_in_its_place():
    alone = cluster(db2={}, db3={}, db1=pending(wal_level=(1, 2)))
    assert [step["action"] for step in restart_steps(alone, pending=True)] == ["restart"]
    assert plan(alone, "settings", "", ["db1"]) == ([], [])


def test_only_those_restart_that_wait_for_it():
    raised = pending(max_worker_processes=(8, 16))
    assert order(cluster()) == []
    assert order(cluster(db3=raised)) == ["restart db3"]
    assert order(cluster(db1=raised, db3=raised)) == ["restart db3", "switchover db1", "restart db1"]


def test_what_is_lowered_is_lowered_on_the_primary_first():
    less = pending(max_connections=(200, 100), shared_buffers=(1, 2))
    assert lowered(less["reasons"]) == ["max_connections"]
    assert order(cluster(db1=less, db2=less, db3=less)) == ["restart db1", "restart db2", "restart db3"]


def test_what_is_raised_at_the_same_time_is_raised_on_replicas_before():
    both = pending(max_connections=(200, 100), max_wal_senders=(10, 20))
    assert order(cluster(db1=both, db2=both, db3=both)) == [
        *("restart db2", "restart db3", "restart db1", "restart db2", "restart db3"),
    ]


def test_settings_wait_for_a_cluster_that_is_well():
    raised = pending(max_worker_processes=(8, 16))
    _, [problem] = plan(cluster(db1=raised, db3={"state": "stopped", "lag": None}), "settings", "", NAMES)
    assert "db3 is stopped" in problem


def test_poolers_that_do_not_hold_their_clients_are_named():
    assert late_poolers({"app1": {"busy": []}}) == ""
    assert late_poolers({"app2": {"error": "it ended the connection"}, "app1": {"busy": ["shop", "stock"]}}) == (
        "app1: shop, stock; app2: it ended the connection"
    )


def test_who_leads_etcd():
    def says(own: str, leader: str) -> dict:
        return {"header": {"member_id": own}, "leader": leader}

    assert etcd_well.leading({"db1": says("1", "2"), "db2": says("2", "2")}) == ("db2", [])
    assert etcd_well.leading({"db1": says("1", "2"), "db2": says("2", "2"), "db3": None}) == ("db2", ["db3"])
    assert etcd_well.leading({"db1": says("1", "2"), "db2": says("2", "1")}) == ("", ["db1", "db2"])
    assert etcd_well.leading({"db1": None}) == ("", ["db1"])
