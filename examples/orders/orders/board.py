"""The page that shows new orders as they are made, and the addresses of the files that belong to it."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Orders</title>
<link rel="stylesheet" href="{style}">
<script type="module" src="{script}"></script>
</head>
<body>
<h1>Orders</h1>
<p id="state">Connecting.</p>
<ol></ol>
</body>
</html>
"""


class StaticFiles:
    """The addresses of static files.

    Args:
        url: What they begin with.
        manifest: A JSON file that gives for each name the one that changes with the file's content, so that browsers
            may keep it for good; without one files are asked for by their plain names.
    """

    def __init__(self, url: str, manifest: str) -> None:
        self._url = url
        self._names: dict[str, str] = json.loads(Path(manifest).read_text(encoding="utf-8")) if manifest else {}

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return self._url + self._names.get(name, name)


def board(files: StaticFiles) -> str:
    """Return the page."""
    return PAGE.format(style=escape(files.address("board.css")), script=escape(files.address("board.js")))
