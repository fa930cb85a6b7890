"""What a running systemd unit has loaded, and whether its files have changed since.

A handler is lost when a run is cut off between the change and its end, and no later run notices. So the question
"does this daemon run on its current files?" is asked of the host each time, from what systemd knows (when the unit
started, under which invocation) and from what was recorded when it last loaded its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

STATE_DIRECTORY = Path("/var/lib/terrace/units")
# The kinds of units that a name may end with; any other dot is part of an instance, such as an address.
SUFFIXES = (".service", ".socket", ".timer", ".target", ".path", ".mount", ".slice", ".scope")


class UnitError(Exception):
    """A systemctl command failed; the message says which, and what it printed."""


def digest(path: str) -> str:
    """Return the SHA-256 of a file's content, or of a directory's files and names.

    Parameters:
        path: a file or a directory; one that does not exist has the digest "absent".
    """
    where = Path(path)
    if where.is_dir():
        whole = hashlib.sha256()
        for file in sorted(p for p in where.rglob("*") if p.is_file()):
            whole.update(f"{file.relative_to(where)}\0{digest(str(file))}\n".encode())
        return whole.hexdigest()
    if not where.exists():
        return "absent"
    return hashlib.sha256(where.read_bytes()).hexdigest()


def changed_at(path: str) -> float:
    """Return when a file's content or status last changed, in seconds since the epoch (0.0 where it does not exist).

    The inode's change time, since a copy may carry an old modification time along.
    """
    where = Path(path)
    if where.is_dir():
        return max([os.stat(where).st_ctime, *(changed_at(str(p)) for p in where.rglob("*") if p.is_file())])
    return os.stat(where).st_ctime if where.exists() else 0.0


def systemctl(module, *words: str, check: bool = True) -> str:
    """Run `systemctl` with these words and return what it printed; raises UnitError where it fails."""
    code, out, err = module.run_command(["systemctl", *words])
    if check and code:
        raise UnitError(f"systemctl {' '.join(words)}: {err.strip() or out.strip() or f'exit code {code}'}")
    return out.strip()


class Unit:
    """One systemd unit on this host.

    Parameters:
        module: the AnsibleModule, whose `run_command` is used.
        name: the unit's name; without a suffix it is a service.
        state_directory: where records of what was loaded are kept.
    """

    def __init__(self, module, name: str, state_directory: Path = STATE_DIRECTORY) -> None:
        self.module = module
        self.name = name if name.endswith(SUFFIXES) else f"{name}.service"
        self._record = Path(state_directory) / f"{self.name}.json"

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run `systemctl` with these words and return what it printed; raises UnitError where it fails."""
        return systemctl(self.module, *words, check=check)

    def show(self, *properties: str) -> dict[str, str]:
        """Return the unit's properties, by name, as systemd prints them; what the unit does not have is empty."""
        out = self.systemctl("show", self.name, "--timestamp=unix", *(f"--property={p}" for p in properties))
        return dict.fromkeys(properties, "") | dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def journal(self, lines: int = 20) -> str:
        """Return the last lines that the unit wrote to the journal."""
        return self.module.run_command(
            ["journalctl", "--unit", self.name, "--lines", str(lines), "--no-pager", "--output=cat"]
        )[1].strip()

    def changed_since_load(self, files: list[str]) -> list[str]:
        """Return those of the files whose content differs from what the running unit loaded.

        With a record of this invocation, contents are compared. Without one (the unit was started by a boot, by hand,
        or by itself), a file that changed after the unit became active counts as changed.
        """
        now = self.show("InvocationID", "ActiveEnterTimestamp")
        known = self._known()
        if known.get("invocation") == now["InvocationID"]:
            if known.get("forsaken"):
                return files
            loaded = known.get("files", {})
            # A file that was not watched when the record was made is judged by the time of that record.
            return [
                f
                for f in files
                if (digest(f) != loaded[f] if f in loaded else changed_at(f) > known.get("recorded", 0.0))
            ]
        started = float(now["ActiveEnterTimestamp"].lstrip("@") or 0)
        # systemd prints whole seconds here, so a change within the same second counts as later.
        return [f for f in files if changed_at(f) >= started]

    def record(self, files: list[str]) -> None:
        """Remember that the running unit has loaded these files as they are now.

        Raises OSError where that cannot be written; the record before it, if any, is then still whole.
        """
        self._write({"files": {f: digest(f) for f in files}})

    def forsake(self) -> None:
        """Remember that the running unit is about to end: who needs it has to restart it, whatever its files say."""
        self._write({"forsaken": True})

    def _write(self, content: dict) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        content = {"invocation": self.show("InvocationID")["InvocationID"], **content}
        temporary = self._record.with_suffix(".partial")
        temporary.unlink(missing_ok=True)
        known = self._known()
        if {key: value for key, value in known.items() if key != "recorded"} == content:
            return
        try:
            temporary.write_text(json.dumps(content | {"recorded": time.time()}, indent=1, sort_keys=True))
            temporary.replace(self._record)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _known(self) -> dict:
        """Return the last record, or nothing where there is none that can be read."""
        try:
            known = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}
