#!/usr/bin/python
"""Install a release on a node, without network, under its id."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_install
short_description: Install a service's release on a node
description:
  - Unpacks the archive that M(release_build) made under C(ROOT/NAME/releases/ID), makes a virtual environment there,
    and installs the wheels of its bundle and its own into it, without any network. The archive's digest speaks for the
    bundle and for every wheel.
  - Where an installed release of the service has the same bundle, its dependencies are taken from there by hard links,
    with their byte code, instead of from the wheels.
  - Where it has static files, the web server of the node sees them from now on, beside those of the other releases,
    and before a slot runs it.
  - A release counts as installed by its marker, which is written last. One without it was cut off, and is made anew.
  - A release is not live by being installed; slots and their links belong to who deploys.
options:
  name:
    description: Name of the service.
    type: str
    required: true
  id:
    description: The release's id, as M(release_build) returned it.
    type: str
    required: true
  archive:
    description: >-
      Path of the archive on the node. It is not looked at when the release is installed already, and not removed
      afterwards.
    type: path
    required: true
  sha256:
    description: The archive's digest, as M(release_build) returned it.
    type: str
    required: true
  bundle:
    description: >-
      Path of the bundle of the dependencies' wheels on the node. Its digest is in the archive. As the archive, it is
      not looked at when the release is installed already, and not removed.
    type: path
    required: true
  root:
    description: Directory above all services.
    type: path
    default: /srv/terrace
  group:
    description: Group that may read the release. By default C(svc-NAME).
    type: str
  check:
    description: >-
      The service's callable (C(package.module:attribute)), to be imported once, as I(check_user). A module or attribute
      that is missing fails; what else goes wrong does not, since an application may want the environment that its unit
      has and this import has not.
    type: str
    default: ""
  check_user:
    description: User who imports the callable. By default the one with the group's name.
    type: str
  python:
    description: The node's Python, for the release's virtual environment.
    type: path
    default: /usr/bin/python3
requirements:
  - installer (Debian's python3-installer), for the Python that runs Ansible's modules on the node
author: Terrace
"""

EXAMPLES = r"""
- name: Copy the release
  ansible.builtin.copy:
    src: "{{ item }}"
    dest: /var/cache/terrace/orders-{{ item | basename }}
    mode: "0600"
  loop: ["{{ __built.archive }}", "{{ __built.bundle }}"]
  when: __built.id not in __facts.services.orders.installed

- name: Install the release
  release_install:
    name: orders
    id: "{{ __built.id }}"
    archive: /var/cache/terrace/orders-{{ __built.id }}.tar.gz
    sha256: "{{ __built.sha256 }}"
    bundle: /var/cache/terrace/orders-{{ __built.bundle | basename }}
    check: orders.main:app
"""

RETURN = r"""
directory:
  description: The release's directory.
  type: str
  returned: always
"""

import base64
import csv
import datetime
import filecmp
import hashlib
import json
import os
import pathlib
import platform
import pwd
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.releases import (
    MARKER,
    NAME_PATTERN,
    ROOT,
    ReleaseError,
    locked,
    normal,
    read_json,
    releases_of,
    sha256_of,
    write_atomically,
)
from ansible.module_utils.static_files import publish, withdraw

try:
    import installer
    import installer.destinations
    import installer.sources
except ImportError:
    installer = None

# What an import cannot do without its unit's environment is no fault of the release; a missing module is.
CHECK_IMPORT = """
import importlib, sys
module, _, attribute = sys.argv[1].partition(":")
try:
    found = importlib.import_module(module)
    for part in filter(None, attribute.partition("(")[0].split(".")):
        found = getattr(found, part)
except (ImportError, SyntaxError, AttributeError) as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    raise SystemExit(3)
except BaseException:
    pass
"""


