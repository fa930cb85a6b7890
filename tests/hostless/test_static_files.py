"""Static files: their names and compressed forms in a release, and what a node's web server sees of several."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
from ansible.module_utils import release_static, static_files

from landscape import File, Landscape, load
from test_releases import write

releases = load("plugins/filter/releases.py", "releases_filter_for_static_files")
slot = load("plugins/modules/service_slot.py", "service_slot_for_static_files")

CSS = "body { color: #0f766e; }\n" * 20


@pytest.fixture
def make(tmp_path) -> Callable[..., release_static.Made]:
    """Return a function that makes a release's static files of such files, into `made`."""

    def run(files: dict[str, str]) -> release_static.Made:
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        (tmp_path / "made").mkdir()
        source = write(tmp_path / "source", files)
        return release_static.make(source, "web/dist", tmp_path / "made", tmp_path / "kept")

    return run


def files_in(folder: Path) -> list[str]:
    """Return the files below a directory."""
    return sorted(static_files.walk(folder))


# Names


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("app.3f2a9c1e7b40.css", True),  # Django
        ("css/main.8e0d62a6.css", True),  # webpack
        ("assets/index-BxT3dk9f.js", True),  # Vite
        ("assets/index-B1-_dk9f.js", True),
        ("app-4JQ2XK7B.js", True),  # esbuild
        ("app-4JQ2XK7B.js.map", True),
        ("app.css", False),
        ("jquery-validate.min.js", False),
        ("report-20261130.pdf", False),
        ("feedface.css", False),
        ("my-document.css", False),
        ("bootstrap-5.3.0.css", False),
        ("photo-1a2b.jpg", False),
        ("3f2a9c1e7b40/app.css", False),
        ("LICENSE", False),
    ],
)
def test_hashes_are_told_from_words_and_dates(name, hashed):
    assert release_static.is_hashed(name) == hashed


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("a/app.css", "a/app.123456789012.css"),
        ("app.min.js", "app.min.123456789012.js"),
        ("a.b/LICENSE", "a.b/LICENSE.123456789012"),
    ],
)
def test_a_name_gets_the_digest_before_its_suffix(path, named):
    assert release_static.hashed_name(path, "123456789012345") == named


def test_every_file_has_a_name_of_its_content_and_smaller_forms_beside_it(make, tmp_path):
    made = make({"css/app.css": CSS, "tiny.txt": "x", "photo.jpg": CSS, ".hidden": "x", ".git/config": "x"})
    name = made.names["css/app.css"]
    assert re.fullmatch(r"css/app\.[0-9a-f]{12}\.css", name)
    assert files_in(tmp_path / "made") == sorted(
        [name, f"{name}.br", f"{name}.gz", made.names["tiny.txt"], made.names["photo.jpg"]]
    )
    assert made.links == made.names
    assert brotli.decompress((tmp_path / "made" / f"{name}.br").read_bytes()).decode() == CSS
    assert gzip.decompress((tmp_path / "made" / f"{name}.gz").read_bytes()).decode() == CSS
    assert (made.files, made.bytes) == (3, 2 * len(CSS) + 1)


def test_the_same_files_give_the_same_bytes(make, tmp_path):
    first, seen = make({"app.css": CSS}), {}
    for path in files_in(tmp_path / "made"):
        seen[path] = (tmp_path / "made" / path).read_bytes()
    # What was kept is used, unless it is damaged.
    for kept in (tmp_path / "kept").iterdir():
        kept.write_bytes(b"half")
    os.utime(tmp_path / "source/app.css", (0, 0))
    assert make({}) == first
    assert {path: (tmp_path / "made" / path).read_bytes() for path in files_in(tmp_path / "made")} == seen


def test_what_django_has_hashed_stays_as_it_is(make, tmp_path):
    """A plain name keeps its own content, which is not that of the hashed one where addresses in it were replaced."""
    manifest = {"paths": {"app.css": "app.0123abcd4567.css", "gone.css": "gone.0123abcd4567.css"}, "version": "1.1"}
    made = make({"app.css": CSS, "app.0123abcd4567.css": CSS + "/**/", "staticfiles.json": json.dumps(manifest)})
    assert made.names["app.css"] == "app.0123abcd4567.css"
    assert made.links["app.css"] == release_static.hashed_name("app.css", hashlib.sha256(CSS.encode()).hexdigest())
    assert {"app.0123abcd4567.css", made.links["app.css"]} <= set(files_in(tmp_path / "made"))
    assert "gone.css" not in made.names


