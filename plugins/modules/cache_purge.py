#!/usr/bin/python
"""Remove what an nginx of this project keeps of answers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_purge
short_description: Remove answers that nginx keeps
description:
  - Each answer is a file that begins with its key, which is the service, the address, and what else makes another
    answer. Those whose key fits are removed, and nginx asks for them anew; it need not be told.
  - An answer that is on its way to the cache meanwhile may be one of before, so all is looked at again after
    C(again) seconds.
options:
  directory:
    description: Where nginx keeps answers. Where it does not exist, nothing is kept.
    type: path
    required: true
  services:
    description: >-
      The services whose answers are removed; those of all services where there is none in the list, and nothing else
      is said.
    type: list
    elements: str
    default: []
  url:
    description: >-
      The address of what is removed, such as C(https://shop.example/news?page=2), or only its path, then of any host.
      Without a query with every one.
    type: str
    default: ''
  prefix:
    description: >-
      What the addresses of what is removed begin with, in the same way; whole segments, so C(/news) is not the
      beginning of C(/newsletter).
    type: str
    default: ''
  again:
    description: Seconds until all is looked at again; 0 for not at all.
    type: int
    default: 1
author: Terrace
"""

EXAMPLES = r"""
- name: Have a page asked for anew
  cache_purge:
    directory: /var/cache/nginx-cache
    url: https://shop.example/news
"""

RETURN = r"""
removed:
  description: How many answers were removed; in check mode, how many would be.
  type: int
  returned: always
seen:
  description: How many there were.
  type: int
  returned: always
"""

import contextlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule

THREADS = 8
NAME = re.compile(r"[0-9a-f]{32}")
# What stands before the key is less than 1 kB, and an address of 2,000 characters and more is not kept.
HEAD = 16384
KEY = b"\nKEY: "


def address(url: str) -> tuple[str, str, str]:
    """Return of a URL the host without port and in small letters, empty where there is none; path, decoded; query."""
    parts = urlsplit(url)
    return (parts.hostname or "").lower(), unquote(parts.path) or "/", parts.query


def key_of(path: str) -> str:
    """Return the key of a file that nginx keeps; empty where it has none."""
    handle = os.open(path, os.O_RDONLY)
    try:
        head = os.read(handle, HEAD)
    finally:
        os.close(handle)
    start = head.find(KEY)
    end = head.find(b"\n", start + len(KEY))
    return head[start + len(KEY) : end].decode("latin-1") if start >= 0 and end >= 0 else ""


class Wanted:
    """What is to be removed.

    Parameters:
        services: names; none for all.
        url, prefix: addresses, empty where they do not matter.
    """

    def __init__(self, services: list[str], url: str, prefix: str) -> None:
        self.services = set(services)
        self.url = address(url) if url else None
        self.prefix = address(prefix) if prefix else None

    def fits(self, key: str) -> bool:
        """Tell whether the answer of a key is to be removed."""
        service, _, rest = key.partition(" ")
        if self.services and service not in self.services:
            return False
        if self.url is None and self.prefix is None:
            return True
        host, path, query = address(rest.partition(" ")[0])
        if self.url is not None:
            wanted = self.url
            if wanted[0] not in ("", host) or wanted[1] != path or (wanted[2] and wanted[2] != query):
                return False
        if self.prefix is not None:
            start = self.prefix[1].rstrip("/")
            if self.prefix[0] not in ("", host) or not (path == start or path.startswith(f"{start}/")):
                return False
        return True


def directories(top: str) -> list[str]:
    """Return a directory and all below it."""
    found = [top]
    for directory in found:
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
            found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found


def purge_one(directory: str, wanted: Wanted, check: bool) -> tuple[int, int]:
    """Do what `purge` does in one directory."""
    removed, seen = 0, 0
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            # Others are those that nginx is still writing.
            if NAME.fullmatch(name):
                path = os.path.join(directory, name)
                # nginx may have removed it by itself.
                with contextlib.suppress(FileNotFoundError):
                    fits = wanted.fits(key_of(path))
                    seen += 1
                    if fits and not check:
                        os.unlink(path)
                    removed += fits
    return removed, seen


def purge(top: str, wanted: Wanted, check: bool) -> tuple[int, int]:
    """Remove what is wanted, and return how many answers that were, and how many there had been.

    Parameters:
        top: the directory that they are in, or below.
        wanted: which ones.
        check: whether to leave them.
    """
    # A disk that is told of freed blocks takes 1 ms to remove a file, and eight at once in no more.
    with ThreadPoolExecutor(THREADS) as threads:
        done = list(threads.map(lambda directory: purge_one(directory, wanted, check), directories(top)))
    return sum(removed for removed, _ in done), sum(seen for _, seen in done)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "services": {"type": "list", "elements": "str", "default": []},
            "url": {"type": "str", "default": ""},
            "prefix": {"type": "str", "default": ""},
            "again": {"type": "int", "default": 1},
        },
        supports_check_mode=True,
    )
    asked = module.params
    wanted = Wanted(asked["services"], asked["url"], asked["prefix"])
    try:
        removed, seen = purge(asked["directory"], wanted, module.check_mode)
        if asked["again"] and not module.check_mode and os.path.isdir(asked["directory"]):
            time.sleep(asked["again"])
            removed += purge(asked["directory"], wanted, check=False)[0]
    except OSError as error:
        module.fail_json(msg=f"{asked['directory']}: {error.strerror}")
    module.exit_json(changed=removed > 0, removed=removed, seen=seen)


if __name__ == "__main__":
    main()
