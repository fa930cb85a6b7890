"""The static files of a release: named by their content, and compressed before anybody asks for them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable
from typing import Any

from ansible.module_utils.releases import ReleaseError, read_json, sha256_of

try:
    import brotli
except ImportError:
    brotli = None

# What a service declares of its static files, as the module takes it.
STATIC = {
    "type": "dict",
    "options": {
        "url": {"type": "str", "required": True},
        "directory": {"type": "str", "required": True},
        "command": {"type": "str", "default": ""},
        "environment": {"type": "dict", "default": {}},
    },
}
# Part of the id of every release with static files: raise it when the same input would come out differently.
FORMAT = 1
# What is packed into an archive, sent to each node and kept there several times has to end somewhere.
MOST_FILES = 20_000
MOST_BYTES = 1024**3
# Pictures, films, archives and WOFF fonts are compressed already.
COMPRESSIBLE = {
    "atom", "bmp", "css", "csv", "eot", "geojson", "htm", "html", "ico", "ics", "js", "json", "jsonld", "map", "md",
    "mjs", "otf", "rss", "rtf", "svg", "ttf", "txt", "vtt", "wasm", "webmanifest", "xhtml", "xml", "yaml", "yml",
}  # fmt: skip
ENCODINGS = ("br", "gz")
DIGITS = 12
# The last part of a name before its suffix. Eight characters and more that no word and no date has: hexadecimal with
# letters and digits, the 32 letters and digits of esbuild, or the 64 of Vite with all three kinds.
PART = re.compile(r"[.-]([A-Za-z0-9_-]{8,64})\.[A-Za-z0-9]+(\.map)?$")
HASHES = (
    re.compile(r"(?=.*[0-9])(?=.*[a-f])[0-9a-f]{8,64}"),
    re.compile(r"(?=.*[2-7])(?=.*[A-Z])[2-7A-Z]{8}"),
    re.compile(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_-]{8}"),
)


@dataclasses.dataclass(frozen=True)
class Made:
    """Static files as a release has them.

    names: the names that pages may ask for, each with the one to write into pages, which changes with the content.
    links: each of those names with the file that has its content. files, bytes: how many there are, without those that
    are compressed, and their size.
    """

    names: dict[str, str]
    links: dict[str, str]
    files: int
    bytes: int


def is_hashed(path: str) -> bool:
    """Say whether a name has a hash of the content in it, as an application's build writes them."""
    # A dash is a letter of some hashes, too: whatever follows one may be the hash.
    name = path.rpartition("/")[2]
    for start in [found.start() for found in re.finditer(r"[.-]", name)]:
        part = PART.match(name, start)
        if part and any(known.fullmatch(part[1]) for known in HASHES):
            return True
    return False


def suffix(path: str) -> str:
    """Return the suffix of a name in lower case, without its dot."""
    return path.rpartition("/")[2].rpartition(".")[2].lower() if "." in path.rpartition("/")[2] else ""


def hashed_name(path: str, digest: str) -> str:
    """Return a name with the first digits of a digest before its suffix."""
    folder, slash, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    return f"{folder}{slash}{stem}.{digest[:DIGITS]}.{ending}" if dot else f"{path}.{digest[:DIGITS]}"