def run(
    *command: str | pathlib.Path, cwd: pathlib.Path | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command with a plain environment, and return its exit status and output."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Return the end of what a command said, as one line."""
    return " ".join((done.stderr or done.stdout).split())[-500:]


def check_digest(what: str, path: str, sha256: str) -> pathlib.Path:
    """Return the path of a file that has to be on this node; raises ReleaseError when it is not, or is another one."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise ReleaseError(f"{what} {file} is not on this node; copy it before installing")
    if sha256_of(file) != sha256:
        raise ReleaseError(f"{what} {file} does not have the digest it was built with; copy it again")
    return file


def unpack(archive: pathlib.Path, directory: pathlib.Path) -> None:
    """Unpack an archive or a bundle into a directory."""
    with tarfile.open(archive) as tar:
        # Debian 12's Python has no such filter; the archive is the one that the controller built, by its digest.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(directory)  # noqa: S202  # by that filter


def paths_of(environment: pathlib.Path) -> dict[str, str]:
    """Return where a virtual environment has its parts (purelib, scripts and so on)."""
    asked = run(
        environment / "bin" / "python", "-c", "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))"
    )
    if asked.returncode != 0:
        raise ReleaseError(f"the virtual environment does not run: {last_words(asked)}")
    return json.loads(asked.stdout)


def install_wheels(wheels: list[pathlib.Path], environment: pathlib.Path, paths: dict[str, str]) -> set[pathlib.Path]:
    """Install wheels into a virtual environment, in this process: pip takes seconds to start and to look around.

    wheels: what to install, in this order. environment: its directory. paths: where it has its parts.
    Returns: the files that were written.
    Raises ReleaseError when one is no wheel, or would write outside of the environment; OSError when the disk is full.
    """
    python = environment / "bin" / "python"
    written: set[pathlib.Path] = set()

    class Destination(installer.destinations.SchemeDictionaryDestination):
        def write_to_fs(self, scheme: str, path: str, *content: Any, **options: Any) -> Any:
            folder = pathlib.Path(self.scheme_dict[scheme])
            target = pathlib.Path(os.path.normpath(folder / path))
            if not target.is_relative_to(folder):
                raise ReleaseError(f"{path} would be outside of the virtual environment; such a wheel is not installed")
            # Packages that ship the same file are not rare (tests/__init__.py); as with pip, the last one's stays.
            target.unlink(missing_ok=True)
            written.add(target)
            return super().write_to_fs(scheme, path, *content, **options)

    for wheel in wheels:
        headers = environment / "include" / "site" / wheel.name.partition("-")[0]
        destination = Destination({**paths, "headers": str(headers)}, interpreter=str(python), script_kind="posix")
        try:
            with installer.sources.WheelFile.open(wheel) as source:
                installer.install(source, destination, additional_metadata={"INSTALLER": b"terrace\n"})
        except OSError:
            raise
        except Exception as error:  # the library has a class of errors for each of its parts, and lets others through
            raise ReleaseError(f"{wheel.name} cannot be installed: {error}") from error
    return written


def newest_releases(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the directory of the newest installed release of each service under the root."""
    found = {home: releases_of(home.name, str(root))["installed"] for home in sorted(root.iterdir())}
    return [home / "releases" / installed[-1] for home, installed in found.items() if installed]


def twins(release: pathlib.Path, described: dict[str, Any]) -> Iterator[pathlib.Path]:
    """Return the installed releases of a service that have the same dependencies as a new one, newest first."""
    releases = release.parent
    for other in reversed(releases_of(releases.parent.name, str(releases.parent.parent))["installed"]):
        its = read_json(releases / other / "release.json")
        if all(its.get(key) == described[key] for key in ("bundle_sha256", "python")):
            yield releases / other


def files_of(names: set[str], environment: pathlib.Path, packages: pathlib.Path) -> list[str]:
    """Return the files of packages in a virtual environment, as the packages' own records have them.

    names: the packages. environment: its directory. packages: the one for packages in it.
    Raises ValueError, csv.Error or OSError for anything that is odd: a record that is missing or damaged; a file that
    is missing, has another size, lies elsewhere, or may be that of a package which is not asked for.
    """
    claims: dict[str, set[tuple[str, str]]] = {}
    whole = set()
    for record in packages.glob("*.dist-info/RECORD"):
        name = normal(record.parent.name.removesuffix(".dist-info").rpartition("-")[0])
        with record.open(encoding="utf-8", newline="") as lines:
            for path, _, size in csv.reader(lines):
                claims.setdefault(os.path.normpath(packages / path), set()).add((name, size))
        # It lists itself.
        if (name, "") in claims.get(str(record), ()):
            whole.add(name)
    if not names <= whole:
        raise ValueError(f"{environment} has no whole record of {', '.join(names - whole)}")
    files = []
    for file, its in claims.items():
        owners, sizes = {name for name, _ in its}, {size for _, size in its}
        if owners & names:
            found = os.lstat(file)
            if (
                not owners <= names
                or not file.startswith(f"{environment}/")
                or not stat.S_ISREG(found.st_mode)
                or not {"", str(found.st_size)} & sizes
                # Of a script that two packages have, one's record has a digest of which nobody has the content.
                or (len(owners) > 1 and os.path.dirname(file) == f"{environment}/bin")
            ):
                raise ValueError(f"{file} is not as its record says")
            files.append(file)
    return files


def moved(files: list[str], theirs: pathlib.Path, mine: pathlib.Path) -> dict[str, bytes]:
    """Return those files of an environment whose content is another in another one, with that content.

    They are the scripts that its Python runs, which their first line names, or where the path is long, their second;
    and the records that have those scripts' digests.
    """

    def digest(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")

    anew, digests = {}, {}
    for file in files:
        if os.path.dirname(file) == f"{theirs}/bin":
            content = pathlib.Path(file).read_bytes()
            head = b"\n".join(content.split(b"\n", 2)[:2]) if content.startswith(b"#!") else b""
            new = head.replace(os.fsencode(theirs), os.fsencode(mine)) + content[len(head) :]
            if new != content:
                anew[file], digests[digest(content)] = new, digest(new)
    for file in files:
        if file.endswith(".dist-info/RECORD"):
            content = new = pathlib.Path(file).read_bytes()
            for old, other in digests.items():
                new = new.replace(old, other)
            if new != content:
                anew[file] = new
    return anew


def link(source: str, target: str) -> None:
    """Link a file, or copy it with its time where that cannot be: on another file system, or linked too often."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def tag_of(packages: pathlib.Path) -> str:
    """Return what the names of byte code have that is made for a directory of packages (.../python3.13/...)."""
    return packages.parent.name.replace("python", "cpython-").replace(".", "")


def link_packages(names: set[str], theirs: pathlib.Path, mine: pathlib.Path, packages: pathlib.Path) -> bool:
    """Give a new virtual environment packages of another one: links to their files and to their byte code.

    names: the packages. theirs, mine: the environments' directories. packages: the one for packages in the new one.
    Returns: whether it was done. Nothing is written where anything about the other environment is odd.
    Raises OSError when the disk is full.
    """
    try:
        files = files_of(names, theirs, theirs / packages.relative_to(mine))
        anew = moved(files, theirs, mine)
    except (OSError, ValueError, csv.Error):
        return False
    tag = tag_of(packages)
    for file in [file for file in files if file.endswith(".py")]:
        folder, name = os.path.split(file)
        if os.path.isfile(code := f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"):
            files.append(code)
    places = {file: f"{mine}{file.removeprefix(str(theirs))}" for file in files}
    # A path of another length makes scripts of another size; and what is there already is the environment's own.
    if len(str(theirs)) != len(str(mine)) or any(map(os.path.lexists, places.values())):
        return False
    for folder in {os.path.dirname(place) for place in places.values()}:
        os.makedirs(folder, exist_ok=True)
    for file, place in places.items():
        if file in anew:
            pathlib.Path(place).write_bytes(anew[file])
            shutil.copymode(file, place)
        else:
            link(file, place)
    return True


def share(packages: pathlib.Path, files: Iterable[pathlib.Path], others: list[pathlib.Path]) -> None:
    """Make files that are in other directories of packages, too, links to those, and take their byte code along.

    Most of a release's packages are those of the release before: so they take no room, and are not compiled again.
    Nobody writes to them: they are root's, and a release is never changed, only removed.

    packages: a directory of packages (.../python3.13/site-packages). files: what is new in it, not compiled yet; what
    lies elsewhere is left alone. others: such directories of whole releases.
    """
    tag = tag_of(packages)
    mine = [path for path in files if path.is_relative_to(packages)]
    temporary = packages / ".linked"
    for other in filter(pathlib.Path.is_dir, others):
        rest = []
        for path in mine:
            theirs = other / path.relative_to(packages)
            code = f"__pycache__/{path.stem}.{tag}.pyc"
            try:
                if not theirs.is_file() or theirs.is_symlink() or not filecmp.cmp(path, theirs, shallow=False):
                    rest.append(path)
                    continue
                temporary.hardlink_to(theirs)
                temporary.replace(path)
                temporary.unlink(missing_ok=True)  # still there where both were one file already
                if path.suffix == ".py" and (theirs.parent / code).is_file():
                    (path.parent / code).parent.mkdir(exist_ok=True)
                    (path.parent / code).hardlink_to(theirs.parent / code)
            except OSError:  # on another file system, linked as often as it can be, or removed just now: a copy will do
                rest.append(path)
        mine = rest


def create_environment(
    release: pathlib.Path, described: dict[str, Any], bundle: pathlib.Path, python: str, others: list[pathlib.Path]
) -> pathlib.Path:
    """Make the release's virtual environment, and return the environment's Python.

    release: its directory. described: its description. bundle: its dependencies' wheels. python: the node's.
    others: releases to share files with.
    Raises ReleaseError when the node's Python is not the one that the release was built for, or a wheel cannot be
    installed.
    """
    asked = run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    if asked.returncode != 0 or asked.stdout.strip() != described["python"]:
        raise ReleaseError(
            f"the release is for Python {described['python']}, but {python} here is "
            f"{asked.stdout.strip() or 'missing'}; build it for this node's Python"
        )
    if described["platform"].split("-")[0] != platform.machine():
        raise ReleaseError(
            f"the release is for {described['platform']}, but this node is {platform.machine()}; build it for this node"
        )
    environment = release / "venv"
    # Nothing on a node needs pip: not the environment, and not its making.
    made = run(python, "-m", "venv", "--without-pip", environment)
    if made.returncode != 0:
        raise ReleaseError(f"the virtual environment cannot be made: {last_words(made)}")
    paths = paths_of(environment)
    packages = pathlib.Path(paths["purelib"])
    # A project that runs from its source has no wheel of its own.
    (release / "wheels").mkdir(exist_ok=True)
    wheels = sorted((release / "wheels").glob("*.whl"))
    names = set(described["dependencies"])
    linked = any(link_packages(names, twin / "venv", environment, packages) for twin in twins(release, described))
    if not linked:
        unpack(bundle, release / "wheels/bundle")
        wheels = [*sorted((release / "wheels/bundle").glob("*.whl")), *wheels]
    written = install_wheels(wheels, environment, paths)
    share(packages, written, [other / packages.relative_to(release) for other in others])
    if described.get("import_source"):
        (packages / "terrace-source.pth").write_text(f"{release / 'src'}\n", encoding="utf-8")
    shutil.rmtree(release / "wheels")
    # What was linked is compiled; for what few files are left, more processes would take longer to start than to work.
    code = [path.relative_to(packages) for path in written if path.suffix == ".py" and path.is_relative_to(packages)]
    new = sorted({packages / path.parts[0] for path in code}) if linked else [environment / "lib"]
    jobs = "1" if linked else "0"
    # Packages ship files for other Pythons among theirs: not every one of them compiles, nor has to.
    compiled = run(environment / "bin" / "python", "-m", "compileall", "-q", "-j", jobs, *new, release / "src")
    if unwritten := re.search(r"OSError: (.*)", compiled.stdout + compiled.stderr):
        raise ReleaseError(f"its byte code cannot be written: {unwritten[1]}")
    return environment / "bin" / "python"


def check_import(python: pathlib.Path, release: pathlib.Path, target: str, user: str) -> None:
    """Import the service's callable as the service's user; raises ReleaseError when it is not there."""
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise ReleaseError(
                f"user {user} does not exist, who was to import {target}; create it before installing"
            ) from None
        options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        done = run(python, "-B", "-c", CHECK_IMPORT, target, cwd=release / "src", timeout=120, **options)
    except subprocess.TimeoutExpired:
        raise ReleaseError(f"importing {target} does not end within 120 s") from None
    if done.returncode == 3:
        raise ReleaseError(
            f"{target} cannot be imported: {last_words(done)}; correct app, or the project's dependencies"
        )


def install(parameters: dict[str, Any], release: pathlib.Path, group: str) -> None:
    """Install a release that is not there yet, or was cut off; nothing but its marker tells it is complete.

    parameters: the module's. release: its directory. group: who may read it.
    Raises ReleaseError with one line that names what to mend.
    """
    archive = check_digest("archive", parameters["archive"], parameters["sha256"])
    if release.exists():
        shutil.rmtree(release)
    release.mkdir(mode=0o700)
    try:
        unpack(archive, release)
        described = read_json(release / "release.json")
        if described.get("id") != parameters["id"]:
            raise ReleaseError(
                f"archive {archive} holds release {described.get('id', 'unknown')}, not {parameters['id']}; "
                "copy the right one"
            )
        bundle = check_digest("bundle", parameters["bundle"], described.get("bundle_sha256", ""))
        others = newest_releases(pathlib.Path(parameters["root"]))
        python = create_environment(release, described, bundle, parameters["python"], others)
        shutil.chown(release, group=group)
        release.chmod(0o750)
        if parameters["check"]:
            check_import(python, release, parameters["check"], parameters["check_user"] or group)
        # The marker must not outlive, in a power cut, the files that it speaks for; some disks are full only now.
        publish(release.parents[1], release.name, others_of(parameters, release))
        synced = run("sync", "--file-system", release)
        if synced.returncode != 0:
            raise ReleaseError(f"it cannot be written to the disk: {last_words(synced)}")
        mark(release, parameters)
    except BaseException:
        shutil.rmtree(release, ignore_errors=True)
        withdraw(release.parents[1], release.name, others_of(parameters, release))
        raise


def others_of(parameters: dict[str, Any], release: pathlib.Path) -> list[str]:
    """Return the ids of the service's other releases on the node, oldest first."""
    installed = releases_of(parameters["name"], parameters["root"])["installed"]
    return [other for other in installed if other != release.name]


def mark(release: pathlib.Path, parameters: dict[str, Any]) -> None:
    """Write the marker by which a release counts as installed."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    marker = {"id": parameters["id"], "sha256": parameters["sha256"], "installed_at": now}
    write_atomically(release / MARKER, json.dumps(marker) + "\n", 0o644)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "id": {"type": "str", "required": True},
            "archive": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
            "bundle": {"type": "path", "required": True},
            "root": {"type": "path", "default": ROOT},
            "group": {"type": "str"},
            "check": {"type": "str", "default": ""},
            "check_user": {"type": "str"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
    if installer is None:
        module.fail_json(msg=missing_required_lib("installer (Debian's python3-installer)"))
    name, identity = module.params["name"], module.params["id"]
    if not re.fullmatch(NAME_PATTERN, name) or not re.fullmatch(r"[0-9a-f]{12,64}", identity):
        module.fail_json(msg=f"service {name}: release '{identity}' is no release's id, or the name is no service's")
    releases = pathlib.Path(module.params["root"]) / name / "releases"
    release = releases / identity
    group = module.params["group"] or f"svc-{name}"
    # What root wants for its own files must not keep the service from reading these.
    os.umask(0o022)

    def is_installed() -> bool:
        return read_json(release / MARKER).get("id") == identity

    try:
        changed = not is_installed()
        if changed and not module.check_mode:
            with locked(releases / ".lock"):
                changed = not is_installed()
                if changed:
                    install(module.params, release, group)
    except (ReleaseError, OSError, tarfile.TarError, LookupError) as error:
        module.fail_json(msg=f"service {name}, release {identity}: {error}")
    module.exit_json(changed=changed, directory=str(release))


if __name__ == "__main__":
    main()
