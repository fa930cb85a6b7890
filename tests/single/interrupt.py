"""Runs of site.yml that are killed at random points: the controller dies, the host is left as it is."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence

import lab

# One figure decides all points; a run that found something can be repeated with it.
SEED = int(os.environ.get("INTERRUPT_SEED") or random.SystemRandom().randrange(1_000_000))
# How many runs are killed, in each of two tests. CI has little time, and other points each time; ask for more here.
KILLS = int(os.environ.get("INTERRUPT_KILLS") or 2)


def playbook_command(*words: str) -> list[str]:
    """Return the words of a run of ansible-playbook on the scenario's inventory."""
    return [str(lab.ROOT / ".venv/bin/ansible-playbook"), f"--inventory={lab.INVENTORY}", *words]


def by_mitogen(command: Sequence[str]) -> list[str]:
    """Return a run's command as `MITOGEN=1` makes it; what is killed on the host then dies with the controller."""
    return ["env", "ANSIBLE_STRATEGY=mitogen_linear", *command]


def started(command: Sequence[str]) -> subprocess.Popen:
    """Start a run and return it; it prints into a pipe."""
    return subprocess.Popen(
        command,
        cwd=lab.ROOT,
        env=lab.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def complete_run(command: Sequence[str]) -> str:
    """Let a run come to its end and return what it printed; AssertionError where it fails."""
    with started(command) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said[-4000:]
    return said


def console(host: str, command: str) -> None:
    """Run a shell command on a host as one does at its console, when SSH is no way to it."""
    subprocess.run([lab.ROOT / "molecule/lab/podman", "exec", host, "sh", "-c", command], check=True)


def killed_run(command: Sequence[str], tasks: int, pause: float) -> int:
    """Start a run, kill it, and return 0; where it came to its end before, return how many tasks it had.

    Parameters:
        command: ansible-playbook and its words.
        tasks: it is killed within the task of this number.
        pause: seconds between that task's beginning and the kill.

    AssertionError where the run failed by itself: what the one before it left was in its way.
    """
    process = started(command)
    begun, said = 0, []
    for line in process.stdout:
        said.append(line)
        begun += line.startswith("TASK [")
        if begun == tasks:
            time.sleep(pause)
            break
    if begun < tasks:
        process.wait()
    ended = process.poll() is not None
    if not ended:
        lab.kill_family(process.pid)
    process.stdout.close()
    code = process.wait()
    assert not ended or code == 0, f"a run failed by itself:\n{''.join(said[-60:])}"
    return begun if ended else 0


def interrupted_runs(kills: int, command: Callable[[int], Sequence[str]], tasks: int, seed: int) -> list[str]:
    """Kill runs one after the other, and return where each died, a line each.

    Parameters:
        kills: how many.
        command: the words of a run, by its number from 0.
        tasks: how many tasks a whole run has; the points are spread over all of them.
        seed: what decides the points.
    """
    chance = random.Random(seed)  # noqa: S311 (no secret)
    # One point in each of equal parts of a run, in random order over the runs: no part is left out.
    parts = chance.sample(range(kills), kills)
    died = []
    while len(died) < kills:
        width = tasks / kills
        point = max(1, int((parts[len(died)] + chance.random()) * width))
        pause = chance.random() * 1.5
        whole = killed_run(command(len(died)), point, pause)
        if whole:
            tasks = whole
        else:
            died.append(f"run {len(died) + 1} was killed {pause:.2f} s into task {point} of about {tasks}")
            print(died[-1], flush=True)
    return died