def find(root: pathlib.Path, shown: str) -> dict[str, pathlib.Path]:
    """Return the files below a directory by their path in it; what begins with a dot is left out.

    Parameters:
        root: the directory.
        shown: what it is called in messages.
    Raises ReleaseError for what cannot be served, and where there is too much.
    """
    real = root.resolve()
    found: dict[str, pathlib.Path] = {}
    size, folders = 0, [""]
    while folders:
        folder = folders.pop()
        for entry in sorted(os.scandir(root / folder), key=lambda each: each.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if not entry.name.isprintable() or "\\" in entry.name:
                raise ReleaseError(f"{shown}/{path!r} has a character in its name that no address has; rename it")
            file = root / path
            if entry.is_symlink():
                link = os.readlink(file)
                if not file.exists():
                    raise ReleaseError(f"{shown}/{path} links to {link}, which is not there; remove it")
                if not file.resolve().is_relative_to(real):
                    raise ReleaseError(
                        f"{shown}/{path} links to {link}, outside of {shown}: put the file itself there, or remove it"
                    )
                if file.is_dir():
                    raise ReleaseError(f"{shown}/{path} links to a directory; put the directory itself there")
            mode = file.stat().st_mode
            if stat.S_ISDIR(mode):
                folders.append(path)
                continue
            if not stat.S_ISREG(mode):
                raise ReleaseError(f"{shown}/{path} is neither a file nor a directory; remove it")
            if not os.access(file, os.R_OK):
                raise ReleaseError(f"{shown}/{path} cannot be read by who builds the release; give it mode 0644")
            size += file.stat().st_size
            found[path] = file
            if len(found) > MOST_FILES or size > MOST_BYTES:
                raise ReleaseError(
                    f"{shown} has more than {MOST_FILES} files or {MOST_BYTES // 1024**2} MB; every node keeps those"
                    " of several releases, so put what is large, or changes by itself, into an object store"
                )
    return found


def known_hashed(root: pathlib.Path, found: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """Return what manifests of the application say: plain names with the hashed ones, and all that are hashed.

    Django's `staticfiles.json` and Vite's `manifest.json` are known; names that tell it themselves count, too.
    """
    found = set(found)
    names: dict[str, str] = {}
    hashed = {path for path in found if is_hashed(path)}
    paths = read_json(root / "staticfiles.json").get("paths")
    if isinstance(paths, dict):
        names |= {str(plain): str(path) for plain, path in paths.items() if path in found and path != plain}
    for place in (".vite/manifest.json", "manifest.json"):
        for chunk in read_json(root / place).values():
            if not isinstance(chunk, dict) or not isinstance(chunk.get("file"), str):
                continue
            # A build that is told to leave hashes out of names writes such a file, too.
            if re.search(rf"(^|/){re.escape(str(chunk.get('name', '')))}[.-][\w-]{{8,}}\.\w+$", chunk["file"]):
                hashed |= found & {chunk["file"], *chunk.get("css", []), *chunk.get("assets", [])}
    return names, hashed | set(names.values())


def compressed(data: bytes, encoding: str) -> bytes:
    """Return data compressed as far as it goes; the same data gives the same bytes."""
    if encoding == "br":
        return brotli.compress(data, quality=11)
    buffer = io.BytesIO()
    # Neither the time nor the system is in it.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def opened(data: bytes, encoding: str) -> bytes:
    """Return what was compressed; nothing where it is damaged."""
    try:
        return brotli.decompress(data) if encoding == "br" else gzip.decompress(data)
    except (OSError, EOFError, ValueError, brotli.error):
        return b""


def compress(file: pathlib.Path, kept: pathlib.Path) -> None:
    """Put a file's compressed forms beside it, where they are smaller.

    Parameters:
        file: the file.
        kept: a directory that keeps what was compressed, between builds: most files of a release are those of the last.
    """
    data = file.read_bytes()
    digest = sha256_of(file)
    for encoding in ENCODINGS:
        known = kept / f"{digest}.{encoding}"
        result = known.read_bytes() if known.exists() else b""
        if not result or opened(result, encoding) != data:
            result = compressed(data, encoding)
            handle, temporary = tempfile.mkstemp(dir=kept, prefix=".new-")
            with os.fdopen(handle, "wb") as new:
                new.write(result)
            pathlib.Path(temporary).replace(known)
        if len(result) < len(data):
            file.with_name(f"{file.name}.{encoding}").write_bytes(result)


def make(source: pathlib.Path, shown: str, target: pathlib.Path, kept: pathlib.Path) -> Made:
    """Write the static files of a release, each under a name that changes with its content.

    Parameters:
        source: the directory as the application has it.
        shown: what it is called in messages.
        target: an empty directory.
        kept: as of `compress`.
    Raises ReleaseError for what cannot be served.
    """
    if brotli is None:
        raise ReleaseError("static files are compressed with the package brotli, which is not on the controller")
    found = find(source, shown)
    # Compressed by the application; here it is done for all.
    found = {
        path: file
        for path, file in found.items()
        if not (path.endswith((".gz", ".br")) and path[:-3] in found and suffix(path[:-3]) in COMPRESSIBLE)
    }
    if not found:
        raise ReleaseError(f"{shown} has no files; name the directory that has them in static.directory")
    names, hashed = known_hashed(source, found)
    links: dict[str, str] = {}
    stored: dict[str, pathlib.Path] = {path: found[path] for path in hashed}
    for path in sorted(found.keys() - hashed):
        links[path] = hashed_name(path, sha256_of(found[path]))
        if links[path] in stored and sha256_of(stored[links[path]]) != sha256_of(found[path]):
            raise ReleaseError(f"{shown}/{links[path]} has a hash in its name that is not that of {path}; remove it")
        stored.setdefault(links[path], found[path])
    for path, file in stored.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / path)
        (target / path).chmod(0o644)
    kept.mkdir(parents=True, exist_ok=True)
    smaller = [target / path for path in stored if suffix(path) in COMPRESSIBLE]
    # Both compressors let other threads run.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda file: compress(file, kept), smaller))
    size = sum(file.stat().st_size for file in found.values())
    return Made({**links, **names}, links, len(stored), size)


def as_json(value: Any) -> str:
    """Return a value as stable JSON, a line for each name."""
    return json.dumps(value, indent=0, sort_keys=True, ensure_ascii=False) + "\n"
