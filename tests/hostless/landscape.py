"""An inventory as site.yml sees it: Ansible's own variables, roles, loops and templates, without a host.

Only what a host would answer is made up here: its facts, and what tasks register.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import jinja2
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret
from ansible.playbook import Playbook
from ansible.playbook.block import Block
from ansible.playbook.play import Play
from ansible.playbook.role_include import IncludeRole
from ansible.playbook.task import Task
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, generate_ansible_template_vars, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from terrace.environment import Environment
from terrace.inventory import unreadable

ROOT = Path(__file__).resolve().parents[2]
VAULT_KEY = "hostless-tests-only-0123456789abcdefghijklmnop"
VAULT_SERVICES = {"shop": {"SECRET_KEY": "pa$$ \"word\" 100%\\n 'quoted'", "TOKEN": "hostless-token-7f3a"}}

# What a host of the minimal size answers, by the subset of facts that tells it.
FACTS_MINIMAL = {
    "architecture": "x86_64",
    "distribution": "Debian",
    "distribution_major_version": "13",
    "distribution_version": "13.1",
}
FACTS_HARDWARE = FACTS_MINIMAL | {"memtotal_mb": 3900, "processor_nproc": 2, "processor_vcpus": 2}
FACTS_ALL = FACTS_HARDWARE | {"virtualization_tech_guest": ["kvm"]}

# What tasks register on a host that nothing of ours was on before.
REGISTERED = {
    "__keepalived_shown": {"stdout": '[{"ifname": "eth0"}]'},
    "__etcd_data": {"stat": {"exists": False}},
    "__etcd_others": {"results": [{"stat": {"exists": False}}]},
    "__python_service_migrated": {"stat": {"exists": False}},
    "__postgresql_databases_primary": {"status": 200},
    "__redis_current": {"results": []},
    "__releases_facts": {"results": []},
}
# The one playbook whose facts are no answers of hosts: it keeps what follows from the inventory, as a run does.
KEPT = ROOT / "playbooks/landscape.yml"
RELEASE = "3f1c9a5be0d2"

init_plugin_loader()


def compile_once() -> None:
    """Have Jinja compile a template once for all hosts that it is rendered for, which takes half of the time.

    What a template is compiled to depends on its text and on the settings of its environment, not on variables.
    """
    compiled: dict[tuple, CodeType] = {}
    compile_anew = jinja2.Environment.compile

    def compile_known(self: jinja2.Environment, source: str, *words: Any, **named: Any) -> Any:
        settings = (type(self), self.trim_blocks, self.lstrip_blocks, self.block_start_string, self.undefined)
        key = (str(source), settings, words, tuple(named.items()))
        if key not in compiled:
            compiled[key] = compile_anew(self, source, *words, **named)
        return compiled[key]

    jinja2.Environment.compile = compile_known


compile_once()


def load(path: str, name: str) -> ModuleType:
    """Return a file of the project as a module; `path` is relative to the project, and needs no .py."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    # Dataclasses look their own module up.
    sys.modules[name] = module
    loader.exec_module(module)
    return module


@dataclass(frozen=True)
class File:
    """A file that a template task writes on a host."""

    host: str
    role: str
    source: Path
    path: str
    mode: str
    text: str

    def __str__(self) -> str:
        return f"{self.host}:{self.path} ({self.role}, {self.source.name})"

    @property
    def for_world(self) -> bool:
        """Whether everybody on the host may read it."""
        return bool(int(self.mode, 8) & 0o007)


@dataclass(frozen=True)
class Step:
    """A task as it meets one host, with the variables that it sees."""

    play: Play
    task: Task
    variables: Mapping[str, Any]
    loader: DataLoader

    @property
    def role(self) -> str:
        """The role that the task is of; empty for a playbook's own."""
        return self.task._role.get_name() if self.task._role else ""

    def evaluate(self, value: Any) -> Any:
        """Return a value of the task, its expressions evaluated."""
        return self._templar(self.variables).template(value)

    def _templar(self, variables: Mapping[str, Any]) -> Templar:
        return Templar(loader=self.loader, variables=variables)

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """What a role is given, of a step that checks it against the role's contract."""
        return {
            name: plain(self.evaluate(trust_as_template("{{ " + name + " }}")))
            for name in self.task.args["argument_spec"]
            if name in self.variables
        }

    def items(self) -> Iterator[Step]:
        """Return the step for each item of its loop for which its condition holds."""
        steps = [self]
        if self.task.loop is not None:
            name = self.task.loop_control.loop_var
            steps = [
                Step(self.play, self.task, {**self.variables, name: item}, self.loader)
                for item in self.evaluate(self.task.loop)
            ]
        for step in steps:
            templar = self._templar(step.variables)
            if all(templar.evaluate_conditional(condition) for condition in self.task.when):
                yield step

    def render(self, host: str) -> File:
        """Return the file of a template task, as the action plugin of Ansible renders it."""
        arguments = self.task.args
        name, path = self.evaluate(arguments["src"]), self.evaluate(arguments["dest"])
        search = [*self.task.get_search_path(), self.loader.get_basedir()]
        source = self.loader.path_dwim_relative_stack(search, "templates", name)
        variables = {
            **self.variables,
            **generate_ansible_template_vars(path=name, fullpath=source, dest_path=path),
        }
        directories = [*search, str(Path(source).parent)]
        templar = self._templar(variables).copy_with_new_env(
            searchpath=[part for d in directories for part in (f"{d}/templates", d)], available_variables=variables
        )
        text = templar.template(
            trust_as_template(Path(source).read_text()),
            escape_backslashes=False,
            overrides={"trim_blocks": True, "lstrip_blocks": False},
        )
        mode = str(self.evaluate(arguments["mode"]))
        return File(host, self.role, Path(source).resolve(), path, mode, text or "")


