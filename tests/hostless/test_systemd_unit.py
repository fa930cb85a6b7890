"""What a unit runs on, and what follows from a difference: on real files, with what systemctl prints given."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import resource
import time
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from landscape import ROOT, load

spec = importlib.util.find_spec("ansible.module_utils.systemd_unit")
current = load("plugins/modules/systemd_current.py", "systemd_current")
Unit, UnitError = current.Unit, current.UnitError
unit_module = load("plugins/module_utils/systemd_unit.py", "systemd_unit_alone")


class Systemd:
    """Stands for `run_command` of a module: one unit, as systemctl shows it, and what it is told to do."""

    def __init__(self, **properties: str) -> None:
        self.properties = {
            "LoadState": "loaded",
            "ActiveState": "active",
            "UnitFileState": "enabled",
            "NeedDaemonReload": "no",
            "InvocationID": "i1",
            "ActiveEnterTimestamp": f"@{int(time.time()) + 5}",
        } | properties
        self.calls: list[list[str]] = []
        self.failing = ""
        self.refusing = ""

    def run_command(self, words: list[str]) -> tuple[int, str, str]:
        self.calls.append(words)
        if words[0] == "journalctl":
            return 0, "last words\n", ""
        if words[0] != "systemctl":
            return int(words[0] == self.refusing), "", ""
        if words[1] == "show":
            wanted = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
            return 0, "".join(f"{name}={self.properties[name]}\n" for name in wanted), ""
        if words[1] == self.failing:
            return 1, "", f"Job for {words[-1]} failed.\n"
        if words[1] in ("start", "restart"):
            self.properties |= {"ActiveState": "active", "InvocationID": f"after-{words[1]}"}
        if words[1] in ("enable", "disable"):
            self.properties["UnitFileState"] = f"{words[1]}d"
        if words[1] == "mask":
            self.properties["LoadState"] = "masked"
        if words[1] == "stop":
            self.properties["ActiveState"] = "inactive"
        return 0, "", ""

    @property
    def done(self) -> list[str]:
        """What systemctl was told to do, in order."""
        return [call[1] for call in self.calls if call[0] == "systemctl" and call[1] != "show"]


def test_both_ways_to_the_module_are_one_file():
    assert Path(spec.origin) == ROOT / "plugins/module_utils/systemd_unit.py"


# Files


def test_digest_of_a_file(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"content")
    assert unit_module.digest(str(file)) == hashlib.sha256(b"content").hexdigest()
    assert unit_module.digest(str(tmp_path / "b")) == "absent"


def test_digest_of_a_directory(tmp_path):
    """Contents and names count, times do not."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("1")
    digests = [unit_module.digest(str(tmp_path))]
    os.utime(tmp_path / "d/a", (1, 1))
    assert unit_module.digest(str(tmp_path)) == digests[0]
    for change in (
        lambda: (tmp_path / "d/a").write_text("2"),
        lambda: (tmp_path / "d/a").rename(tmp_path / "d/b"),
        lambda: (tmp_path / "c").write_text("2"),
        lambda: (tmp_path / "c").unlink() or (tmp_path / "d/b").unlink(),
    ):
        change()
        digests.append(unit_module.digest(str(tmp_path)))
    assert len(set(digests)) == len(digests)


def test_time_of_a_change(tmp_path):
    """Not that of the content, which a copy may bring along."""
    before = time.time() - 1
    file = tmp_path / "d/a"
    file.parent.mkdir()
    file.write_text("x")
    os.utime(file, (1, 1))
    for path in (file, file.parent, tmp_path):
        assert before < unit_module.changed_at(str(path)) <= time.time() + 1
    assert unit_module.changed_at(str(tmp_path / "b")) == 0.0


# The unit


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("etcd", "etcd.service"),
        ("etcd.service", "etcd.service"),
        ("haproxy@lb", "haproxy@lb.service"),
        ("svc-x@blue.service", "svc-x@blue.service"),
        ("svc-x-report.timer", "svc-x-report.timer"),
        ("svc-x.target", "svc-x.target"),
        ("redis@10.0.0.1", "redis@10.0.0.1.service"),
        ("init.scope", "init.scope"),
    ],
)
def test_names(tmp_path, given, name):
    assert Unit(Systemd(), given, tmp_path).name == name


def test_what_systemctl_is_asked(tmp_path):
    systemd = Systemd(InvocationID="a=b")
    assert Unit(systemd, "x", tmp_path).show("InvocationID", "LoadState") == {
        "InvocationID": "a=b",
        "LoadState": "loaded",
    }
    assert systemd.calls == [
        ["systemctl", "show", "x.service", "--timestamp=unix", "--property=InvocationID", "--property=LoadState"]
    ]


