"""How many tasks a run does on each host: what counts and what does not, by a run on this machine as two hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from landscape import ROOT

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Run a loop
      ansible.builtin.command: "true"
      loop: [1, 2]
      changed_when: false
    - name: Skip
      ansible.builtin.command: "true"
      when: false
    - name: Loop over nothing
      ansible.builtin.command: "true"
      loop: []
    - name: Say something
      ansible.builtin.debug:
        msg: x
    - name: Do it on the controller
      ansible.builtin.command: "true"
      loop: [1]
      delegate_to: localhost
      changed_when: false
    - name: Do it once
      ansible.builtin.command: "true"
      run_once: true
      changed_when: false
    - name: Fail on one
      ansible.builtin.command: "false"
      when: inventory_hostname == 'b'
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> dict:
    """What the callback wrote."""
    place = tmp_path_factory.mktemp("run")
    (place / "site.yml").write_text(PLAYBOOK)
    (place / "hosts").write_text("".join(f"{n} ansible_connection=local\n" for n in ("a", "b")))
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "TERRACE_HOST_TASKS": str(place / "made/counted.json"),
    }
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        str(place / "hosts"),
        str(place / "site.yml"),
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stdout + result.stderr
    return json.loads((place / "made/counted.json").read_text())


def test_each_host_has_its_number(counted):
    assert counted["hosts"] == {"a": 2, "b": 2}


def test_tasks_are_told_in_order_with_their_hosts(counted):
    assert [(task["task"], task["hosts"]) for task in counted["tasks"]] == [
        ("Run a loop", 2),
        ("Skip", 0),
        ("Loop over nothing", 0),
        ("Say something", 0),
        ("Do it on the controller", 0),
        ("Do it once", 1),
        ("Fail on one", 1),
    ]


def test_times_add_up(counted):
    spent = sum(task["seconds"] for task in counted["tasks"])
    assert 0 < counted["tasks"][0]["seconds"] <= spent <= counted["wall_seconds"] + 0.01
