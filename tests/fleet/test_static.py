"""Static files: found on every node, through either engine, each encoding with validators of its own, by no worker."""

from __future__ import annotations

import gzip
import re

import brotli
import pytest

import lab

URL = lab.SERVICES["orders"]["static"]["url"]
PORT = lab.SERVICES["orders"]["port"]
IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture(scope="module")
def style() -> str:
    """Return the address of the stylesheet that the page names, which changes with its content."""
    page = lab.ask(lab.BALANCERS[0], "/orders/board")
    assert page.status == 200
    [address] = re.findall(rf'href="({URL}board\.[0-9a-f]{{12}}\.css)"', page.body.decode())
    return address


@pytest.mark.parametrize("balancer", lab.BALANCERS)
def test_a_page_finds_its_stylesheet_in_each_encoding(engine, balancer, style):
    plain = (lab.ROOT / "examples/orders/static/board.css").read_bytes()
    seen = set()
    for encoding, opened in (("br", brotli.decompress), ("gzip", gzip.decompress), ("identity", bytes)):
        answer = lab.ask(balancer, style, headers={"Accept-Encoding": encoding})
        assert (answer.status, opened(answer.body)) == (200, plain)
        assert answer.headers.get("content-encoding", "identity") == encoding
        assert answer.headers["cache-control"] == IMMUTABLE
        assert answer.headers["vary"].lower() == "accept-encoding"
        seen.add(answer.headers["etag"])
        again = {"Accept-Encoding": encoding, "If-None-Match": answer.headers["etag"]}
        assert lab.ask(balancer, style, headers=again).status == 304
    assert len(seen) == 3


def test_all_nodes_say_the_same_of_a_file(style):
    answers = [lab.ask(node, style, port=PORT) for node in lab.NODES]
    assert {answer.status for answer in answers} == {200}
    assert len({(answer.headers["etag"], answer.headers["last-modified"]) for answer in answers}) == 1


def test_plain_names_are_validated_and_nothing_else_is_answered():
    node = lab.NODES[0]
    plain = lab.ask(node, f"{URL}board.css", port=PORT)
    assert (plain.status, plain.headers["cache-control"]) == (200, "public, no-cache")
    for path in ("", ".hidden", "nothing.css", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "board.css/"):
        answer = lab.ask(node, URL + path, port=PORT)
        assert (answer.status, answer.headers["cache-control"]) == (404, "no-store"), path
    refused = lab.ask(node, f"{URL}board.css", "POST", b"x", port=PORT)
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


def test_a_peer_answers_where_nginx_is_down_and_where_a_file_is_not_here(hosts, style, everything_ready):
    node = hosts[lab.NODES[0]]
    place = f"/srv/terrace/orders/static/immutable/{style.removeprefix(URL)}"
    node.run(f"mv {place} {place}.away")
    try:
        # What is open is served for a second more.
        answers = [lab.ask(lab.NODES[0], style, port=PORT) for _ in range(5)]
    finally:
        node.run(f"mv {place}.away {place}")
    assert {answer.status for answer in answers} == {200}
    node.run("systemctl kill --signal=SIGKILL --kill-whom=all nginx-static")
    assert [lab.ask(lab.NODES[0], style, port=PORT).status for _ in range(5)] == [200] * 5
    assert lab.ask(lab.NODES[0], "/orders", port=lab.PORTS["node_health"]).status == 200
    lab.wait(lambda: node.show("nginx-static", "ActiveState") == "active", 10, "nginx-static runs again")


def test_the_server_of_files_is_nobodys(hosts):
    host = hosts[lab.NODES[0]]
    main = host.show("nginx-static", "MainPID")
    assert int(host.run(f"stat -c %u /proc/{main}")) > 60000, "a user of systemd's making"
    assert host.run("find /srv/terrace/orders/static ! -user root -o -type f ! -perm 0644 | head") == ""