def test_what_vite_has_hashed_stays_as_it_is(make):
    """None of these hashes would be taken for one by its letters alone."""
    manifest = {
        "src/main.ts": {
            "name": "main", "file": "assets/main-abcdefgh.js", "css": ["assets/main-ijklmnop.css"],
            "assets": ["assets/logo-qrstuvwx.svg"],
        },
        "src/my-elements.ts": {"name": "my-elements", "file": "assets/my-elements.js"},
    }  # fmt: skip
    files = ["assets/main-abcdefgh.js", "assets/main-ijklmnop.css", "assets/logo-qrstuvwx.svg", "assets/my-elements.js"]
    made = make({**dict.fromkeys(files, CSS), ".vite/manifest.json": json.dumps(manifest)})
    assert set(made.names) == {"assets/my-elements.js"}


def test_what_the_application_has_compressed_is_compressed_anew(make, tmp_path):
    made = make({"app.css": CSS, "app.css.gz": "stale", "data.tar.gz": "x"})
    assert set(made.names) == {"app.css", "data.tar.gz"}
    assert gzip.decompress((tmp_path / "made" / f"{made.names['app.css']}.gz").read_bytes()).decode() == CSS


def test_a_hash_that_is_not_that_of_the_content_is_refused(make):
    name = make({"app.css": CSS}).names["app.css"]
    with pytest.raises(
        release_static.ReleaseError, match=f"web/dist/{re.escape(name)} has a hash in its name that is not that of"
    ):
        make({name: "something else"})


def test_what_cannot_be_served_is_refused(make, tmp_path, monkeypatch):
    source = write(tmp_path / "source", {"a.css": CSS, "b/c.css": CSS, "../secret": "x"})

    def told(mend: Callable[[Path], None], name: str) -> str:
        path = source / name
        mend(path)
        with pytest.raises(release_static.ReleaseError) as error:
            make({})
        path.unlink()
        return str(error.value)

    out = "web/dist/x links to ../secret, outside of web/dist: put the file itself there, or remove it"
    assert told(lambda path: path.symlink_to("../secret"), "x") == out
    assert (
        told(lambda path: path.symlink_to("nowhere"), "x")
        == "web/dist/x links to nowhere, which is not there; remove it"
    )
    assert told(lambda path: path.symlink_to("b"), "x").startswith("web/dist/x links to a directory; ")
    assert told(os.mkfifo, "x") == "web/dist/x is neither a file nor a directory; remove it"
    assert "a character in its name that no address has" in told(Path.touch, "a\nb")
    # A link within is its file.
    (source / "same.css").symlink_to("a.css")
    assert make({}).links["same.css"].startswith("same.")
    monkeypatch.setattr(release_static, "MOST_FILES", 2)
    assert told(Path.touch, "x").startswith("web/dist has more than 2 files or 1024 MB; every node keeps those")
    monkeypatch.setattr(release_static, "MOST_BYTES", len(CSS))
    monkeypatch.setattr(release_static, "MOST_FILES", 20)
    assert "has more than 20 files" in told(Path.touch, "x")


def test_an_empty_directory_is_refused(make):
    with pytest.raises(release_static.ReleaseError, match=r"web/dist has no files; name the directory that has them"):
        make({".hidden": ""})


# On a node


@pytest.fixture
def home(tmp_path) -> Path:
    """The directory of a service without a release."""
    (tmp_path / "orders/releases").mkdir(parents=True)
    return tmp_path / "orders"


def add(home: Path, release: str, others: list[str], **files: str) -> None:
    """Have a release with such files, given by a name without a suffix, as release_install does."""
    folder = home / "releases" / release
    names = {f"{name}.css": f"{name}.{hash_of(text)}.css" for name, text in files.items()}
    stored = {names[f"{name}.css"]: text for name, text in files.items()}
    write(folder, {f"static/{path}": text for path, text in stored.items()})
    write(folder, {f"static/{path}.gz": f"smaller {text}" for path, text in stored.items()})
    write(folder, {static_files.LINKS: json.dumps(names)})
    assert static_files.publish(home, release, others)


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shown(home: Path, name: str) -> dict[str, str]:
    """Return what a directory for the web server holds, without compressed forms."""
    folder = home / "static" / name
    return {path: (folder / path).read_text() for path in files_in(folder) if not path.endswith(".gz")}


