"""Where a service's release comes from: a directory of the controller, a git repository, or the package index."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ansible.module_utils.releases import ReleaseError, digest_of, locked, sha256_of

# What modules take as a service's source.
SOURCE = {
    "type": "dict",
    "required": True,
    "options": {"path": {"type": "path"}, "git": {"type": "str"}, "pypi": {"type": "str"}},
    "mutually_exclusive": [["path", "git", "pypi"]],
    "required_one_of": [["path", "git", "pypi"]],
}
SOURCE_EPOCH = 946684800  # 2000-01-01, for what has to carry a time and should always carry the same
# Left out of a directory unless git tracks it.
LITTER = (
    ".git", ".hg", ".svn", ".venv", "venv", ".env", "__pycache__", "*.pyc", ".pytest_cache", ".mypy_cache",
    ".ruff_cache", ".tox", ".nox", ".coverage", ".DS_Store", "*.egg-info",
)  # fmt: skip
# What uv and pip read for the same purpose, so that telling one of them is enough.
INDEX_VARIABLES = (
    ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
    ("UV_INDEX", "PIP_EXTRA_INDEX_URL"),
)
# What uv, pip and git say of a server that does not answer, or not as one.
UNREACHABLE = re.compile(
    r"error sending request|dns error|timed? ?out|Connection refused|network was disabled|unable to connect"
    r"|status (code |server error \()?5\d\d|returned error: 5\d\d|NewConnectionError|Could not resolve"
    r"|Failed to connect|Network is unreachable|No route to host|could not be queried"
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A service's source as asked for, before its files are touched.

    kind: path, git or pypi. version: as asked for. commit: of git, else empty. digest: stands for the content.
    requirement: of pypi sources, the package. unpack: writes the files into an empty directory.
    """

    kind: str
    version: str
    commit: str
    digest: str
    origin: str
    requirement: str
    unpack: Callable[[pathlib.Path], None]


def one_line(text: str, limit: int = 700) -> str:
    """Return a tool's message as one line without credentials, decoration or more than limit characters."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"(?<=://)[^/@\s]+@", "", text)
    text = re.sub(r"\b(error|cause|hint|warning|fatal): *", "", text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit // 3] + " ... " + text[-2 * limit // 3 :]


def index_environment() -> dict[str, str]:
    """Return the environment for uv and pip, in which both know the indexes that either was told of."""
    environment = dict(os.environ)
    for ours, theirs in INDEX_VARIABLES:
        for known, other in ((ours, theirs), (theirs, ours)):
            if environment.get(known) and other not in os.environ:
                environment[other] = re.sub(r"(^|(?<=\s))[\w-]+=(?=[a-z]+:)", "", environment[known])
    if environment.get("UV_FIND_LINKS") and "PIP_FIND_LINKS" not in os.environ:
        environment["PIP_FIND_LINKS"] = environment["UV_FIND_LINKS"].replace(",", " ")
    if environment.get("PIP_FIND_LINKS") and "UV_FIND_LINKS" not in os.environ:
        environment["UV_FIND_LINKS"] = ",".join(environment["PIP_FIND_LINKS"].split())
    environment.update(
        UV_PYTHON_DOWNLOADS="never",
        UV_NO_PROGRESS="1",
        PIP_NO_INPUT="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        GIT_TERMINAL_PROMPT="0",
        SOURCE_DATE_EPOCH=str(SOURCE_EPOCH),
        PYTHONDONTWRITEBYTECODE="1",
    )
    return environment


def run(
    *command: str | pathlib.Path, cwd: pathlib.Path | None = None, timeout: float | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its exit status and output.

    cwd: its directory. timeout: seconds after which it is killed, with all that it started; its status is then 124,
    as that of timeout(1). variables: added to its environment.
    """
    arguments = [str(part) for part in command]
    try:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=index_environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A group of its own, to be killed as one. It has no terminal either, so nothing in it can ask a person.
            start_new_session=timeout is not None,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", f"{arguments[0]} is not installed on the controller")
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return subprocess.CompletedProcess(arguments, 124, "", f"no answer within {timeout:g} s")
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def find_uv(given: str | None) -> str:
    """Return the path of uv: the one given, or the one beside the running Python, or the first on PATH.

    Raises ReleaseError where there is none.
    """
    beside = str(pathlib.Path(sys.executable).parent / "uv")
    for candidate in [given] if given else [beside, "uv"]:
        found = shutil.which(candidate)
        if found:
            return found
    raise ReleaseError(
        f"{given or 'uv'} is not on the controller; install it (`make up` does), or set the module's option uv"
    )


