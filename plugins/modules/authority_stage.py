#!/usr/bin/python
"""Take the controller's files of a certificate authority through the change from one authority to the next."""

from __future__ import annotations

DOCUMENTATION = r"""
module: authority_stage
short_description: Change which authority signs, and which ones are trusted
description:
  - In a directory C(ca.crt) and C(ca.key) are the authority's. C(ca.crt) begins with the certificate of the one that
    signs; behind it stand others that are trusted, too. It is what hosts and clients are given.
  - The next authority is C(next.crt) and C(next.key), which somebody else makes.
  - Each stage can be had again, and from a run that was cut off at any point.
options:
  directory:
    description: Where the files are.
    type: path
    required: true
  stage:
    description:
      - C(accept) has the next one trusted beside the one that signs.
      - C(use) has the next one sign, and the one before still trusted. Its key is no more.
      - C(retire) has the one that signs trusted alone.
    type: str
    choices: [accept, use, retire]
    required: true
author: Terrace
"""

EXAMPLES = r"""
- name: Have the next authority trusted, too
  authority_stage:
    directory: inventory/production/.pki
    stage: accept
"""

RETURN = r"""
trusted:
  description: How many authorities are trusted then.
  type: int
  returned: success
"""

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import write_atomically

CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n?", re.DOTALL)


class StageError(Exception):
    """The files are not those of the stage before; the text says what is missing."""


def certificates(path: Path) -> list[str]:
    """Return the certificates in a file, as PEM; none where there is no file."""
    found = CERTIFICATE.findall(path.read_text()) if path.exists() else []
    return [text.rstrip("\n") + "\n" for text in found]


def keep(path: Path, parts: list[str]) -> bool:
    """Write certificates into a file where they are not its content yet; return whether they were not."""
    text = "".join(dict.fromkeys(parts))
    if path.exists() and path.read_text() == text:
        return False
    write_atomically(path, text, mode=0o644)
    return True


def accept(home: Path) -> bool:
    """Have the next authority trusted beside the one that signs; return whether anything was changed."""
    own, coming = certificates(home / "ca.crt"), certificates(home / "next.crt")
    if not own or not coming or not (home / "next.key").exists():
        raise StageError(f"{home} has no authority, or none that is to be the next one")
    return keep(home / "ca.crt", [own[0], coming[0]])


def use(home: Path) -> bool:
    """Have the next authority sign; return whether anything was changed.

    What says that it is not done yet goes last: a run that was cut off before that is done once more.
    """
    coming, own = certificates(home / "next.crt"), certificates(home / "ca.crt")
    if not coming:
        if len(own) < 2:
            raise StageError(f"{home} has no next authority, and none before")
        return False
    before = next((text for text in own if text != coming[0]), "")
    keep(home / "ca.crt", [coming[0], before])
    if (home / "next.key").exists():
        (home / "next.key").replace(home / "ca.key")
    (home / "next.crt").unlink()
    return True


def retire(home: Path) -> bool:
    """Have the authority that signs trusted alone; return whether anything was changed."""
    own = certificates(home / "ca.crt")
    if not own or (home / "next.crt").exists():
        raise StageError(f"{home} has an authority that was to sign, and does not yet")
    return keep(home / "ca.crt", own[:1])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "stage": {"type": "str", "choices": ["accept", "use", "retire"], "required": True},
        },
        supports_check_mode=True,
    )
    home = Path(module.params["directory"])
    if module.check_mode:
        module.exit_json(changed=True, trusted=len(certificates(home / "ca.crt")))
    try:
        changed = {"accept": accept, "use": use, "retire": retire}[module.params["stage"]](home)
    except (StageError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, trusted=len(certificates(home / "ca.crt")))


if __name__ == "__main__":
    main()
