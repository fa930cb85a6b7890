"""The static files of a service on a node: what the web server sees of all releases that are there.

Below `<home>/static`: `immutable` has every release's files under names that change with their content; `plain/<id>`
those of one release under the names that they had, and `live` leads to the one that is live; `any` has such names of
all releases, each of the newest that has it. All are hard links to what releases have.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator

from ansible.module_utils.releases import ReleaseError, read_json

# In a release: what its pages find the names in, and which name has the content of which file.
MANIFEST = "static.json"
LINKS = "static-links.json"
ENCODINGS = ("", ".br", ".gz")


def walk(folder: pathlib.Path) -> Iterator[str]:
    """Yield the path of each regular file below a directory, relative to it.

    Raises ReleaseError for anything else that is neither that nor a directory: a link would lead out of it.
    """
    folders = [""]
    while folders:
        at = folders.pop()
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(folder / at):
                path = f"{at}/{entry.name}" if at else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield path
                else:
                    raise ReleaseError(f"{folder}/{path} is no regular file, so it cannot be shown")


def link(source: pathlib.Path, target: pathlib.Path) -> None:
    """Have a path lead to a file, in one step where there is another one."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(".linked")
    temporary.unlink(missing_ok=True)
    temporary.hardlink_to(source)
    temporary.replace(target)


def prune_folders(folder: pathlib.Path) -> None:
    """Remove the empty directories below a directory."""
    for at, _, _ in os.walk(folder, topdown=False):
        if at != str(folder):
            with contextlib.suppress(OSError):
                os.rmdir(at)


def fill(folder: pathlib.Path, wanted: dict[str, pathlib.Path]) -> None:
    """Have a directory hold links to such files and nothing else; what it held and still does is there all the time."""
    for path in list(walk(folder)):
        if path not in wanted:
            (folder / path).unlink()
    prune_folders(folder)
    for path, source in wanted.items():
        link(source, folder / path)


def unite(home: pathlib.Path, releases: Iterable[str]) -> None:
    """Have the web server see the files of all releases.

    Parameters:
        home: the service's directory.
        releases: those that are there, oldest first; one without static files is no trouble.
    """
    public = home / "static"
    immutable: dict[str, pathlib.Path] = {}
    plain: dict[str, pathlib.Path] = {}
    folders: set[str] = set()
    ids = [release for release in releases if (public / "plain" / release).is_dir()]
    for release in reversed(ids):
        files = home / "releases" / release / "static"
        links = read_json(files.parent / LINKS)
        immutable |= {path: files / path for path in walk(files) if path not in links and path not in immutable}
        for path in walk(public / "plain" / release):
            # What is a file in one release may be a directory in another.
            above = {str(each) for each in pathlib.PurePath(path).parents}
            if path not in folders and not above & plain.keys():
                plain.setdefault(path, public / "plain" / release / path)
                folders |= above
    for name, wanted in (("immutable", immutable), ("any", plain)):
        fill(public / name, wanted)
    for old in (public / "plain").glob("*"):
        if old.name not in ids:
            shutil.rmtree(old)
    if not ids:
        shutil.rmtree(public, ignore_errors=True)


def publish(home: pathlib.Path, release: str, others: Iterable[str]) -> bool:
    """Have the web server see the files of a release that is being installed, beside those of the others.

    Parameters:
        home: the service's directory.
        release: its id.
        others: the other releases that are there, oldest first.
    Returns whether it has static files.
    Raises ReleaseError where one of them is not what it should be.
    """
    files = home / "releases" / release / "static"
    if not files.is_dir():
        return False
    links = read_json(files.parent / LINKS)
    public = home / "static"
    # Most are those of the release before: one file is enough for the disk and for its cache.
    for path in list(walk(files)):
        known = public / "immutable" / path
        if path not in links and known.is_file() and filecmp.cmp(known, files / path, shallow=False):
            link(known, files / path)
    whole, new = public / "plain" / release, public / "plain" / f".new-{release}"
    for folder in (whole, new):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir(parents=True)
    for path, stored in links.items():
        if not (files / stored).resolve().is_relative_to(files.resolve()) or ".." in pathlib.PurePath(path).parts:
            raise ReleaseError(f"{files.parent / LINKS} leads to {path}, out of the release; build it again")
        for encoding in ENCODINGS:
            if (files / f"{stored}{encoding}").is_file():
                link(files / f"{stored}{encoding}", new / f"{path}{encoding}")
        # The application finds its files where it put them.
        link(files / stored, files / path)
    new.rename(whole)
    unite(home, [*others, release])
    return True


def withdraw(home: pathlib.Path, release: str, others: Iterable[str]) -> None:
    """Take the files of a release that is not there after all from the web server."""
    if (home / "static" / "plain").is_dir():
        shutil.rmtree(home / "static" / "plain" / release, ignore_errors=True)
        unite(home, others)


def live_link(home: pathlib.Path, release: str) -> tuple[pathlib.Path, str]:
    """Return the link to the plain names of the live release, and what it should lead to: empty for nothing."""
    shown = f"plain/{release}" if (home / "static" / "plain" / release).is_dir() else ""
    return home / "static" / "live", shown
