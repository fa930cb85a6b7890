"""docs/troubleshooting.md quotes what is really said: by our own code, or by a program that is named here."""

from __future__ import annotations

import re

from landscape import ROOT

# What stands for something else in a quotation: names, numbers, what is left out.
NAMES = r"NAME|ID|NODE|ADDRESS|v9|web1|green|blue|shop\S*|services\.\S+|users|server1"
PLACEHOLDER = re.compile(rf"\.\.\.|Python 3\.13 on x86_64|/[\w./-]+|\b(?:{NAMES})\b|[\d.]+|[():;'`{{}}]")
# Messages of others, by who says them.
OTHERS = {
    "Attempting to decrypt but no vault secrets found": "Ansible",
    "Decryption failed": "Ansible",
    "no vault secrets were found that could decrypt": "Ansible",
    "UNREACHABLE!": "Ansible",
    "Missing sudo password": "Ansible",
    "Connection refused": "SSH",
    "Connection timed out": "SSH",
    "Host key verification failed": "SSH",
    "Permission denied": "SSH",
    "No space left on device": "the kernel",
    "no more connections allowed": "PgBouncer",
    "OOM command not allowed": "Redis",
}


def quotations() -> list[str]:
    """Return what the first column of the page's tables quotes: text between backticks that has a space in it."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    cells = re.findall(r"(?m)^\| (.*?) \| ", text)
    return [quoted for cell in cells for quoted in cell.split("`")[1::2] if " " in quoted]


def sources() -> str:
    """Return the text of everything that says something, with its strings put together."""
    patterns = (
        "Makefile",
        "plugins/**/*.py",
        "playbooks/*.yml",
        "roles/**/*.yml",
        "roles/**/*.j2",
        "roles/*/files/**/*",
    )
    files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file() and path.suffix != ".pyc"}
    text = "\n".join(path.read_text() for path in sorted(files))
    text = re.sub(r'"\s*\n\s*f?"', "", text)
    text = re.sub(r'\{\{.*?\}\}|\{(?:[^{}\n:"]|:(?! ))*\}', " ", text)
    return " ".join(text.split())


def test_messages_are_those_of_the_code():
    said, invented, found = sources(), [], 0
    for quoted in quotations():
        for piece in (" ".join(part.split()) for part in PLACEHOLDER.split(quoted)):
            if len(piece.split()) < 3 or any(piece in other or other in piece for other in OTHERS):
                continue
            found += 1
            if piece.strip(" ,`") not in said:
                invented.append(f"{quoted}: {piece!r}")
    assert found > 25
    assert invented == []
