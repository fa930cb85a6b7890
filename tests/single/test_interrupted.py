"""What killed runs leave, the next one mends: the end is the same, file by file and unit by unit."""

from __future__ import annotations

import json

import state
from first_run import KEPT
from interrupt import KILLS, SEED, by_mitogen, complete_run, console, interrupted_runs, playbook_command, started

# Every daemon gets a setting that it has to take up; one service loses its background process.
CHANGED = {
    "services": {
        "users": {"workers": 1, "server": "granian", "environment": {"LOG_LEVEL": "debug"}},
        "orders": {"workers": 2, "server": "uvicorn", "timeout": {"request": 20}, "processes": {}},
        "httpbin": {"workers": 1, "routes": [{"host": "other.lab"}]},
    },
    "base_journald": {"SystemMaxUse": "1G"},
    "haproxy_maxconn": 3000,
    "haproxy_timeout_idle": "50s",
    "pgbouncer_max_clients": 1500,
    "pgbouncer_query_wait": 50,
    "patroni_slow_statement_ms": 500,
    "redis_settings": {"maxclients": 3000},
    "redis_sentinel_down_after_ms": 2000,
}


def tasks_of(output: str) -> int:
    """Return how many tasks a run began."""
    return sum(line.startswith("TASK [") for line in output.splitlines())


def test_a_first_run_that_was_killed_again_and_again_ends_as_one_that_was_not(hosts):
    """The scenario's preparation killed the first runs on this machine, and then made it anew."""
    interrupted, plain = json.loads(KEPT.read_text()), state.collect(hosts["solo1"])
    assert interrupted["problems"] == []
    assert plain["problems"] == []
    assert state.differences(interrupted, plain) == []


def test_runs_that_change_settings_and_break_off_leave_nothing_behind(hosts):
    """Runs to other settings and back are killed one after the other, and one loses its host; then one back ends.

    They run as `MITOGEN=1` has them, but every third and the one that loses its host, which are plain ones.
    """
    host = hosts["solo1"]
    before = state.collect(host)
    there, back = playbook_command("site.yml", "--extra-vars", json.dumps(CHANGED)), playbook_command("site.yml")
    tasks = tasks_of(complete_run(by_mitogen(there)))
    changed = state.collect(host)
    assert changed["problems"] == []
    assert len(state.differences(before, changed)) > len(CHANGED), "the other settings reached the machine"

    def command(number: int) -> list[str]:
        wanted = (back, there)[number % 2]
        return by_mitogen(wanted) if number % 3 else wanted

    died = interrupted_runs(KILLS, command, tasks, SEED + 1)
    lose_the_host(there)
    complete_run(by_mitogen(back))
    after = state.collect(host)
    assert after["problems"] == [], f"seed {SEED}: {died}"
    assert state.differences(before, after) == [], f"seed {SEED}: {died}"


def lose_the_host(command: list[str]) -> None:
    """Have the SSH daemon die within a run, which has to end with the host unreachable; then start it again."""
    said = []
    with started(command) as run:
        for line in run.stdout:
            said.append(line)
            if line.startswith("TASK [pgbouncer"):
                console("solo1", "systemctl stop ssh.service ssh.socket; pkill -KILL sshd; exit 0")
                break
        said += run.stdout
    console("solo1", "systemctl start ssh")
    assert run.returncode != 0
    assert "UNREACHABLE" in "".join(said)
