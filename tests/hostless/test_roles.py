"""Each role keeps its contract, knows its place, and is given what it needs."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from landscape import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# What Ansible and Jinja bring along.
ALWAYS = {
    *("ansible_facts", "ansible_managed", "ansible_check_mode", "inventory_hostname", "item", "omit"),
    *("lookup", "query", "dict", "range", "undef", "now"),
}
# Keys of a task whose value is an expression, without braces.
EXPRESSIONS = {"when", "that", "until", "changed_when", "failed_when"}
FILES = {"ansible.builtin.template", "ansible.builtin.copy"}


class Anything(dict):
    """Filters or tests of any name: Ansible's are not known to Jinja, and only names of variables are looked for."""

    def get(self, name: str, default: Any = None) -> Any:
        return str


ENVIRONMENT = jinja2.Environment(autoescape=False)  # noqa: S701 (it only parses)
ENVIRONMENT.filters = ENVIRONMENT.tests = Anything()


@functools.cache
def read(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=yaml.CSafeLoader) if path.exists() else None


def entry_points(role: str) -> dict[str, dict]:
    return read(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]


def options(role: str) -> dict[str, dict]:
    """Return all inputs of a role, of whichever entry point."""
    return {name: option for entry in entry_points(role).values() for name, option in entry["options"].items()}


def nested(name: str, option: dict) -> Iterator[tuple[str, dict]]:
    """Return an input and those within it, each with its whole name."""
    yield name, option
    for key, inner in option.get("options", {}).items():
        yield from nested(f"{name}.{key}", inner)


def defaults(role: str) -> dict[str, Any]:
    return read(ROOT / "roles" / role / "defaults/main.yml") or {}


def constants(role: str) -> dict[str, Any]:
    return read(ROOT / "roles" / role / "vars/main.yml") or {}


def task_files(role: str) -> list[Path]:
    return sorted([*(ROOT / "roles" / role).glob("tasks/*.yml"), *(ROOT / "roles" / role).glob("handlers/*.yml")])


def tasks(content: list[dict]) -> Iterator[dict]:
    """Return all tasks of a file, those in blocks too; a block counts as one."""
    for task in content or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part, []))


def playbook_tasks() -> Iterator[tuple[str, dict]]:
    for path in [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("molecule/lab/*.yml")]:
        for play in read(path):
            for task in tasks(play.get("tasks", []) if isinstance(play, dict) else []):
                yield path.name, task


def role_tasks(role: str) -> Iterator[tuple[str, dict]]:
    for path in task_files(role):
        for task in tasks(read(path)):
            yield f"{role}/{path.name}", task


def every_task() -> Iterator[tuple[str, dict]]:
    yield from playbook_tasks()
    for role in ROLES:
        yield from role_tasks(role)


def expressions(value: Any, bare: bool = False) -> Iterator[str]:
    """Return the templates in a task or in variables; a condition is one without its braces."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from expressions(part, bare=key in EXPRESSIONS)
    elif isinstance(value, list):
        for part in value:
            yield from expressions(part, bare)
    elif isinstance(value, str):
        yield "{{ " + value + " }}" if bare else value


def reads(template: str) -> set[str]:
    """Return the variables that a template reads from outside."""
    return jinja2.meta.find_undeclared_variables(ENVIRONMENT.parse(template))


def test_there_are_roles():
    assert {"base", "pki", "etcd", "patroni", "pgbouncer", "redis", "haproxy", "python_service"} <= set(ROLES)


# The contract


@pytest.mark.parametrize("role", ROLES)
def test_inputs_are_the_defaults_and_what_is_required(role):
    required = {
        name
        for entry in entry_points(role).values()
        for name, option in entry["options"].items()
        if option.get("required")
    }
    assert set(options(role)) == set(defaults(role)) | required
    assert set(defaults(role)) & required == set()


@pytest.mark.parametrize("role", ROLES)
def test_inputs_are_typed_and_described_and_their_defaults_are_elsewhere(role):
    for entry, spec in entry_points(role).items():
        assert spec["short_description"], entry
        assert not spec["short_description"].endswith("."), entry
        for top, option in spec["options"].items():
            for name, inner in nested(top, option):
                assert inner.get("type"), name
                assert inner.get("description"), name
                assert "default" not in inner, name
                if inner["type"] == "list":
                    assert inner.get("elements"), name


@pytest.mark.parametrize("role", ROLES)
def test_inputs_begin_with_the_roles_name(role):
    assert [name for name in options(role) if not name.startswith(role)] == []
    assert [name for name in constants(role) if not name.startswith((f"__{role}_", f"{role}_"))] == []


@pytest.mark.parametrize("role", ROLES)
def test_required_inputs_are_shown_in_the_defaults(role):
    """Commented out, so that a reader of the defaults meets every input."""
    comments = "\n".join(
        line for line in (ROOT / "roles" / role / "defaults/main.yml").read_text().splitlines() if "#" in line
    )
    required = {name for name, option in options(role).items() if option.get("required")}
    assert sorted(name for name in required if not re.search(rf"#.*\b{name}\b", comments)) == []


@pytest.mark.parametrize("role", ROLES)
def test_readme(role):
    text = (ROOT / "roles" / role / "README.md").read_text()
    assert text.startswith(f"# {role}\n")
    assert re.search(r"(?m)^```yaml\n|^    - (hosts|role|name): ", text), "no example"
    assert len(text.splitlines()) <= 25


# The story


@pytest.mark.parametrize("role", ROLES)
def test_the_story_is_short(role):
    """About 60 lines; past ten tasks it is told in files of their own."""
    text = (ROOT / "roles" / role / "tasks/main.yml").read_text()
    assert len(text.splitlines()) <= 70
    assert len(yaml.safe_load(text)) <= 10


def test_tasks_are_named_by_what_they_do():
    """An imperative sentence; in a sub-file of a role, after the file's name."""
    wrong = []
    for place, task in every_task():
        file = Path(place).stem
        prefix = f"{file} | " if "/" in place and file != "main" else ""
        name = str(task.get("name", ""))
        plain = "block" in task and re.fullmatch(r"[A-Z].*[^.]", name)
        if not (plain or re.fullmatch(re.escape(prefix) + r"[A-Z].*[^.]", name)):
            wrong.append(f"{place}: {name!r}")
    assert wrong == []