def problems(inventory: Path, vault: str = "", **extra: Any) -> list[str]:
    """Return what `make check` would say of an inventory: first what keeps Ansible from reading it, or else the rest.

    Parameters:
        vault, extra: as of a Landscape.
    """
    if found := unreadable(inventory):
        return [str(problem) for problem in found]
    _, manager, hostvars, loader = _ansible(inventory, extra, vault)
    groups = manager._inventory.get_groups_dict()
    return Environment(hostvars, groups, lambda path: loader.get_text_file_contents(str(path))).lines


def _ansible(
    inventory: Path, extra: Mapping[str, Any], vault: str = ""
) -> tuple[InventoryManager, VariableManager, HostVars, DataLoader]:
    """Return what Ansible makes of an inventory."""
    loader = DataLoader()
    loader.set_basedir(str(ROOT / "playbooks"))
    loader.set_vault_secrets([("default", VaultSecret(vault.encode()))] if vault else [])
    hosts = InventoryManager(loader=loader, sources=[str(inventory)])
    manager = VariableManager(loader=loader, inventory=hosts)
    extra = {"vault_key": VAULT_KEY, "vault_services": VAULT_SERVICES} | extra
    manager._extra_vars = {name: value for name, value in extra.items() if value is not None}
    return hosts, manager, HostVars(inventory=hosts, variable_manager=manager, loader=loader), loader


