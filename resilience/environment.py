"""An environment, by way of the project's own commands: how it is reached, whether it is well, and its site.yml."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A playbook that takes longer hangs.
LONGEST = 1800


class RefusedError(Exception):
    """The harness will not do what it was asked to; the text says why, and what to do."""


@dataclass(frozen=True)
class Health:
    """What `make status` says.

    healthy: all is well. problems: what is not, a line each.
    """

    healthy: bool
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Environment:
    """An environment and what its inventory says of it.

    Parameters:
        inventory: its folder.
        state: where the harness keeps what it needs to reach it.
        described: what playbooks/describe.yml wrote down: `lab` (whether it is), `members` (name and address of the
            hosts of each group), `ports`, `virtual` (address, or ''), `engine`, `authority` (a file), `services`,
            `power_off` and `power_on` (commands, or '').
    """

    inventory: Path
    state: Path
    described: dict

    @property
    def name(self) -> str:
        """What it is called, and has to be typed to confirm."""
        return self.inventory.name

    @property
    def lab(self) -> bool:
        """Whether its hosts are the lab's containers."""
        return self.described["lab"]

    def members(self, group: str) -> list[str]:
        """Return the names of a group's hosts."""
        return [member["name"] for member in self.described["members"][group]]

    @cached_property
    def addresses(self) -> dict[str, str]:
        """The private addresses of all hosts, by name."""
        return {its["name"]: its["address"] for group in self.described["members"].values() for its in group}

    def host_at(self, address: str) -> str:
        """Return the name of the host that has an address; empty where none has."""
        return next((name for name, its in self.addresses.items() if its == address), "")

    @property
    def front(self) -> list[str]:
        """The addresses by which clients reach the services."""
        virtual = self.described["virtual"]
        return [virtual] if virtual else [self.addresses[name] for name in self.members("loadbalancer")]


def playbook(inventory: Path, *words: str, **variables: object) -> subprocess.CompletedProcess:
    """Run a playbook on an environment as the Makefile does, and return how it ended, its errors among its output.

    Parameters:
        inventory: the environment's folder.
        words: the playbook and options.
        variables: extra variables.
    """
    password = inventory / ".vault-password"
    vault = [f"--vault-password-file={password}"] if password.exists() else []
    extra = ["--extra-vars", json.dumps(variables)] if variables else []
    # Molecule asks for colours, which stand in the way of whoever reads a recap.
    mine = {name: value for name, value in os.environ.items() if name != "ANSIBLE_FORCE_COLOR"}
    return subprocess.run(
        [str(ROOT / ".venv/bin/ansible-playbook"), f"--inventory={inventory}", *vault, *words, *extra],
        cwd=ROOT,
        env=mine | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
        check=False,
    )


def describe(inventory: Path, state: Path) -> Environment:
    """Return an environment, having written down how its hosts are reached.

    Parameters:
        inventory: its folder.
        state: where to write it.
    Errors:
        RefusedError, where Ansible cannot, or where what the load needs is not there.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    done = playbook(inventory, "playbooks/describe.yml", describe_directory=str(state))
    if done.returncode:
        raise RefusedError(f"{inventory} cannot be described:\n{done.stdout}")
    described = json.loads((state / "environment.json").read_text())
    if missing := {"users", "orders"} - set(described["services"]):
        raise RefusedError(
            f"the load is made of the example services, and {inventory} does not have {' and '.join(sorted(missing))}; "
            "declare them in its group_vars/all/services.yml and run site.yml"
        )
    return Environment(inventory, state, described)


def status(environment: Environment) -> Health:
    """Return how an environment is, as `make status FORMAT=json` says: an object with `healthy` and `problems`.

    Errors:
        RefusedError, where it says something else.
    """
    done = subprocess.run(
        ["make", "--no-print-directory", "status", f"ENV={environment.inventory}", "FORMAT=json"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    try:
        said = json.loads(done.stdout[done.stdout.index("{") :])
        return Health(bool(said["healthy"]) and done.returncode == 0, [str(problem) for problem in said["problems"]])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(f"`make status FORMAT=json` does not say how it is:\n{done.stdout}{done.stderr}") from None


def site(environment: Environment) -> dict[str, int]:
    """Run site.yml and return how many tasks changed something, by host.

    Errors:
        RefusedError, where it fails.
    """
    done = playbook(environment.inventory, "site.yml")
    if done.returncode:
        raise RefusedError(f"site.yml failed:\n{done.stdout[-4000:]}")
    recap = done.stdout.rpartition("PLAY RECAP")[2]
    return {host: int(count) for host, count in re.findall(r"(?m)^(\S+)\s*:.*\bchanged=(\d+)", recap)}