def test_no_task_hides_a_failure():
    wrong = []
    for place, task in every_task():
        if "ignore_errors" in task or task.get("failed_when") is False or "meta" in task:
            wrong.append(f"{place}: {task.get('name')}")
        if any(module in task for module in ("ansible.builtin.shell", "ansible.builtin.raw", "shell", "raw")):
            wrong.append(f"{place}: {task.get('name')}: a shell")
        # A deploy, a restore, and a change of a secret, remembers within its run where it is, and what failed; what
        # outlives it is on the nodes. A whole run keeps what it has worked out (landscape.yml).
        remembers = ("deploy", "landscape", "restore", "rotate_service")
        if "ansible.builtin.set_fact" in task and not str(place).startswith(remembers):
            wrong.append(f"{place}: {task.get('name')}: set_fact")
    assert wrong == []


def test_files_get_a_mode():
    found = [(place, task, key) for place, task in every_task() for key in FILES & set(task)]
    assert len(found) > 10
    assert [f"{place}: {task['name']}" for place, task, key in found if "mode" not in task[key]] == []


def test_modes_are_quoted():
    """YAML reads 0644 as another number than it says."""
    wrong = []
    for path in [*ROOT.glob("roles/*/*/*.yml"), *ROOT.glob("playbooks/*.yml"), *ROOT.glob("molecule/lab/*.yml")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"^[^#]*\b(directory_)?mode: *[0-9]", line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}")
    assert wrong == []


def test_secrets_are_not_printed():
    """A task that is given a password in plain arguments says no_log; a template's is hidden from --diff."""
    wrong = []
    for place, task in every_task():
        for module, arguments in task.items():
            if "." not in module or not isinstance(arguments, dict) or task.get("no_log"):
                continue
            given = str(arguments.get("password", "")) + str(arguments.get("content", ""))
            if re.search(r"password|secret|vault", given):
                wrong.append(f"{place}: {task['name']}")
    assert wrong == []


# The place


def known(role: str) -> set[str]:
    """Return the variables that a role may read: its own, and what its own tasks name."""
    names = set(options(role)) | set(constants(role)) | set(defaults(role)) | ALWAYS
    for _, task in role_tasks(role):
        names |= set(task.get("vars", {}))
        names |= {task[key] for key in ("register",) if key in task}
        names |= {task["loop_control"][key] for key in ("loop_var", "index_var") if key in task.get("loop_control", {})}
    return names


def test_what_a_task_reads_is_found():
    task = {"when": "a in groups", "m": {"x": ["{{ hostvars[b] | f(c) is t }}", "plain d"]}, "loop": "{{ e }}"}
    assert {name for template in expressions(task) for name in reads(template)} == {"a", "groups", "hostvars", *"bce"}
    assert reads("{% for x in y %}{{ x.z }}{{ w }}{% endfor %}") == {"y", "w"}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_nothing_but_its_own(role):
    """No groups, no hostvars, no topology, nothing of another role."""
    allowed = known(role)
    wrong = []
    for place, task in role_tasks(role):
        own = {key: value for key, value in task.items() if key not in ("block", "rescue", "always")}
        for template in expressions(own):
            wrong += [f"{place}: {name}" for name in reads(template) - allowed]
    for kind in ("defaults", "vars"):
        for template in expressions(read(ROOT / "roles" / role / kind / "main.yml")):
            wrong += [f"{role}/{kind}: {name}" for name in reads(template) - allowed]
    for path in (ROOT / "roles" / role).glob("templates/**/*.j2"):
        wrong += [f"{role}/{path.name}: {name}" for name in reads(path.read_text()) - allowed]
    assert sorted(wrong) == []


