#!/usr/bin/python
"""Install a release on a node, without network, under its id."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_install
short_description: Install a service's release on a node
description:
  - Unpacks the archive that M(release_build) made under C(ROOT/NAME/releases/ID), makes a virtual environment there,
    and installs the archive's wheels into it, each checked by its hash, without any network.
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
    description: The node's Python. Its C(venv) module has to be there (Debian's python3-venv).
    type: path
    default: /usr/bin/python3
author: Terrace
"""

EXAMPLES = r"""
- name: Copy the release
  ansible.builtin.copy:
    src: "{{ __built.archive }}"
    dest: /var/cache/terrace/orders-{{ __built.id }}.tar.gz
    mode: "0600"
  when: __built.id not in __facts.services.orders.installed

- name: Install the release
  release_install:
    name: orders
    id: "{{ __built.id }}"
    archive: /var/cache/terrace/orders-{{ __built.id }}.tar.gz
    sha256: "{{ __built.sha256 }}"
    check: orders.main:app
"""

RETURN = r"""
directory:
  description: The release's directory.
  type: str
  returned: always
"""

import datetime
import json
import os
import pathlib
import platform
import pwd
import re
import shutil
import subprocess
import tarfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import (
    MARKER,
    NAME_PATTERN,
    ROOT,
    ReleaseError,
    locked,
    read_json,
    sha256_of,
    write_atomically,
)

# Where a Python keeps the pip that it puts into new environments; Debian's is apart from the rest.
FIND_PIP = """
import ensurepip, pathlib, sysconfig
folders = [sysconfig.get_config_var("WHEEL_PKG_DIR"), pathlib.Path(ensurepip.__file__).parent / "_bundled"]
print(*[wheel for folder in folders if folder for wheel in pathlib.Path(folder).glob("pip-*.whl")], sep="\\n")
"""
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
        "PIP_CONFIG_FILE": "/dev/null",
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


def unpack(archive: pathlib.Path, release: pathlib.Path, identity: str) -> dict[str, Any]:
    """Unpack an archive into the empty directory of a release, and return its description.

    Raises ReleaseError when it is another release's.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(release, filter="data")
    described = read_json(release / "release.json")
    if described.get("id") != identity:
        raise ReleaseError(
            f"{archive} holds release {described.get('id', 'unknown')}, not {identity}; copy the right one"
        )
    return described


def create_environment(release: pathlib.Path, described: dict[str, Any], python: str) -> pathlib.Path:
    """Make the release's virtual environment from its wheels, and return the environment's Python.

    Raises ReleaseError when the node's Python is not the one that the release was built for, or pip refuses.
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
    wheels = run(python, "-c", FIND_PIP)
    if wheels.returncode != 0 or not wheels.stdout.strip():
        raise ReleaseError(f"{python} has no venv and pip to install with; install python3-venv")
    pip = f"{wheels.stdout.split()[0]}/pip"
    environment = release / "venv"
    # pip works from its own wheel: it is not needed in the environment afterwards, and takes seconds to install there.
    made = run(python, "-m", "venv", "--without-pip", environment)
    if made.returncode != 0:
        raise ReleaseError(f"the virtual environment cannot be made: {last_words(made)}")
    installed = run(
        environment / "bin" / "python", pip, "install", "--quiet", "--isolated", "--no-index", "--no-deps",
        "--no-compile", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore",
        "--require-hashes",
        "--find-links", release / "wheels", "--requirement", release / "requirements.txt",
    )  # fmt: skip
    if installed.returncode != 0:
        raise ReleaseError(f"pip refuses the release's wheels: {last_words(installed)}")
    if described.get("import_source"):
        for packages in environment.glob("lib/python*/site-packages"):
            (packages / "terrace-source.pth").write_text(f"{release / 'src'}\n", encoding="utf-8")
    shutil.rmtree(release / "wheels")
    # Packages ship files for other Pythons among theirs: not every one of them compiles, nor has to.
    compiled = run(
        environment / "bin" / "python", "-m", "compileall", "-q", "-j", "0", environment / "lib", release / "src"
    )
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
    archive = pathlib.Path(parameters["archive"])
    if not archive.is_file():
        raise ReleaseError(f"archive {archive} is not on this node; copy it before installing")
    if sha256_of(archive) != parameters["sha256"]:
        raise ReleaseError(f"archive {archive} does not have the digest it was built with; copy it again")
    if release.exists():
        shutil.rmtree(release)
    release.mkdir(mode=0o700)
    try:
        described = unpack(archive, release, parameters["id"])
        python = create_environment(release, described, parameters["python"])
        shutil.chown(release, group=group)
        release.chmod(0o750)
        if parameters["check"]:
            check_import(python, release, parameters["check"], parameters["check_user"] or group)
        # The marker must not outlive, in a power cut, the files that it speaks for; some disks are full only now.
        synced = run("sync", "--file-system", release)
        if synced.returncode != 0:
            raise ReleaseError(f"it cannot be written to the disk: {last_words(synced)}")
        mark(release, parameters)
    except BaseException:
        shutil.rmtree(release, ignore_errors=True)
        raise


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
            "root": {"type": "path", "default": ROOT},
            "group": {"type": "str"},
            "check": {"type": "str", "default": ""},
            "check_user": {"type": "str"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
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