class Landscape:
    """An inventory, and what a playbook does on its hosts.

    Parameters:
        inventory: a folder such as inventory/lab.
        playbook: relative to the project.
        vault: the password of the inventory's encrypted files.
        extra: variables that win over all others. One that is None is left to the inventory.
    """

    def __init__(self, inventory: Path, playbook: str = "site.yml", vault: str = "", **extra: Any) -> None:
        self.playbook = ROOT / playbook
        self.inventory, self.manager, _, self.loader = _ansible(inventory, extra, vault)
        self.hosts = [host.name for host in self.inventory.get_hosts()]
        services = self.value(self.hosts[0], "topology_services | map(attribute='name')")
        registered = REGISTERED | {
            "__releases_built": {"results": [{"item": {"name": name}, "id": RELEASE} for name in services]}
        }
        for host in self.hosts:
            self.manager.set_nonpersistent_facts(host, registered)

    @functools.cached_property
    def groups(self) -> dict[str, list[str]]:
        """The inventory's groups and their hosts."""
        return self.inventory.get_groups_dict()

    def variables(self, host: str) -> dict[str, Any]:
        """Return the variables that a playbook of ours sees on a host, outside of any role."""
        self.loader.set_basedir(str(ROOT / "playbooks"))
        play = Play.load({"hosts": "all", "gather_facts": False}, variable_manager=self.manager, loader=self.loader)
        return self.manager.get_vars(play=play, host=self.inventory.get_host(host))

    def value(self, host: str, expression: str) -> Any:
        """Return what an expression is on a host, as plain data."""
        templar = Templar(loader=self.loader, variables=self.variables(host))
        return plain(templar.template(trust_as_template("{{ " + expression + " }}")))

    @functools.cached_property
    def plays(self) -> list[Play]:
        """The plays of the playbook, from first to last."""
        return Playbook.load(str(self.playbook), variable_manager=self.manager, loader=self.loader).get_plays()

    @functools.cache  # noqa: B019 (as below)
    def hosts_of(self, play: Play) -> list[str]:
        """Return the names of the hosts of a play."""
        pattern = Templar(loader=self.loader, variables=self.manager.extra_vars).template(play.hosts)
        return [host.name for host in self.inventory.get_hosts(pattern=pattern)]

    @functools.cache  # noqa: B019 (a session has a few of these, and keeps them)
    def steps(self, host: str) -> list[Step]:
        """Return every task of the playbook on a host, those of included roles and files too."""
        return list(self._steps(host))

    def _steps(self, host: str) -> Iterator[Step]:
        for play in self.plays:
            if host not in self.hosts_of(play):
                continue
            self.loader.set_basedir(play._included_path or str(self.playbook.parent))
            roles = list(play.roles)
            yield from self._walk(play, play.compile(), host)
            play.roles[:] = roles

    def _walk(self, play: Play, blocks: list[Block], host: str) -> Iterator[Step]:
        for block in blocks:
            for task in (*block.block, *block.rescue, *block.always):
                if isinstance(task, Block):
                    yield from self._walk(play, [task], host)
                else:
                    yield from self._follow(play, task, host)

    def _follow(self, play: Play, task: Task, host: str) -> Iterator[Step]:
        variables = self.manager.get_vars(play=play, host=self.inventory.get_host(host), task=task)
        variables["ansible_facts"] = self._facts(play)
        variables["ansible_play_hosts"] = self.hosts_of(play)
        variables["ansible_check_mode"] = False
        variables["ansible_search_path"] = [*task.get_search_path(), self.loader.get_basedir()]
        step = Step(play, task, variables, self.loader)
        yield step
        if task.action == "ansible.builtin.set_fact" and Path(task.get_path().rpartition(":")[0]) == KEPT:
            self.manager.set_nonpersistent_facts(host, step.evaluate(task.args))
        if task.action not in ("ansible.builtin.include_role", "ansible.builtin.include_tasks"):
            return
        for item in step.items():
            copy = task.copy(exclude_parent=True)
            copy._parent = task._parent
            if task.loop is not None:
                loop_var = task.loop_control.loop_var
                copy.vars = copy.vars | {loop_var: item.variables[loop_var]}
            if isinstance(task, IncludeRole):
                blocks, _ = copy.get_block_list(play=play, variable_manager=self.manager, loader=self.loader)
            else:
                folder = f"{task._role._role_path}/tasks" if task._role else self.loader.get_basedir()
                file = Path(folder) / task.args["_raw_params"]
                blocks = [
                    Block.load(
                        self.loader.load_from_file(str(file), trusted_as_template=True),
                        play=play,
                        parent_block=copy.build_parent_block(),
                        role=task._role,
                        task_include=copy,
                        variable_manager=self.manager,
                        loader=self.loader,
                    )
                ]
            yield from self._walk(play, blocks, host)

    @staticmethod
    def _facts(play: Play) -> dict[str, Any]:
        if not play.gather_facts:
            return {}
        return FACTS_HARDWARE if play.gather_subset == ["hardware"] else FACTS_ALL

    @staticmethod
    def _files(host: str, steps: Iterable[Step]) -> Iterator[File]:
        for step in steps:
            if step.task.action == "ansible.builtin.template":
                for item in step.items():
                    yield item.render(host)

    def files_of(self, host: str) -> Iterator[File]:
        """Return each file that a template writes on a host, and keep nothing: for inventories of many hosts."""
        return self._files(host, self._steps(host))

    def packages_of(self, host: str) -> set[str]:
        """Return the names of the packages that tasks install on a host."""
        found = set()
        for step in self._steps(host):
            if named := {"ansible.builtin.apt": "name", "packages_installed": "names"}.get(step.task.action):
                for item in step.items():
                    names = plain(item.evaluate(item.task.args[named]))
                    found |= {names} if isinstance(names, str) else set(names)
        return found

    @functools.cached_property
    def files(self) -> list[File]:
        """All files that templates write, on all hosts; what two tasks write alike is there once."""
        return list(dict.fromkeys(file for host in self.hosts for file in self._files(host, self.steps(host))))

    @functools.cached_property
    def secrets(self) -> set[str]:
        """Every secret of the environment: the passwords that roles get, and what the vault has."""
        found = {VAULT_KEY} | {value for service in VAULT_SERVICES.values() for value in service.values()}
        for host in self.hosts:
            for step in self.steps(host):
                if step.task.action == "ansible.builtin.validate_argument_spec":
                    found |= {secret for name, value in step.inputs.items() for secret in _secrets(name, value)}
        return found


def _secrets(name: str, value: Any) -> set[str]:
    if isinstance(value, dict):
        return {secret for key, part in value.items() for secret in _secrets(str(key), part)}
    if isinstance(value, list):
        return {secret for part in value for secret in _secrets(name, part)}
    if isinstance(value, str) and value:
        if re.search(r"(password|passphrase)$", name):
            return {value}
        if url := re.match(r"\w+://[^:/@]+:([^@]+)@", value):
            return {url[1]}
    return set()


def plain(value: Any) -> Any:
    """Return a value of Ansible as plain data, everything lazy in it evaluated."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