def test_files_of_all_releases_are_there_and_go_with_the_last_that_has_them(home):
    add(home, "r1", [], app="one", same="same", old="old")
    add(home, "r2", ["r1"], app="two", same="same", new="new")
    both = {f"app.{hash_of('one')}.css", f"app.{hash_of('two')}.css", f"same.{hash_of('same')}.css"}
    assert set(shown(home, "immutable")) == both | {f"old.{hash_of('old')}.css", f"new.{hash_of('new')}.css"}
    assert shown(home, "any") == {"app.css": "two", "same.css": "same", "old.css": "old", "new.css": "new"}
    assert shown(home, "plain/r1") == {"app.css": "one", "same.css": "same", "old.css": "old"}
    assert (home / "static/any/app.css.gz").read_text() == "smaller two"
    # The application finds what it has collected, and both releases have one file on the disk.
    assert (home / "releases/r1/static/app.css").read_text() == "one"
    same = f"static/same.{hash_of('same')}.css"
    assert (home / "releases/r1" / same).samefile(home / "releases/r2" / same)
    kept = (home / "static/any/same.css").stat().st_ino
    shutil.rmtree(home / "releases/r1")
    static_files.unite(home, ["r2"])
    assert set(shown(home, "immutable")) == {
        f"{n}.{hash_of(t)}.css" for n, t in (("app", "two"), ("same", "same"), ("new", "new"))
    }
    assert set(shown(home, "any")) == {"app.css", "same.css", "new.css"}
    assert [path.name for path in (home / "static/plain").iterdir()] == ["r2"]
    assert (home / "static/any/same.css").stat().st_ino == kept
    shutil.rmtree(home / "releases/r2")
    static_files.unite(home, [])
    assert not (home / "static").exists()


def test_the_newest_release_has_the_plain_names_whichever_was_there_first(home):
    add(home, "r2", [], app="two")
    add(home, "r1", ["r2"], app="one")
    static_files.unite(home, ["r1", "r2"])
    assert shown(home, "any") == {"app.css": "two"}


def test_a_file_may_have_been_a_directory(home):
    for release, others, files in (("r1", [], ["a", "b/c"]), ("r2", ["r1"], ["a/d", "b"])):
        names = {path: f"{path}-{release}" for path in files}
        write(home / "releases" / release, {f"static/{path}": release for path in names.values()})
        write(home / "releases" / release, {static_files.LINKS: json.dumps(names)})
        static_files.publish(home, release, others)
    assert shown(home, "any") == {"a/d": "r2", "b": "r2"}
    static_files.unite(home, ["r1"])
    assert shown(home, "any") == {"a": "r1", "b/c": "r1"}


def test_a_release_that_failed_leaves_nothing(home):
    add(home, "r1", [], app="one")
    add(home, "r2", ["r1"], app="two")
    shutil.rmtree(home / "releases/r2")
    static_files.withdraw(home, "r2", ["r1"])
    assert shown(home, "any") == {"app.css": "one"}
    assert list(shown(home, "immutable")) == [f"app.{hash_of('one')}.css"]
    static_files.withdraw(home.parent / "none", "r1", [])


def test_a_link_in_a_release_is_not_shown(home):
    folder = write(home / "releases/r1", {static_files.LINKS: "{}"})
    (folder / "static").mkdir()
    (folder / "static/passwd").symlink_to("/etc/passwd")
    with pytest.raises(static_files.ReleaseError, match="static/passwd is no regular file"):
        static_files.publish(home, "r1", [])


@pytest.mark.parametrize("links", [{"../../x": "a"}, {"x": "../../../etc/passwd"}])
def test_names_that_lead_out_of_a_release_are_refused(home, links):
    write(home / "releases/r1", {static_files.LINKS: json.dumps(links), "static/a": ""})
    with pytest.raises(static_files.ReleaseError, match="out of the release; build it again"):
        static_files.publish(home, "r1", [])


