"""Part `static`: static files by node proxy, engines and edge, beside a plain nginx that serves the same directory.

The plain nginx is there for this alone, on NODE, once without TLS for what is compared with the node proxy, and once
with it for all others; it has no more in its configuration than it takes to serve files and what is compressed beside.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import load
import results
import ways
from stack import NODE, lab

SERVICE = "orders"
FOLDER = f"/srv/terrace/{SERVICE}/static/immutable"
# Of random bytes, since no way compresses anything here.
SIZES = {"1 kB": 1_000, "100 kB": 100_000, "1 MB": 1_000_000}
UNIT = "bench-static"
PORT, TLS_PORT = 8097, 8098
PLAIN = """\
load_module modules/ngx_http_brotli_static_module.so;
worker_processes auto;
error_log stderr crit;
daemon off;
pid /run/{unit}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    gzip_static on;
    brotli_static on;
    client_body_temp_path /run/{unit}/body;
    proxy_temp_path /run/{unit}/proxy;
    fastcgi_temp_path /run/{unit}/fastcgi;
    uwsgi_temp_path /run/{unit}/uwsgi;
    scgi_temp_path /run/{unit}/scgi;
    server {{
        listen {address}:{port};
        listen {address}:{tls_port} ssl;
        ssl_certificate /etc/terrace/pki/host.crt;
        ssl_certificate_key /etc/terrace/pki/host.key;
        location {url} {{ alias {folder}/; }}
    }}
}}
"""


def name(size: str) -> str:
    """Return the name of the file of a size."""
    return f"bench-{size.replace(' ', '-')}.bin"


def configuration(address: str, url: str) -> str:
    """Return the plain nginx's configuration.

    Parameters:
        address: where it listens.
        url: what the files' addresses begin with.
    """
    return PLAIN.format(unit=UNIT, address=address, port=PORT, tls_port=TLS_PORT, url=url, folder=FOLDER)


@contextmanager
def plain(url: str) -> Iterator[None]:
    """Have the files and the plain nginx on NODE meanwhile; nothing is left of them."""
    host = lab.Host(NODE)
    file = f"/run/{UNIT}.conf"
    files = " ".join(shlex.quote(f"{FOLDER}/{name(size)}") for size in SIZES)
    remove = f"systemctl stop {UNIT} 2>/dev/null; rm -f {files} {file}"
    host.run(f"{remove}; test -d {FOLDER}")
    try:
        for size, count in SIZES.items():
            host.run(f"head -c {count} /dev/urandom >{FOLDER}/{name(size)} && chmod 0644 {FOLDER}/{name(size)}")
        host.run(f"cat >{file}", stdin=configuration(lab.ADDRESSES[NODE], url))
        host.run(f"systemd-run --quiet --unit={UNIT} --property=RuntimeDirectory={UNIT} nginx -c {file}")
        lab.wait(lambda: host.try_run(f"ss -tlnH | grep -q :{TLS_PORT}").returncode == 0, 10, "the plain nginx listens")
        yield
    finally:
        host.run(f"{remove}; true")


def found(engines: dict[str, str]) -> list[ways.Way]:
    """Return the ways to the files: the plain nginx's two, and ours from the shortest to the longest."""
    address, port = lab.ADDRESSES[NODE], lab.SERVICES[SERVICE]["port"]
    server = ("server", NODE, UNIT)
    node = (("node", NODE, "haproxy@node"), ("server", NODE, "nginx-static"))
    listed = [
        ways.Way("plain", load.Place(f"http://{address}:{PORT}"), (server,)),
        ways.Way("plain with TLS", load.Place(f"https://{address}:{TLS_PORT}"), (server,)),
        ways.Way("node", load.Place(f"http://{address}:{port}"), node),
    ]
    for engine, host in engines.items():
        hops = (("balancer", host, f"{engine}@lb"), *node)
        listed.append(ways.Way(engine, load.Place(f"https://{lab.ADDRESSES[host]}"), hops))
    for host in lab.GROUPS.get("edge", [])[:1]:
        # A file that the edge has is asked of nobody else.
        hops = (("balancer", host, "nginx@edge"),)
        listed.append(ways.Way("edge", load.Place(f"https://{lab.ADDRESSES[host]}"), hops))
    return listed


def measure(engines: dict[str, str], connections: int = 32) -> dict:
    """Return rate, latency and processor time of a file of each size on each way.

    Parameters:
        engines: the balancer host of each engine.
        connections: how many clients there are.
    Returns:
        `rows`: for each `route` (the size) and `way` its `rounds`.
    Errors:
        LoadError, where a file is not answered with 2xx.
    """
    url = lab.SERVICES[SERVICE]["static"]["url"]
    rows = ways.Rows()
    with plain(url):
        for number in range(results.rounds()):
            listed = found(engines)
            for size in SIZES:
                route = ways.Route(SERVICE, [f"{url}{name(size)}"])
                for way in listed[number % len(listed) :] + listed[: number % len(listed)]:
                    rows.add(ways.one(way, route, connections), route=size, way=way.name)
    order = [way.name for way in found(engines)]
    ordered = sorted(rows.list(), key=lambda row: (list(SIZES).index(row["route"]), order.index(row["way"])))
    return {"connections": connections, "seconds": ways.seconds(), "rows": ordered}
