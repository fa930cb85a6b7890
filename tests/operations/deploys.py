"""What tests of deploys stand on: variants of a service, a load that must not fail meanwhile, and deploys of them.

A variant is the example `orders` with a page that takes seconds, and whatever is wrong with it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websocket

import lab

sys.path.insert(0, str(lab.ROOT))
from resilience.fleet import power_of_lab

SERVICE = "orders"
several = pytest.mark.skipif(len(lab.NODES) < 2, reason="there is one node")
# How long the slow page takes, in seconds. Two are always in flight, and each slot that goes waits for them.
SLOW = float(os.environ.get("DEPLOYS_SLOW_SECONDS") or 3)
# Where clients ask.
ENTRY = "virtual" if lab.VIRTUAL else lab.BALANCERS[0]
# Answers a page slowly, and does to all others what a variant says; /readyz and /healthz are left as they are.
WRAPPER = '''

def varied(inner):
    """Return an application that does what this variant is for: {title}."""
    import asyncio, os

    async def outer(scope, receive, send):
        path = scope.get("path", "")
        if scope["type"] == "http" and path == "/orders/slow":
            await asyncio.sleep({slow})
            await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}})
            await send({{"type": "http.response.body", "body": b"ok"}})
            return
        asked = scope["type"] == "http" and path.startswith("/orders")
{body}
        await inner(scope, receive, send)

    return outer


app = varied(app)
'''
ERROR = """
            await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"6")]})
            await send({"type": "http.response.body", "body": b"broken"})
            return
