"""A real browser, Chromium without a window, told over its DevTools protocol what a person would do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

# What it would ask of others by itself is switched off; it knows no proxy, and no name but those that it is told.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--remote-debugging-port=0",
)

# What Chromium says when the machine that it is on loses an interface, as this one does with a host of the lab.
INTERFACES = "net::ERR_NETWORK_CHANGED"


class Browser:
    """One page of a browser.

    Parameters:
        address: the WebSocket by which the page is told what to do.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._last = 0
        self._events: list[dict] = []
        for domain in ("Page", "Network", "Runtime"):
            self.tell(f"{domain}.enable")

    def close(self) -> None:
        """Let go of the page."""
        self._socket.close()

    def tell(self, method: str, **parameters: Any) -> dict:
        """Send a command and return its result; what happens meanwhile is kept."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._events.append(message)

    def evaluate(self, script: str) -> Any:
        """Return what a script yields in the page."""
        result = self.tell("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, f"{script}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address, as by the address bar, and wait until all of the page is there."""
        for _ in range(5):
            self._events.clear()
            wrong = self.tell("Page.navigate", url=url).get("errorText")
            if wrong != INTERFACES:
                break
            # What it shows instead is a page, too, and would be taken for the next one.
            self._loaded(url)
        assert not wrong, f"{url}: {wrong}"
        self._loaded(url)

    def submit(self, button: str, **fields: str) -> None:
        """Fill in the fields of the page's form, by name, press a button, and wait for the page that comes.

        Parameters:
            button: a CSS selector.
            fields: what is typed.
        """
        for name, value in fields.items():
            self.evaluate(f"document.querySelector('[name={name}]').focus()")
            self.tell("Input.insertText", text=value)
        self._events.clear()
        self.evaluate(f"document.querySelector({json.dumps(button)}).click()")
        self._loaded(button)

    def text(self) -> str:
        """Return what can be read on the page."""
        return self.evaluate("document.body.innerText")

    def path(self) -> str:
        """Return the path of the page's address."""
        return self.evaluate("location.pathname")

    def answers(self) -> list[dict]:
        """Return all answers since the last step, each with `url`, `status` and `headers` (by lower-case name).

        An answer that sent the browser elsewhere is among them.
        """
        told = [event["params"] for event in self._events]
        found = [each.get("redirectResponse") or each.get("response") for each in told]
        return [
            {
                "url": each["url"],
                "status": each["status"],
                "headers": {name.lower(): value for name, value in each["headers"].items()},
            }
            for each in found
            if each and "status" in each
        ]

    def _loaded(self, what: str, seconds: float = 60) -> None:
        """Wait until the page and all that belongs to it is there."""
        end = time.monotonic() + seconds
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            assert time.monotonic() < end, f"{what}: no page in {seconds:g} s"
            with contextlib.suppress(websocket.WebSocketTimeoutException):
                self._events.append(json.loads(self._socket.recv()))


@contextlib.contextmanager
def browser(folder: Path, names: dict[str, str], keys: list[str]) -> Iterator[Browser]:
    """Run a browser until the end of the block.

    Parameters:
        folder: an empty one, for its profile.
        names: addresses by host name; it resolves no other name.
        keys: the public keys of servers that it is to trust, besides those that Debian's authorities vouch for: the
            SHA-256 of each key's DER form, in base64.
    """
    rules = [f"MAP {name} {address}" for name, address in names.items()] + ["MAP * ~NOTFOUND"]
    # It reaches its own port by address, which no rule is to change.
    rules.append("EXCLUDE 127.0.0.1")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                "chromium",
                *OPTIONS,
                f"--user-data-dir={folder}",
                f"--host-resolver-rules={','.join(rules)}",
                f"--ignore-certificate-errors-spki-list={','.join(keys)}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            page = Browser(_page(folder, process))
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def _page(folder: Path, process: subprocess.Popen, seconds: float = 60) -> str:
    """Return the WebSocket of the first page of a browser that starts."""
    end = time.monotonic() + seconds
    told = folder / "DevToolsActivePort"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end, f"the browser does not start:\n{(folder / 'log').read_text()}"
        with contextlib.suppress(OSError, IndexError, ValueError):
            port = int(told.read_text().split()[0])
            with direct.open(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
                pages = [each for each in json.load(answer) if each["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.2)
