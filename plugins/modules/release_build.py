#!/usr/bin/python
"""Build a service's release on the controller: its source and its own wheel in one archive, other wheels in another."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_build
short_description: Build a service's release on the controller
description:
  - Resolves and locks a service's dependencies with hashes for the nodes' Python and platform, collects their wheels
    and packs them into a bundle, and the service's own source and wheel into an archive that names that bundle by its
    digest. A node installs the two without network. Releases with the same dependencies have one bundle.
  - The project's own lock wins. It is the first found of C(pylock.toml), C(uv.lock), C(requirements.lock) and a
    C(requirements.txt) with hashes. The application server is resolved under its pins.
  - The release's id is the digest of source, lock, Python and platform. A release that is in the cache already is
    reused without asking a package index.
  - Indexes are those of the environment, as uv and pip read them (C(UV_DEFAULT_INDEX), C(PIP_INDEX_URL) and so on;
    what only one of the two is told, the other is told too).
options:
  name:
    description: Name of the service.
    type: str
    required: true
  source:
    description: Where the service comes from; exactly one of the three.
    type: dict
    required: true
    suboptions:
      path:
        description: Directory on the controller. In a git checkout, what git ignores is left out.
        type: path
      git:
        description: Address of a git repository.
        type: str
      pypi:
        description: Name of a package on the package index, with extras if wanted (C(name[extra])).
        type: str
  version:
    description: Git branch, tag or commit; version of the package (empty for the newest); or, for a path, a free label.
    type: str
    default: ""
  server:
    description: Application server to add.
    type: str
    choices: [gunicorn, uvicorn, granian]
    required: true
  interface:
    description: What the service's callable speaks.
    type: str
    choices: [asgi, wsgi]
    required: true
  python_version:
    description: Python of the nodes, as major.minor.
    type: str
    default: "3.13"
  platform:
    description: Platform of the nodes.
    type: str
    choices: [x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu]
    default: x86_64-unknown-linux-gnu
  cache_directory:
    description: Directory on the controller for archives, locks, wheels and git repositories; kept between runs.
    type: path
    required: true
  exclude:
    description: Patterns (shell style, of a name or of a path below the source) of files to leave out.
    type: list
    elements: str
    default: []
  static:
    description:
      - The service's static files, if it has any. They go into the archive under names that change with their content,
        with forms that are compressed with gzip and brotli beside them where these are smaller, and with
        C(static.json), which gives the name to write into a page for the name that a file had.
      - Releases without them are as they would be without this option.
    type: dict
    suboptions:
      url:
        description: What their addresses begin with.
        type: str
        required: true
      directory:
        description: The directory that has them, relative to the source; after O(static.command), where there is one.
        type: str
        required: true
      command:
        description: >-
          What puts them there, run by a shell in a copy of the source, with the release's packages as far as they are
          to be had for the controller. It gets nothing of the controller's own environment but what leads to the
          network.
        type: str
        default: ""
      environment:
        description: Variables that O(static.command) gets beside C(STATIC_URL) and C(STATIC_ROOT).
        type: dict
        default: {}
  relock:
    description: >-
      Resolve anew, though a lock for this very source is kept. Newer releases of unpinned packages come in this way.
    type: bool
    default: false
  uv:
    description: Path of C(uv). By default the one beside the running Python, or the first on C(PATH).
    type: path
requirements:
  - brotli, for the Python that runs the module, where there are static files
author: [Terrace]
"""

EXAMPLES = r"""
- name: Build the release of orders
  release_build:
    name: orders
    source:
      path: /home/me/terrace/examples/orders
    version: v1.4.0
    server: gunicorn
    interface: asgi
    cache_directory: /home/me/terrace/.terrace/releases
  delegate_to: localhost
  become: false
  run_once: true
  register: __built
"""