def test_a_property_that_a_unit_does_not_have(tmp_path):
    """A scope that systemd did not start has no invocation."""
    systemd = Systemd()
    systemd.run_command = lambda words: (0, "LoadState=loaded\n", "")
    unit = Unit(systemd, "init.scope", tmp_path)
    assert unit.show("InvocationID", "LoadState") == {"InvocationID": "", "LoadState": "loaded"}


def test_a_command_that_fails(tmp_path):
    systemd = Systemd()
    systemd.failing = "restart"
    unit = Unit(systemd, "x", tmp_path)
    with pytest.raises(UnitError) as raised:
        unit.systemctl("restart", "x.service")
    assert str(raised.value) == "systemctl restart x.service: Job for x.service failed."
    assert unit.systemctl("restart", "x.service", check=False) == ""
    assert unit.journal(3) == "last words"
    assert systemd.calls[-1][1:5] == ["--unit", "x.service", "--lines", "3"]


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Three files, one of which is not there."""
    (tmp_path / "etc").mkdir()
    found = {name: tmp_path / "etc" / name for name in ("a", "b", "missing")}
    found["a"].write_text("a")
    found["b"].write_text("b")
    return found


def watched(files: dict[str, Path]) -> list[str]:
    return [str(path) for path in files.values()]


def test_without_a_record_times_count(tmp_path, files):
    """Started before the files were written, in the same second, later, or never."""
    written = int(unit_module.changed_at(str(files["a"])))
    for started, changed in ((written - 1, ["a", "b"]), (written, ["a", "b"]), (written + 2, [])):
        unit = Unit(Systemd(ActiveEnterTimestamp=f"@{started}"), "x", tmp_path / "state")
        assert unit.changed_since_load(watched(files)) == [str(files[name]) for name in changed]
    unit = Unit(Systemd(ActiveEnterTimestamp=""), "x", tmp_path / "state")
    assert unit.changed_since_load(watched(files)) == watched(files)


def test_with_a_record_contents_count(tmp_path, files):
    systemd = Systemd(ActiveEnterTimestamp="@1")
    unit = Unit(systemd, "x", tmp_path / "state")
    unit.record(watched(files))
    assert unit.changed_since_load(watched(files)) == []
    files["a"].write_text("a")
    assert unit.changed_since_load(watched(files)) == []
    files["a"].write_text("other")
    assert unit.changed_since_load(watched(files)) == [str(files["a"])]
    files["missing"].write_text("now there")
    assert unit.changed_since_load(watched(files)) == [str(files["a"]), str(files["missing"])]
    files["b"].unlink()
    assert unit.changed_since_load(watched(files)) == watched(files)
    files["a"].write_text("a")
    assert unit.changed_since_load([str(files["a"])]) == []


def test_a_record_of_an_earlier_start_counts_no_more(tmp_path, files):
    unit = Unit(Systemd(), "x", tmp_path / "state")
    unit.record(watched(files))
    again = Unit(Systemd(InvocationID="i2", ActiveEnterTimestamp="@1"), "x", tmp_path / "state")
    assert again.changed_since_load([str(files["a"])]) == [str(files["a"])]


def test_a_file_that_was_not_watched_is_judged_by_the_records_time(tmp_path, files):
    unit = Unit(Systemd(), "x", tmp_path / "state")
    unit.record([])
    assert unit.changed_since_load([str(files["a"])]) == []
    record = tmp_path / "state/x.service.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"recorded": 1.0}))
    assert unit.changed_since_load([str(files["a"])]) == [str(files["a"])]


def test_a_broken_record_is_none(tmp_path, files):
    unit = Unit(Systemd(ActiveEnterTimestamp="@1"), "x", tmp_path / "state")
    unit.record(watched(files))
    (tmp_path / "state/x.service.json").write_text("{")
    assert unit.changed_since_load([str(files["a"])]) == [str(files["a"])]


def test_records(tmp_path, files):
    before = time.time()
    Unit(Systemd(), "haproxy@lb", tmp_path / "deep/state").record([str(files["a"]), str(files["missing"])])
    [record] = (tmp_path / "deep/state").iterdir()
    content = json.loads(record.read_text())
    assert record.name == "haproxy@lb.service.json"
    assert before <= content.pop("recorded") <= time.time()
    assert content == {
        "invocation": "i1",
        "files": {str(files["a"]): hashlib.sha256(b"a").hexdigest(), str(files["missing"]): "absent"},
    }


def test_a_record_that_says_the_same_is_not_written_again(tmp_path, files):
    """So a run that changes nothing needs no room on the disk, and litter of a killed one goes all the same."""
    unit = Unit(Systemd(), "x", tmp_path / "state")
    unit.record(watched(files))
    record = tmp_path / "state/x.service.json"
    before = (record.stat().st_ino, record.read_text())
    (tmp_path / "state/x.service.partial").write_text("half")
    unit.record(watched(files))
    assert (record.stat().st_ino, record.read_text()) == before
    assert list(record.parent.iterdir()) == [record]
    files["a"].write_text("new")
    unit.record(watched(files))
    assert record.read_text() != before[1]


@contextlib.contextmanager
def full_disk():
    """Within this, no file of this process can have any content. EFBIG stands for ENOSPC: both are met at a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_record_before(tmp_path, files):
    unit = Unit(Systemd(), "x", tmp_path / "state")
    unit.record(watched(files))
    record = tmp_path / "state/x.service.json"
    before = record.read_text()
    files["a"].write_text("new")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        unit.record(watched(files))
    assert (list(record.parent.iterdir()), record.read_text()) == ([record], before)
    assert unit.changed_since_load(watched(files)) == [str(files["a"])]


