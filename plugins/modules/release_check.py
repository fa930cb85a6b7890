#!/usr/bin/python
"""Ask, on the controller, whether what services are made from is there: directories, repositories, packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_check
short_description: Ask whether the sources and versions of services exist
description:
  - Looks at directories of the controller, asks git repositories for a branch, tag or commit, and the package index for
    a version of a package. Changes nothing, builds nothing, and touches no host.
  - All services are asked at once, each with a timeout. No question ever waits for a person to type a password.
  - A repository or package whose version has been built by M(release_build) is not asked again.
  - Indexes are those that M(release_build) uses.
  - A version that its publisher has withdrawn (yanked) is a warning.
options:
  services:
    description: The services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      source:
        description: Where it comes from, as in M(release_build); a path is absolute.
        type: dict
        required: true
      version:
        description: Its version, as in M(release_build).
        type: str
        default: ""
      places:
        description: What to call its keys in problems, by key, such as C(source.git); otherwise C(services.NAME.KEY).
        type: dict
        default: {}
  python_version:
    description: Python of the nodes, as major.minor.
    type: str
    default: "3.13"
  cache_directory:
    description: Where M(release_build) keeps what it has built.
    type: path
    required: true
  timeout:
    description: Seconds for each answer.
    type: float
    default: 10
  uv:
    description: Path of C(uv), as in M(release_build).
    type: path
author: Terrace
"""

EXAMPLES = r"""
- name: Ask whether the services' sources are there
  release_check:
    services:
      - {name: orders, source: {path: /home/me/production/orders}}
      - {name: httpbin, source: {pypi: httpbin}, version: "0.10.2"}
    cache_directory: /home/me/production/.terrace/releases
  delegate_to: localhost
  become: false
  run_once: true
  register: __sources
"""

RETURN = r"""
problems:
  description: What is wrong, a line each, with place and mend. Empty where all is there.
  type: list
  returned: always
asked:
  description: The services for which a repository or an index was asked.
  type: list
  returned: always
"""

import concurrent.futures
import dataclasses
import difflib
import pathlib
import re
import sys
import tempfile
import tomllib
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.release_sources import (
    SOURCE,
    UNREACHABLE,
    find_uv,
    git,
    index_options,
    one_line,
    open_pypi,
    run,
    ssh_without_questions,
)
from ansible.module_utils.releases import ReleaseError, bundle_name, read_json
from packaging.specifiers import InvalidSpecifier, SpecifierSet

# What makes a directory a Python project; each is one from which release_build can tell what it needs.
PROJECT_FILES = ("pyproject.toml", "setup.py", "requirements.txt", "requirements.lock", "pylock.toml")
SKIP = "OFFLINE=1 skips this"


