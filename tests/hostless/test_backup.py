"""What pgBackRest is told."""

from __future__ import annotations

import json
import subprocess

import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils import pgbackrest

from landscape import load
from terrace import backups

facts = load("plugins/modules/backup_facts.py", "backup_facts")
settings = load("plugins/filter/backup.py", "filter_backup")
STORE = {"endpoint": "s3.example.com", "bucket": "b", "region": "r", "key": "k", "secret": "s"}


def test_a_directory():
    assert settings.backup_repository({"path": "/mnt"}) == {"repo1-type": "posix", "repo1-path": "/mnt"}


def test_a_store_and_what_it_may_be_told():
    found = settings.backup_repository({"s3": STORE | {"uri_style": "path", "path": "/mine", "port": 9000}})
    assert found["repo1-storage-port"] == "9000"
    assert found["repo1-s3-key-secret"] == "s"
    assert found["repo1-s3-uri-style"] == "path"
    assert found["repo1-path"] == "/mine"
    assert "repo1-storage-ca-file" not in found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "either path or s3"),
        ({"path": "/mnt", "s3": STORE}, "either path or s3"),
        ({"s3": {**STORE, "secret": ""}}, "secret is missing"),
        ({"s3": None}, "bucket, endpoint, key, region, secret is missing"),
        ({"s3": STORE | {"regoin": "x"}}, "regoin is not known; known are bucket,"),
    ],
)
def test_what_is_refused(given, said):
    with pytest.raises(AnsibleFilterError, match=said):
        settings.backup_repository(given)


def test_a_kind_of_backup_that_there_is_not():
    with pytest.raises(AnsibleFilterError, match="there is no kind daily; known are full, diff, incr"):
        settings.backup_timers({"daily": "01:30"})


def test_a_time_that_is_empty_is_never():
    assert [timer["name"] for timer in settings.backup_timers({"full": "Sun 01:30", "incr": ""})] == [
        "terrace-backup@full.timer"
    ]


# What there is


def taken(label: str, kind: str, end: int, **other) -> dict:
    """Return a backup as pgBackRest 2.55 tells of it."""
    return {
        "archive": {"start": "000000010000000000000003", "stop": "000000010000000000000004"},
        "error": False,
        "info": {
            "size": 31457280,
            "delta": 31457280,
            "repository": {"size": 4194304, "delta": 4194304, "size-map": 100, "delta-map": 100},
        },
        "label": label,
        "prior": None,
        "reference": None,
        "timestamp": {"start": end - 12, "stop": end},
        "type": kind,
    } | other


def told(*given: dict, code: int = 0, message: str = "ok") -> str:
    """Return what `pgbackrest info` prints."""
    archive = {
        "database": {"id": 1},
        "id": "17-1",
        "max": "000000010000000000000009",
        "min": "000000010000000000000001",
    }
    lock = {"backup": {"held": False}, "restore": {"held": False}}
    return json.dumps(
        [
            {
                "archive": [archive],
                "backup": list(given),
                "cipher": "aes-256-cbc",
                "db": [{"id": 1, "repo-key": 1, "system-id": 7, "version": "17"}],
                "name": "terrace",
                "status": {"code": code, "lock": lock, "message": message},
            }
        ]
    )


def test_a_repository_with_backups():
    labels = ["20261101-013000F", "20261101-013000F_20261102-013000D"]
    found = pgbackrest.parse_info(
        told(taken(labels[0], "full", 1_793_496_612), taken(labels[1], "diff", 1_793_583_000))
    )
    assert (found["wrong"], found["known"], found["taking"]) == ("", True, False)
    assert [its["label"] for its in found["backups"]] == labels
    assert found["backups"][0]["begin"] == 1_793_496_600
    assert found["archive"] == {"17-1": {"min": "000000010000000000000001", "max": "000000010000000000000009"}}