def index_options() -> list[str]:
    """Return uv's options for the index: it has no variable for asking none, and must not where pip is told not to."""
    forbidden = os.environ.get("PIP_NO_INDEX", "").lower() not in ("", "0", "false", "no", "off")
    return ["--no-index"] if forbidden else []


def git(
    *arguments: str | pathlib.Path, timeout: float | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run git on a repository that may belong to someone else, with nothing of its configuration that runs programs."""
    options = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    return run("git", *options, *arguments, timeout=timeout, **variables)


def ssh_without_questions() -> str:
    """Return the user's own ssh command for git, told never to ask for a password or about a host's key."""
    configured = os.environ.get("GIT_SSH_COMMAND") or run("git", "config", "core.sshCommand").stdout.strip()
    return f"{configured or 'ssh'} -o BatchMode=yes"


def is_excluded(path: str, patterns: list[str]) -> bool:
    """Say whether a path below the source, or one of its parts, matches one of the patterns."""
    parts = path.split("/")
    return any(
        fnmatch.fnmatchcase(candidate, pattern)
        for pattern in patterns
        for candidate in (*parts, *("/".join(parts[: end + 1]) for end in range(len(parts))))
    )


def walk(root: pathlib.Path, below: str = "") -> Iterator[str]:
    """Yield the path of every file and link under a directory, relative to root; virtual environments are left out."""
    for entry in os.scandir(root / below):
        path = f"{below}/{entry.name}" if below else entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield path
        elif entry.name != ".git" and not (root / path / "pyvenv.cfg").exists():
            yield from walk(root, path)


def list_directory(root: pathlib.Path) -> set[str]:
    """Return what a directory of the controller holds for a release, as paths relative to it.

    In a git checkout that is what git tracks, and what is new there and not ignored; the litter of tools never is.
    """
    found: set[str] = set()
    for choice in (["--cached"], ["--others", "--exclude-standard"]):
        listed = git("-C", root, "ls-files", "-z", *choice, "--", ".")
        paths = {path.rstrip("/") for path in listed.stdout.split("\0") if path and os.path.lexists(root / path)}
        for path in paths:
            if (root / path).is_dir() and not (root / path).is_symlink():  # a submodule
                found.update(walk(root, path))
            elif choice == ["--cached"] or not is_excluded(path, list(LITTER)):
                found.add(path)
    # No checkout, or a directory that the one around it ignores as a whole.
    return found or {path for path in walk(root) if not is_excluded(path, list(LITTER))}


def choose_files(root: pathlib.Path, found: set[str], exclude: list[str]) -> list[str]:
    """Return the files that go into a release, sorted.

    root: the source's directory. found: paths relative to it. exclude: the user's patterns.
    Raises ReleaseError for a link that leads out of the source.
    """
    files = sorted(path for path in found if not is_excluded(path, exclude))
    for path in files:
        if (root / path).is_symlink():
            link = os.readlink(root / path)
            if os.path.normpath(os.path.join(os.path.dirname(path), link)).startswith(("/", "..")):
                raise ReleaseError(
                    f"{path} links to {link}, outside of the source: put the file itself there, or exclude it"
                )
    return files


def describe_file(path: pathlib.Path) -> list[Any]:
    """Return what of a file counts for a digest: its kind or mode, and its content."""
    if path.is_symlink():
        return ["link", os.readlink(path)]
    return ["x" if path.stat().st_mode & 0o100 else "-", sha256_of(path)]


def copy_files(root: pathlib.Path, files: list[str], target: pathlib.Path) -> None:
    """Copy the listed files of root into target with plain modes, keeping links as links."""
    for path in files:
        original, copy = root / path, target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_symlink():
            copy.symlink_to(os.readlink(original))
        else:
            shutil.copyfile(original, copy)
            copy.chmod(0o755 if original.stat().st_mode & 0o100 else 0o644)


def open_path(directory: str, version: str, exclude: list[str]) -> Source:
    """Return a directory of the controller as a source."""
    root = pathlib.Path(directory).resolve()
    if not root.is_dir():
        raise ReleaseError(f"source.path {root} is not a directory on the controller")
    files = choose_files(root, list_directory(root), exclude)
    if not files:
        raise ReleaseError(f"source.path {root} holds no files")
    return Source(
        kind="path",
        version=version,
        commit="",
        digest=digest_of([[path, *describe_file(root / path)] for path in files]),
        origin="",
        requirement="",
        unpack=lambda target: copy_files(root, files, target),
    )


def open_git(url: str, version: str, exclude: list[str], cache: pathlib.Path, warn: Callable[[str], None]) -> Source:
    """Return one commit of a git repository as a source, fetched into a bare repository in the cache."""
    shown = one_line(url)
    if not version or version.startswith("-"):
        raise ReleaseError(f"source.git {shown} needs a version: a branch, a tag or a commit")
    if url.startswith("-"):
        raise ReleaseError(f"source.git {shown} is not an address")
    mirror = cache / "git" / digest_of(url)[:16]

    def resolve() -> str:
        for ref in (f"refs/tags/{version}", f"refs/heads/{version}", version):
            found = git("--git-dir", mirror, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
            if found.returncode == 0:
                return found.stdout.strip()
        return ""

    with locked(cache / "git" / f"{mirror.name}.lock"):
        if not (mirror / "HEAD").exists():
            git("init", "--quiet", "--bare", mirror)
        # A whole commit id can only ever mean the same; a tag or branch may have moved.
        commit = resolve() if re.fullmatch(r"[0-9a-f]{40}", version) else ""
        if not commit:
            fetched = git(
                "--git-dir", mirror, "fetch", "--quiet", "--force", "--prune", "--", url,
                "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*",
            )  # fmt: skip
            commit = resolve()
            if fetched.returncode != 0:
                reason = f"source.git {shown} cannot be fetched: {one_line(fetched.stderr, 300)}"
                if not commit:
                    raise ReleaseError(
                        f"{reason}; check the address, and that this user may read it without a password prompt"
                    )
                warn(f"{reason}; going on with {version} as last fetched ({commit[:12]})")
            if not commit:
                raise ReleaseError(
                    f"version {version} is neither a tag, a branch nor a commit of {shown}; push it, or correct it"
                )

    def unpack(target: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory(prefix="terrace-git-") as scratch:
            # A bare repository has neither an index nor a work tree of its own.
            variables = {"GIT_INDEX_FILE": f"{scratch}/index", "GIT_WORK_TREE": f"{scratch}/tree"}
            tree = pathlib.Path(scratch) / "tree"
            tree.mkdir()
            for arguments in (("read-tree", commit), ("checkout-index", "--all", "--force")):
                done = git("-C", tree, "--git-dir", mirror, *arguments, **variables)
                if done.returncode != 0:
                    raise ReleaseError(f"commit {commit} of {shown} cannot be checked out: {one_line(done.stderr)}")
            copy_files(tree, choose_files(tree, set(walk(tree)), exclude), target)

    return Source("git", version, commit, commit, shown, "", unpack)


def open_pypi(package: str, version: str) -> Source:
    """Return a package of the index as a source; it has no files of its own."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,\s-]+\])?", package):
        raise ReleaseError(f"source.pypi '{package}' is not a package's name; the version belongs into version")
    if not re.fullmatch(r"[A-Za-z0-9.!+_-]*", version):
        raise ReleaseError(f"version '{version}' is not a version of a package; leave it empty for the newest")
    requirement = f"{package}=={version}" if version else package
    return Source("pypi", version, "", requirement, package, requirement, lambda target: None)