@dataclasses.dataclass(frozen=True)
class Asker:
    """Asks for the sources of services; every `ask_` returns what is wrong by key of the service, a line each.

    python: the nodes' Python. cache: the directory of what has been built. timeout: seconds for each answer.
    uv: its path. warn: takes a warning.
    """

    python: str
    cache: pathlib.Path
    timeout: float
    uv: str
    warn: Any

    def is_built(self, service: dict[str, Any], kind: str) -> bool:
        """Say whether this source in this version has been built before, for any platform."""
        origin, version = one_line(service["source"][kind]), service["version"]
        for description in (self.cache / service["name"]).glob("*.json"):
            known = read_json(description)
            if (
                known.get("source") == {"kind": kind, "origin": origin}
                and known.get("python") == self.python
                and (known.get("version") == version or not version)
                and description.with_suffix(".tar.gz").exists()
                and description.with_name(bundle_name(known.get("bundle_sha256", ""))).exists()
            ):
                return True
        return False

    def fits(self, requirement: str) -> bool:
        """Say whether some patch release of the nodes' Python meets a `requires-python`.

        Raises InvalidSpecifier where that is not one (PEP 440).
        """
        wanted = SpecifierSet(requirement)
        return any(wanted.contains(f"{self.python}.{patch}") for patch in (0, 99))

    def ask_path(self, directory: str, version: str) -> dict[str, str]:
        """Look at a directory of the controller; version is a free label."""
        root = pathlib.Path(directory)
        if not root.is_dir():
            return {"source.path": f"there is no directory {root}; correct it, relative paths start beside services/"}
        if not any((root / name).is_file() for name in PROJECT_FILES):
            return {"source.path": f"{root} has no pyproject.toml, setup.py or requirements.txt; name the project"}
        try:
            declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        except FileNotFoundError:
            return {}
        except ValueError as error:
            return {"source.path": f"{root}/pyproject.toml is not valid TOML: {error}; correct it"}
        requirement = declared.get("requires-python", "")
        try:
            if not self.fits(requirement):
                return {
                    "source.path": f"{root}/pyproject.toml requires Python {requirement}, the nodes have {self.python};"
                    " widen it, or set releases_python"
                }
        except InvalidSpecifier:
            return {"source.path": f"{root}/pyproject.toml: requires-python is '{requirement}'; give it as in >=3.11"}
        return {}

    def ask_git(self, url: str, version: str) -> dict[str, str]:
        """Ask a repository for a branch, tag or commit."""
        shown = one_line(url)
        if not version or version.startswith("-"):
            return {"version": f"is '{version}'; a git source needs a branch, a tag or a commit"}
        listed = self.git("ls-remote", "--", url, f"refs/tags/{version}", f"refs/heads/{version}")
        # What follows an empty line is advice.
        reason = one_line(listed.stderr.split("\n\n")[0], 300)
        if listed.returncode == 124 or (listed.returncode and UNREACHABLE.search(listed.stderr)):
            return {"source.git": f"{shown} could not be asked: {reason}; {SKIP}"}
        if listed.returncode:
            return {
                "source.git": f"{shown} cannot be read: {reason}; correct the address, or let"
                " this user read it without a password"
            }
        found = {line.split("\t")[1] for line in listed.stdout.splitlines()}
        if found & {f"refs/tags/{version}", f"refs/heads/{version}"}:
            return {}
        if re.fullmatch(r"[0-9a-f]{4,40}", version) and self.has_commit(url, version):
            return {}
        names = self.git("ls-remote", "--tags", "--heads", "--refs", "--", url).stdout.splitlines()
        close = difflib.get_close_matches(version, [name.split("/", 2)[-1] for name in names], n=1)
        mend = f"did you mean '{close[0]}'?" if close else "push it, or correct it"
        return {"version": f"'{version}' is neither a tag, a branch nor a commit of {shown}; {mend}"}

    def has_commit(self, url: str, commit: str) -> bool:
        """Say whether a repository may have a commit: no only where it is known not to.

        An abbreviated one cannot be asked for, so the build finds out.
        """
        if len(commit) < 40:
            return True
        with tempfile.TemporaryDirectory(prefix="terrace-check-") as scratch:
            self.git("init", "--quiet", "--bare", scratch)
            fetched = self.git(
                "--git-dir", scratch, "fetch", "--quiet", "--depth=1", "--filter=tree:0", "--", url, commit
            )
        return fetched.returncode == 0 or "not our ref" not in fetched.stderr

    def git(self, *arguments: str) -> Any:
        """Run git with the timeout, with no way to ask a person."""
        return git(
            *arguments,
            timeout=self.timeout,
            GIT_ASKPASS="",
            GIT_SSH_COMMAND=ssh_without_questions(),
            SSH_ASKPASS_REQUIRE="never",
        )

    def ask_pypi(self, package: str, version: str) -> dict[str, str]:
        """Ask the package index for a version of a package, as release_build does."""
        try:
            requirement = open_pypi(package, version).requirement
        except ReleaseError as error:
            key, _, rest = str(error).partition(" ")
            return {key: rest}
        with tempfile.TemporaryDirectory(prefix="terrace-check-") as scratch:
            wanted = pathlib.Path(scratch) / "requirements.in"
            wanted.write_text(f"{requirement}\n", encoding="utf-8")
            asked = run(
                self.uv, "pip", "compile", *index_options(), "--no-deps", "--no-header", "--no-annotate",
                # A source archive would be built, which is the publisher's code, to learn what the index says already.
                "--only-binary=:all:", "--python", sys.executable, "--python-version", self.python, wanted,
                cwd=pathlib.Path(scratch), timeout=self.timeout, UV_HTTP_RETRIES="1",
            )  # fmt: skip
        said = one_line(asked.stderr, 2000)
        if yanked := re.search(r"`(\S+)` is yanked(?: \(reason: \"?(.*?)\"?\))?", said):
            self.warn(f"{yanked[1]} was withdrawn by its publisher ({yanked[2] or 'no reason given'})")
        if asked.returncode == 0 or "has no usable wheels" in said or "have no usable wheels" in said:
            return {}
        if asked.returncode == 124 or UNREACHABLE.search(said):
            return {"source.pypi": f"{package} could not be asked: {one_line(asked.stderr, 250)}; {SKIP}"}
        if re.search(r"was not found in the (package registry|provided package locations)", said):
            return {"source.pypi": f"{package} is not on the package index; correct it, or name its index in UV_INDEX"}
        if "there is no version of" in said:
            return {"version": f"{package} has no version {version} on the package index; correct it"}
        if wants := re.search(r"depends on Python *([^\s,]+)", said):
            return {"version": f"{requirement} requires Python {wants[1]}, the nodes have {self.python}; name another"}
        return {"version": f"{requirement} cannot be resolved: {one_line(asked.stderr, 250)}; name another version"}

    def ask(self, service: dict[str, Any]) -> list[str]:
        """Return what is wrong with one service, a line each."""
        (kind, where), *_ = service["source"].items()
        found = getattr(self, f"ask_{kind}")(where, service["version"])
        name, places = service["name"], service["places"]
        return [f"{places.get(key, f'services.{name}.{key}')}: {text}" for key, text in found.items()]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "services": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "source": SOURCE,
                    "version": {"type": "str", "default": ""},
                    "places": {"type": "dict", "default": {}},
                },
            },
            "python_version": {"type": "str", "default": "3.13"},
            "cache_directory": {"type": "path", "required": True},
            "timeout": {"type": "float", "default": 10},
            "uv": {"type": "path"},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    asked, looked = [], []
    try:
        asker = Asker(
            python=parameters["python_version"],
            cache=pathlib.Path(parameters["cache_directory"]),
            timeout=parameters["timeout"],
            uv=find_uv(parameters["uv"]),
            warn=module.warn,
        )
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    for service in parameters["services"]:
        service["source"] = {kind: where for kind, where in service["source"].items() if where is not None}
        kind = next(iter(service["source"]))
        if kind == "path":
            looked.append(service)
        elif not asker.is_built(service, kind):
            asked.append(service)
    with concurrent.futures.ThreadPoolExecutor(max_workers=32) as pool:
        problems = [line for lines in pool.map(asker.ask, looked + asked) for line in lines]
    module.exit_json(changed=False, problems=sorted(problems), asked=[service["name"] for service in asked])


if __name__ == "__main__":
    main()