def test_a_repository_without_backups_and_one_without_the_cluster():
    assert pgbackrest.parse_info(told(code=2, message="no valid backups"))["wrong"] == ""
    missing = pgbackrest.parse_info(
        '[{"backup":[],"db":[],"name":"terrace","status":{"code":1,"message":"missing stanza path"}}]'
    )
    assert (missing["wrong"], missing["known"]) == ("missing stanza path", False)
    assert not pgbackrest.parse_info("[]")["known"]


@pytest.mark.parametrize("quoted", ["", ": \x03\x1f{f\ufffd\ttt"])
def test_a_repository_that_was_written_with_another_key(quoted):
    """As pgBackRest 2.55 says it, which quotes bytes as they are."""
    of_repository = (
        "[FormatError] unable to load info file '/var/lib/pgbackrest/backup/terrace/backup.info' or "
        "'/var/lib/pgbackrest/backup/terrace/backup.info.copy':\nFormatError: key/value found outside of section at "
        "line 1QUOTED"
    )
    told = [{"archive": [], "backup": [], "name": "terrace", "status": {"code": 99, "message": "other"}}]
    told[0]["repo"] = [{"key": 1, "status": {"code": 99, "message": of_repository}}]
    found = pgbackrest.parse_info(json.dumps(told).replace("QUOTED", quoted))
    assert found["known"]
    assert "vault_key is not the one" in found["wrong"]
    told[0]["repo"][0]["status"]["message"] = "[FileOpenError] unable to open file 'x': [13] Permission denied\nHINT: y"
    assert pgbackrest.parse_info(json.dumps(told))["wrong"].startswith("other: [FileOpenError] unable to open file 'x'")


def files(*segments: str) -> dict[str, float]:
    """Return files of WAL as a repository has them, that came some minutes before the time 1000."""
    return {f"{segment}-{number:040x}.zst": 500 + number for number, segment in enumerate(segments)}


FIRST = "0000000300000000000000FE"


@pytest.mark.parametrize(
    ("there", "missing_after"),
    [
        (files(), ""),
        (files(FIRST, "0000000300000000000000FF", "000000030000000100000000"), ""),
        (files("0000000300000000000000F0", FIRST), ""),
        (files(FIRST, "000000030000000100000000"), FIRST),
        # The beginning of another timeline is within the last file of the one before, which is not full.
        (files(FIRST, "0000000400000000000000FF", "000000040000000100000000"), ""),
        (files(FIRST, "0000000300000000000000FF", "0000000400000000000000FF"), ""),
        (files(FIRST, "000000040000000100000000"), FIRST),
        (files(FIRST, "0000000400000000000000FF", "000000040000000100000003"), "0000000400000000000000FF"),
        # It was restored to a time before.
        (files(FIRST, "0000000300000000000000FF", "0000000400000000000000F0", "0000000400000000000000F1"), ""),
        # What is no file of WAL.
        (files(FIRST) | {"00000004.history": 900, "0000000300000000000000FF.partial-x.zst": 900}, ""),
    ],
)
def test_what_wal_is_missing(there, missing_after):
    assert pgbackrest.missing_wal(there, FIRST, 1000) == missing_after


def test_wal_that_came_before_its_turn_is_no_sign_of_a_gap():
    there = files(FIRST) | {"000000030000000100000000-x.zst": 990}
    assert pgbackrest.missing_wal(there, FIRST, 1000) == ""
    assert pgbackrest.missing_wal(there, FIRST, 1051) == FIRST


def test_when_the_last_wal_came():
    assert (
        facts.newest(
            '{".":{"type":"path"},"a":{"size":1,"time":5,"type":"file"},"b":{"size":1,"time":9,"type":"file"}}'
        )
        == 9
    )
    assert facts.newest("{}") == 0