# What is done


@pytest.mark.parametrize(
    ("state", "enabled", "want", "restart", "reload", "actions"),
    [
        ("active", True, True, [], [], []),
        ("active", True, True, [], ["r"], ["reload"]),
        ("active", True, True, ["s"], [], ["restart"]),
        ("active", True, True, ["s"], ["r"], ["restart"]),
        ("inactive", True, True, [], [], ["start"]),
        ("failed", False, True, ["s"], ["r"], ["enable", "start"]),
        ("active", False, True, [], [], ["enable"]),
        ("active", False, True, [], ["r"], ["enable", "reload"]),
        ("active", True, False, [], [], ["disable"]),
        ("inactive", False, False, [], [], ["start"]),
        # On its way up, on files that changed meanwhile: it cannot reload yet.
        ("activating", True, True, [], [], []),
        ("activating", True, True, [], ["r"], ["restart"]),
        ("reloading", True, True, [], ["r"], ["reload"]),
    ],
)
def test_plan(state, enabled, want, restart, reload, actions):
    assert current.plan(state, enabled, want, restart, reload) == actions


def run(monkeypatch, capsys, tmp_path, systemd: Systemd, check: bool = False, **arguments) -> dict:
    """Run the module systemd_current as Ansible does, and return what it answers."""
    monkeypatch.setattr(current.AnsibleModule, "run_command", lambda self, words: systemd.run_command(words))
    monkeypatch.setattr(current, "Unit", lambda module, name: Unit(module, name, tmp_path / "state"))
    systemd.calls.clear()
    with patch_module_args({"name": "x", "_ansible_check_mode": check} | arguments), pytest.raises(SystemExit):
        current.main()
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def module(monkeypatch, capsys, tmp_path):
    return lambda systemd, **arguments: run(monkeypatch, capsys, tmp_path, systemd, **arguments)


def test_from_nothing_to_running(module, files):
    systemd = Systemd(ActiveState="inactive", UnitFileState="disabled")
    arguments = {"restart_on": [str(files["a"])], "reload_on": [str(files["b"])]}
    first = module(systemd, **arguments)
    assert (first["changed"], first["actions"], first["changed_files"]) == (True, ["enable", "start"], [])
    assert systemd.done == ["daemon-reload", "reset-failed", "enable", "start"]
    second = module(systemd, **arguments)
    assert (second["changed"], second["actions"]) == (False, [])
    assert systemd.done == []


def test_a_changed_file_is_made_up_for_once(module, files):
    systemd = Systemd()
    arguments = {"restart_on": [str(files["a"])], "reload_on": [str(files["b"])]}
    assert module(systemd, **arguments)["changed"] is False
    files["b"].write_text("new")
    result = module(systemd, **arguments)
    assert (result["actions"], result["changed_files"]) == (["reload"], [str(files["b"])])
    assert module(systemd, **arguments)["changed"] is False
    files["a"].write_text("new")
    files["b"].write_text("newer")
    result = module(systemd, **arguments)
    assert (result["actions"], result["changed_files"]) == (["restart"], [str(files["a"]), str(files["b"])])
    assert module(systemd, **arguments)["changed"] is False


def test_a_change_outlives_a_run_that_was_cut_off(module, files):
    """The file is written, the run ends before the module; the next one finds it."""
    systemd = Systemd()
    arguments = {"reload_on": [str(files["b"])]}
    module(systemd, **arguments)
    files["b"].write_text("new")
    assert module(systemd, check=True, **arguments)["actions"] == ["reload"]
    assert systemd.done == []
    assert module(systemd, check=True, **arguments)["actions"] == ["reload"]
    assert module(systemd, **arguments)["actions"] == ["reload"]


