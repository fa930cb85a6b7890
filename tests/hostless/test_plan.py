"""The report of `make plan`: of real runs of ansible-playbook in check mode, on this machine, in folders of tests."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from landscape import ROOT, VAULT_KEY, VAULT_SERVICES

sys.path.append(str(ROOT / "plugins/callback"))
plan = importlib.import_module("plan")

ANSIBLE = str(Path(sys.executable).parent / "ansible-playbook")
PLAY = {"hosts": "all", "gather_facts": False}

# Answers as systemctl does of a unit that runs, enabled, since long ago.
SYSTEMCTL = """#!/bin/sh
case "$1" in
  show) printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\nNeedDaemonReload=no\\n'
        printf 'InvocationID=i1\\nActiveEnterTimestamp=@%s\\n' "$(($(date +%s) + 60))" ;;
  *) echo "was told to $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def run(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that plans plays on hosts that are all this machine, and returns what was printed."""

    def run(
        plays: list[dict], hosts: dict[str, dict] | None = None, *options: str, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "site.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "d": str(tmp_path / "d")}
        (tmp_path / "d").mkdir(exist_ok=True)
        inventory = {
            "app": {"hosts": {host: local | given for host, given in (hosts or {"app1": {}}).items()}},
        }
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
        return subprocess.run(
            [ANSIBLE, "-i", tmp_path / "hosts.yml", *(["--check", "--diff"] if check else []), *options,
             tmp_path / "site.yml"],
            env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "plan", "ANSIBLE_ROLES_PATH": f"{tmp_path}/roles"} | variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def task(title: str, action: str, /, **arguments: object) -> dict:
    """Return a task; keywords of the task itself end with an underscore."""
    own = {key.rstrip("_"): value for key, value in arguments.items() if key.endswith("_")}
    return {"name": title, action: {k: v for k, v in arguments.items() if not k.endswith("_")}} | own


def write(title: str, path: str, content: str, **more: object) -> dict:
    """Return a task that writes a file."""
    return task(title, "ansible.builtin.copy", dest=path, content=content, mode="0644", **more)


def report(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the report's lines, without those that say what is looked at."""
    return [line for line in done.stdout.splitlines() if not line.startswith("...") and line]


def test_what_would_change_is_told_host_by_host(run, tmp_path):
    tasks = [
        task("Make room", "ansible.builtin.file", path="{{ d }}/new", state="directory", mode="0755"),
        # Its directory is not there in check mode.
        write("Write into it", "{{ d }}/new/{{ inventory_hostname }}.cfg", "port 1\n"),
        write("Write the configuration", "{{ d }}/{{ item }}.cfg", "{{ item }}\n", loop_=["one", "two"]),
        write("Guard it", "{{ d }}/guarded", "g\n", when_="inventory_hostname == 'app1'"),
        task("Remove what is old", "ansible.builtin.file", path="{{ d }}/old", state="absent"),
    ]
    (tmp_path / "d").mkdir()
    for name, text in (("one.cfg", "one\n"), ("two.cfg", "zwei\n"), ("old", ""), ("guarded", "g\n")):
        (tmp_path / "d" / name).write_text(text)
        (tmp_path / "d" / name).chmod(0o644)
    (tmp_path / "d/guarded").chmod(0o600)
    done = run([PLAY | {"name": "Try", "tasks": tasks}], {"app2": {}, "app1": {}})
    d = tmp_path / "d"
    same = [
        "  Make room",
        f"    create directory {d}/new",
        "  Write into it",
        f"    create {d}/new/HOST.cfg",
        "  Write the configuration",
        f"    change {d}/two.cfg",
        "  Guard it",
        f"    change {d}/guarded: mode 0600 -> 0644",
        "  Remove what is old",
        f"    remove {d}/old",
    ]
    assert done.stdout.startswith("... Try\n\n")
    assert report(done) == [
        "app2",
        *(line.replace("HOST", "app2") for line in same if "uard" not in line),
        "app1",
        *(line.replace("HOST", "app1") for line in same),
        "2 hosts would change. Nothing was changed.",
    ]
    assert done.returncode == 3
    assert sorted(path.name for path in d.iterdir()) == ["guarded", "old", "one.cfg", "two.cfg"]


def test_nothing_to_do_is_one_line(run, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/one.cfg").write_text("one\n")
    (tmp_path / "d/one.cfg").chmod(0o644)
    tasks = [
        write("Write the configuration", "{{ d }}/one.cfg", "one\n"),
        task("Ask", "ansible.builtin.uri", url="http://127.0.0.1:1/"),
        task("Ask systemd", "ansible.builtin.command", argv=["true"], changed_when_=False),
        task("Wait", "ansible.builtin.wait_for", timeout=60),
        task("Say", "ansible.builtin.debug", msg="a restart is yours to time", when_="inventory_hostname == 'app2'"),
    ]
    done = run([PLAY | {"tasks": tasks}], {"app1": {}, "app2": {}})
    assert report(done) == [
        "app2",
        "  note: a restart is yours to time",
        "Nothing would change on app1, app2.",
        "A run would change nothing.",
    ]
    assert done.returncode == 0


def test_no_secret_is_shown_whatever_is_asked_for(run, tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("open", "closed"):
        (tmp_path / "d" / name).write_text("0ld-s3cret\n")
    tasks = [
        write("Write what is hidden", "{{ d }}/closed", "n3w-s3cret", no_log_=True),
        write("Write both", "{{ d }}/{{ item.name }}", "{{ item.text }}", no_log_=True,
              loop_=[{"name": "x.env", "text": "s3cret-x"}, {"name": "y.env", "text": "s3cret-y"}]),
        write("Write without a diff", "{{ d }}/open", "n3w-s3cret", diff_=False),
        task("Fail with it", "ansible.builtin.command", argv=["sh", "-c", "echo s3cret >&2; exit 1"], no_log_=True,
             check_mode_=False),
        write("Show this one", "{{ d }}/shown", "shown\n"),
    ]  # fmt: skip
    done = run([PLAY | {"tasks": tasks}], None, TERRACE_PLAN_DIFF="true")
    assert "s3cret" not in done.stdout + done.stderr
    d = tmp_path / "d"
    lines = report(done)
    assert [line for line in lines if line.startswith("    ") and not line.startswith("     ")] == [
        f"    write {d}/closed",
        f"    write {d}/x.env",
        f"    write {d}/y.env",
        f"    write {d}/open",
        "    cannot be told before what stands above is done: the answer is hidden",
        f"    create {d}/shown",
    ]
    assert "        +shown" in lines


def test_a_unit_is_told_with_the_files_that_would_change_it(run, tmp_path):
    """In check mode the files are the old ones yet; the modules find nothing, and the report adds what is planned."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL)
    (tmp_path / "bin/systemctl").chmod(0o755)
    for folder, files in (("d", ["lb.cfg", "other.cfg", "mode.cfg"]), ("d/unit.d", ["terrace.conf"])):
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).write_text("same\n")
            (tmp_path / folder / file).chmod(0o644)
    (tmp_path / "d/mode.cfg").chmod(0o600)
    tasks = [
        write("Write the configuration", "{{ d }}/lb.cfg", "new\n", no_log_=True),
        write("Write the other", "{{ d }}/other.cfg", "same\n"),
        write("Write the third", "{{ d }}/mode.cfg", "same\n"),
        task("Keep it current", "systemd_current", name="haproxy@lb",
             reload_on=["{{ d }}/lb.cfg", "{{ d }}/other.cfg"]),
        task("Keep the other current", "systemd_current", name="haproxy@node", reload_on=["{{ d }}/other.cfg"]),
        # A mode is nothing that a daemon loads.
        task("Keep the third current", "systemd_current", name="third", reload_on=["{{ d }}/mode.cfg"]),
        write("Write the addition", "{{ d }}/unit.d/terrace.conf", "new\n"),
        task("Keep the first current again", "systemd_current", name="haproxy@lb", restart_on=["{{ d }}/unit.d"],
             reload_on=["{{ d }}/lb.cfg"]),
    ]  # fmt: skip
    done = run([PLAY | {"tasks": tasks}], PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    d = tmp_path / "d"
    units = [line for line in report(done) if line.startswith("    re") or "third" in line]
    assert units == [
        "  Write the third",
        f"    reload haproxy@lb ({d}/lb.cfg differs)",
        f"    restart haproxy@lb ({d}/unit.d/terrace.conf, {d}/lb.cfg differ)",
    ]


def test_a_failure_that_follows_from_what_is_planned_does_not_end_the_plan(run, tmp_path):
    fails = ["sh", "-c", "echo there is no database shop >&2; exit 1"]
    tasks = [
        task("Make room", "ansible.builtin.file", path="{{ d }}/new", state="directory", mode="0755",
             when_="inventory_hostname == 'app1'"),
        task("Give rights", "ansible.builtin.command", argv=fails, check_mode_=False, register_="rights",
             until_="rights.rc == 0", retries_=600, delay_=1),
        task("Change the cluster", "ansible.builtin.uri", url="http://127.0.0.1:1/", method="PATCH",
             changed_when_=True, when_="inventory_hostname == 'app1'"),
        write("Go on", "{{ d }}/on", ""),
    ]  # fmt: skip
    began = time.monotonic()
    done = run([PLAY | {"name": "Try", "tasks": tasks}], {"app1": {}, "app2": {}})
    assert time.monotonic() - began < 60
    d = tmp_path / "d"
    assert report(done) == [
        "app1",
        "  Make room",
        f"    create directory {d}/new",
        "  Give rights",
        "    cannot be told before what stands above is done: non-zero return code: there is no database shop",
        "  Change the cluster",
        "    would run; what it changes cannot be told before",
        "  Go on",
        f"    create {d}/on",
        "app2",
        "  Go on",
        f"    create {d}/on",
        "  NOT PLANNED: Give rights: non-zero return code: there is no database shop",
        "2 hosts would change; 1 host not planned to the end. Nothing was changed.",
    ]
    assert done.returncode == 1


def test_a_refusal_ends_a_hosts_plan(run, tmp_path):
    tasks = [
        task(
            "Refuse a small host", "ansible.builtin.assert", that="inventory_hostname != 'app1'", fail_msg="too small"
        ),
        write("Go on", "{{ d }}/on", ""),
    ]
    done = run([PLAY | {"tasks": tasks}], {"app1": {}, "app2": {}})
    assert report(done) == [
        "app1",
        "  NOT PLANNED: Refuse a small host: too small",
        "app2",
        "  Go on",
        f"    create {tmp_path}/d/on",
        "1 host would change; 1 host not planned to the end. Nothing was changed.",
    ]
    assert done.returncode == 1


def test_validation_ends_all(run):
    tasks = [task("Check", "ansible.builtin.assert", that=False, fail_msg=["one: mend it", "two"], run_once_=True)]
    done = run([PLAY | {"tasks": tasks}], {"app1": {}, "app2": {}})
    assert report(done) == ["A run would end before it touches a host:", "  one: mend it", "  two"]
    assert done.returncode == 1


def test_new_hosts_and_those_that_do_not_answer_are_left_out(run, tmp_path):
    """Their peers are planned without them, and what is delegated to a new one is done there."""
    for role in ("base", "web", "late"):
        (tmp_path / "roles" / role / "tasks").mkdir(parents=True)
        content = [write(f"Write {role}", f"{{{{ d }}}}/{role}", role)]
        (tmp_path / "roles" / role / "tasks/main.yml").write_text(yaml.safe_dump(content))
    plays = [
        PLAY | {"name": "Find", "tasks": [
            task("Look", "ansible.builtin.command", argv=["true"], changed_when_=False, check_mode_=False),
            task("Leave out", "ansible.builtin.fail", msg="app (base, web)", when_="fresh | default(false)",
                 tags_=["plan_new_host"]),
        ]},
        PLAY | {"name": "Prepare", "roles": ["base"]},
        PLAY | {"name": "Serve", "hosts": "app", "roles": ["web"], "tasks": [
            task("Run late", "ansible.builtin.include_role", name="late", loop_=[1, 2]),
            task("Ask all", "ansible.builtin.command", argv=["true"], delegate_to_="{{ item }}", loop_=["app2", "app3"],
                 ignore_unreachable_=True,
                 run_once_=True, changed_when_="true", check_mode_=False),
        ]},
    ]  # fmt: skip
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    done = run(plays, {"app1": {}, "app2": {"fresh": True}, "app3": away})
    d = tmp_path / "d"
    lines = report(done)
    assert lines[:10] == [
        "app1",
        "  base: Write base",
        f"    create {d}/base",
        "  web: Write web",
        f"    create {d}/web",
        "  late: Write late",
        f"    create {d}/late",
        "  Ask all",
        "    app2 (on app2)",
        "app2",
    ]
    assert lines[10] == "  new host: would be set up as app (base, web)"
    assert lines[11] == "app3"
    assert lines[12].startswith("  NOT PLANNED: not reached, so nothing is known of it: ")
    assert lines[13:] == [
        "1 host would change; 1 host would be set up; 1 host not planned to the end. Nothing was changed.",
    ]
    assert done.returncode == 1
    only_new = run(plays, {"app1": {"fresh": True}})
    assert report(only_new)[1:] == ["  new host: would be set up as app (base, web)", "1 host would be set up."
                                    " Nothing was changed."]  # fmt: skip
    assert only_new.returncode == 3


def test_it_refuses_to_run_in_earnest(run, tmp_path):
    done = run([PLAY | {"tasks": [write("Write", "{{ d }}/one", "")]}], check=False)
    assert done.returncode == 1
    assert "terrace: a plan is made in check mode" in done.stderr
    assert not (tmp_path / "d/one").exists()


def landscape_run(tmp_path: Path, *options: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Plan the tests' landscape of eleven hosts by the real playbook, none of which is set up."""
    secrets = {"vault_key": VAULT_KEY, "vault_services": VAULT_SERVICES}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "validate_sources": False,
             "ansible_become": False}  # fmt: skip
    return subprocess.run(
        [ANSIBLE, "-i", ROOT / "tests/hostless/data/inventory/ha", ROOT / "playbooks/plan.yml", *options,
         "--extra-vars", json.dumps(secrets | local | settings)],
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "plan"}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_landscapes_plan_of_hosts_that_are_all_new(tmp_path):
    done = landscape_run(tmp_path, "--check", "--diff")
    lines = report(done)
    hosts = [line for line in lines if not line.startswith(" ")][:-1]
    assert len(hosts) == len(set(hosts)) > 8
    said = dict(zip(hosts, lines[1::2], strict=True))
    database = next(line for host, line in said.items() if host.startswith("db"))
    assert said["lb1"] == "  new host: would be set up as loadbalancer (base, pki, haproxy, nginx, keepalived)"
    roles = "base, pki, pgbackrest, patroni, postgresql_databases, etcd"
    assert database == f"  new host: would be set up as database, etcd ({roles})"
    app = next(line for host, line in said.items() if host.startswith("app"))
    assert {"releases", "python_service", "pgbouncer"} <= set(app.split("(")[1].rstrip(")").split(", "))
    assert lines[-1] == f"{len(hosts)} hosts would be set up. Nothing was changed."
    assert done.returncode == 3


def test_the_landscapes_plan_says_what_validation_says(tmp_path):
    done = landscape_run(tmp_path, "--check", vault_services={})
    folder = ROOT / "tests/hostless/data"
    lacks = f"  {folder}/services/shop.yml: secrets: {{0}} is not in the vault; add vault_services.shop.{{0}}"
    assert report(done) == [
        "A run would end before it touches a host:",
        *(lacks.format(name) for name in ("SECRET_KEY", "TOKEN")),
    ]
    assert done.stdout.count("SECRET_KEY is not in the vault") == 1
    assert done.returncode == 1


def test_the_landscapes_plan_refuses_to_run_in_earnest(tmp_path):
    """Also without the callback: the playbook imports the one that changes things."""
    done = subprocess.run(
        [ANSIBLE, "-i", ROOT / "tests/hostless/data/inventory/single", ROOT / "playbooks/plan.yml", "--extra-vars",
         json.dumps({"ansible_connection": "local", "ansible_python_interpreter": sys.executable,
                     "ansible_become": False, "validate_sources": False, "vault_key": VAULT_KEY,
                     "vault_services": VAULT_SERVICES})],
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "A plan is made in check mode" in done.stdout
    assert "Look for the host's certificate" not in done.stdout


@pytest.mark.parametrize(
    ("answer", "planned", "told"),
    [
        ({"steps": [], "previous_release": "r1"}, [], []),
        (
            {"steps": [], "previous_release": "r1"},
            ["/etc/service.env"],
            ["orders: start the other slot, retire this one (/etc/service.env changed)"],
        ),
        ({"steps": ["start r1"], "previous_release": ""}, ["/etc/service.env"], ["orders: start r1"]),
        ({"steps": ["start green"], "reasons": ["x changed"]}, [], ["orders: start green (x changed)"]),
    ],
)
def test_a_service_restarts_through_its_other_slot_and_its_processes_after_it(answer, planned, told):
    host = plan.Host("app1", planned=dict.fromkeys(planned))
    assert host.look_ahead("service_slot", {"name": "orders", "restart_on": ["/etc/service.env"]}, answer) == told
    mailer = {"name": "svc-orders-mailer@1", "restart_on": ["/srv/terrace/orders/.live"]}
    restarts = ["restart svc-orders-mailer@1 (/srv/terrace/orders/.live differs)"] if told else []
    assert host.look_ahead("systemd_current", mailer, {"actions": [], "changed_files": []}) == restarts
