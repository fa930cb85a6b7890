"""Debian's packages on this host: what is installed, what was left half-way, and how both are brought in order.

No daemon is started by being installed: it would run on Debian's own configuration until ours is there.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

APT = (
    *("-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"),
    *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
)
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "APT_LISTCHANGES_FRONTEND": "none", "LC_ALL": "C.UTF-8"}
MARK = "Terrace: no daemon is started by being installed."
POLICY = f"#!/bin/sh\n# {MARK}\nexit 101\n"


class PackagesError(Exception):
    """Packages could not be brought in order; the message says what was tried, and what was said last."""


class Policy:
    """Debian's way to keep daemons from being started: /usr/sbin/policy-rc.d, there only while packages are installed.

    Parameters:
        path: the file that Debian's tools ask; one that is there already is set aside meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = path.with_name(f"{path.name}.terrace-saved")
        self.new = path.with_name(f"{path.name}.terrace-new")

    @property
    def left(self) -> bool:
        """Whether a run that was cut off left its policy behind."""
        return self.saved.exists() or self.new.exists() or self._is_ours()

    def _is_ours(self) -> bool:
        return self.path.exists() and MARK in self.path.read_text(errors="replace")

    def restore(self) -> None:
        """Put back what was there before."""
        self.new.unlink(missing_ok=True)
        if self._is_ours():
            self.path.unlink()
        if self.saved.exists():
            self.saved.replace(self.path)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Keep daemons from being started while the body runs."""
        self.restore()
        self.new.write_text(POLICY)
        self.new.chmod(0o755)
        if self.path.exists():
            self.path.replace(self.saved)
        self.new.replace(self.path)
        try:
            yield
        finally:
            self.restore()


class Packages:
    """The packages of a Debian host.

    Parameters:
        root: where the host's files are; commands act on the host that they run on.
        wait: how long another installation may take to end, in seconds.
    """

    def __init__(self, root: Path = Path("/"), wait: float = 300) -> None:
        self.root = root
        self.wait = wait
        self.policy = Policy(root / "usr/sbin/policy-rc.d")

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """Run a command; return its exit code, and what it printed."""
        result = subprocess.run(
            words,
            env=os.environ | ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return result.returncode, result.stdout

    def look(self, names: list[str]) -> tuple[list[str], list[str]]:
        """Return those of the names that are not installed, and the packages that were left half-way.

        The package "dpkg" stands for its journal, which an interrupted run leaves and without which nothing goes on.
        """
        code, out = self.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${db:Status-Eflag}\\n")
        if code:
            raise PackagesError(f"dpkg-query: {out.strip()}")
        installed, halfway = set(), set()
        for line in out.splitlines():
            name, status, flag = line.split()
            if status == "installed":
                installed.add(name)
            if status not in ("installed", "not-installed", "config-files") or flag != "ok":
                halfway.add(name)
        if any(entry.name.isdigit() for entry in (self.root / "var/lib/dpkg/updates").iterdir()):
            halfway.add("dpkg")
        return [name for name in names if name not in installed], sorted(halfway)

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Hold a lock while the body runs; wait for whoever has it, such as the rest of a run that was cut off."""
        deadline = time.monotonic() + self.wait
        with (self.root / path).open("a") as lock:
            while True:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        message = f"another installation has been running for {self.wait:.0f} s, and did not end"
                        raise PackagesError(message) from error
                    time.sleep(1)
            yield

    def mend(self, names: list[str]) -> tuple[list[str], list[str]]:
        """Finish what dpkg began, and return what `look` finds then."""
        with self.locked("var/lib/dpkg/lock-frontend"):
            lacking, halfway = self.look(names)
            if halfway:
                self.run(
                    *("dpkg", "--configure", "--pending", "--force-confdef", "--force-confold"),
                    DPKG_FRONTEND_LOCKED="1",
                )
                lacking, halfway = self.look(names)
        return lacking, halfway

    def install(self, names: list[str], attempts: int = 3, delay: float = 10) -> None:
        """Install packages without what they only recommend, and mend what was left half-way.

        Parameters:
            names: names of packages.
            attempts: how often it is tried, since mirrors fail at times.
            delay: seconds between two attempts.

        Raises:
            PackagesError: it did not succeed; OSError: the disk is full.
        """
        # A module of an earlier run may still be at it: its policy is not to be taken from under it.
        with self.locked("run/terrace-packages.lock"), self.policy.in_force():
            lacking, halfway = self.mend(names)
            said = ""
            for attempt in range(1, attempts + 1):
                if not lacking and not halfway:
                    return
                if attempt > 1:
                    time.sleep(delay)
                _, update_said = self.run("apt-get", *APT, "update")
                _, install_said = self.run(
                    *("apt-get", *APT, "--yes", "--fix-broken", "--no-install-recommends", "install", *lacking)
                )
                lacking, halfway = self.mend(names)
                said = f"{troubles(update_said)}\n{last_lines(install_said)}"
        if lacking or halfway:
            what = ", ".join(lacking or halfway)
            raise PackagesError(f"apt-get could not install {what}, tried {attempts} times. It said:\n{said.strip()}")


def troubles(text: str) -> str:
    """Return the errors and warnings in apt-get's output: an update that fails in part still exits with 0."""
    return "\n".join(line for line in text.splitlines() if line.startswith(("E:", "W:", "Err:")))


def last_lines(text: str, count: int = 12) -> str:
    """Return the last lines that say something: neither continued lines nor attempts that are repeated."""
    return "\n".join(
        [line for line in text.splitlines() if line.strip() and not line.startswith((" ", "Ign:"))][-count:]
    )