def test_a_failed_reload_is_tried_again(module, files):
    systemd = Systemd()
    arguments = {"reload_on": [str(files["b"])]}
    module(systemd, **arguments)
    files["b"].write_text("new")
    systemd.failing = "reload"
    result = module(systemd, **arguments)
    assert result["failed"] is True
    assert result["msg"] == (
        "systemctl reload x.service: Job for x.service failed.\nIts last lines in the journal:\nlast words"
    )
    systemd.failing = ""
    assert module(systemd, **arguments)["actions"] == ["reload"]


def test_what_a_full_disk_kept_from_being_recorded_is_made_up_for(module, files):
    systemd = Systemd()
    arguments = {"reload_on": [str(files["b"])]}
    module(systemd, **arguments)
    with full_disk():
        assert module(systemd, **arguments)["changed"] is False
    files["b"].write_text("new")
    with full_disk():
        result = module(systemd, **arguments)
    assert result["failed"] is True
    assert "File too large" in result["msg"]
    assert module(systemd, **arguments)["actions"] == ["reload"]
    assert module(systemd, **arguments)["changed"] is False


def test_what_must_wait_is_held_and_made_up_for(module, files):
    """The command is asked only where something is to be done, and what it held counts as not done."""
    systemd = Systemd()
    arguments = {"restart_on": [str(files["a"])], "reload_on": [str(files["b"])], "unless": ["leads", "x"]}
    module(systemd, **arguments)
    assert ["leads", "x"] not in systemd.calls
    files["b"].write_text("new")
    for check in (True, False, False):
        result = module(systemd, check=check, **arguments)
        assert (result["changed"], result["held"], result["changed_files"]) == (False, ["reload"], [])
        assert systemd.done == []
    files["a"].write_text("new")
    assert module(systemd, **arguments)["held"] == ["restart"]
    systemd.refusing = "leads"
    result = module(systemd, **arguments)
    assert (result["actions"], result["held"]) == (["restart"], [])
    assert module(systemd, **arguments)["changed"] is False


def test_what_does_not_run_is_started_whatever_would_hold_it(module):
    systemd = Systemd(ActiveState="inactive")
    assert module(systemd, unless=["leads"])["actions"] == ["start"]
    assert ["leads"] not in systemd.calls


def test_a_start_by_something_else_counts(module, files):
    """A boot or a restart by hand took the new file up already."""
    systemd = Systemd()
    arguments = {"reload_on": [str(files["b"])]}
    module(systemd, **arguments)
    files["b"].write_text("new")
    systemd.properties |= {"InvocationID": "i2", "ActiveEnterTimestamp": f"@{int(time.time()) + 5}"}
    assert module(systemd, **arguments)["changed"] is False


def test_a_unit_that_systemd_does_not_know_yet(module, files):
    systemd = Systemd(LoadState="not-found", ActiveState="inactive", UnitFileState="")
    assert module(systemd)["actions"] == ["enable", "start"]
    assert systemd.done == ["daemon-reload", "daemon-reload", "reset-failed", "enable", "start"]


def test_a_unit_file_that_systemd_has_not_read(module):
    systemd = Systemd(NeedDaemonReload="yes")
    assert module(systemd)["changed"] is False
    assert systemd.done == ["daemon-reload"]


@pytest.mark.parametrize("state", ["static", "generated", "indirect", "alias", "enabled-runtime"])
def test_units_that_need_no_enabling(module, state):
    assert module(Systemd(UnitFileState=state))["changed"] is False


def test_disabled_at_boot(module):
    systemd = Systemd()
    assert module(systemd, enabled=False)["actions"] == ["disable"]
    assert module(systemd, enabled=False)["changed"] is False


def test_systemd_itself_is_reloaded(module, files):
    """Its own configuration: nothing is enabled or started, and what a run left undone is made up for."""
    systemd = Systemd(UnitFileState="", InvocationID="", ActiveEnterTimestamp="")
    arguments = {"name": "init.scope", "reload_on": [str(files["a"])]}
    assert module(systemd, **arguments)["actions"] == ["reload"]
    assert systemd.done == ["daemon-reload"]
    assert module(systemd, **arguments)["changed"] is False
    assert systemd.done == []
    files["a"].write_text("new")
    assert module(systemd, check=True, **arguments)["changed"] is True
    assert module(systemd, **arguments)["actions"] == ["reload"]


def test_a_masked_unit(module):
    """However it came to run: after an installation that was cut off, for one."""
    systemd = Systemd()
    assert module(systemd, check=True, masked=True)["actions"] == ["mask", "stop"]
    assert systemd.done == []
    assert module(systemd, masked=True)["actions"] == ["mask", "stop"]
    assert systemd.done == ["mask", "stop"]
    assert module(systemd, masked=True)["changed"] is False
    assert module(Systemd(ActiveState="inactive"), masked=True)["actions"] == ["mask"]