RETURN = r"""
id:
  description: >-
    The release's id, 12 hexadecimal digits; empty in check mode when the release would have to be resolved first.
  type: str
  returned: always
archive:
  description: Path of the archive on the controller.
  type: str
  returned: always
bundle:
  description: Path of the bundle on the controller; empty in check mode when it would have to be made first.
  type: str
  returned: always
bundle_sha256:
  description: Digest of the bundle.
  type: str
  returned: always
sha256:
  description: Digest of the archive.
  type: str
  returned: always
size:
  description: Size of the archive in bytes.
  type: int
  returned: always
version:
  description: The version as asked for, or as resolved where the newest was asked for.
  type: str
  returned: always
commit:
  description: The commit of a git source; else empty.
  type: str
  returned: always
lock:
  description: The file of the project whose pins were used, or C(resolved) where it has none.
  type: str
  returned: always
packages:
  description: Locked packages, name to version.
  type: dict
  returned: always
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ansible.module_utils import release_static
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.release_sources import (
    SOURCE,
    SOURCE_EPOCH,
    UNREACHABLE,
    find_uv,
    index_options,
    one_line,
    open_git,
    open_path,
    open_pypi,
    run,
)
from ansible.module_utils.releases import (
    NAME_PATTERN,
    ReleaseError,
    bundle_name,
    digest_of,
    locked,
    normal,
    read_json,
    sha256_of,
    write_atomically,
)
from ansible.module_utils.static_files import LINKS, MANIFEST

# Part of every digest: raise it when archives of the same input would come out differently.
FORMAT = 2
# How long a command may take that collects static files, in seconds; and what it gets of the controller's environment.
STATIC_SECONDS = 900
NETWORK = re.compile(r"(?i)(https?|all|no)_proxy|ssl_cert_(file|dir)|node_extra_ca_certs|npm_config_\w+")
SERVERS = {
    ("gunicorn", "wsgi"): ["gunicorn"],
    ("gunicorn", "asgi"): ["gunicorn", "uvicorn-worker", "uvicorn", "uvloop", "httptools", "websockets"],
    ("uvicorn", "asgi"): ["uvicorn", "uvloop", "httptools", "websockets"],
    ("granian", "asgi"): ["granian", "uvloop"],
    ("granian", "wsgi"): ["granian"],
}
FOREIGN_LOCKS = {
    "poetry.lock": "poetry export --format requirements.txt --output requirements.lock",
    "pdm.lock": "pdm export --format requirements --output requirements.lock",
    "Pipfile.lock": "pipenv requirements --hash > requirements.lock",
}


@dataclasses.dataclass(frozen=True)
class Locked:
    """A package in the lock. file: name of its wheel, or of its source archive; url or path: where uv found it."""

    name: str
    version: str
    file: str
    sha256: str
    url: str

    @property
    def is_wheel(self) -> bool:
        """Whether nothing has to be built."""
        return self.file.endswith(".whl")


def parse_pins(text: str, where: str) -> tuple[list[str], dict[str, set[str]]]:
    """Read a file of pinned requirements.

    text: its content. where: its name, for messages.
    Returns the requirements without hashes, options and the project itself, and the hashes by normalised name.
    Raises ReleaseError for what cannot be locked.
    """
    requirements: list[str] = []
    hashes: dict[str, set[str]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        entry = re.sub(r"(^|\s)#.*", "", line).strip()
        found = set(re.findall(r"--hash[= ]sha256:([0-9a-f]{64})", entry))
        entry = re.sub(r"\s--hash[= ]\S+", "", entry).strip()
        local = re.sub(r"^(-e|--editable)[ =]\s*", "", entry)
        if not entry or local in (".", "./", "file:."):
            continue
        if local != entry or entry.startswith(("./", "../", "/", "file:")):
            raise ReleaseError(
                f"{where} wants the local directory {local}, which no hash can lock; "
                "publish it as a package, or move it into the project's own"
            )
        if re.match(r"(-r|--requirement)\b", entry):
            raise ReleaseError(f"{where} includes another file ({entry}); put all pins into one file")
        if entry.startswith("-"):
            continue
        requirements.append(entry)
        if found:
            hashes.setdefault(normal(re.split(r"[\s\[=<>!~;@]", entry, maxsplit=1)[0]), set()).update(found)
    return requirements, hashes


def parse_pylock(text: str, where: str) -> tuple[list[str], dict[str, set[str]]]:
    """Read a standard lock file (PEP 751) as parse_pins reads requirements."""
    requirements: list[str] = []
    hashes: dict[str, set[str]] = {}
    for package in tomllib.loads(text).get("packages", []):
        name = package["name"]
        if package.get("directory", {}).get("path") == ".":
            continue
        if "version" not in package or "directory" in package:
            raise ReleaseError(
                f"{where} pins {name} to no version of an index; Terrace can only lock published packages"
            )
        marker = f" ; {package['marker']}" if package.get("marker") else ""
        requirements.append(f"{name}=={package['version']}{marker}")
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        hashes[normal(name)] = {file["hashes"]["sha256"] for file in files if "sha256" in file.get("hashes", {})}
    return requirements, hashes


class Builder:
    """Builds one release; every method raises ReleaseError with one line that names what to mend."""

    def __init__(self, parameters: dict[str, Any], warn: Callable[[str], None]) -> None:
        """Take the module's parameters, and what to call with a warning."""
        self.name: str = parameters["name"]
        self.server: str = parameters["server"]
        self.interface: str = parameters["interface"]
        self.python: str = parameters["python_version"]
        self.platform: str = parameters["platform"]
        self.relock: bool = parameters["relock"]
        self.cache = pathlib.Path(parameters["cache_directory"]).resolve()
        self.home = self.cache / self.name
        self.uv = find_uv(parameters["uv"])
        if (self.server, self.interface) not in SERVERS:
            raise ReleaseError(f"{self.server} does not serve {self.interface}; choose gunicorn or granian")
        if not re.fullmatch(r"3\.\d+", self.python):
            raise ReleaseError(f"python_version '{self.python}' is not of the form 3.13")
        self.index_options = index_options()
        self.servers = SERVERS[self.server, self.interface]
        self.target = f"Python {self.python} on {self.platform.split('-')[0]}"

        source, version, exclude = parameters["source"], parameters["version"].strip(), sorted(parameters["exclude"])
        if source.get("path"):
            self.source = open_path(source["path"], version, exclude)
        elif source.get("git"):
            self.source = open_git(source["git"], version, exclude, self.cache, warn)
        else:
            self.source = open_pypi(source["pypi"], version)
        self.static: dict[str, Any] = parameters["static"] or {}
        self.key = digest_of(
            [FORMAT, self.source.kind, self.source.digest, exclude, self.servers, self.python, self.platform]
        )[:24]
        self.lock_file = self.home / "locks" / f"{self.key}.json"

    # --- what is known without any network ---

    def cached(self, lock: dict[str, Any]) -> dict[str, Any] | None:
        """Return the release of a lock as built before, or nothing when any part of it is missing or damaged."""
        if not lock:
            return None
        identity = self.release_id(lock)
        described = read_json(self.home / f"{identity}.json")
        files = {"sha256": f"{identity}.tar.gz", "bundle_sha256": bundle_name(described.get("bundle_sha256", ""))}
        for key, name in files.items():
            if not (self.home / name).exists() or sha256_of(self.home / name) != described.get(key):
                return None
        return self.result(lock, described, changed=False)

    def version(self, lock: dict[str, Any]) -> str:
        """Return the version as asked for, or as resolved for a package whose newest was asked for."""
        if self.source.kind == "pypi" and not self.source.version:
            return self.packages(lock)[self.own()]
        return self.source.version

    def own(self) -> str:
        """Return the name of the locked package that is the service itself; empty unless an index is its source."""
        return normal(self.source.origin.split("[")[0]) if self.source.kind == "pypi" else ""

    def release_id(self, lock: dict[str, Any]) -> str:
        """Return the id: the digest of source, lock, Python and platform."""
        # The key stands for source, servers, Python and platform; of the lock, all but where its files were found.
        parts = [self.key, self.version(lock), [item[:4] for item in lock["packages"]]]
        # What the files are made of is among these; how they are made is not.
        parts += [[release_static.FORMAT, self.static]] if self.static else []
        return digest_of(parts)[:12]

    @staticmethod
    def packages(lock: dict[str, Any]) -> dict[str, str]:
        """Return the locked packages, name to version."""
        return {item[0]: item[1] for item in lock["packages"]}

    def result(self, lock: dict[str, Any], described: dict[str, Any], changed: bool) -> dict[str, Any]:
        """Return what the module answers; described: the release with its digests, or empty where it is not built."""
        identity = self.release_id(lock)
        archive = self.home / f"{identity}.tar.gz"
        bundle = described.get("bundle_sha256", "")
        return {
            "changed": changed,
            "id": identity,
            "archive": str(archive),
            "sha256": described.get("sha256", ""),
            "bundle": str(self.home / bundle_name(bundle)) if bundle else "",
            "bundle_sha256": bundle,
            "size": archive.stat().st_size if archive.exists() else 0,
            "version": self.version(lock),
            "commit": self.source.commit,
            "lock": lock["by"],
            "packages": self.packages(lock),
        }

    def plan(self) -> dict[str, Any]:
        """Return, for check mode, what is known of the release without building it."""
        lock = {} if self.relock else read_json(self.lock_file)
        if lock:
            return self.cached(lock) or self.result(lock, {}, changed=True)
        empty = dict.fromkeys(("id", "archive", "sha256", "bundle", "bundle_sha256", "lock"), "")
        known = {"changed": True, "version": self.source.version, "commit": self.source.commit}
        return known | empty | {"size": 0, "packages": {}}

    # --- building ---

    def build(self) -> dict[str, Any]:
        """Build the release unless the cache holds it, and return what the module answers."""
        with locked(self.home / ".lock"):
            lock = {} if self.relock else read_json(self.lock_file)
            found = self.cached(lock)
            if found:
                return found
            # Whoever left these was cut off: the lock is ours now.
            for litter in (*self.home.glob(".building-*"), *self.home.glob(".new-*")):
                shutil.rmtree(litter) if litter.is_dir() else litter.unlink()
            with (
                tempfile.TemporaryDirectory(dir=self.home, prefix=".building-") as staging,
                # Outside of any checkout, so that no build backend mistakes the one around the cache for the project's.
                tempfile.TemporaryDirectory(prefix="terrace-release-") as scratch,
            ):
                return self.build_in(pathlib.Path(staging), pathlib.Path(scratch), lock)

    def build_in(self, staging: pathlib.Path, scratch: pathlib.Path, lock: dict[str, Any]) -> dict[str, Any]:
        """Build the release in two empty directories: staging becomes the archive, scratch is for tools.

        lock: the one kept for this source, or empty.
        """
        tree = staging / "src"
        tree.mkdir()
        self.source.unpack(tree)
        project = self.build_project(tree, scratch)
        if not lock:
            lock = self.resolve(tree, project, scratch)
            self.lock_file.parent.mkdir(exist_ok=True)
            # Not for everyone: it says where packages came from.
            write_atomically(self.lock_file, self.as_json(lock))
            found = self.cached(lock)
            if found:
                return found
        items = [Locked(*item) for item in lock["packages"]]
        wheels = dict(zip((item.name for item in items), self.collect(items, scratch), strict=True))
        everything = [*wheels.values(), *([project] if project else [])]
        (staging / "requirements.txt").write_text(self.requirements(everything), encoding="utf-8")
        # What changes with each release is not what stays: the service's own wheel goes with its source.
        project = wheels.pop(self.own(), project)
        if project:
            (staging / "wheels").mkdir()
            shutil.copyfile(project, staging / "wheels" / project.name)
        static = self.build_static(tree, staging, scratch, everything) if self.static else {}
        identity = self.release_id(lock)
        described = {
            "id": identity,
            "name": self.name,
            "version": self.version(lock),
            "commit": self.source.commit,
            "source": {"kind": self.source.kind, "origin": self.source.origin},
            "python": self.python,
            "platform": self.platform,
            "server": self.server,
            "interface": self.interface,
            "lock": lock["by"],
            "packages": self.packages(lock),
            "bundle_sha256": write_bundle(list(wheels.values()), self.home),
            "dependencies": sorted(wheels),
            # Without a wheel of its own the project runs from its source, which the node then puts on Python's path.
            "import_source": project is None,
            **static,
        }
        (staging / "release.json").write_text(self.as_json(described), encoding="utf-8")
        archive = self.home / f"{identity}.tar.gz"
        pack(staging, archive)
        built_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        described |= {"sha256": sha256_of(archive), "built_at": built_at}
        write_atomically(archive.with_name(f"{identity}.json"), self.as_json(described), 0o644)
        return self.result(lock, described, changed=True)

    def build_static(
        self, tree: pathlib.Path, staging: pathlib.Path, scratch: pathlib.Path, wheels: list[pathlib.Path]
    ) -> dict[str, Any]:
        """Put the static files into the release, and return what its description says of them.

        tree: the source. staging: becomes the archive. scratch: is for tools. wheels: what the release is made of.
        """
        shown, command = self.static["directory"], self.static["command"]
        where = tree / shown
        if command:
            where = self.collect_static(tree, scratch, wheels) / shown
        if not where.is_dir():
            raise ReleaseError(
                f"static.directory {shown} is not there after static.command; the command has it in STATIC_ROOT"
                if command
                else f"static.directory {shown} is not in the source, from which what git ignores is left out; "
                "correct it, or give the command that makes it"
            )
        target = staging / "static"
        target.mkdir()
        made = release_static.make(where, shown, target, self.cache / "static")
        (staging / MANIFEST).write_text(release_static.as_json(made.names), encoding="utf-8")
        (staging / LINKS).write_text(release_static.as_json(made.links), encoding="utf-8")
        return {"static": {"url": self.static["url"], "files": made.files, "bytes": made.bytes}}

    def collect_static(self, tree: pathlib.Path, scratch: pathlib.Path, wheels: list[pathlib.Path]) -> pathlib.Path:
        """Run the service's command that collects static files, and return the copy of the source that it ran in."""
        # It writes beside the source, and the source must stay as it is.
        copy, home = scratch / "static", scratch / "home"
        shutil.copytree(tree, copy, symlinks=True)
        home.mkdir()
        environment = self.static_environment(scratch, wheels)
        kept = {name: value for name, value in os.environ.items() if NETWORK.fullmatch(name)}
        variables = kept | {
            **{name: str(value) for name, value in self.static["environment"].items()},
            "STATIC_URL": self.static["url"],
            "STATIC_ROOT": str(copy / self.static["directory"]),
            "PATH": os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(copy),
            "HOME": str(home),
            "TMPDIR": str(home),
            "LANG": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(SOURCE_EPOCH),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = run(
            "env", "-i", *(f"{name}={value}" for name, value in variables.items()),
            "sh", "-c", self.static["command"], cwd=copy, timeout=STATIC_SECONDS,
        )  # fmt: skip
        if done.returncode != 0:
            said = one_line(done.stderr or done.stdout)
            raise ReleaseError(
                f"static.command ends with {done.returncode} on the controller: {said}; secrets and addresses of"
                " daemons are placeholders there, which `env NAME=... COMMAND` replaces"
            )
        return copy

    def static_environment(self, scratch: pathlib.Path, wheels: list[pathlib.Path]) -> pathlib.Path:
        """Make a virtual environment with the release's packages for the controller, and return its directory.

        Where the controller has the nodes' Python and platform these are the release's own wheels. Elsewhere they are
        the pure ones, and of native packages the same versions as the index has them for the controller.
        """
        environment = scratch / "static-venv"
        found = run(self.uv, "python", "find", "--no-project", "--system", self.python)
        python = found.stdout.strip() if found.returncode == 0 else sys.executable
        made = run(self.uv, "venv", "--quiet", "--no-project", "--python", python, environment)
        if made.returncode != 0:
            raise ReleaseError(f"the environment for static.command cannot be made: {one_line(made.stderr)}")
        install = [self.uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python")]
        done = run(*install, "--no-index", "--no-deps", *wheels)
        if done.returncode != 0:
            wanted = []
            for wheel in wheels:
                name, version = wheel.name.split("-")[:2]
                pure = wheel.name.endswith("-none-any.whl")
                wanted.append(f"{normal(name)} @ {wheel.as_uri()}" if pure else f"{normal(name)}=={version}")
            listed = scratch / "static-requirements.txt"
            listed.write_text("\n".join(wanted) + "\n", encoding="utf-8")
            done = run(*install, *self.index_options, "--requirement", listed)
        if done.returncode != 0:
            self.refuse_unreachable(done.stderr)
            raise ReleaseError(
                f"the packages that static.command needs cannot be had for the controller: {one_line(done.stderr)}; "
                f"install Python {self.python} there, or collect the files before, into a directory of the source"
            )
        return environment

    @staticmethod
    def as_json(value: Any) -> str:
        """Return a value as stable, readable JSON."""
        return json.dumps(value, indent=2, sort_keys=True) + "\n"

    def build_project(self, tree: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path | None:
        """Build the project's own wheel, and return it; nothing when the source is no package.

        The wheel is kept by the source's digest, so that two releases of one source hold the same bytes.
        """
        if self.source.kind == "pypi":
            return None
        declared = self.pyproject(tree)
        virtual = declared.get("tool", {}).get("uv", {}).get("package") is not True
        if (
            not (tree / "setup.py").exists()
            and "build-system" not in declared
            and ("project" not in declared or virtual)
        ):
            return None
        kept = self.cache / "wheels" / digest_of([self.key, self.source.version])[:24]
        for wheel in kept.glob("*.whl"):
            return wheel
        # Backends write beside the source, and the source must stay as it is.
        copy, output = scratch / "project", scratch / "project-wheel"
        shutil.copytree(tree, copy, symlinks=True)
        label = self.source.version.removeprefix("v")
        pretended = (
            label if re.fullmatch(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)?", label) else f"0+{self.source.digest[:12]}"
        )
        built = run(
            self.uv, "build", "--wheel", "--quiet", *self.index_options,
            "--python", sys.executable, "--out-dir", output, copy,
            # A version that is taken from git's tags has no git to ask here.
            SETUPTOOLS_SCM_PRETEND_VERSION=pretended, PDM_BUILD_SCM_VERSION=pretended,
        )  # fmt: skip
        wheels = list(output.glob("*.whl"))
        if built.returncode != 0 or not wheels:
            self.refuse_unreachable(built.stderr)
            raise ReleaseError(
                f"the project's wheel does not build: {one_line(built.stderr)}; "
                "`uv build --wheel` in its directory shows the same"
            )
        if not wheels[0].name.endswith("-none-any.whl"):
            raise ReleaseError(
                f"the project builds a native wheel ({wheels[0].name}), which is for the controller, "
                f"not for {self.target}; publish wheels of its native part as a package"
            )
        return keep(wheels[0], kept)

    @staticmethod
    def pyproject(tree: pathlib.Path) -> dict[str, Any]:
        """Return the project's pyproject.toml, empty when there is none."""
        try:
            return tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ReleaseError(f"pyproject.toml is not valid TOML: {error}") from None

    def project_lock(self, tree: pathlib.Path) -> tuple[str, list[str], dict[str, set[str]]]:
        """Return the project's own lock: its file's name, the pins and the hashes; an empty name when it has none."""
        if (tree / "pylock.toml").exists():
            return "pylock.toml", *parse_pylock((tree / "pylock.toml").read_text(encoding="utf-8"), "pylock.toml")
        if (tree / "uv.lock").exists():
            exported = run(
                self.uv, "export", "--frozen", "--quiet", "--no-dev", "--no-emit-project", "--no-header",
                "--no-annotate", "--format", "requirements-txt", "--python", sys.executable, cwd=tree,
            )  # fmt: skip
            if exported.returncode != 0:
                raise ReleaseError(f"uv.lock cannot be read: {one_line(exported.stderr)}; lock again with `uv lock`")
            return "uv.lock", *parse_pins(exported.stdout, "uv.lock")
        for name in ("requirements.lock", "requirements.txt"):
            text = (tree / name).read_text(encoding="utf-8") if (tree / name).exists() else ""
            if "--hash" in text:
                return name, *parse_pins(text, name)
            if text and name == "requirements.lock":
                raise ReleaseError("requirements.lock has no hashes; write it with `uv pip compile --generate-hashes`")
        for name, export in FOREIGN_LOCKS.items():
            if (tree / name).exists():
                raise ReleaseError(
                    f"{name} is a lock that only its own tool reads; put its content beside it: `{export}`"
                )
        return "", [], {}

    def resolve(self, tree: pathlib.Path, project: pathlib.Path | None, scratch: pathlib.Path) -> dict[str, Any]:
        """Resolve everything for the target and return the lock: who decided, and the packages with their hashes."""
        by, wanted, hashes = self.project_lock(tree) if self.source.kind != "pypi" else ("", [], {})
        inputs: list[pathlib.Path] = [scratch / "requirements.in"]
        if self.source.requirement:
            wanted.append(self.source.requirement)
        elif project:
            wanted.append(f"{project.name.split('-')[0]} @ {project.as_uri()}")
        elif "project" in self.pyproject(tree):
            inputs.append(tree / "pyproject.toml")
        elif not by and (tree / "requirements.txt").exists():
            inputs.append(tree / "requirements.txt")
        elif not by:
            raise ReleaseError(
                "the source has no pyproject.toml, setup.py or requirements.txt that says what it needs; add one"
            )
        inputs[0].write_text("\n".join([*wanted, *self.servers]) + "\n", encoding="utf-8")
        output = scratch / "pylock.toml"
        # By uv's plain name of the platform wheels would have to suit far older systems than Debian 13 (glibc 2.41).
        platform = self.platform.replace("unknown-linux-gnu", "manylinux_2_40")
        resolved = run(
            self.uv, "pip", "compile", "--quiet", *self.index_options, "--no-header", "--no-annotate",
            "--python", sys.executable, "--python-version", self.python, "--python-platform", platform,
            "--format", "pylock.toml", "--output-file", output, *inputs, cwd=tree,
        )  # fmt: skip
        if resolved.returncode != 0:
            self.explain(resolved.stderr, by)
        own = normal(project.name.split("-")[0]) if project else ""
        packages = [
            self.choose(package, hashes.get(normal(package["name"])), by)
            for package in tomllib.loads(output.read_text(encoding="utf-8")).get("packages", [])
            if normal(package["name"]) != own
        ]
        return {"by": by or "resolved", "packages": sorted(list(dataclasses.astuple(package)) for package in packages)}

    def choose(self, package: dict[str, Any], allowed: set[str] | None, by: str) -> Locked:
        """Return the one file of a package that the release takes: the best wheel, or else the source archive.

        package: its entry in uv's lock, which lists only files for the target.
        allowed: the hashes that the project's lock permits. by: that lock's name.
        """
        name = normal(package["name"])
        if "vcs" in package or "directory" in package:
            raise ReleaseError(
                f"{name} comes from a repository or a directory, which no hash can lock; "
                "publish it as a package, or move it into the project's own"
            )
        files = package.get("wheels") or [package.get("sdist") or package["archive"]]
        compact = "cp" + self.python.replace(".", "")
        candidates = []
        for file in files:
            label = file.get("name") or (file.get("url") or file["path"]).split("#")[0].rsplit("/", 1)[-1]
            where = (
                re.sub(r"(?<=://)[^/@\s]+@", "", file["url"])
                if "url" in file
                else pathlib.Path(file["path"]).resolve().as_uri()
            )
            rank = (not label.endswith("-any.whl"), f"-{compact}-" in label, label)
            candidates.append(
                (
                    rank,
                    Locked(
                        name,
                        package.get("version", ""),
                        label.replace("%2B", "+"),
                        file["hashes"].get("sha256", ""),
                        where,
                    ),
                )
            )
        if not all(candidate[1].sha256 for candidate in candidates):
            raise ReleaseError(f"the package index gives no SHA-256 for {name}; use one that does")
        if allowed:
            candidates = [candidate for candidate in candidates if candidate[1].sha256 in allowed]
        if not candidates:
            raise ReleaseError(
                f"{by} pins {name} {package.get('version', '')} without its file's hash for {self.target}; lock again"
            )
        return max(candidates)[1]

    def refuse_unreachable(self, message: str) -> None:
        """Raise the error for an index that does not answer, when that is what a tool's message says."""
        if UNREACHABLE.search(message):
            raise ReleaseError(
                f"the package index cannot be reached ({one_line(message, 250)}); "
                "check the network, or name an index in UV_DEFAULT_INDEX"
            )

    def explain(self, message: str, by: str) -> None:
        """Raise the error for a resolution that failed, from uv's message."""
        self.refuse_unreachable(message)
        missing = re.search(
            r"([\w.\[\]-]+) was not found in the (?:package registry|provided package locations)", message
        )
        if missing:
            raise ReleaseError(
                f"package {missing[1]} is not on the package index; correct the name, or name its index in UV_INDEX"
            )
        unknown = re.search(r"there is no version of ([\w.\[\]-]+==\S+)", message)
        if unknown:
            raise ReleaseError(f"{unknown[1]} does not exist on the package index; ask for another version")
        failed = re.search(r"[Ff]ailed to (?:download and )?build `?([\w.=+@ -]+)`?", message)
        if failed:
            self.refuse_native(failed[1].strip(), message)
        pinned = f" under the pins of {by}" if by else ""
        raise ReleaseError(
            f"the dependencies with {', '.join(self.servers)} cannot be resolved{pinned} for {self.target}: "
            f"{one_line(message)}"
        )

    def refuse_native(self, package: str, message: str) -> None:
        """Raise the error for a package without a wheel whose source archive is no help either."""
        raise ReleaseError(
            f"{package} has no wheel for {self.target}, and its source archive does not give a pure-Python one; "
            "depend on a version or a variant with wheels (as psycopg2-binary is for psycopg2): "
            f"{one_line(message, 300)}"
        )

    def collect(self, items: list[Locked], scratch: pathlib.Path) -> list[pathlib.Path]:
        """Return the wheel of every locked package: from the cache that releases share, or else fetched or built."""
        kept = {item: self.cache / "wheels" / item.sha256[:24] for item in items}
        missing = []
        for item in items:
            wheel = kept[item] / item.file
            if item.is_wheel and wheel.exists() and sha256_of(wheel) != item.sha256:
                wheel.unlink()
            if not any(kept[item].glob("*.whl")):
                missing.append(item)
        pip = self.find_pip() if missing else []
        wheels = [item for item in missing if item.is_wheel]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            # pip takes half a second before it fetches anything: few wheels are one batch.
            batches = min(4, -(-len(wheels) // 4))
            jobs = [
                pool.submit(self.fetch, pip, wheels[batch::batches], scratch / f"fetched-{batch}")
                for batch in range(batches)
            ]
            for job in jobs:
                for wheel, item in job.result():
                    keep(wheel, kept[item])
        for item in missing:
            if not item.is_wheel:
                keep(self.build_archive(pip, item, scratch), kept[item])
        return [next(kept[item].glob("*.whl")) for item in items]

    def find_pip(self) -> list[str]:
        """Return the command that runs pip: of the Python beside uv, or else of the running one."""
        for python in (str(pathlib.Path(self.uv).parent / "python3"), sys.executable):
            if run(python, "-c", "import pip").returncode == 0:
                return [python, "-m", "pip"]
        raise ReleaseError(f"pip is missing for {sys.executable} on the controller; install it (`make up` does)")

    @staticmethod
    def hashed(items: list[Locked], path: pathlib.Path) -> pathlib.Path:
        """Write what pip is to fetch, each by its address and hash, and return the file."""
        path.write_text(
            "".join(f"{item.name} @ {item.url} --hash=sha256:{item.sha256}\n" for item in items), encoding="utf-8"
        )
        return path

    def fetch(self, pip: list[str], items: list[Locked], target: pathlib.Path) -> list[tuple[pathlib.Path, Locked]]:
        """Download wheels into a new directory, and return each with what it is."""
        target.mkdir()
        tags = {tag for item in items for tag in item.file.removesuffix(".whl").rsplit("-", 1)[1].split(".")} - {"any"}
        done = run(
            *pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", target,
            "--implementation=cp", f"--python-version={self.python}",
            f"--abi=cp{self.python.replace('.', '')}", "--abi=abi3", "--abi=none",
            *(f"--platform={tag}" for tag in sorted(tags)),
            "--requirement", self.hashed(items, target / "requirements.in"),
        )  # fmt: skip
        if done.returncode != 0:
            self.refuse_unreachable(done.stderr)
            raise ReleaseError(f"wheels cannot be downloaded: {one_line(done.stderr)}")
        by_digest = {sha256_of(wheel): wheel for wheel in target.glob("*.whl")}
        return [(by_digest[item.sha256], item) for item in items]

    def build_archive(self, pip: list[str], item: Locked, scratch: pathlib.Path) -> pathlib.Path:
        """Build the wheel of a package that is published as a source archive only, and return it."""
        target = scratch / f"built-{item.name}"
        target.mkdir()
        # The controller's Python stands in for the nodes', which a pure-Python wheel cannot tell apart.
        done = run(
            *pip, "wheel", "--quiet", "--no-deps", "--ignore-requires-python", "--wheel-dir", target,
            "--require-hashes", "--requirement", self.hashed([item], target / "requirements.in"),
        )  # fmt: skip
        wheels = list(target.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            self.refuse_unreachable(done.stderr)
            self.refuse_native(f"{item.name} {item.version}", done.stderr)
        if not wheels[0].name.endswith("-none-any.whl"):
            self.refuse_native(f"{item.name} {item.version}", f"it built {wheels[0].name}")
        return wheels[0]

    @staticmethod
    def requirements(wheels: list[pathlib.Path]) -> str:
        """Return the requirements that pin each wheel by its hash."""
        lines = []
        for wheel in wheels:
            name, version = wheel.name.split("-")[:2]
            lines.append(f"{normal(name)}=={version.replace('_', '+')} \\\n    --hash=sha256:{sha256_of(wheel)}\n")
        return "".join(sorted(lines))


def keep(wheel: pathlib.Path, directory: pathlib.Path) -> pathlib.Path:
    """Move a wheel into a directory of the cache so that others see all of it or nothing, and return its new path."""
    directory.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    os.close(handle)
    shutil.copyfile(wheel, temporary)
    return pathlib.Path(temporary).replace(directory / wheel.name)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes a path at once, when all of it is written."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as raw:
        yield raw
        raw.flush()
        os.fsync(raw.fileno())
    pathlib.Path(temporary).replace(path)


def write_tar(paths: dict[str, pathlib.Path], target: Any) -> None:
    """Write files and directories as a tar whose bytes depend on nothing but names, modes and content.

    paths: what goes in, by its name there, in this order. target: anything with a method `write`.
    """
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for name, path in paths.items():
            entry = tar.gettarinfo(path, arcname=name)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = SOURCE_EPOCH
            if not entry.isreg():
                entry.mode = 0o755
                tar.addfile(entry)
                continue
            entry.type, entry.linkname = tarfile.REGTYPE, ""
            entry.size = path.stat().st_size
            entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            # A time that stands for the content: a web server makes its validators (Last-Modified, ETag) of time and
            # size, and one fixed time would let browsers keep a changed file of the same size.
            entry.mtime += int(sha256_of(path)[:7], 16)
            with path.open("rb") as file:
                tar.addfile(entry, file)


def pack(directory: pathlib.Path, archive: pathlib.Path) -> None:
    """Write a directory's content, compressed, as an archive, which is replaced at once."""
    with (
        replacing(archive) as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as compressed,
    ):
        write_tar({str(path.relative_to(directory)): path for path in sorted(directory.rglob("*"))}, compressed)


def write_bundle(wheels: list[pathlib.Path], directory: pathlib.Path) -> str:
    """Write wheels as a bundle into a directory, unless it is there already, and return its digest."""
    paths = {wheel.name: wheel for wheel in sorted(wheels, key=lambda wheel: wheel.name)}
    whole = hashlib.sha256()
    write_tar(paths, types.SimpleNamespace(write=whole.update))
    sha256 = whole.hexdigest()
    path = directory / bundle_name(sha256)
    if not path.exists() or sha256_of(path) != sha256:
        with replacing(path) as raw:
            write_tar(paths, raw)
    return sha256


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": SOURCE,
            "version": {"type": "str", "default": ""},
            "server": {"type": "str", "required": True, "choices": ["gunicorn", "uvicorn", "granian"]},
            "interface": {"type": "str", "required": True, "choices": ["asgi", "wsgi"]},
            "python_version": {"type": "str", "default": "3.13"},
            "platform": {
                "type": "str",
                "default": "x86_64-unknown-linux-gnu",
                "choices": ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"],
            },
            "cache_directory": {"type": "path", "required": True},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "static": release_static.STATIC,
            "relock": {"type": "bool", "default": False},
            "uv": {"type": "path"},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    if not re.fullmatch(NAME_PATTERN, name):
        module.fail_json(
            msg=f"service {name}: a name is a lower-case letter, then at most 23 letters, digits and dashes"
        )
    try:
        builder = Builder(module.params, module.warn)
        result = builder.plan() if module.check_mode else builder.build()
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=f"service {name}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
