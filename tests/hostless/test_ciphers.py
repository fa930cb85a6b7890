"""What the fleet's tests make of testssl.sh's findings, by what it said of real ones: as rendered, and weakened.

HAProxy and nginx as rendered, and the edge, had the same findings. Weakened, they had TLS 1.0 and OpenSSL's ciphers of
`ALL:COMPLEMENTOFALL:@SECLEVEL=0`, and nginx no TLS 1.3.
"""

from __future__ import annotations

import json

import pytest

from landscape import ROOT, load

ciphers = load("tests/fleet/ciphers.py", "fleet_ciphers")
SEEN = json.loads((ROOT / "tests/hostless/data/testssl.json").read_text())
RIGHT = SEEN["as rendered"]


def names(findings: list[dict[str, str]]) -> set[str]:
    return {line.partition(":")[0] for line in ciphers.judged(findings)}


def changed(name: str, **instead: str) -> list[dict[str, str]]:
    """Return the right findings with one of them otherwise."""
    assert name in {its["id"] for its in RIGHT}
    return [its | instead if its["id"] == name else its for its in RIGHT]


def test_what_is_rendered_is_right():
    assert ciphers.judged(RIGHT) == []


@pytest.mark.parametrize(
    ("which", "more"),
    [("weakened HAProxy", set()), ("weakened nginx", {"TLS1_3", "FS_KEMs"})],
    ids=("haproxy", "nginx"),
)
def test_what_is_weakened_is_told(which, more):
    weak = {"TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_OBSOLETED", "FS_ciphers"}
    assert names(SEEN[which]) == weak | more
    assert "TLS1: offered (deprecated)" in ciphers.judged(SEEN[which])


@pytest.mark.parametrize("name", [*ciphers.WANTED, "FS_ciphers", "FS_ECDHE_curves"])
def test_what_was_not_looked_at_is_told(name):
    assert names([its for its in RIGHT if its["id"] != name]) == {name}
    assert names(changed(name, finding="something else")) == {name}


@pytest.mark.parametrize("severity", ["WARN", "DEBUG", "MEDIUM", "HIGH", "CRITICAL", "FATAL"])
def test_what_nobody_explained_is_told(severity):
    found = [*RIGHT, {"id": "scanProblem", "severity": severity, "finding": "refused"}]
    assert ciphers.judged(found) == [f"scanProblem: {severity}: refused"]


def test_nothing_at_all_is_not_right():
    assert names([]) == {*ciphers.WANTED, "FS_ciphers", "FS_ECDHE_curves"}
