"""Releases, built and installed for real: most from a package index made here, one from the public one."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.server
import importlib
import io
import json
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from typing import Any

import ansible.module_utils
import pytest
from ansible.module_utils.testing import patch_module_args

ROOT = pathlib.Path(__file__).resolve().parents[2]
UV = str(pathlib.Path(sys.executable).parent / "uv")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ansible.module_utils.__path__.append(str(ROOT / "plugins/module_utils"))
sys.path.append(str(ROOT / "plugins/modules"))

release_build = importlib.import_module("release_build")
release_install = importlib.import_module("release_install")
release_facts = importlib.import_module("release_facts")

# A build backend that needs nothing, so that projects here build without any index.
BACKEND = """
import pathlib, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "{name}-{version}-{tag}.whl"
    info = "{name}-{version}.dist-info/"
    with zipfile.ZipFile(pathlib.Path(directory) / name, "w") as wheel:
        def add(path, text):
            wheel.writestr(zipfile.ZipInfo(path, (2000, 1, 1, 0, 0, 0)), text)
        for source in sorted(pathlib.Path("{name}").glob("*.py")):
            add(str(source), source.read_text())
        add(info + "METADATA", {metadata!r})
        add(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        files = ["{name}/__init__.py", info + "METADATA", info + "WHEEL", info + "RECORD"]
        add(info + "RECORD", "".join(file + ",,\\n" for file in files))
    return name
"""


def metadata(name: str, version: str, *needs: str) -> str:
    """Return the METADATA of a package."""
    return f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {n}\n" for n in needs
    )


def project_files(name: str, version: str, *needs: str, tag: str = "py3-none-any") -> dict[str, str]:
    """Return the files of a project that builds without network."""
    dependencies = json.dumps(needs)
    return {
        "pyproject.toml": f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {dependencies}\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(name=name, version=version, tag=tag, metadata=metadata(name, version, *needs)),
        f"{name}/__init__.py": f'VERSION = "{version}"\n\ndef app():\n    return VERSION\n',
    }


def write(directory: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    """Write files, and return their directory."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def write_wheel(directory: pathlib.Path, name: str, version: str, files: dict[str, str], *needs: str) -> pathlib.Path:
    """Write a pure wheel with such files beside its metadata, and return it."""
    info = f"{name}-{version}.dist-info"
    content = files | {
        f"{info}/METADATA": metadata(name, version, *needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in content.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = (0o100755 if "/scripts/" in file else 0o100644) << 16
            wheel.writestr(entry, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f'"{file}",sha256={digest},{len(text)}\n'
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def add_wheel(index: pathlib.Path, name: str, version: str, *needs: str) -> str:
    """Put a wheel that knows its version into an index, and return its SHA-256."""
    wheel = write_wheel(index, name, version, {f"{name}/__init__.py": f'VERSION = "{version}"\n'}, *needs)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def add_source_archive(index: pathlib.Path, name: str, tag: str = "py3-none-any", breaks: bool = False) -> None:
    """Put a package into an index that has a source archive only."""
    files = project_files(name, "1.0", tag=tag) | {"PKG-INFO": metadata(name, "1.0")}
    if breaks:
        files["backend.py"] = "def build_wheel(*_):\n    raise SystemExit('no compiler for it')\n"
    with tarfile.open(index / f"{name}-1.0.tar.gz", "w:gz") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture
def index(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return a directory that is the whole package index: an application server, and one package in two versions."""
    index = tmp_path / "index"
    index.mkdir()
    add_wheel(index, "gunicorn", "1.0")
    add_wheel(index, "terracehelper", "1.0")
    add_wheel(index, "terracehelper", "2.0")
    for variable in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(variable)
    # Names here may be anybody's on the public index, whose code a build would run: no way may lead there.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(index))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return index


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a small project that needs terracehelper."""
    return write(tmp_path / "shop", project_files("shop", "1.0", "terracehelper"))


@pytest.fixture
def module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a module in this process as Ansible would, and returns its answer."""

    def run(of: Any, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            of.main()
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        answer.pop("invocation", None)
        return answer

    return run


@pytest.fixture
def build(module: Callable[..., dict[str, Any]], tmp_path: pathlib.Path) -> Callable[..., dict[str, Any]]:
    """Return a function that builds a release; its keywords are the module's."""

    def run(source: dict[str, str] | pathlib.Path, **changed: Any) -> dict[str, Any]:
        arguments = {
            "name": "shop",
            "source": {"path": str(source)} if isinstance(source, pathlib.Path) else source,
            "server": "gunicorn",
            "interface": "wsgi",
            "python_version": PYTHON,
            "cache_directory": str(tmp_path / "cache"),
            "uv": UV,
        }
        return module(release_build, **(arguments | changed))

    return run


def names_in(archive: str) -> list[str]:
    """Return the files in an archive."""
    with tarfile.open(archive) as tar:
        return [entry.name for entry in tar if not entry.isdir()]


def git(directory: pathlib.Path, *arguments: str) -> str:
    """Run git in a directory."""
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", "-C", directory, *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_same_input_gives_same_bytes(index, project, build, tmp_path):
    first = build(project, version="v1")
    os.utime(project / "shop/__init__.py", (0, 0))
    second = build(project, version="v1", cache_directory=str(tmp_path / "other"))
    assert first["changed"]
    assert first["archive"] != second["archive"]
    assert (first["id"], first["sha256"]) == (second["id"], second["sha256"])
    assert names_in(first["archive"]) == [
        "release.json",
        "requirements.txt",
        "src/backend.py",
        "src/pyproject.toml",
        "src/shop/__init__.py",
        "wheels/shop-1.0-py3-none-any.whl",
    ]
    assert str(index) not in text_of(first["archive"])
    assert names_in(first["bundle"]) == ["gunicorn-1.0-py3-none-any.whl", "terracehelper-2.0-py3-none-any.whl"]
    assert pathlib.Path(first["bundle"]).read_bytes() == pathlib.Path(second["bundle"]).read_bytes()


def test_a_release_names_its_bundle_by_its_digest(index, project, build):
    built = build(project)
    digest = hashlib.sha256(pathlib.Path(built["bundle"]).read_bytes()).hexdigest()
    assert built["bundle_sha256"] == digest
    assert pathlib.Path(built["bundle"]) == pathlib.Path(built["archive"]).with_name(f"wheels-{digest[:24]}.tar")
    assert f'"bundle_sha256": "{digest}"' in text_of(built["archive"])
    with tarfile.open(built["bundle"], "r:"):  # not compressed, since wheels are
        pass


def test_releases_with_the_same_dependencies_have_one_bundle(index, project, build):
    first = build(project, version="v1")
    before = pathlib.Path(first["bundle"]).stat()
    (project / "shop/new.py").write_text("")
    second = build(project, version="v2")
    assert (second["id"] != first["id"], second["bundle"]) == (True, first["bundle"])
    after = pathlib.Path(first["bundle"]).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it was written again"
    add_wheel(index, "terracehelper", "3.0")
    assert build(project, version="v2", relock=True)["bundle"] != first["bundle"]


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, lambda bundle: bundle.write_bytes(b"half")])
def test_a_bundle_that_is_missing_or_damaged_is_made_anew(index, project, build, damage):
    built = build(project)
    bundle = pathlib.Path(built["bundle"])
    whole = bundle.read_bytes()
    damage(bundle)
    assert build(project, check_mode=True)["changed"]
    assert build(project) == built
    assert bundle.read_bytes() == whole


def text_of(archive: str) -> str:
    """Return all text files of an archive, one after the other."""
    with tarfile.open(archive) as tar:
        return "".join(tar.extractfile(e).read().decode() for e in tar if e.isreg() and not e.name.endswith(".whl"))


def test_any_input_changes_the_id(index, project, build):
    before = build(project, version="v1")
    ids = {before["id"], build(project, version="v2")["id"]}
    ids.add(build(project, version="v1", python_version="3.12")["id"])
    (project / "shop/new.py").write_text("")
    ids.add(build(project, version="v1")["id"])
    assert len(ids) == 4


STATIC = {"url": "/static/", "directory": "static"}


def test_static_files_are_part_of_the_release(index, project, build, install, tmp_path):
    plain = build(project)
    write(project, {"static/app.css": "body {}\n" * 50})
    without = build(project)
    built = build(project, static=STATIC)
    assert len({plain["id"], without["id"], built["id"]}) == 3
    assert not any(name.startswith("static") for name in names_in(without["archive"]))
    again = build(project, static=STATIC, cache_directory=str(tmp_path / "other"))
    assert (again["id"], again["sha256"]) == (built["id"], built["sha256"])
    assert build(project, static=STATIC) == built | {"changed": False}
    assert built["bundle"] == plain["bundle"]
    [name] = [name for name in names_in(built["archive"]) if re.fullmatch(r"static/app\.[0-9a-f]{12}\.css", name)]
    assert {"static.json", "static-links.json", f"{name}.br", f"{name}.gz"} < set(names_in(built["archive"]))
    install(built)
    home = tmp_path / "srv/shop"
    assert (home / "static/immutable" / name.removeprefix("static/")).samefile(home / "static/any/app.css")
    assert (home / "releases" / built["id"] / "static/app.css").samefile(home / "static/any/app.css")
    assert (home / "static/any/app.css").stat().st_mode & 0o777 == 0o644
    # Another release takes nothing away, and one that was lost comes again.
    install(plain)
    shutil.rmtree(home / "releases" / built["id"])
    assert install(built)["changed"]
    assert (home / "static/any/app.css").is_file()


def test_what_makes_static_files_changes_the_id(index, project, build):
    write(project, {"static/app.css": "body {}\n", "other/app.css": "body {}\n"})
    command = "test -d $STATIC_ROOT"
    kinds = [{}, {"url": "/files/"}, {"directory": "other"}, {"command": command}]
    kinds.append({"command": command, "environment": {"LEVEL": "1"}})
    assert len({build(project, static=STATIC | kind)["id"] for kind in kinds}) == len(kinds)


def test_a_command_collects_them_with_the_releases_packages(index, project, build, monkeypatch):
    monkeypatch.setenv("A_SECRET_OF_THE_CONTROLLER", "1")
    code = (
        "import os, pathlib, shop, terracehelper\n"
        "root = pathlib.Path(os.environ['STATIC_ROOT'])\n"
        "root.mkdir(parents=True)\n"
        "assert 'A_SECRET_OF_THE_CONTROLLER' not in os.environ\n"
        "(root / 'said.txt').write_text(f\"{shop.VERSION} {terracehelper.VERSION} {os.environ['STATIC_URL']}"
        " {os.environ['LEVEL']}\")\n"
    )
    write(project, {"collect.py": code})
    static = {
        "url": "/static/",
        "directory": "made/static",
        "command": "python collect.py",
        "environment": {"LEVEL": 3},
    }
    built = build(project, static=static)
    [name] = [name for name in names_in(built["archive"]) if name.startswith("static/said.")]
    with tarfile.open(built["archive"]) as tar:
        assert tar.extractfile(name).read() == b"1.0 2.0 /static/ 3"
    assert not any(name.startswith("src/made") for name in names_in(built["archive"]))
    # The source is as it was.
    assert not (project / "made").exists()


@pytest.mark.parametrize(
    ("static", "message"),
    [
        ({}, "static.directory static is not in the source, from which what git ignores is left out"),
        ({"command": "true"}, "static.directory static is not there after static.command"),
        (
            {"command": "echo KeyError: SECRET_KEY >&2; exit 3"},
            "static.command ends with 3 on the controller: KeyError:",
        ),
        ({"command": "mkdir static"}, "static has no files"),
        ({"command": "mkdir static; ln -s /etc/passwd static/x"}, "static/x links to /etc/passwd, outside of static"),
    ],
)
def test_static_files_that_cannot_be_had_are_one_line(index, project, build, static, message):
    told = build(project, static=STATIC | static)["msg"]
    assert told.startswith(f"service shop: {message}")
    assert "\n" not in told


def test_a_kept_release_needs_neither_index_nor_tools(index, project, build, monkeypatch):
    first = build(project)
    shutil.rmtree(index)
    again = build(project, uv="/bin/false")
    assert again == first | {"changed": False}
    assert build(project, uv="/bin/false", check_mode=True) == again


def test_new_packages_come_only_when_asked_for(index, project, build):
    first = build(project)
    add_wheel(index, "terracehelper", "3.0")
    assert build(project)["id"] == first["id"]
    newer = build(project, relock=True)
    assert (newer["packages"]["terracehelper"], newer["changed"]) == ("3.0", True)
    assert build(project, relock=True) == newer | {"changed": False}
    assert build(project)["id"] == newer["id"]


def lock_as_requirements(project: pathlib.Path, index: pathlib.Path, name: str, version: str = "1.0") -> None:
    """Write a lock that pins terracehelper, and a package for another system."""
    digest = hashlib.sha256((index / f"terracehelper-{version}-py3-none-any.whl").read_bytes()).hexdigest()
    text = f"-e .\nterracehelper=={version} \\\n    --hash=sha256:{digest}\n    # via shop\n"
    (project / name).write_text(text + f"colorama==9 ; sys_platform == 'win32' --hash=sha256:{'0' * 64}\n")


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements.lock", "pylock.toml", "uv.lock"])
def test_the_projects_own_lock_wins(index, project, build, lock):
    if lock.startswith("requirements"):
        lock_as_requirements(project, index, lock)
    elif lock == "uv.lock":
        command = [UV, "lock", "--quiet", "--python", sys.executable, "--resolution", "lowest"]
        subprocess.run(command, cwd=project, check=True)
    else:
        command = [UV, "pip", "compile", "-q", "--resolution", "lowest", "pyproject.toml", "-o", "pylock.toml"]
        subprocess.run(command, cwd=project, check=True)
    built = build(project)
    assert built["lock"] == lock
    assert built["packages"] == {"gunicorn": "1.0", "terracehelper": "1.0"}


def test_a_file_that_the_lock_does_not_know_is_refused(index, project, build):
    lock_as_requirements(project, index, "requirements.lock")
    add_wheel(index, "terracehelper", "1.0", "gunicorn")
    assert "requirements.lock pins terracehelper 1.0 without its file's hash" in build(project)["msg"]


def test_a_pure_source_archive_is_built_and_a_native_one_is_named(index, tmp_path, build):
    add_source_archive(index, "terracepure")
    built = build(write(tmp_path / "a", project_files("shop", "1.0", "terracepure")))
    assert "terracepure-1.0-py3-none-any.whl" in names_in(built["bundle"])
    add_source_archive(
        index, "terracenative", tag=f"cp{PYTHON.replace('.', '')}-cp{PYTHON.replace('.', '')}-linux_x86_64"
    )
    add_source_archive(index, "terracebroken", breaks=True)
    for name in ("terracenative", "terracebroken"):
        message = build(write(tmp_path / name, project_files("shop", "1.0", name)))["msg"]
        assert message.startswith(f"service shop: {name} 1.0 has no wheel for Python {PYTHON} on x86_64")


def test_an_index_that_errs_is_told_from_one_that_lacks_something(index, project, build, monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            pass

    for variable in ("PIP_NO_INDEX", "UV_OFFLINE", "UV_FIND_LINKS"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.server_port}/simple/")
        message = build(project)["msg"]
        server.shutdown()
    assert message.startswith("service shop: the package index cannot be reached (")


def test_a_build_that_was_cut_off_is_made_anew(index, project, build, tmp_path, monkeypatch):
    def die(*_: Any) -> None:
        os._exit(9)

    with monkeypatch.context() as patched:
        patched.setattr(release_build, "pack", die)
        patched.setattr(tempfile, "tempdir", str(tmp_path))
        child = multiprocessing.get_context("fork").Process(target=build, args=(project,))
        child.start()
        child.join()
    home = tmp_path / "cache/shop"
    assert list(home.glob(".building-*"))
    assert not list(home.glob("*.tar.gz"))
    built = build(project)
    assert built["changed"]
    assert not list(home.glob(".building-*"))
    pathlib.Path(built["archive"]).write_bytes(b"half")
    assert build(project) == built


def test_two_builds_at_once_make_one_release(index, project, build):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [context.Process(target=lambda: answers.put(build(project))) for _ in range(2)]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    assert sorted(answer["changed"] for answer in found) == [False, True]
    assert found[0]["sha256"] == found[1]["sha256"]


def test_git_decides_what_is_in_a_checkout(index, project, build):
    git(project, "init", "-q")
    write(project, {".gitignore": "*.log\n", "a.log": "", ".env": "SECRET=1", "venv/tracked.py": "", "new.css": ""})
    git(project, "add", "venv", ".gitignore", "pyproject.toml", "backend.py", "shop")
    sources = {name for name in names_in(build(project)["archive"]) if name.startswith("src/")}
    assert {"src/venv/tracked.py", "src/new.css", "src/.gitignore"} <= sources
    assert not {"src/a.log", "src/.env"} & sources
    assert not [name for name in sources if ".git/" in name]


def test_a_git_source_is_one_commit(index, project, build, tmp_path):
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "one")
    git(project, "tag", "v1.0")
    source = {"git": str(project)}
    tagged = build(source, version="v1.0")
    assert tagged["commit"] == git(project, "rev-parse", "HEAD")
    (project / "shop/__init__.py").write_text("app = 2\n")
    git(project, "commit", "-qam", "two")
    assert build(source, version="v1.0") == tagged | {"changed": False}
    branch = build(source, version="main")
    assert branch["commit"] == git(project, "rev-parse", "HEAD") != tagged["commit"]
    assert "neither a tag, a branch nor a commit" in build(source, version="v9")["msg"]
    project.rename(tmp_path / "away")
    assert build(source, version=tagged["commit"])["commit"] == tagged["commit"]
    offline = build(source, version="v1.0")
    assert offline["id"] == tagged["id"]
    assert "going on with v1.0 as last fetched" in str(offline["warnings"])
    assert "cannot be fetched" in build(source, version="v9")["msg"]


def test_a_source_without_a_package_runs_from_its_files(index, tmp_path, build):
    built = build(write(tmp_path / "plain", {"app.py": "app = 1\n", "requirements.txt": "terracehelper<2\n"}))
    assert built["packages"]["terracehelper"] == "1.0"
    assert '"import_source": true' in text_of(built["archive"])


@pytest.mark.parametrize(
    ("files", "changed", "message"),
    [
        ({}, {"source": {"path": "/nonexistent"}}, "source.path /nonexistent is not a directory"),
        ({"app.py": ""}, {}, "no pyproject.toml, setup.py or requirements.txt"),
        ({"requirements.txt": "terraceabsent"}, {}, "package terraceabsent is not on the package index"),
        ({"requirements.txt": "terracehelper==9"}, {}, "terracehelper==9 does not exist on the package index"),
        (
            {},
            {"source": {"pypi": "terracehelper"}, "version": "9"},
            "terracehelper==9 does not exist on the package index",
        ),
        ({}, {"source": {"pypi": "terracehelper==9"}}, "the version belongs into version"),
        ({"requirements.txt": "terracehelper<2\nterracehelper>1"}, {}, "cannot be resolved for Python"),
        ({"requirements.lock": "terracehelper==1.0"}, {}, "requirements.lock has no hashes"),
        ({"pyproject.toml": "", "poetry.lock": ""}, {}, "poetry export"),
        ({"pyproject.toml": "["}, {}, "pyproject.toml is not valid TOML"),
        ({"requirements.txt": ""}, {"server": "uvicorn"}, "uvicorn does not serve wsgi"),
        ({"requirements.txt": ""}, {"name": "Shop"}, "a name is a lower-case letter"),
        ({"requirements.txt": ""}, {"uv": "/nonexistent/uv"}, "/nonexistent/uv is not on the controller"),
        ({"requirements.txt": "./lib"}, {}, "comes from a repository or a directory"),
    ],
)
def test_what_is_wrong_is_one_line(index, tmp_path, build, files, changed, message):
    path = write(tmp_path / "wrong", files)
    if "./lib" in files.get("requirements.txt", ""):
        write(path / "lib", project_files("lib", "1.0"))
    answer = build(path, **changed) if "source" not in changed else build(**changed)
    assert answer["failed"]
    assert message in answer["msg"]
    assert answer["msg"].startswith("service ")
    assert "\n" not in answer["msg"]


def test_a_link_out_of_the_source_is_refused(index, project, build):
    (project / "passwd").symlink_to("/etc/passwd")
    assert "passwd links to /etc/passwd, outside of the source" in build(project)["msg"]


def test_an_unreachable_index_is_said_without_its_password(project, index, build, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    message = build(project)["msg"]
    assert "the package index cannot be reached" in message
    assert "127.0.0.1:9" in message
    assert "secret" not in message


@pytest.fixture
def install(module: Callable[..., dict[str, Any]], tmp_path: pathlib.Path) -> Callable[..., dict[str, Any]]:
    """Return a function that installs a built release below a directory of the test's own."""

    def run(built: dict[str, Any], **changed: Any) -> dict[str, Any]:
        arguments = {key: built[key] for key in ("id", "archive", "sha256", "bundle")} | {
            "name": "shop",
            "root": str(tmp_path / "srv"),
            "group": "root",
            "python": sys.executable,
            "check": "shop:app",
        }
        return module(release_install, **(arguments | changed))

    return run


def test_a_release_is_installed_once_and_told(index, project, build, install, module, tmp_path):
    built = build(project, version="v1")
    release = tmp_path / "srv/shop/releases" / built["id"]
    assert install(built, check_mode=True)["changed"]
    assert not release.exists()
    shutil.rmtree(index)
    assert install(built)["changed"]
    assert not install(built, archive="/gone", bundle="/gone")["changed"]
    assert release.stat().st_mode & 0o7777 == 0o750
    assert not (release / "wheels").exists()
    assert not (release / "venv/bin/pip").exists()
    ran = subprocess.run(
        [release / "venv/bin/python", "-c", "import shop, terracehelper; print(terracehelper.VERSION)"],
        capture_output=True,
    )
    assert ran.stdout == b"2.0\n"
    assert list((release / "src/shop/__pycache__").iterdir())
    with pytest.raises(release_install.ReleaseError, match="cannot be imported: ModuleNotFoundError"):
        release_install.check_import(release / "venv/bin/python", release, "shop.absent:app", "root")
    with pytest.raises(release_install.ReleaseError, match="user nobody-here does not exist"):
        release_install.check_import(release / "venv/bin/python", release, "shop:app", "nobody-here")

    home = release.parent.parent
    (home / "green").symlink_to(f"releases/{built['id']}")
    (home / "live").symlink_to("green")
    (release.parent / "0123456789ab").mkdir()
    facts = module(release_facts, names=["shop", "never"], root=str(tmp_path / "srv"))["services"]
    assert facts["shop"] | {"releases": {}} == {
        "installed": [built["id"]],
        "releases": {},
        "slots": {"blue": "", "green": built["id"]},
        "live_slot": "green",
        "live": built["id"],
        "agreed": "",
        "serial": 0,
        "under_way": {},
    }
    told = facts["shop"]["releases"][built["id"]]
    assert (told["version"], told["sha256"], told["bundle_sha256"]) == ("v1", built["sha256"], built["bundle_sha256"])
    assert (facts["never"]["installed"], facts["never"]["live"]) == ([], "")


def test_an_installation_that_was_cut_off_is_made_anew(index, project, build, install, tmp_path, monkeypatch):
    built = build(project)
    release = tmp_path / "srv/shop/releases" / built["id"]
    with monkeypatch.context() as patched:
        patched.setattr(release_install, "check_import", lambda *_: os._exit(9))
        child = multiprocessing.get_context("fork").Process(target=install, args=(built,))
        child.start()
        child.join()
    assert release.exists()
    (release / "litter").touch()
    assert install(built)["changed"]
    assert not (release / "litter").exists()


@pytest.mark.parametrize(
    "kilobytes",
    [
        1,
        30,
        pytest.param(
            100, marks=pytest.mark.skipif(sys.version_info < (3, 13, 1), reason="writes half a .pyc without an error")
        ),
    ],
)
def test_a_full_disk_leaves_no_release(index, project, build, install, tmp_path, kilobytes):
    """No file gets larger than so much: unpacking, the environment, or, with source this dense, its byte code fails."""
    lines = "".join(f"def f{number}(): pass\n" for number in range(2000))
    (project / "shop/dense.py").write_text(lines)
    built = build(project)
    releases = tmp_path / "srv/shop/releases"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, limits[1]))
    try:
        answer = install(built)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert answer["failed"], answer
    assert [path.name for path in releases.iterdir()] == [".lock"]
    assert install(built)["changed"]
    compiled = list((releases / built["id"]).rglob("dense.cpython-*.pyc"))
    assert len(compiled) == 2
    assert not list((releases / built["id"]).rglob("*.pyc.*"))


def test_what_cannot_be_installed_leaves_nothing(index, project, build, install, tmp_path):
    built = build(project)
    wrong = {
        "archive /": {"sha256": "0" * 64},
        "archive /gone is not on this node; copy it before installing": {"archive": "/gone"},
        "bundle /gone is not on this node; copy it before installing": {"bundle": "/gone"},
        f"bundle {project}/backend.py does not have the digest": {"bundle": f"{project}/backend.py"},
        "shop:absent cannot be imported: AttributeError": {"check": "shop:absent"},
        "not 0123456789ab": {"id": "0123456789ab"},
    }
    for message, changed in wrong.items():
        assert message in install(built, **changed)["msg"]
    other = build(project, python_version="3.8")
    assert "the release is for Python 3.8" in install(other)["msg"]
    assert [path.name for path in (tmp_path / "srv/shop/releases").iterdir()] == [".lock"]


def test_an_import_that_wants_its_environment_is_no_fault(index, tmp_path, build, install):
    files = {"app.py": "import os\napp = os.environ['DATABASE_URL']\n", "requirements.txt": "terracehelper\n"}
    built = build(write(tmp_path / "plain", files))
    assert install(built, check="app:app")["changed"]
    python = tmp_path / "srv/shop/releases" / built["id"] / "venv/bin/python"
    ran = subprocess.run(
        [python, "-c", "import app; print(app.app)"], env={"DATABASE_URL": "x"}, cwd="/", capture_output=True
    )
    assert ran.stdout == b"x\n"


def test_a_package_of_the_public_index(build):
    built = build({"pypi": "sdnotify"}, version="0.3.2", python_version="3.13")
    assert built["version"] == "0.3.2"
    assert {"gunicorn", "sdnotify"} <= set(built["packages"])
    assert [name for name in names_in(built["archive"]) if "wheels/" in name] == [
        "wheels/sdnotify-0.3.2-py3-none-any.whl"
    ]
    assert {name.split("-")[0] for name in names_in(built["bundle"])} == set(built["packages"]) - {"sdnotify"}
    assert "://" not in text_of(built["archive"])
    other = build({"pypi": "uvloop"}, version="", python_version="3.13", platform="aarch64-unknown-linux-gnu")
    assert [name for name in names_in(other["archive"]) if "uvloop" in name and "aarch64" in name]
    assert other["version"] == other["packages"]["uvloop"]


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a virtual environment with nothing in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    return tmp_path / "venv"


def install_wheels(*wheels: pathlib.Path, environment: pathlib.Path) -> None:
    release_install.install_wheels(list(wheels), environment, release_install.paths_of(environment))


def test_every_part_of_a_wheel_gets_to_its_place(environment, tmp_path):
    wheel = write_wheel(
        tmp_path,
        "whole",
        "1.0",
        {
            "whole/__init__.py": "def main():\n    print('by the entry point')\n",
            "whole-1.0.dist-info/entry_points.txt": "[console_scripts]\nwhole = whole:main\n",
            "whole-1.0.data/scripts/whole-script": "#!python\nimport whole, sys; print(sys.prefix)\n",
            "whole-1.0.data/data/share/whole/page.txt": "a page",
            "whole-1.0.data/headers/whole.h": "/* none */",
            "whole-1.0.data/purelib/more.py": "",
        },
    )
    install_wheels(wheel, environment=environment)
    for script, said in {"whole": "by the entry point", "whole-script": str(environment)}.items():
        ran = subprocess.run([environment / "bin" / script], capture_output=True, text=True, check=True)
        assert ran.stdout == f"{said}\n"
    assert (environment / "share/whole/page.txt").read_text() == "a page"
    assert (environment / "include/site/whole/whole.h").exists()
    code = (
        "import more, importlib.metadata as m; w = m.distribution('whole'); print(w.version, w.read_text('INSTALLER'))"
    )
    ran = subprocess.run([environment / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1.0", "terrace"]


def test_of_two_packages_with_the_same_file_the_last_one_s_stays(environment, tmp_path):
    wheels = [write_wheel(tmp_path, name, "1.0", {"tests/__init__.py": f"OF = '{name}'\n"}) for name in ("one", "two")]
    install_wheels(*wheels, environment=environment)
    assert next(environment.rglob("tests/__init__.py")).read_text() == "OF = 'two'\n"


def test_a_release_shares_the_files_of_others_and_their_byte_code(index, project, build, install, tmp_path):
    add_wheel(index, "other", "1.0")
    first = build(project)
    install(first)
    write(project, project_files("shop", "1.0", "terracehelper<2", "other"))
    second = build(project)
    assert install(second)["changed"], second
    releases = tmp_path / "srv/shop/releases"
    packages = f"venv/lib/python{PYTHON}/site-packages"
    old, new = (releases / built["id"] / packages for built in (first, second))

    def same(name: str) -> bool:
        return (old / name).samefile(new / name)

    tag = sys.implementation.cache_tag
    assert same("gunicorn/__init__.py")
    assert same(f"gunicorn/__pycache__/__init__.{tag}.pyc")
    for changed in ("terracehelper/__init__.py", f"terracehelper/__pycache__/__init__.{tag}.pyc"):
        assert (old / changed).exists()
        assert not same(changed)
    assert not list(new.rglob(".linked"))
    shutil.rmtree(releases / first["id"])
    ran = subprocess.run(
        [
            releases / second["id"] / "venv/bin/python",
            "-c",
            "import gunicorn, other, terracehelper as t; print(t.VERSION)",
        ],
        capture_output=True,
    )
    assert ran.stdout == b"1.0\n"


@pytest.fixture
def rich(index: pathlib.Path, project: pathlib.Path) -> pathlib.Path:
    """Return the project, with a dependency that has all that a wheel can have, and two that have a file in common."""
    write_wheel(
        index,
        "Rich_Thing",
        "1.0",
        {
            "rich_thing/__init__.py": "import sys\n\n\ndef main():\n    print('entry', sys.prefix)\n",
            "rich_thing/for_another_python.py": "print 'none of ours'\n",
            "rich_thing/data, with a comma.txt": "data",
            "tests/__init__.py": "OF = 'rich'\n",
            "Rich_Thing-1.0.dist-info/entry_points.txt": "[console_scripts]\nrich-entry = rich_thing:main\n",
            "Rich_Thing-1.0.data/scripts/rich-script": "#!python\nimport sys\n\nprint('script', sys.prefix)\n",
            "Rich_Thing-1.0.data/scripts/rich-shell": "#!/bin/sh\necho shell\n",
            "Rich_Thing-1.0.data/data/share/rich/page.txt": "a page",
            "Rich_Thing-1.0.data/headers/rich.h": "/* none */",
        },
    )
    write_wheel(index, "other", "1.0", {"tests/__init__.py": "OF = 'other, which is longer'\n"})
    return write(project, project_files("shop", "1.0", "terracehelper", "Rich_Thing", "other"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the names of the wheels that each installation was given, as they are made."""
    given: list[list[str]] = []
    plain = release_install.install_wheels

    def note(wheels: list[pathlib.Path], *arguments: Any) -> Any:
        given.append([wheel.name.split("-")[0] for wheel in wheels])
        return plain(wheels, *arguments)

    monkeypatch.setattr(release_install, "install_wheels", note)
    return given


OF_BUNDLE = ["Rich_Thing", "gunicorn", "other", "terracehelper"]


def tree(directory: pathlib.Path) -> dict[str, Any]:
    """Return what is in a directory: by path, mode and content; of byte code, whether Python takes it as current."""
    found: dict[str, Any] = {}
    for path in directory.rglob("*"):
        content: Any = None
        if path.is_symlink():
            content = path.readlink()
        elif path.suffix == ".pyc":
            source = (path.parent.parent / f"{path.name.split('.')[0]}.py").stat()
            content = path.read_bytes()[8:16] == struct.pack("<II", int(source.st_mtime), source.st_size)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(directory))] = (oct(path.lstat().st_mode), content)
    return found


@pytest.mark.parametrize("long", [False, True])
def test_linked_dependencies_are_what_their_wheels_would_be(rich, build, install, installed, long):
    """By a long path, installer has /bin/sh run Python in scripts: the kernel reads no such first line."""
    first = build(rich, version="v1")
    (rich / "shop/__init__.py").write_text("def app():\n    return 'second'\n")
    (rich / "shop/new.py").write_text("")
    second = build(rich, version="v2")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        root = pathlib.Path(short, "long" * 25 if long else "srv")
        releases = root / "shop/releases"
        assert install(first, root=str(root))["changed"]
        assert install(second, root=str(root))["changed"]
        linked = tree(releases / second["id"])
        old, new = (releases / release["id"] / "venv" / THING for release in (first, second))
        for file in ("__init__.py", f"__pycache__/__init__.{sys.implementation.cache_tag}.pyc"):
            assert (old / file).samefile(new / file)
        # Neither is needed by the new one.
        shutil.rmtree(releases / first["id"])
        environment = releases / second["id"] / "venv"
        for script, told in {"entry": f" {environment}", "script": f" {environment}", "shell": ""}.items():
            ran = subprocess.run([environment / f"bin/rich-{script}"], capture_output=True, text=True, check=True)
            assert ran.stdout == f"{script}{told}\n"
        head = (environment / "bin/rich-entry").read_bytes()
        assert head.startswith(b"#!/bin/sh\n" if long else b"#!" + os.fsencode(environment))
        code = "import shop, tests; print(shop.app(), tests.OF)"
        ran = subprocess.run([environment / "bin/python", "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout == "second other, which is longer\n"

        shutil.rmtree(releases / second["id"])
        assert install(second, root=str(root))["changed"]
        from_wheels = tree(releases / second["id"])
    assert installed == [[*OF_BUNDLE, "shop"], ["shop"], [*OF_BUNDLE, "shop"]]
    assert linked.keys() == from_wheels.keys()
    for path in linked.keys() - {".installed"}:
        assert linked[path] == from_wheels[path], path
    assert any(content is True for _, content in linked.values())
    assert not any(content is False for _, content in linked.values())


def test_of_what_was_linked_nothing_is_compiled(rich, build, install, monkeypatch, tmp_path):
    commands = []
    plain = release_install.run
    monkeypatch.setattr(
        release_install, "run", lambda *command, **how: commands.append(command) or plain(*command, **how)
    )
    for version in ("v1", "v2"):
        assert install(build(rich, version=version))["changed"]
    first, second = (
        sorted(str(part).rpartition("/")[2] for part in command if str(part).startswith(str(tmp_path)))
        for command in commands
        if "compileall" in command
    )
    assert first == ["lib", "python", "src"]
    assert second == ["python", "shop", "src"]


def test_a_project_without_a_wheel_gets_its_dependencies_linked(index, tmp_path, build, install, installed):
    plain = write(tmp_path / "plain", {"app.py": "app = 1\n", "requirements.txt": "terracehelper\n"})
    for number in (1, 2):
        (plain / "app.py").write_text(f"app = {number}\n")
        built = build(plain)
        assert install(built, check="app:app")["changed"]
    assert installed == [["gunicorn", "terracehelper"], []]
    python = tmp_path / "srv/shop/releases" / built["id"] / "venv/bin/python"
    ran = subprocess.run([python, "-c", "import app, gunicorn; print(app.app)"], cwd="/", capture_output=True)
    assert ran.stdout == b"2\n"


def test_the_newest_release_with_the_same_bundle_and_python_counts(rich, build, install, tmp_path):
    releases = tmp_path / "srv/shop/releases"
    built = [build(rich, version=version) for version in ("v1", "v2", "v3", "v4")]
    for number, one in enumerate(built[:3]):
        install(one)
        marker = releases / one["id"] / ".installed"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"installed_at": f"2026-01-0{number + 1}"}))
    new = releases / built[3]["id"]

    def found() -> list[str]:
        return [path.name for path in release_install.twins(new, described)]

    described = json.loads((releases / built[0]["id"] / "release.json").read_text())
    assert found() == [built[2]["id"], built[1]["id"], built[0]["id"]]
    (releases / built[2]["id"] / ".installed").unlink()
    assert found() == [built[1]["id"], built[0]["id"]]
    for key in ("python", "bundle_sha256"):
        (releases / built[1]["id"] / "release.json").write_text(json.dumps(described | {key: "another"}))
        assert found() == [built[0]["id"]]


# Of a virtual environment, the directory of packages, and of the packages above one and three records.
PACKAGES = f"lib/python{PYTHON}/site-packages"
THING = f"{PACKAGES}/rich_thing"
RECORD, OWN_RECORD, OTHER_RECORD = (
    f"{PACKAGES}/{package}-1.0.dist-info/RECORD" for package in ("Rich_Thing", "shop", "other")
)
# What is done to a virtual environment, so that nothing of it is taken.
DAMAGES = {
    "a file is missing": lambda venv: (venv / THING / "__init__.py").unlink(),
    "a script is missing": lambda venv: (venv / "bin/rich-entry").unlink(),
    "a file has another size": lambda venv: append(venv / THING / "__init__.py", "# edited\n"),
    "no record": lambda venv: (venv / RECORD).unlink(),
    "an empty record": lambda venv: (venv / RECORD).write_text(""),
    "half a line": lambda venv: append(venv / RECORD, "rich_thing/__init__"),
    "no text": lambda venv: (venv / RECORD).write_bytes(b"\xff,,\n" + (venv / RECORD).read_bytes()),
    "no table": lambda venv: append(venv / RECORD, f"{'x' * 200_000},,\n"),
    "outside of the environment": lambda venv: append(venv / RECORD, "../../../../src/shop/__init__.py,,\n"),
    "anywhere": lambda venv: append(venv / RECORD, "/etc/passwd,,\n"),
    "a link": lambda venv: append(venv / RECORD, "../../../bin/rich-link,,\n"),
    "a directory": lambda venv: append(venv / RECORD, "rich_thing,,\n"),
    "what each environment has": lambda venv: append(venv / RECORD, "../../../pyvenv.cfg,,\n"),
    "the project's own file": lambda venv: append(venv / OWN_RECORD, "rich_thing/__init__.py,,\n"),
    "a script of two packages": lambda venv: append(venv / OTHER_RECORD, "../../../bin/rich-entry,,\n"),
}


def append(path: pathlib.Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_of_an_environment_in_which_anything_is_odd_nothing_is_taken(rich, build, install, tmp_path):
    first = build(rich)
    install(first)
    releases = tmp_path / "srv/shop/releases"
    names = {"gunicorn", "other", "rich-thing", "terracehelper"}

    def linked(damage: Callable[[pathlib.Path], Any], theirs: str = "damaged-one") -> bool:
        shutil.copytree(releases / first["id"], releases / theirs, symlinks=True)
        venv = releases / theirs / "venv"
        (venv / "bin/rich-link").symlink_to("rich-entry")
        damage(venv)
        mine = write(releases / "the-new-one", {"venv/pyvenv.cfg": ""}) / "venv"
        done = release_install.link_packages(names, venv, mine, mine / PACKAGES)
        assert done or tree(mine).keys() == {"pyvenv.cfg"}
        shutil.rmtree(releases / theirs)
        shutil.rmtree(mine.parent)
        return done

    assert linked(lambda venv: None)
    assert not linked(lambda venv: None, theirs="of-a-longer-name")
    assert [name for name, damage in DAMAGES.items() if linked(damage)] == []


def test_without_them_they_come_from_their_wheels(rich, build, install, installed, tmp_path):
    first, second = (build(rich, version=version) for version in ("v1", "v2"))
    releases = tmp_path / "srv/shop/releases"
    install(first)
    (releases / first["id"] / "venv" / RECORD).unlink()
    assert install(second)["changed"]
    assert installed == [[*OF_BUNDLE, "shop"], [*OF_BUNDLE, "shop"]]
    environment = releases / second["id"] / "venv"
    code = "import rich_thing, shop; rich_thing.main()"
    ran = subprocess.run([environment / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == f"entry {environment}\n"


def test_an_older_release_does_where_the_newest_is_odd(rich, build, install, installed, tmp_path):
    built = [build(rich, version=version) for version in ("v1", "v2", "v3")]
    releases = tmp_path / "srv/shop/releases"
    for one in built[:2]:
        install(one)
    (releases / built[1]["id"] / "venv" / RECORD).unlink()
    install(built[2])
    assert installed[2] == ["shop"]
    assert (releases / built[2]["id"] / "venv" / RECORD).exists()


def test_what_cannot_be_linked_is_copied_with_its_byte_code(rich, build, install, tmp_path, monkeypatch):
    first, second = (build(rich, version=version) for version in ("v1", "v2"))
    releases = tmp_path / "srv/shop/releases"
    install(first)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", refuse)
    assert install(second)["changed"]
    old, new = (releases / release["id"] / "venv" / THING for release in (first, second))
    assert tree(new) == tree(old)
    assert tree(new)[f"__pycache__/__init__.{sys.implementation.cache_tag}.pyc"] == ("0o100644", True)
    assert not (new / "__init__.py").samefile(old / "__init__.py")


def test_installing_a_release_leaves_those_that_it_links_as_they_were(rich, build, install, tmp_path):
    """Also where its own wheel has a file now that a dependency has, too."""
    first = build(rich, version="v1")
    backend = (rich / "backend.py").read_text().replace('Path("shop").glob("*.py")', 'Path(".").glob("*/__init__.py")')
    write(rich, {"tests/__init__.py": "OF = 'shop'\n", "backend.py": backend})
    second = build(rich, version="v2")
    releases = tmp_path / "srv/shop/releases"
    install(first)
    before = tree(releases / first["id"])
    install(second)
    assert tree(releases / first["id"]) == before
    assert (releases / second["id"] / "venv" / PACKAGES / "tests/__init__.py").read_text() == "OF = 'shop'\n"


def test_nothing_is_shared_with_a_release_that_was_cut_off(index, project, build, install, tmp_path):
    first = build(project)
    install(first)
    other = tmp_path / "srv/other/releases"
    other.mkdir(parents=True)
    (tmp_path / "srv/shop/releases" / first["id"]).rename(other / first["id"])
    (other / first["id"] / ".installed").unlink()
    assert install(first)["changed"]
    for path in (tmp_path / "srv/shop/releases" / first["id"] / "venv/lib").rglob("*.py*"):
        assert path.is_dir() or path.stat().st_nlink == 1, path


def test_a_file_that_cannot_be_linked_is_kept_as_a_copy(tmp_path, monkeypatch):
    mine, theirs = (
        write(tmp_path / name / "python3.13/site-packages", {"one.py": "ONE = 1\n"}) for name in ("mine", "theirs")
    )

    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refuse)
        release_install.share(mine, [mine / "one.py"], [theirs])
    assert not (mine / "one.py").samefile(theirs / "one.py")
    release_install.share(mine, [mine / "one.py"], [theirs])
    assert (mine / "one.py").samefile(theirs / "one.py")


def test_byte_code_that_cannot_be_linked_is_compiled_as_any(tmp_path, monkeypatch):
    code = "__pycache__/one.cpython-313.pyc"
    files = {"mine": {"one.py": "ONE = 1\n"}, "theirs": {"one.py": "ONE = 1\n", code: "byte code"}}
    mine, theirs = (write(tmp_path / name / "python3.13/site-packages", files[name]) for name in files)
    link = os.link

    def refuse(source: Any, *arguments: Any, **options: Any) -> None:
        if str(source).endswith(".pyc"):
            raise OSError(errno.EMLINK, "Too many links")
        link(source, *arguments, **options)

    monkeypatch.setattr(os, "link", refuse)
    release_install.share(mine, [mine / "one.py"], [theirs])
    assert (mine / "one.py").samefile(theirs / "one.py")
    assert not (mine / code).exists()
    assert not (mine / ".linked").exists()


@pytest.mark.parametrize("path", ["../../../../outside.py", "evil-1.0.data/scripts/../../outside.py"])
def test_no_wheel_writes_outside_of_its_environment(environment, tmp_path, path):
    wheel = write_wheel(tmp_path, "evil", "1.0", {path: "would be run by root, in the wrong place"})
    with pytest.raises(release_install.ReleaseError, match=r"evil.* would be outside of the virtual environment"):
        install_wheels(wheel, environment=environment)
    assert not list(tmp_path.rglob("outside.py"))


def test_what_is_no_wheel_is_refused_by_name(environment, tmp_path):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_bytes(b"not a zip")
    with pytest.raises(release_install.ReleaseError, match=r"broken-1\.0-py3-none-any\.whl cannot be installed"):
        install_wheels(tmp_path / "broken-1.0-py3-none-any.whl", environment=environment)


def test_without_the_library_the_package_to_install_is_named(install, monkeypatch):
    monkeypatch.setattr(release_install, "installer", None)
    built = {"id": "0" * 12, "archive": "/gone", "sha256": "", "bundle": "/gone"}
    assert "python3-installer" in install(built)["msg"]