def test_what_is_listed():
    found = pgbackrest.parse_info(told(taken("20261101-013000F", "full", 1_793_496_612, error=True)))
    assert backups.lines(found | {"until": 1_793_500_000}, 1_793_500_060) == [
        "BACKUP            KIND  TAKEN                                TOOK  DATABASES  STORED",
        "20261101-013000F  full  2026-11-01 01:30:12+00 (57 min ago)  12 s  30.0 MB    4.0 MB  PAGES WITH ERRORS",
        "",
        "Any time can be restored, from 2026-11-01 01:30:12+00 to 2026-11-01 02:26:40+00: the last WAL came 1 min ago.",
        "The backups take 4.0 MB, without WAL.",
    ]
    assert backups.lines(found | {"backups": [], "until": 0}, 0)[0].startswith("There is no backup yet")
    assert backups.lines(found | {"wrong": "no path"}, 0) == ["pgBackRest says of the repository: no path"]


# Which backup and which timeline reach a point

restored = load("roles/pgbackrest/files/terrace-restored", "terrace_restored")


def at(hour: int, minute: int = 0) -> str:
    """Return a time of the day on which these tests play."""
    return f"2026-11-01 {hour:02}:{minute:02}:00+00"


def seconds(hour: int, minute: int = 0) -> float:
    return restored.seconds(at(hour, minute))


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Backups, most of them at odd hours; a restore at six went back to four, another at nine to half past two."""
    backups = [
        {"label": f"B{hour}", "timestamp": {"stop": seconds(hour)}, "info": {"size": hour},
         "archive": {"start": f"{lived:08X}00000000000000FE"}}
        for hour, lived in ((1, 1), (3, 1), (5, 1), (8, 2), (11, 3))
    ]  # fmt: skip
    archive = [{"max": "00000001000000000000000A"}, {"max": "0000000F0000000000000001"}]
    info = [{"backup": backups, "archive": archive}]
    history = {
        "points": [{"name": "half", "at": seconds(2, 30), "timeline": 1}],
        "restores": [
            {"at": seconds(6), "reached": seconds(4), "timeline": 1},
            {"at": seconds(9), "reached": seconds(2, 30), "timeline": 2},
        ],
    }
    monkeypatch.setattr(restored, "pgbackrest", lambda *words: json.dumps(info))
    monkeypatch.setattr(restored, "HISTORY", tmp_path / "history.json")
    monkeypatch.setattr(restored.time, "time", lambda: seconds(12))
    restored.HISTORY.write_text(json.dumps(history))
    return info


def test_the_latest_state_is_reached_from_the_last_backup(kept):
    found = restored.plan("", "", "")
    assert found["words"] == ["--set=B11", "--type=default"]
    assert (found["backup"], found["bytes"], found["reached"], found["timeline"]) == ("B11", 11, seconds(12), 15)


@pytest.mark.parametrize(
    ("when", "backup", "timeline"),
    [
        # After the last restore: what was taken between the point that it went to and it is of another timeline.
        (at(10), "B1", None),
        (at(11, 30), "B11", None),
        # Before it, and after the first one: B5 is of the timeline that the first one left.
        (at(8, 30), "B8", "current"),
        (at(7), "B3", 2),
        # Before both.
        (at(5, 30), "B5", "current"),
        (at(3, 30), "B3", "current"),
        (at(1, 30), "B1", "current"),
    ],
)
def test_a_time_is_looked_for_on_the_timeline_that_lived_then(kept, when, backup, timeline):
    words = restored.plan("", when, "")["words"]
    assert words[:3] == [f"--set={backup}", "--type=time", f"--target={when[:19]}.000000+00"]
    chosen = [word for word in words if word.startswith("--target-timeline")]
    assert chosen == ([f"--target-timeline={timeline}"] if timeline else [])
    assert words[-1] == "--target-action=promote"


def test_a_point_with_a_name_is_one_of_the_time_at_which_it_was_made(kept):
    words = restored.plan("", "", "half")["words"]
    assert words == ["--set=B1", "--type=name", "--target=half", "--target-timeline=current", "--target-action=promote"]


def test_a_backup_alone_is_what_it_was_at_its_end(kept):
    found = restored.plan("B3", "", "")
    assert found["words"] == ["--set=B3", "--type=immediate", "--target-timeline=current", "--target-action=promote"]
    assert found["reached"] == seconds(3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("", at(0, 30), ""), "cannot be reached from any backup; the first one is from 2026-11-01 01:00:00+00"),
        (("B3", at(2), ""), "cannot be reached from the backup B3"),
        (("B4", "", ""), "there is no backup B4; `make backups` lists them"),
        (("", at(13), ""), "is still to come"),
        (("", "2026-11-01 01:00:00", ""), "could be in any time zone; say which, for UTC: 2026-11-01 01:00:00"),
        (("", "noon", ""), "'noon' is no time"),
        (("", "", "full"), "there is no point full; known are half"),
    ],
)
def test_a_restore_that_cannot_be(kept, given, said):
    with pytest.raises(restored.RestoreError) as error:
        restored.plan(*given)
    assert said in str(error.value)


def test_no_backup_at_all(kept):
    kept[0]["backup"] = []
    with pytest.raises(restored.RestoreError, match="take one: make backup"):
        restored.plan("", "", "")


@pytest.mark.parametrize(
    ("backups", "tables", "answer", "problems"),
    [
        (1, "0", "f", []),
        (1, "3", "t", []),
        (1, "3", "f", ["the check of orders is not true: SELECT holds"]),
        (2, "0", "f", ["the check of orders is not true: SELECT holds"]),
        (2, "0", "t", []),
    ],
)
def test_a_services_check_counts_from_its_first_deploy_on(
    kept, monkeypatch, tmp_path, backups, tables, answer, problems
):
    """The first backup is taken before it."""
    del kept[0]["backup"][backups:]
    monkeypatch.setattr(restored, "CHECKS", tmp_path / "checks.conf")
    restored.CHECKS.write_text("[orders]\ndatabase = orders\nrole = orders_reader\nstatement = SELECT holds\n")
    monkeypatch.setattr(restored, "sql", lambda here, name, *words: tables if words[-1] == restored.TABLES else answer)
    assert restored.checked(tmp_path) == problems


def test_a_point_whose_name_is_taken_is_refused(kept):
    with pytest.raises(restored.RestoreError, match="there is a point half already; choose another name"):
        restored.remember("points", {"name": "half", "at": 1.0, "timeline": 3})
    restored.remember("restores", {"at": 2.0, "reached": 1.0, "timeline": 3})
    assert len(restored.history()["points"]) == 1
    assert len(restored.history()["restores"]) == 3


# What a new primary archives for the one before

gaps = load("roles/pgbackrest/files/terrace-archive-gaps", "terrace_archive_gaps")
# 16 MB a file, so 256 of them for each 4 GB: https://www.postgresql.org/docs/17/wal-internals.html
HISTORY = "1\t0/5000000\tno recovery target specified\n2\t1/2000028\tbefore 2026-11-01\n"


@pytest.fixture
def wal(monkeypatch, tmp_path):
    """WAL of a primary on its third timeline, of which the second one ended in the 258th file."""
    (tmp_path / "wal/archive_status").mkdir(parents=True)
    monkeypatch.setattr(gaps, "WAL", tmp_path / "wal")
    monkeypatch.setattr(gaps, "DONE", tmp_path / "done")
    (gaps.WAL / "00000003.history").write_text(HISTORY)
    kept = ["0000000200000001" + "00000000", "0000000200000001" + "00000001", "0000000200000001" + "00000002"]
    for name in [*kept, "000000030000000100000002", "000000020000000100000003.partial"]:
        (gaps.WAL / name).touch()
        (gaps.WAL / f"archive_status/{name}.done").touch()
    asked = []

    def run(*words):
        asked.append(words[0])
        if words[0] == "psql":
            return "000000030000000100000002\n"
        if words[-1] == "info":
            return json.dumps([{"archive": [{"id": "17-1"}, {"id": "17-2"}], "status": gaps.status}])
        assert words[-1].startswith("archive/terrace/17-2/")
        return json.dumps(gaps.there)

    gaps.there = {f"{kept[0]}-0123456789abcdef.zst": {}}
    gaps.status = {"code": 0, "message": "ok"}
    monkeypatch.setattr(gaps, "run", run)
    return kept, asked


def ready() -> list[str]:
    return sorted(path.name for path in gaps.WAL.glob("archive_status/*.ready"))


def test_timelines_end_where_the_history_says():
    assert gaps.ends(HISTORY) == {1: 5, 2: 258}


def test_a_new_primary_archives_what_the_repository_lacks_and_no_more(wal):
    kept, asked = wal
    assert gaps.main() == 0
    # The first is there; in the third, the timeline ended, and its rest is archived by PostgreSQL itself.
    assert ready() == [f"{kept[1]}.ready"]
    assert not (gaps.WAL / f"archive_status/{kept[1]}.done").exists()
    assert gaps.main() == 0
    assert asked.count("pgbackrest") == 2, "it looks once"


def test_a_file_that_waits_already_is_left_alone(wal):
    kept, _ = wal
    gaps.there = {}
    (gaps.WAL / f"archive_status/{kept[0]}.ready").write_text("as it was")
    gaps.main()
    assert (gaps.WAL / f"archive_status/{kept[0]}.ready").read_text() == "as it was"


def test_the_first_primary_has_nobody_before_it(wal):
    (gaps.WAL / "00000003.history").unlink()
    gaps.main()
    assert ready() == []


def test_where_the_repository_cannot_be_read_nothing_counts_as_done(wal):
    gaps.status = {"code": 99, "message": "other"}
    with pytest.raises(RuntimeError, match="not well: other"):
        gaps.main()
    assert (ready(), gaps.DONE.exists()) == ([], False)


def test_while_the_repository_is_away_nothing_counts_as_done(wal, monkeypatch):
    def away(segments):
        raise subprocess.CalledProcessError(1, "pgbackrest")

    monkeypatch.setattr(gaps, "taken", away)
    with pytest.raises(subprocess.CalledProcessError):
        gaps.main()
    assert not gaps.DONE.exists()


def test_the_newest_proof_is_that_of_whichever_host_has_it():
    noted = {"db1": {"at": 5}, "db2": {"at": 9}, "db3": None}
    hostvars = {
        name: {"backup_proof_noted": {"stdout": json.dumps(its) if its else ""}} if name != "db4" else {}
        for name, its in [*noted.items(), ("db4", None)]
    }
    assert json.loads(settings.proof_newest(["db1", "db2", "db3", "db4"], hostvars)) == {"at": 9}
    assert settings.proof_newest(["db3", "db4"], hostvars) == ""


@pytest.mark.parametrize(("age", "problems"), [(1, 0), (700, 1)])
def test_the_first_proof_may_come_before_the_first_row_of_the_marker(monkeypatch, tmp_path, age, problems):
    def sql(here, name, statement):
        assert statement != restored.MARKER
        return "f"

    monkeypatch.setattr(restored, "sql", sql)
    well = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(restored.subprocess, "run", lambda *words, **given: well)
    found = {"backup_age_seconds": age}
    assert len(restored.examine(tmp_path, found, 1000.0)) == problems
    assert (found["rows"], found["recovery_point_seconds"]) == (0, None)


SNAPSHOTS = [
    {"id": "aa11bb22cc", "short_id": "aa11bb22", "time": "2026-11-30T01:45:00.123456789Z"},
    {"id": "dd33ee44ff", "short_id": "dd33ee44", "time": "2026-11-30T02:00:00.5Z"},
]


@pytest.mark.parametrize(
    ("wanted", "found"), [("", "dd33ee44"), ("aa11bb22", "aa11bb22"), ("aa11bb22cc", "aa11bb22"), ("aa", None)]
)
def test_a_snapshot_is_the_newest_or_the_one_that_is_named(wanted, found):
    assert settings.snapshot_chosen(SNAPSHOTS, wanted).get("short_id") == found


def test_snapshots_are_told_with_their_time():
    assert settings.snapshots_told(SNAPSHOTS) == "aa11bb22 (2026-11-30 01:45:00), dd33ee44 (2026-11-30 02:00:00)"
    assert settings.snapshots_told([]) == ""
