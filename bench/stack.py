"""Commands of the project on the lab, as its users run them, and processor time of what runs there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import results

sys.path.insert(0, str(results.ROOT / "tests/fleet"))
import lab

NODE = "app1"
BALANCERS = {"haproxy": "lb1", "nginx": "lb2"}
BIN = results.ROOT / ".venv/bin"


def network() -> None:
    """End the program unless the lab's network is on this machine: nothing is ever sent elsewhere."""
    if not lab.network_is_up():
        sys.exit("bench: the lab's network is not on this machine; run `make up` first")


def engines() -> dict[str, str]:
    """Return the balancer host of each engine that is measured; ENGINES of the environment can name fewer."""
    wanted = os.environ.get("ENGINES", " ".join(BALANCERS)).split()
    if strangers := set(wanted) - set(BALANCERS):
        sys.exit(f"bench: ENGINES names {', '.join(sorted(strangers))}; known are {', '.join(BALANCERS)}")
    return {engine: BALANCERS[engine] for engine in wanted}


def ansible(*words: str, variables: dict | None = None, environment: dict[str, str] | None = None) -> tuple[float, str]:
    """Run a command of Ansible's, and end the program where it fails.

    Parameters:
        words: the command and its arguments.
        variables: extra variables.
        environment: further environment variables.
    Returns:
        How many seconds it took, and what it printed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as extra:
        json.dump(variables or {}, extra)
        extra.flush()
        start = time.monotonic()
        done = subprocess.run(
            [BIN / words[0], *words[1:], *([f"--extra-vars=@{extra.name}"] if variables else [])],
            cwd=results.ROOT,
            env=lab.environment() | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"bench: `{' '.join(words)}` failed:\n{done.stdout}")
    return time.monotonic() - start, done.stdout


def changed(shown: str) -> dict[str, int]:
    """Return how many tasks changed something, by host, from the recap that a run printed."""
    recap = shown.rpartition("PLAY RECAP")[2]
    return {host: int(count) for host, count in re.findall(r"(?m)^(\S+)\s*:.*\bchanged=(\d+)", recap)}


def load(service: str, command: str) -> float:
    """Return how many seconds a command took in a service's live release, Ansible's start included."""
    words = ("ansible-playbook", "playbooks/run.yml")
    return ansible(*words, variables={"run_service": service}, environment={"run_command": command})[0]


@contextmanager
def one_node() -> Iterator[dict[str, str]]:
    """Have each engine on a balancer of its own, with NODE alone behind it; put everything back at the end.

    The balancers also pass /healthz of users on: the route that costs a worker least.

    Returns:
        The balancer host of each engine.
    """
    services = {name: dict(own or {}) for name, own in lab.OWN.items()}
    for service in ("users", "orders"):
        services[service]["on"] = "bench"
    services["users"]["routes"] = [*lab.SERVICES["users"]["routes"], {"path": "/healthz"}]
    found = engines()
    try:
        for engine, host in found.items():
            results.say(f"{host} becomes {engine}, with {NODE} behind it")
            ansible(
                "ansible-playbook", "--inventory=inventory/lab", "--inventory=bench/one-node.yml", "site.yml",
                f"--limit={host}", variables={"services": services, "loadbalancer_engine": engine},
            )  # fmt: skip
        yield found
    finally:
        results.say("the balancers become what they were")
        ansible("ansible-playbook", "site.yml", "--limit=loadbalancer")


def processor(host: str, units: list[str]) -> dict[str, float]:
    """Return the seconds of processor time that all processes of systemd units of a host have used so far.

    Errors:
        AssertionError, where one of them runs no process.
    """
    shown = lab.Host(host).run(PROCESSOR.format(units=" ".join(units)))
    ticks, *lines = shown.splitlines()
    used = {unit: int(sum_) / int(ticks) for unit, count, sum_ in (line.split() for line in lines) if int(count)}
    assert set(used) == set(units), f"{host}: {', '.join(set(units) - set(used))} runs nothing; found {shown}"
    return used


# utime and stime of proc_pid_stat(5) are its fields 14 and 15; the second one, a name in brackets, may have spaces.
PROCESSOR = r"""getconf CLK_TCK
for unit in {units}; do
    grep -lsF "/$unit.service" /proc/[0-9]*/cgroup | sed 's/cgroup$/stat/' | xargs -r cat 2>/dev/null |
        awk -v unit="$unit" '{{ sub(/.*\) /, ""); used += $12 + $13 }} END {{ printf "%s %d %d\n", unit, NR, used }}'
done"""


def memory(host: str, unit: str) -> float:
    """Return the megabytes that all processes of a unit take, shared pages divided among those who share.

    Errors:
        AssertionError, where it runs no process.
    """
    shown = lab.Host(host).run(
        # A process may end between being found and being read.
        f'grep -lsF "/{unit}.service" /proc/[0-9]*/cgroup | sed "s/cgroup$/smaps_rollup/"'
        " | xargs cat 2>/dev/null || true"
    )
    found = [int(size) for size in re.findall(r"(?m)^Pss:\s+(\d+) kB", shown)]
    assert found, f"{host}: {unit} runs nothing"
    return sum(found) / 1024


def socket_of(service: str) -> str:
    """Return the path, on this machine, of the socket of a service's live slot on NODE.

    The host's own files are reached through one of its processes, so nothing stands between a client and the worker.
    """
    shown = subprocess.run(
        [results.ROOT / "molecule/lab/podman", "inspect", "--format={{.State.Pid}}", NODE],
        capture_output=True,
        text=True,
        check=True,
    )
    slot = lab.Host(NODE).live_slot(service)
    return existing(Path(f"/proc/{int(shown.stdout)}", "root", f"run/terrace/{service}/{slot}.sock"))


def existing(path: Path) -> str:
    """Return the path of a unix socket as text; end the program where it is none, or too long for one."""
    if not path.is_socket() or len(str(path)) > 107:
        sys.exit(f"bench: {path} is not a socket that can be connected to")
    return str(path)
