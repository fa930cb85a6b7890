"""ansible-lint as it is, without what it would do twice, which is a quarter of its work.

It asks ansible-playbook about the syntax of every playbook, on all cores, and then, one after the other, about that of
each playbook that another one imports. These are the same files, so what is wrong with one has been told by then.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ansible_compat.runtime import Runtime
from ansiblelint.__main__ import _run_cli_entrypoint
from ansiblelint.runner import Runner

CHECKED: set[Path] = set()
check_syntax, ask_ansible = Runner._get_ansible_syntax_check_matches, Runtime.has_playbook


def noted(self: Runner, lintable, app) -> list:
    """Check the syntax of a playbook or a role, and note that."""
    found = check_syntax(self, lintable=lintable, app=app)
    CHECKED.add(lintable.path.resolve())
    return found


def asked_once(self: Runtime, playbook: str, *, basedir: Path | None = None) -> bool:
    """Say whether Ansible can load a playbook, unless it was asked already, and told what is wrong with it."""
    return Path(basedir or ".", playbook).resolve() in CHECKED or ask_ansible(self, playbook, basedir=basedir)


Runner._get_ansible_syntax_check_matches, Runtime.has_playbook = noted, asked_once

if __name__ == "__main__":
    sys.exit(_run_cli_entrypoint())