"""
BODIES = {
    "good": "",
    "answers-500": "        if asked:" + ERROR,
    "app3-answers-500": '        if asked and os.environ["NODE_NAME"] == "app3":' + ERROR,
    "ten-times-slower": "        if asked:\n            await asyncio.sleep(0.8)",
    "never-ready": '        if path == "/readyz":' + ERROR,
    "not-on-app3": '        if path == "/readyz" and os.environ["NODE_NAME"] == "app3":' + ERROR,
    "no-import": "",
    "bad-migration": "",
}
NUMBERS = itertools.count(int(time.time()))


def variant(folder: Path, kind: str) -> dict:
    """Make a variant of the service and return what the environment says of it.

    Parameters:
        folder: where it is made.
        kind: one of BODIES.
    """
    place = folder / f"{kind}-{next(NUMBERS)}"
    shutil.copytree(lab.ROOT / "examples" / SERVICE, place, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    main = place / SERVICE / "main.py"
    main.write_text(main.read_text() + WRAPPER.format(title=place.name, slow=SLOW, body=BODIES[kind]))
    # Each release has files of its own.
    style = place / "static/board.css"
    style.write_text(f"{style.read_text()}\n/* {place.name} */\n")
    if kind == "no-import":
        first = "from __future__ import annotations\n"
        main.write_text(main.read_text().replace(first, f"{first}\nimport what_nobody_has\n"))
    own = {"source": {"path": str(place)}}
    if kind == "bad-migration":
        own["database"] = {"migrate": "echo this migration fails >&2; exit 9"}
    return own


def told(own: dict, **more: object) -> str:
    """Return the extra variables of a deploy of a variant; `more` are others, such as `deploy_kind`."""
    services = {name: dict(its or {}) for name, its in lab.OWN.items()}
    services[SERVICE] |= own
    variables = {
        "services": services,
        "deploy_services": [SERVICE],
        "deploy_id": f"{next(NUMBERS)}-test",
        "deploy_who": "tests",
        "deploy_origin": "lab",
        "deploy_watch": 4,
        "deploy_watch_next": 4,
    }
    return json.dumps(variables | more)


def command(own: dict, **more: object) -> list[str]:
    """Return the words of a deploy."""
    playbook = [str(lab.ROOT / ".venv/bin/ansible-playbook"), f"--inventory={lab.INVENTORY}", "playbooks/deploy.yml"]
    return [*playbook, "--extra-vars", told(own, **more)]


def started(own: dict, **more: object) -> subprocess.Popen:
    """Start a deploy, which prints into a pipe."""
    return run_of(command(own, **more))


def run_of(words: list[str]) -> subprocess.Popen:
    """Start a command of Ansible's in a session of its own, which prints into a pipe."""
    return subprocess.Popen(
        words,
        cwd=lab.ROOT,
        env=lab.environment() | {"ANSIBLE_STRATEGY": "mitogen_linear"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def deploy(own: dict, **more: object) -> subprocess.CompletedProcess:
    """Deploy a variant and return what came of it."""
    with started(own, **more) as run:
        said = run.stdout.read()
    return subprocess.CompletedProcess(run.args, run.returncode, said)


def killed_in(run: subprocess.Popen, task: str) -> str:
    """Kill the controller within a task of a run that was started, and return what it had said.

    AssertionError where the task never begins.
    """
    said = []
    for line in run.stdout:
        said.append(line)
        if line.startswith("TASK [") and task in line:
            time.sleep(1.0)
            break
    ended = run.poll()
    lab.kill_family(run.pid)
    run.stdout.close()
    run.wait()
    assert ended is None, "".join(said[-60:])
    assert any(task in line for line in said), "".join(said[-60:])
    return "".join(said)


def live(hosts: dict[str, lab.Host], service: str = SERVICE) -> dict[str, str]:
    """Return the live release of a service on each node."""
    return {
        node: hosts[node].run(f"cd /srv/terrace/{service}; basename $(readlink $(readlink live))").strip()
        for node in lab.NODES
    }


class Socket(threading.Thread):
    """A WebSocket that is kept open; one that is closed with a code is opened anew, as a browser's script does.

    `failed` has what else happened to it: one that broke off without a code, an answer that did not come.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.pongs = self.reopened = 0
        self.failed: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        end = time.monotonic() + 900
        while not self.over.is_set() and time.monotonic() < end:
            try:
                self._talk(end)
            except (OSError, AssertionError, websocket.WebSocketException):
                self.failed.append(f"{time.strftime('%T')} {traceback.format_exc(limit=-4)}")
                time.sleep(0.5)

    def _talk(self, end: float) -> None:
        url = f"wss://{lab.VIRTUAL or lab.ADDRESSES[ENTRY]}/orders/live"
        connection = websocket.create_connection(url, timeout=15, sslopt={"context": lab.tls()})
        with contextlib.closing(connection):
            while not self.over.is_set() and time.monotonic() < end:
                connection.send('{"type": "ping"}')
                self.pongs += 1
                # A goodbye that comes between two words is heard before the next one is said.
                for patience, said in ((15, "pong"), (0.3, "")):
                    connection.settimeout(patience)
                    try:
                        if self._closed(connection, said):
                            return
                    except websocket.WebSocketTimeoutException:
                        assert not said, "no pong"

    def _closed(self, connection: websocket.WebSocket, awaited: str) -> bool:
        """Read until a message of a type comes, and return whether the other side said goodbye instead."""
        while True:
            code, data = connection.recv_data()
            if code == websocket.ABNF.OPCODE_CLOSE:
                assert len(data) >= 2, "closed without a code"
                self.reopened += 1
                return True
            if awaited and json.loads(data).get("type") == awaited:
                return False

    def stop(self) -> None:
        """Have it end."""
        self.over.set()
        self.join(30)


class Visitor(threading.Thread):
    """Opens a page and what it is made of, and what the page was made of that it opened first, on new connections.

    `failed` has what was no 200, `seen` the addresses of the files, each once.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.failed: list[str] = []
        self.seen: dict[str, None] = {}
        self.over = threading.Event()

    def run(self) -> None:
        first: list[str] = []
        while not self.over.wait(0.5):
            page = self._get("/orders/board")
            files = re.findall(r'(?:href|src)="(/orders/static/[^"]+)"', page)
            first = first or files
            for path in dict.fromkeys([*files, *first]):
                if self._get(path):
                    self.seen[path] = None

    def _get(self, path: str) -> str:
        try:
            answer = lab.ask(ENTRY, path, timeout=20)
        except (OSError, lab.HTTPException) as error:
            self.failed.append(f"{type(error).__name__} {path}: {error}")
            return ""
        if answer.status != 200:
            self.failed.append(f"{answer.status} {path}")
            return ""
        return answer.body.decode()

    def stop(self) -> None:
        """Have it end."""
        self.over.set()
        self.join(30)


class Watch:
    """What clients saw while it went on: `loads` by name, the `socket`, and the `visitor` of a page."""

    def __init__(self, user: int, slow: bool) -> None:
        def order() -> dict:
            return {"user_id": user, "items": [{"sku": "deploy", "quantity": 1, "price_cents": 100}]}

        kept = {"longest": 900, "pause": 0.2}
        self.loads = {
            "reads": lab.Load(ENTRY, "/orders?limit=1", clients=2, **kept),
            "new connections": lab.Load(ENTRY, "/orders?limit=1", clients=1, headers={"Connection": "close"}, **kept),
            "writes": lab.Load(ENTRY, "/orders", clients=2, method="POST", body=order, keyed=True, **kept),
        }
        if slow:
            self.loads["slow"] = lab.Load(ENTRY, "/orders/slow", clients=2, longest=900, pause=0.0, begun=False)
        self.socket = Socket()
        self.visitor = Visitor()

    @property
    def failed(self) -> list[str]:
        """What failed, whoever asked."""
        return self._of_loads() + self.socket.failed

    @property
    def requests_failed(self) -> list[str]:
        """What failed of requests: a WebSocket ends with the node that it is on, if that loses its power."""
        assert len(self.socket.failed) <= 1, self.socket.failed
        return self._of_loads()

    def _of_loads(self) -> list[str]:
        found = {name: load.failed for name, load in self.loads.items()} | {"page": self.visitor.failed}
        return [f"{name}: {text}" for name, failed in found.items() for text in failed]


@contextlib.contextmanager
def watched(least: int = 50, slow: bool = True) -> Iterator[Watch]:
    """Read, write, open pages, wait for a slow one and talk over a WebSocket all the while, at the virtual address.

    Parameters:
        least: so many reads have to have been answered well.
        slow: whether the live release has the slow page.
    """
    user = lab.ask(ENTRY, "/users", "POST", lab.new_user()).json()["id"]
    watch = Watch(user, slow)
    with contextlib.ExitStack() as stack:
        for load in watch.loads.values():
            stack.enter_context(load)
        for other in (watch.socket, watch.visitor):
            other.start()
            stack.callback(other.stop)
        yield watch
        time.sleep(1)
    assert watch.loads["reads"].good > least, watch.loads
    assert watch.socket.pongs > least / 10, watch.socket.failed
    assert not slow or watch.loads["slow"].good >= 2, watch.loads["slow"]


def power(name: str, on: bool) -> None:
    """Take a host's power away, or give it back."""
    its = power_of_lab()
    command = (its.on if on else its.off).replace("{host}", name)
    subprocess.run(command, shell=True, check=True, capture_output=True)  # noqa: S602


def unlock() -> subprocess.CompletedProcess:
    """Break the lock as `make unlock` does."""
    playbook = [lab.ROOT / ".venv/bin/ansible-playbook", f"--inventory={lab.INVENTORY}", "playbooks/unlock.yml"]
    return subprocess.run(playbook, cwd=lab.ROOT, env=lab.environment(), capture_output=True, text=True, check=False)


# What a node may answer badly before it is found out.
BAD = 40
FAILURES = {
    "no-import": ("No module named 'what_nobody_has'", "Nothing that lives was touched"),
    "bad-migration": ("this migration fails", "went back to what lived before"),
    "never-ready": ("did not become ready within 15 s", "Its last lines in the journal"),
    "answers-500": ("did worse than", "requests had errors"),
    "app3-answers-500": ("service orders on app3", "did worse than"),
    "ten-times-slower": ("did worse than", "it typically took"),
    "not-on-app3": ("service orders on app3", "did not become ready within 15 s"),
}


def check_failure(hosts: dict[str, lab.Host], folder: Path, kind: str) -> None:
    """Deploy a variant that fails, and find all nodes on the release before, with a clear message."""
    before = live(hosts)
    with watched() as watch:
        # Long enough for response times to say something; a slot that never is ready is found out sooner than usual.
        more = {"deploy_watch": 10} if kind == "ten-times-slower" else {}
        if kind in ("never-ready", "not-on-app3"):
            more["python_service_start_timeout"] = 15
        done = deploy(variant(folder, kind), **more)
    assert done.returncode != 0
    for text in FAILURES[kind]:
        assert text in done.stdout, done.stdout[-4000:]
    assert live(hosts) == before
    if "answers-500" in kind:
        # Those of the node that was watched.
        assert 0 < len(watch.failed) < BAD, watch.failed
        assert {text.split(": ", 1)[1][:3] for text in watch.failed} == {"500"}, watch.failed
    else:
        assert watch.failed == []


def check_taken_back(hosts: dict[str, lab.Host], folder: Path) -> None:
    """Kill the controller between two nodes; a second deploy is refused, and a rollback finds the release before."""
    before = live(hosts)
    with watched() as watch:
        killed_in(started(variant(folder, "good")), "Have background processes and schedules follow")
        assert len(set(live(hosts).values())) == 2
        refused = deploy({}, deploy_kind="rollback")
        assert refused.returncode != 0
        assert "make unlock" in refused.stdout, refused.stdout[-3000:]
        broken = unlock()
        assert broken.returncode == 0
        assert "it was held by tests on lab since" in broken.stdout
        done = deploy({}, deploy_kind="rollback", deploy_watch=0)
    assert done.returncode == 0, done.stdout[-4000:]
    assert watch.failed == []
    assert live(hosts) == before


def check_missed(hosts: dict[str, lab.Host], folder: Path, playbook: Callable) -> None:
    """Have a node be away while its peers are deployed, and be shut when it returns, until site.yml ran there.

    Then a rollback takes it along.
    """
    before = live(hosts)
    last = lab.NODES[-1]
    own = variant(folder, "good")
    with watched() as watch:
        power(last, on=False)
        try:
            done = deploy(own)
        finally:
            power(last, on=True)
        assert done.returncode == 0, done.stdout[-4000:]
        assert f"{last} cannot be reached" in done.stdout
        lab.wait(lambda: shut(last), 90, f"{last} says that it is stale")
        for _ in range(10):
            answer = lab.ask(last, "/orders?limit=1", port=lab.SERVICES[SERVICE]["port"])
            assert answer.status == 200
            assert answer.headers["x-served-by"] != last
        # The others of its services are what they were.
        lab.wait(lambda: lab.ask(last, "/users", port=lab.PORTS["node_health"]).status == 200, 60, "users serves")
        done = playbook("playbooks/app.yml", "--extra-vars", told(own, deploy_services=[]))
        assert done.returncode == 0, done.stdout[-4000:]
        lab.wait_until_ready(60)
        after = live(hosts)
        done = deploy({}, deploy_kind="rollback", deploy_watch=0)
        assert done.returncode == 0, done.stdout[-4000:]
    assert watch.requests_failed == []
    assert len(set(after.values())) == 1
    assert after != before
    assert live(hosts) == before


def shut(node: str) -> bool:
    """Return whether a node says that its release is stale."""
    try:
        answer = lab.ask(node, f"/{SERVICE}", port=lab.PORTS["node_health"], timeout=5)
    except OSError:
        return False
    return answer.status == 503 and answer.body.startswith(b"stale: its peers run")
