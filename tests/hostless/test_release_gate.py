"""A node that missed a deploy is shut: which claims of peers count. That requests follow is for the lab to show."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from landscape import load

gate = load("roles/python_service/files/terrace-release-gate", "terrace_release_gate")
Claim = gate.Claim


@pytest.mark.parametrize(
    ("own", "live", "peers", "expected"),
    [
        # Nobody agreed on anything, or nobody answers.
        (Claim(), "a", [Claim(), Claim()], ""),
        (Claim(3, "a"), "b", [], ""),
        # All is as agreed.
        (Claim(3, "a"), "a", [Claim(3, "a")], ""),
        # It was away while the others went on, and while they went back to what it has.
        (Claim(3, "a"), "a", [Claim(4, "b"), Claim(3, "a")], "b"),
        (Claim(3, "a"), "a", [Claim(5, "a")], ""),
        # It knows better than a peer that was away.
        (Claim(4, "b"), "b", [Claim(3, "a")], ""),
        # It was switched, and died; the others went back.
        (Claim(3, "a", "17"), "b", [Claim(3, "a"), Claim(3, "a")], "a"),
        # It was switched by a deploy that goes on, or whose controller died: its peers are in it, too.
        (Claim(3, "a", "17"), "b", [Claim(3, "a", "17"), Claim(3, "a", "17")], ""),
        # That of its peers is another one.
        (Claim(3, "a", "17"), "b", [Claim(3, "a", "18")], "a"),
        # A node that is new here.
        (Claim(), "", [Claim(3, "a")], "a"),
    ],
)
def test_a_node_is_shut_where_its_peers_agreed_on_another_release(own, live, peers, expected):
    assert gate.stale(own, live, peers) == expected


def test_what_cannot_be_read_of_a_peer_does_not_count():
    assert gate.parse("orders=3:a:17 users=x:b: broken shop=0::") == {
        "orders": Claim(3, "a", "17"),
        "shop": Claim(0, "", ""),
    }


def test_what_a_node_says_is_read_from_its_directories(tmp_path):
    home = tmp_path / "orders"
    (home / "releases").mkdir(parents=True)
    (home / "green").symlink_to("releases/abc")
    (home / "live").symlink_to("green")
    (home / ".deployed.json").write_text(json.dumps({"serial": 4, "release": "abc"}))
    (home / ".deploy.json").write_text(json.dumps({"id": "17"}))
    (tmp_path / "bare/releases").mkdir(parents=True)
    (tmp_path / "no-service").mkdir()
    assert gate.own_claims(str(tmp_path)) == {
        "orders": (Claim(4, "abc", "17"), "abc"),
        "bare": (Claim(), ""),
    }


class Peer(http.server.BaseHTTPRequestHandler):
    """A peer's health port."""

    status = 200

    def do_GET(self) -> None:
        assert self.path == "/-/releases"
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"orders=4:abc: ")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=[200, 404])
def peer(request):
    handler = type("Answering", (Peer,), {"status": request.param})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, request.param
    server.shutdown()
    server.server_close()


def test_a_peer_is_asked_on_its_health_port_and_one_that_knows_no_such_page_says_nothing(peer):
    port, status = peer
    assert gate.ask_all(["127.0.0.1"], port) == [{"orders": Claim(4, "abc", "")} if status == 200 else {}]


def test_a_peer_that_does_not_answer_says_nothing():
    assert gate.ask("127.0.0.1", 9, seconds=0.2) == {}
