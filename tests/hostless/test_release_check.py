"""Whether sources exist, asked of real ones: git repositories, and package indexes served over HTTP, all made here."""

from __future__ import annotations

import contextlib
import http.server
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from landscape import ROOT, load
from test_releases import UV, add_source_archive, add_wheel, git, project_files, release_build, write

sys.path.append(str(ROOT / "plugins/modules"))
release_check = importlib.import_module("release_check")
releases_asked = load("plugins/filter/releases.py", "releases_filter").releases_asked


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve HTTP on a free port of 127.0.0.1, and give the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and keeps its log to itself."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch) -> None:
    """No index but those of a test, and no settings of whoever runs it."""
    for variable in [name for name in os.environ if name.startswith(("UV_", "PIP_", "GIT_", "SSH_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Iterator[Path]:
    """A package index in the simple form, served over HTTP."""
    packages = tmp_path / "packages"
    packages.mkdir()
    add_wheel(packages, "terracegood", "1.0")
    add_wheel(packages, "terracewithdrawn", "1.0")
    add_wheel(packages, "terracenew", "1.0")
    add_source_archive(packages, "terracesource")
    attributes = {"terracewithdrawn": ' data-yanked="loses data"', "terracenew": ' data-requires-python="&gt;=3.99"'}
    for file in packages.iterdir():
        name = file.name.split("-")[0]
        link = f'<a href="/packages/{file.name}"{attributes.get(name, "")}>{file.name}</a>'
        write(tmp_path / "simple" / name, {"index.html": f"<!DOCTYPE html><html><body>{link}</body></html>"})

    class Handler(Quiet):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

    with serving(Handler) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{address}/simple/")
        yield tmp_path / "simple"


@pytest.fixture
def repository(tmp_path) -> Path:
    """A bare git repository with a tag and a branch."""
    work = write(tmp_path / "work", project_files("shop", "1.0"))
    git(work, "init", "-q")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    git(work, "tag", "v1.4.0")
    git(work, "checkout", "-qb", "feature/new")
    git(tmp_path, "clone", "-q", "--bare", str(work), "shop.git")
    git(tmp_path / "shop.git", "update-server-info")
    return tmp_path / "shop.git"


@pytest.fixture
def check(tmp_path, capsys) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the module on services, each given as source and version."""

    def run(*services: tuple[str, str, str], timeout: float = 10, **changed: Any) -> dict[str, Any]:
        arguments = {
            "services": [
                {"name": name, "source": {kind: where}, "version": version}
                for name, (kind, where, version) in zip("abcdefgh", services, strict=False)
            ],
            "cache_directory": str(tmp_path / "cache"),
            "timeout": timeout,
            "uv": UV,
        }
        with patch_module_args({**arguments, **changed, "_ansible_check_mode": True}), pytest.raises(SystemExit):
            release_check.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_what_is_there_is_no_problem(index, repository, check, tmp_path):
    head = git(tmp_path / "work", "rev-parse", "HEAD")
    found = check(
        ("path", str(tmp_path / "work"), "a label"),
        ("git", str(repository), "v1.4.0"),
        ("git", f"file://{repository}", "feature/new"),
        ("git", f"file://{repository}", head),
        ("pypi", "terracegood", "1.0"),
        ("pypi", "terracegood[extra]", ""),
        ("pypi", "terracesource", "1.0"),
    )
    assert found["problems"] == []
    assert found["asked"] == list("bcdefg")
    assert found["changed"] is False


def test_directories(check, tmp_path):
    old = write(tmp_path / "old", {"pyproject.toml": '[project]\nname = "old"\nrequires-python = ">=3.8,<3.13"\n'})
    odd = write(tmp_path / "odd", {"pyproject.toml": '[project]\nname = "odd"\nrequires-python = "3.13 or so"\n'})
    broken = write(tmp_path / "broken", {"pyproject.toml": "[project\n"})
    empty = write(tmp_path / "empty", {"README.md": ""})
    late = write(tmp_path / "late", {"pyproject.toml": '[project]\nname = "late"\nrequires-python = ">=3.13.2"\n'})
    script = write(tmp_path / "script", {"requirements.txt": "flask\n"})
    places = (tmp_path / "none", empty, broken, old, odd, late, script)
    problems = check(*(("path", str(place), "") for place in places))["problems"]
    assert [line.split(": ", 1) for line in problems if "TOML" not in line] == [
        [
            "services.a.source.path",
            f"there is no directory {tmp_path}/none; correct it, relative paths start beside services/",
        ],
        [
            "services.b.source.path",
            f"{empty} has no pyproject.toml, setup.py or requirements.txt; name the project",
        ],
        [
            "services.d.source.path",
            f"{old}/pyproject.toml requires Python >=3.8,<3.13, the nodes have 3.13; widen it, or set releases_python",
        ],
        ["services.e.source.path", f"{odd}/pyproject.toml: requires-python is '3.13 or so'; give it as in >=3.11"],
    ]
    assert problems[2].startswith(f"services.c.source.path: {broken}/pyproject.toml is not valid TOML: ")


def test_versions_of_a_repository(repository, check, tmp_path):
    url = f"file://{repository}"
    problems = check(
        ("git", url, "v1.4"),
        ("git", url, "odd-one"),
        ("git", url, "0" * 40),
        ("git", url, ""),
        ("git", f"{tmp_path}/none.git", "v1.4.0"),
        ("git", url, "*"),
    )["problems"]
    assert problems[:4] == [
        f"services.a.version: 'v1.4' is neither a tag, a branch nor a commit of {url}; did you mean 'v1.4.0'?",
        f"services.b.version: 'odd-one' is neither a tag, a branch nor a commit of {url}; push it, or correct it",
        f"services.c.version: '{'0' * 40}' is neither a tag, a branch nor a commit of {url}; push it, or correct it",
        "services.d.version: is ''; a git source needs a branch, a tag or a commit",
    ]
    assert problems[4].startswith(f"services.e.source.git: {tmp_path}/none.git cannot be read: '{tmp_path}/none.git'")
    assert problems[4].endswith("; correct the address, or let this user read it without a password")
    assert problems[5].startswith("services.f.version: '*' is neither")


def test_a_repository_over_http(repository, check, tmp_path):
    class Handler(Quiet):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self) -> None:
            if self.path.startswith("/private"):
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.end_headers()
            else:
                super().do_GET()

    with serving(Handler) as address:
        problems = check(
            ("git", f"{address}/shop.git", "v1.4.0"),
            ("git", f"{address}/shop.git", "v9"),
            ("git", f"{address}/none.git", "v1.4.0"),
            # Nothing may wait for someone to type a password.
            ("git", f"{address.replace('://', '://me:secret@')}/private.git", "v1.4.0"),
            ("git", f"{address}/private.git", "v1.4.0"),
        )["problems"]
    assert [line.split(": ")[0] for line in problems] == [
        "services.b.version",
        "services.c.source.git",
        "services.d.source.git",
        "services.e.source.git",
    ]
    assert all(line.endswith("this user read it without a password") for line in problems[1:])
    assert "secret" not in str(problems)


def test_a_repository_of_the_git_daemon(repository, check, tmp_path, refusing):
    port = refusing.split(":")[1]
    command = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", f"--base-path={tmp_path}", "--export-all"]
    with subprocess.Popen([*command, "--reuseaddr", str(tmp_path)], stderr=subprocess.DEVNULL) as daemon:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                    break
                time.sleep(0.05)
            url = f"git://127.0.0.1:{port}/shop.git"
            problems = check(("git", url, "v1.4.0"), ("git", url, "v2"))["problems"]
        finally:
            daemon.terminate()
    assert [line.split(": ")[0] for line in problems] == ["services.b.version"]


def test_versions_of_a_package(index, check):
    found = check(
        ("pypi", "terracegood", "9.0"),
        ("pypi", "terracemissing", "1.0"),
        ("pypi", "terracenew", "1.0"),
        ("pypi", "terracegood 1.0", ""),
        ("pypi", "terracewithdrawn", "1.0"),
    )
    assert found["problems"] == [
        "services.a.version: terracegood has no version 9.0 on the package index; correct it",
        "services.b.source.pypi: terracemissing is not on the package index; correct it, or name its index in UV_INDEX",
        "services.c.version: terracenew==1.0 requires Python >=3.99, the nodes have 3.13; name another",
        "services.d.source.pypi: 'terracegood 1.0' is not a package's name; the version belongs into version",
    ]
    assert "'terracewithdrawn==1.0 was withdrawn by its publisher (loses data)'" in str(found["warnings"])


def test_who_does_not_answer_is_told_apart(check, silent, refusing, monkeypatch):
    """All at once, so that a silent server costs one timeout and not one for each service."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{silent}/simple/")
    began = time.monotonic()
    problems = check(
        ("git", f"http://{silent}/shop.git", "v1"),
        ("git", f"git://{silent}/shop.git", "v1"),
        ("git", f"ssh://{silent}/shop.git", "v1"),
        ("pypi", "terracegood", "1.0"),
        timeout=2,
    )["problems"]
    assert time.monotonic() - began < 6
    assert problems == [
        *(
            f"services.{name}.source.git: {url}://{silent}/shop.git could not be asked: no answer within 2 s;"
            " OFFLINE=1 skips this"
            for name, url in (("a", "http"), ("b", "git"), ("c", "ssh"))
        ),
        "services.d.source.pypi: terracegood could not be asked: no answer within 2 s; OFFLINE=1 skips this",
    ]
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{refusing}/simple/")
    problems = check(
        *(("git", f"{kind}://{refusing}/shop.git", "v1") for kind in ("http", "git", "ssh")),
        ("pypi", "terracegood", "1"),
    )["problems"]
    assert all(" could not be asked: " in line and line.endswith("; OFFLINE=1 skips this") for line in problems)
    assert len(problems) == 4


def test_an_index_that_errs_or_wants_a_login(check, monkeypatch):
    for status in (401, 503):

        class Handler(Quiet):
            answer = status

            def do_GET(self) -> None:
                self.send_error(self.answer)

        with serving(Handler) as address:
            monkeypatch.setenv("UV_DEFAULT_INDEX", f"{address.replace('://', '://me:secret@')}/simple/")
            (problem,) = check(("pypi", "terracegood", "1.0"))["problems"]
        assert problem.startswith("services.a.source.pypi: terracegood could not be asked: ")
        assert "secret" not in problem


def test_what_has_been_built_is_not_asked_again(check, tmp_path, repository, refusing, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{refusing}/simple/")
    sources = (
        ("pypi", "terracegood", "1.0", "terracegood"),
        ("git", "http://me:secret@127.0.0.1:1/shop.git", "v1", "http://127.0.0.1:1/shop.git"),
    )
    for name, (kind, _, version, origin) in zip("ab", sources, strict=True):
        described = {"source": {"kind": kind, "origin": origin}, "version": version, "python": "3.13"}
        described |= {"bundle_sha256": "c" * 64}
        files = {"0123456789ab.json": json.dumps(described), "0123456789ab.tar.gz": "", f"wheels-{'c' * 24}.tar": ""}
        write(tmp_path / "cache" / name, files)
    services = [source[:3] for source in sources]
    assert check(*services)["asked"] == []
    assert check(("pypi", "terracegood", ""))["asked"] == []
    assert check(*services, python_version="3.14")["asked"] == ["a", "b"]
    assert check(("pypi", "terracegood", "1.1"))["asked"] == ["a"]
    (tmp_path / "cache/a/0123456789ab.tar.gz").unlink()
    (tmp_path / f"cache/b/wheels-{'c' * 24}.tar").unlink()
    assert check(*services)["asked"] == ["a", "b"]


def test_a_real_build_is_recognised(index, check, tmp_path, repository, monkeypatch):
    """What release_build leaves in its cache is what is looked for."""
    url = f"file://{repository}"
    arguments = {
        "name": "a", "source": {"git": url}, "version": "v1.4.0", "server": "gunicorn", "interface": "wsgi",
        "python_version": "3.13", "cache_directory": str(tmp_path / "cache"), "uv": UV,
    }  # fmt: skip
    add_wheel(tmp_path / "packages", "gunicorn", "1.0")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "packages"))
    with patch_module_args({**arguments, "_ansible_check_mode": False}), pytest.raises(SystemExit):
        release_build.main()
    shutil.rmtree(repository)
    assert check(("git", url, "v1.4.0"))["asked"] == []
    assert check(("git", url, "v1.5.0"))["asked"] == ["a"]


def test_what_cannot_be_asked_yet_is_left_to_validation():
    declared = {
        "one": {"source": {"path": "examples/one"}, "version": "v1"},
        "two": {"source": {"path": "a", "git": "b"}},
        "three": {"source": "pypi"},
        "four": {},
        "five": {"source": {"pypi": "httpbin"}, "version": 1.0},
        "six": {"source": {"svn": "there"}},
    }
    assert releases_asked(declared, "/srv/mine") == [
        {"name": "one", "source": {"path": "/srv/mine/examples/one"}, "version": "v1"}
    ]
