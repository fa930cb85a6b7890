"""An inventory's files: which variable is set where, and what cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace import yaml_files
from terrace.contracts import guess
from terrace.yaml_files import Problem

# What Ansible reads of group_vars and host_vars; the first that is there wins, the others are not read.
ENDINGS = ("", ".yml", ".yaml", ".json")
VAULT = "$ANSIBLE_VAULT"


class Setting(NamedTuple):
    """A variable that an inventory sets.

    file: as people know it. key: the variable with where it stands in the file. name: the variable's.
    kind: `all`, `group` or `host`, which scope names. inline: whether it is among `vars:` in hosts.yml.
    """

    file: str
    key: str
    name: str
    value: Any
    kind: str
    scope: str
    inline: bool


class Inventory:
    """What the files of an inventory's folder say.

    Parameters:
        directory: the folder with hosts.yml, group_vars and host_vars.
        text: returns the text of an encrypted file; without it such files are left out.
    """

    def __init__(self, directory: Path, text: Callable[[Path], str] | None = None) -> None:
        self.directory = directory
        self.name = yaml_files.shown(directory)
        self.problems: list[Problem] = []
        self.settings: list[Setting] = []
        self.unreadable = False
        self._text = text
        for path in sorted(directory.iterdir()):
            if path.suffix in (".yml", ".yaml") and path.is_file() and not path.name.startswith("."):
                self._hosts(path)
        for kind in ("group", "host"):
            for path in self._own_files(kind):
                self._variables(path, kind)

    @property
    def hosts_file(self) -> str:
        """The file that lists the hosts, as people know it."""
        return f"{self.name}/hosts.yml"

    def _read(self, path: Path) -> Any:
        """Return a file's mapping; None where there is none, or it cannot be read."""
        name = yaml_files.shown(path)
        with path.open("rb") as file:
            encrypted = file.read(len(VAULT)) == VAULT.encode()
        if encrypted and self._text is None:
            return None
        content, found = yaml_files.parse(str(self._text(path)), name) if encrypted else yaml_files.read(path, name)
        self.problems += found
        self.unreadable |= content is None and bool(found)
        if content is None:
            return None
        if not isinstance(content, Mapping):
            self._refuse(name, "", "has to be a mapping, with variables or groups as its keys")
            return None
        return content

    def _refuse(self, file: str, key: str, text: str) -> None:
        """Note a problem for which Ansible itself would stop."""
        self.problems.append(Problem(file, key, text))
        self.unreadable = True

    def _own_files(self, kind: str) -> Iterator[Path]:
        """Return the files and folders of variables that are in use; note those that are not read."""
        directory = self.directory / f"{kind}_vars"
        if not directory.is_dir():
            return
        first: dict[str, Path] = {}
        for path in sorted(directory.iterdir(), key=_order):
            if path.name.startswith(".") or path.name.endswith("~"):
                continue
            name = path.name if path.is_dir() else path.stem
            if path.is_file() and path.suffix not in ENDINGS:
                mend = "Ansible reads .yml, .yaml and .json; rename it, or take it away"
                self.problems.append(Problem(yaml_files.shown(path), "", f"is not read; {mend}"))
            elif name in first:
                text = f"is not read, since there is {yaml_files.shown(first[name])}; move it in there"
                self.problems.append(Problem(yaml_files.shown(path), "", text))
            else:
                first[name] = path
                yield path

    def _variables(self, path: Path, kind: str) -> None:
        scope = path.name if path.is_dir() else path.stem
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            hidden = any(part.startswith(".") or part.endswith("~") for part in file.relative_to(path.parent).parts)
            if file.is_file() and file.suffix in ENDINGS and not hidden:
                for name, value in (self._read(file) or {}).items():
                    self._set(yaml_files.shown(file), str(name), value, kind, scope)

    def _set(self, file: str, name: str, value: Any, kind: str, scope: str, inline: bool = False) -> None:
        key = f"{scope}.vars.{name}" if inline and kind == "group" else f"{scope}.{name}" if inline else name
        if (kind, scope) == ("group", "all"):
            kind = "all"
        self.settings.append(Setting(file, key, name, value, kind, scope, inline))

    def _hosts(self, path: Path) -> None:
        """Read groups, hosts and their variables from a file such as hosts.yml."""
        file = yaml_files.shown(path)
        content = self._read(path)
        if content is None or "plugin" in content:
            return
        for name, body in content.items():
            self._group(file, str(name), body)

    def _group(self, file: str, group: str, body: Any) -> None:
        if not isinstance(body or {}, Mapping):
            self._refuse(file, group, "has to be a mapping with hosts, children or vars")
            return
        for key, value in (body or {}).items():
            if key not in ("hosts", "children", "vars"):
                close = guess(str(key), ("hosts", "children", "vars"))
                mend = f"did you mean '{close}'?" if close else "known are hosts, children, vars"
                self.problems.append(Problem(file, f"{group}.{key}", f"unknown key; {mend}"))
            elif not isinstance(value or {}, Mapping):
                self._refuse(file, f"{group}.{key}", "has to be a mapping, each name with a colon behind it")
            elif key == "vars":
                for name, given in (value or {}).items():
                    self._set(file, str(name), given, "group", group, inline=True)
            elif key == "children":
                for name, child in (value or {}).items():
                    self._group(file, str(name), child)
            else:
                for host, given in (value or {}).items():
                    if not isinstance(given or {}, Mapping):
                        self._refuse(file, f"{group}.hosts.{host}", "has to be a mapping of the host's variables")
                        continue
                    for name, part in (given or {}).items():
                        self._set(file, str(name), part, "host", str(host), inline=True)


def _order(path: Path) -> tuple:
    """Return by what files of variables are sorted: by name, and by which of one name Ansible reads."""
    if path.is_dir():
        return path.name, 0
    return path.stem, 1 + ENDINGS.index(path.suffix) if path.suffix in ENDINGS else 9


def unreadable(place: Path) -> list[Problem]:
    """Return what keeps Ansible from reading an environment's files, before Ansible is asked.

    Where all can be read, this is empty, and what else is wrong is told later, all at once.
    """
    directory = place.parent if place.is_file() else place
    if not any(directory.glob("*.y*ml")):
        known = ", ".join(sorted(path.parent.name for path in directory.parent.glob("*/hosts.yml"))) or "none"
        text = f"has no hosts.yml; name an environment that is there ({known})"
        return [Problem(yaml_files.shown(directory), "", text)]
    inventory = Inventory(directory)
    if not inventory.unreadable:
        return []
    problems = list(inventory.problems)
    for path in sorted(directory.resolve().parents[1].glob("services/*.yml")):
        problems += yaml_files.read(path, yaml_files.shown(path))[1]
    return problems


if __name__ == "__main__":
    PROBLEMS = [str(problem) for source in sys.argv[1:] for problem in unreadable(Path(source))]
    print("\n".join(PROBLEMS), end="\n" if PROBLEMS else "", file=sys.stderr)
    sys.exit(bool(PROBLEMS))
