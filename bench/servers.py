"""Part `servers`: the example services under gunicorn, uvicorn and granian, side by side on one node.

Each server gets a release of its own, built and installed by the project's modules, and the very unit that the role
would write for it, with another socket. All of them stand beside the live slots, which nothing touches, so that they
can take turns within a round. Clients connect straight to the sockets.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import load
import results
import stack
import ways
from stack import NODE, lab

SERVERS = ("gunicorn", "uvicorn", "granian")
SERVICES = ("users", "orders")


def units() -> dict[tuple[str, str], str]:
    """Return the unit of each service under each server, as the role writes it for NODE in the lab.

    The templates are rendered by the hostless tests' means, in a process of its own: Ansible reads its configuration
    once.
    """
    done = subprocess.run([sys.executable, __file__], cwd=results.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: cannot render the units:\n{done.stdout}{done.stderr}")
    written = json.loads(done.stdout.splitlines()[-1])
    return {(service, server): beside(text, service) for server in written for service, text in written[server].items()}


def beside(unit: str, service: str) -> str:
    """Return the unit of a slot as one that the node proxy and terrace-liveness know nothing of.

    Parameters:
        unit: the text of svc-SERVICE@.service, whose instance is a slot.
        service: the service.
    Errors:
        ValueError, where the unit does not use its instance as expected.
    """
    if f"/run/terrace/{service}/%i.sock" not in unit or f"/srv/terrace/{service}/%i" not in unit:
        raise ValueError(f"svc-{service}@.service does not name its socket and its release by %i")
    text = re.sub(r"(?s)\n(#[^\n]*\n)?\[X-Terrace\].*", "\n", unit)
    return "\n".join(line for line in text.splitlines() if not line.startswith("PartOf=")) + "\n"


def releases() -> dict[tuple[str, str], dict]:
    """Build the release of each service for each server, and return what the module said of it."""
    found = {}
    for service in SERVICES:
        declared = lab.SERVICES[service]
        for server in SERVERS:
            arguments = {
                "name": service,
                "source": {"path": str(results.ROOT / declared["source"]["path"])},
                "version": str(declared.get("version", "")),
                "server": server,
                "interface": declared["interface"],
                "cache_directory": str(results.ROOT / ".terrace/releases"),
            }
            results.say(f"building {service} with {server}")
            _, shown = stack.ansible(
                "ansible", "--inventory=localhost,", "--connection=local", "localhost", "--module-name=release_build",
                f"--args={json.dumps(arguments)}", f"--extra-vars=ansible_python_interpreter={sys.executable}",
                environment={"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
            )  # fmt: skip
            found[service, server] = json.loads(shown[shown.index("{") :])
    return found


@contextmanager
def side_by_side() -> Iterator[dict[tuple[str, str], str]]:
    """Run each service under each server on NODE, and remove all of it at the end.

    Returns:
        The unit of each.
    """
    texts, built = units(), releases()
    host = lab.Host(NODE)
    names = {key: f"bench-{key[0]}-{key[1]}@{key[1]}" for key in texts}
    there = {key: host.try_run(f"test -e {_home(key)}/releases/{built[key]['id']}").returncode == 0 for key in texts}
    try:
        for key, text in texts.items():
            service, server = key
            release, files = built[key]["id"], _files(key)
            results.say(f"installing {service} with {server}")
            if not there[key]:
                for kind, file in files.items():
                    _module("copy", src=built[key][kind], dest=file, mode="0640")
                _module(
                    "release_install", name=service, id=release, sha256=built[key]["sha256"], **files,
                    check=lab.SERVICES[service]["app"],
                )  # fmt: skip
            host.run(f"ln -sfn releases/{release} {_home(key)}/{server}")
            host.run(f"cat >/run/systemd/system/bench-{service}-{server}@.service", text)
        host.run("systemctl daemon-reload")
        for key, name in names.items():
            host.run(f"systemctl start {name}")
            path = lab.SERVICES[key[0]].get("health", {}).get("ready", "/readyz")
            lab.wait(functools.partial(ready, place(*key), path), 60, f"{name} answers")
        yield names
    finally:
        results.say("the servers are removed")
        host.run(f"systemctl stop {' '.join(names.values())} || true")
        for key in texts:
            service, server = key
            host.run(
                f"rm -f /run/systemd/system/bench-{service}-{server}@.service {_home(key)}/{server}"
                f" /run/terrace/{service}/{server}.sock {' '.join(_files(key).values())}"
            )
            if not there[key]:
                host.run(f"rm -rf {_home(key)}/releases/{built[key]['id']}")
        host.run("systemctl daemon-reload; systemctl reset-failed 'bench-*' || true")


def _home(key: tuple[str, str]) -> str:
    return f"/srv/terrace/{key[0]}"


def _files(key: tuple[str, str]) -> dict[str, str]:
    """Return where a release's files are put on NODE, by the module's names for them."""
    path = f"/var/cache/terrace/bench-{'-'.join(key)}"
    return {"archive": f"{path}.tar.gz", "bundle": f"{path}.tar"}


def _module(module: str, /, **arguments: str) -> None:
    stack.ansible("ansible", NODE, "--become", f"--module-name={module}", f"--args={json.dumps(arguments)}")


def place(service: str, server: str) -> load.Place:
    """Return where a server of NODE takes requests for a service."""
    return load.Place("http://localhost", str(Path(stack.socket_of(service)).with_name(f"{server}.sock")))


def ready(at: load.Place, path: str) -> bool:
    """Tell whether a path is answered with 200 on a unix socket."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(at.socket)
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return client.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def measure(connections: int = 32) -> dict:
    """Return rate, latency, processor time and memory of each server on each route."""
    rows = ways.Rows()
    with side_by_side() as names:
        kept = {}
        for number in range(-1, results.rounds()):
            for name, route in ways.routes().items():
                for turn in range(len(SERVERS)):
                    server = SERVERS[(number + turn) % len(SERVERS)]
                    unit = names[route.service, server]
                    way = ways.Way(server, place(route.service, server), (("worker", NODE, unit),))
                    seen = ways.one(way, route, connections)
                    # The first round warms up.
                    if number >= 0:
                        rows.add(seen, route=name, way=server)
        for (service, server), unit in names.items():
            kept.setdefault(server, {})[service] = stack.memory(NODE, unit)
    workers = {service: lab.SERVICES[service].get("workers", "auto") for service in SERVICES}
    return {
        "connections": connections,
        "seconds": ways.seconds(),
        "workers": workers,
        "rows": ways.in_order(rows.list(), dict.fromkeys(SERVERS, "")),
        "memory_mb": kept,
    }


def main() -> None:
    """Print the units of NODE by server and service as JSON; `units` calls this."""
    os.environ["ANSIBLE_CONFIG"] = str(results.ROOT / "ansible.cfg")
    sys.path[:0] = [str(results.ROOT / "tests/hostless"), str(results.ROOT / "plugins")]
    from landscape import Landscape

    written = {}
    for server in SERVERS:
        services = {
            name: (own or {}) | ({"server": server} if name in SERVICES else {}) for name, own in lab.OWN.items()
        }
        landscape = Landscape(results.ROOT / "inventory/lab", services=services)
        units = {f"/etc/systemd/system/svc-{name}@.service": name for name in SERVICES}
        written[server] = {units[file.path]: file.text for file in landscape.files_of(NODE) if file.path in units}
    print(json.dumps(written))


if __name__ == "__main__":
    main()
