"""Every role's contract can be read with ansible-doc, as its users do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from landscape import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def ansible_doc(*words: str) -> str:
    """Return what `ansible-doc -t role` prints; AssertionError where it fails, or complains."""
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-doc", "--type=role", *words],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "PAGER": "cat"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def documented() -> dict:
    """What is told of all roles, as data."""
    return json.loads(ansible_doc("--json", *ROLES))


def test_all_roles_are_listed():
    listed = json.loads(ansible_doc("--list", "--json"))
    assert set(ROLES) <= set(listed)
    assert [role for role in ROLES if not all(listed[role]["entry_points"].values())] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_input_is_told(documented, role):
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]
    entries = documented[role]["entry_points"]
    assert {name: set(entry["options"]) for name, entry in entries.items()} == {
        name: set(spec["options"]) for name, spec in specs.items()
    }


def test_each_reads_as_a_page():
    text = ansible_doc(*ROLES)
    assert sorted(re.findall(r"(?m)^> ROLE: \*(\w+)\* \(", text)) == ROLES