@pytest.mark.parametrize("role", ROLES)
def test_registers_and_constants_are_private(role):
    assert [
        task["register"]
        for _, task in role_tasks(role)
        if not task.get("register", f"__{role}_").startswith(f"__{role}_")
    ] == []


def test_groups_are_read_in_one_file():
    wrong = []
    for path in [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/**/*.yml"), *ROOT.glob("templates/*")]:
        # A deploy asks each node what became of it; validation says how many hosts there are; nodes with something to
        # restart are grouped while a play runs.
        if path.name in ("topology.yml", "deploy.yml", "deploy_switch.yml"):
            continue
        for template in expressions(read(path) if path.suffix == ".yml" else path.read_text()):
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in reads(template) & {"groups", "hostvars"}]
    assert sorted(wrong) == ["playbooks/app.yml: groups", "playbooks/validate.yml: groups"]


def test_nothing_is_derived_from_facts_outside_of_roles():
    for file in ("topology", "wiring"):
        content = read(ROOT / f"playbooks/group_vars/all/{file}.yml")
        found = {variable for template in expressions(content) for variable in reads(template)}
        assert {variable for variable in found if variable.startswith("ansible_")} <= {
            "ansible_host",
            "ansible_play_hosts",
        }


def test_templates_keep_their_form():
    """Statements begin in the first column, and computation is elsewhere."""
    wrong = []
    for path in [*ROOT.glob("roles/*/templates/**/*.j2"), *ROOT.glob("templates/*.j2")]:
        text = path.read_text()
        wrong += [f"{path.relative_to(ROOT)}: {m}" for m in re.findall(r"(?m)^[ \t]+\{%.*", text)]
        wrong += [f"{path.relative_to(ROOT)}: {m}" for m in re.findall(r"\{%-? *set\b.*", text)]
    assert wrong == []


# The wiring


def wired() -> dict[str, Any]:
    return read(ROOT / "playbooks/group_vars/all/wiring.yml")


def test_wiring_sets_inputs_of_roles():
    known_inputs = {name for role in ROLES for name in options(role)}
    assert sorted(set(wired()) - known_inputs) == []


def test_topology_defines_topology():
    content = read(ROOT / "playbooks/group_vars/all/topology.yml")
    assert [name for name in content if not name.startswith("topology_")] == []


def test_wiring_reads_what_there_is():
    """What topology and a deploy derive, other inputs, the environment's own names, what a loop or a role leaves."""
    topology = {name for file in ("topology", "deploy") for name in read(ROOT / f"playbooks/group_vars/all/{file}.yml")}
    environment = {
        "vault_key",
        "vault_services",
        "backup_repository",
        "cache_memory_mb",
        "queue_memory_mb",
        "host_memory_mb",
        "host_cpus",
    }
    magic = {"inventory_hostname", "ansible_host", "group_names", "ansible_play_hosts", "dict"}
    left = {"service", "releases_plan"}
    found = {variable for template in expressions(wired()) for variable in reads(template)}
    assert sorted(found - topology - set(wired()) - environment - magic - left) == []


def test_roles_are_given_what_they_require(landscape):
    """Each role's contract, checked by Ansible's own validator with the values that each host would bring."""
    checked = set()
    for host in landscape.hosts:
        for step in landscape.steps(host):
            if step.task.action != "ansible.builtin.validate_argument_spec":
                continue
            result = ArgumentSpecValidator(step.task.args["argument_spec"]).validate(step.inputs)
            assert result.error_messages == [], (host, step.role)
            checked.add(step.role)
    # Where backups are in a store, no host keeps snapshots of Redis.
    assert checked == set(ROLES) - (set() if landscape.groups.get("backup") else {"redis_backup"})


def test_a_role_without_an_input_is_refused(single):
    """That the test above can fail."""
    step = next(step for step in single.steps("solo") if step.role == "etcd")
    inputs = {name: value for name, value in step.inputs.items() if name != "etcd_members"} | {"etcd_peer_port": "x"}
    messages = ArgumentSpecValidator(step.task.args["argument_spec"]).validate(inputs).error_messages
    assert len(messages) == 2
    assert "missing required arguments: etcd_members" in messages


def test_what_a_run_keeps_of_the_landscape_is_what_topology_says():
    [play] = yaml.safe_load((ROOT / "playbooks/landscape.yml").read_text())
    [task] = play["tasks"]
    kept = task["ansible.builtin.set_fact"]
    declared = yaml.safe_load((ROOT / "playbooks/group_vars/all/topology.yml").read_text())
    assert kept == {name: "{{ " + name + " }}" for name in kept}
    assert set(kept) <= set(declared)