def test_a_release_without_static_files_shows_none(home):
    (home / "releases/r1").mkdir()
    assert not static_files.publish(home, "r1", [])
    assert not (home / "static").exists()


class Module:
    check_mode = False

    def __init__(self) -> None:
        self.params = {"name": "orders", "proxy_socket": "/nonexistent"}


def test_plain_names_follow_the_live_release(home, monkeypatch):
    add(home, "r1", [], app="one")
    add(home, "r2", ["r1"], app="two")
    (home / "releases/r3").mkdir()
    service = slot.Service(Module(), str(home.parent))
    monkeypatch.setattr(service, "enabled", lambda name: name == "blue")
    for release, steps in (("r1", 1), ("r2", 1), ("r2", 0)):
        service.steps.clear()
        service.declare("blue", "blue", release)
        assert (home / "static/live/app.css").read_text() == {"r1": "one", "r2": "two"}[release]
        assert service.steps.count("show its static files") == steps
    service.declare("blue", "blue", "r3")
    assert "show no static files" in service.steps
    assert not (home / "static/live").is_symlink()


# What a build is told


def test_a_build_gets_placeholders_for_what_is_not_there():
    service = {
        "name": "shop", "static": {"url": "/static/", "directory": "d", "command": "make static"}, "needs": ["stock"],
        "secrets": ["SECRET_KEY"], "environment": {"DEBUG": False, "LEVEL": 3}, "database": {}, "cache": True,
        "queue": True,
    }  # fmt: skip
    told = releases.releases_static(service)
    assert told.pop("environment") == {
        "SERVICE_NAME": "shop",
        "NODE_NAME": "build",
        **dict.fromkeys(("DATABASE_URL", "DATABASE_READ_URL", "DATABASE_SESSION_URL"), releases.NOWHERE["DATABASE"]),
        **dict.fromkeys(("REDIS_URL", "QUEUE_URL"), releases.NOWHERE["REDIS"]),
        "STOCK_URL": "http://127.0.0.1:1",
        "SECRET_KEY": releases.PLACEHOLDER,
        "DEBUG": "false",
        "LEVEL": "3",
    }
    assert told == service["static"]
    plain = {**service, "static": {**service["static"], "command": ""}}
    assert releases.releases_static(plain)["environment"] == {}
    assert releases.releases_static({**service, "static": None}) is None


# What daemons are told


def configuration(landscape: Landscape, host: str, path: str) -> File:
    return next(file for file in landscape.files if (file.host, file.path) == (host, path))


def test_files_are_asked_of_the_socket_that_nginx_listens_on(ha):
    node = configuration(ha, "app1", "/etc/haproxy/node.cfg").text
    served = configuration(ha, "app1", "/etc/nginx/static.conf").text
    sockets = set(re.findall(r"unix@(/run/nginx-static/\S+)", node))
    assert sockets == set(re.findall(r"listen unix:(\S+) ", served)) == {"/run/nginx-static/shop.sock"}
    assert "acl static path_beg /shop/files/\n" in node
    assert "location ~ ^/shop/files/(?<file>.+)$ {" in served
    assert "uri /shop/static " in node
    assert "location = /shop/static {" in served


def test_of_files_no_worker_is_asked_before_nginx(ha):
    lines = configuration(ha, "app1", "/etc/haproxy/node.cfg").text.partition("frontend shop ")[2].splitlines()
    chosen = [line.split()[1] for line in lines[: lines.index("")] if line.strip().startswith("use_backend")]
    assert chosen[:3] == ["shop.away", "shop.static.local", "shop.static"]


def test_a_peer_is_asked_where_there_is_one(ha, single):
    many = configuration(ha, "app1", "/etc/nginx/static.conf").text
    alone = configuration(single, "solo", "/etc/nginx/static.conf").text
    assert re.findall(r"(?m)^        server (\S+) ", many.partition("upstream shop {")[2].partition("}")[0])
    assert "proxy_pass" in many
    assert not re.search("proxy_pass http|upstream", alone)


def test_nginx_is_only_where_something_is_to_be_served(ha):
    """The other services of this landscape have no static files."""
    roles = {host: ha.value(host, "topology_roles") for host in ha.hosts}
    assert {host for host, names in roles.items() if "static_files" in names} == set(ha.groups["app"])
    assert ha.value("app1", "topology_static | map(attribute='name')") == ["shop"]
