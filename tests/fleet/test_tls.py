"""Certificates of a real ACME server: gotten once, shared, renewed by whoever is alive, and kept when it refuses."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import lab

# Pebble on the host for backups. Its resolver leads names to the virtual address, unless it is told otherwise.
SERVER = "backup1"
REFUSED = "refused.lab"
STATE = "/var/lib/terrace/certificates"
TAGS = "--tags=base,pki,certificates,haproxy,nginx"
FIRST, SECOND = lab.BALANCERS[:2]
EDGE = lab.GROUPS["edge"]
# Who shows the certificate to clients.
PLACES = [*lab.BALANCERS, *EDGE]
UNITS = ("pebble-names", "pebble")


def certify(place: Path, days: int, *words: str | Path) -> None:
    """Make a key and a certificate, PLACE.key and PLACE.pem.

    Parameters:
        days: how long it is good.
        words: further arguments of `openssl req`; without an authority among them, it is signed by itself.
    """
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += [
        "-days",
        str(days),
        "-subj",
        f"/CN={place.name}",
        "-keyout",
        f"{place}.key",
        "-out",
        f"{place}.pem",
        *words,
    ]
    subprocess.run(made, check=True, capture_output=True)


class Pebble:
    """The ACME server, and the runs of site.yml that have the load balancers use it."""

    def __init__(self, host: lab.Host, playbook, engine: str, folder: Path) -> None:
        self.host, self.playbook, self.engine = host, playbook, engine
        self.ca = folder / "acme.pem"
        self._certify(folder)

    def _certify(self, folder: Path) -> None:
        """Give the server, whose package has none, a certificate of an authority of its own."""
        certify(folder / "acme", 9, "-addext", f"subjectAltName=IP:{self.host.address}")
        listening = {
            "listenAddress": f"{self.host.address}:14000",
            "managementListenAddress": f"{self.host.address}:15000",
        }
        files = {"certificate": "/run/acme.pem", "privateKey": "/run/acme.key", "httpPort": 80, "tlsPort": 443}
        for name, text in (
            ("acme.pem", self.ca.read_text()),
            ("acme.key", (folder / "acme.key").read_text()),
            ("acme.json", json.dumps({"pebble": listening | files})),
        ):
            self.host.run(f"cat >/run/{name}", stdin=text)

    def start(self) -> None:
        """Start it, and the resolver that it asks."""
        self.host.run("dpkg -s pebble >/dev/null 2>&1 || DEBIAN_FRONTEND=noninteractive apt-get install -qy pebble")
        names, server = UNITS
        asked = f"-defaultIPv4 {lab.VIRTUAL} -defaultIPv6 '' -http01 '' -https01 '' -tlsalpn01 '' -doh ''"
        asked += " -dns01 127.0.0.1:8053 -management 127.0.0.1:8055"
        self.host.run(f"systemd-run --quiet --collect --unit={names} pebble-challtestsrv {asked}")
        self.host.run(
            f"systemd-run --quiet --collect --unit={server} --setenv=PEBBLE_VA_NOSLEEP=1"
            " --setenv=PEBBLE_WFE_NONCEREJECT=0 pebble -config /run/acme.json -dnsserver 127.0.0.1:8053"
        )
        lab.wait(lambda: self.host.try_run(f"curl -sk {self.url}").returncode == 0, 20, "Pebble answers")

    def stop(self) -> None:
        self.host.try_run(f"systemctl stop {' '.join(UNITS)}")

    @property
    def url(self) -> str:
        """The URL of its directory."""
        return f"https://{self.host.address}:14000/dir"

    def leads(self, name: str, address: str) -> None:
        """Have a name lead to an address; where that is empty, to where all others do."""
        verb, content = ("add-a", {"host": name, "addresses": [address]}) if address else ("clear-a", {"host": name})
        self.host.run(f"curl --fail --silent --data @- http://127.0.0.1:8055/{verb}", stdin=json.dumps(content))

    def site(self, *names: str, engine: str = "", tls: dict | None = None) -> subprocess.CompletedProcess:
        """Run site.yml on the load balancers and edge hosts.

        Parameters:
            names: host names beside those of routes.
            engine: what balances; the lab's own where it is empty.
            tls: where certificates come from instead.
        """
        acme = {"mode": "acme", "directory": self.url, "ca": str(self.ca), "names": list(names)}
        self.said = json.dumps({"tls": tls or acme, "loadbalancer_engine": engine or self.engine})
        return self.playbook("site.yml", "--limit=loadbalancer:edge", TAGS, f"--extra-vars={self.said}")

    def status(self) -> dict:
        """Return what make status would say after the last run."""
        return lab.status(f"--extra-vars={self.said}")[1]

    def problems(self) -> list[str]:
        """Return what is wrong with that."""
        return self.status()["problems"]


@pytest.fixture(scope="module")
def pebble(hosts, playbook, home_engine, tmp_path_factory) -> Iterator[Pebble]:
    """An ACME server, and a first run by which load balancers have a certificate of it; internal ones at the end."""
    server = Pebble(hosts[SERVER], playbook, home_engine.name, tmp_path_factory.mktemp("acme"))
    server.stop()
    # Certificates that were left are of a server that has forgotten them, and so has a new root.
    for place in PLACES:
        hosts[place].run(f"rm -rf {STATE}")
    try:
        server.start()
        done = server.site("shop.lab")
        assert done.returncode == 0, done.stdout
        yield server
    finally:
        done = server.site(tls={"mode": "internal"})
        server.stop()
    assert done.returncode == 0, done.stdout
    for place in PLACES:
        # Verified by the environment's own authority.
        assert lab.ask(place, "/users?limit=1").status == 200
        for unit in ("nginx-certificates.service", "terrace-certificates.timer"):
            assert hosts[place].show(unit, "ActiveState") == "inactive"


def shown(host: str) -> x509.Certificate:
    """Return the certificate that a host shows, or the virtual address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = lab.HTTPSConnection(
        lab.ADDRESSES.get(host, lab.VIRTUAL), lab.PORTS["https"], context=context, timeout=10
    )
    connection.connect()
    der = connection.sock.getpeercert(binary_form=True)
    connection.close()
    return x509.load_der_x509_certificate(der)


def names(certificate: x509.Certificate) -> set[str]:
    return set(
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    )


def fingerprint(host: str) -> str:
    return shown(host).fingerprint(hashes.SHA256()).hex()


def state(host: lab.Host) -> dict:
    return json.loads(host.run(f"cat {STATE}/state.json"))


@contextlib.contextmanager
def due(host: lab.Host) -> Iterator[None]:
    """Have a host find its certificate old, and itself the first to renew it."""
    settings = "s/^renew_days=.*/renew_days=99999/; s/^renew_share=.*/renew_share=1/; s/^order=.*/order=0/"
    file = "/etc/terrace/tls/certificates.conf"
    host.run(f"cp -p {file} {file}.kept && sed -i '{settings}' {file}")
    try:
        yield
    finally:
        host.run(f"mv {file}.kept {file}")


def look(host: lab.Host) -> None:
    """Do what the timer does."""
    host.run("systemctl start terrace-certificates")


def test_one_certificate_is_shared(hosts, pebble):
    assert len({fingerprint(host) for host in (*PLACES, "virtual")}) == 1
    assert names(shown(FIRST)) == {"httpbin.lab", "shop.lab"}
    roots = pebble.host.run(f"curl --silent --insecure https://{pebble.host.address}:15000/roots/0")
    for place in PLACES:
        # A client that knows the server's root alone: the chain is whole.
        plain = socket.create_connection((lab.ADDRESSES[place], lab.PORTS["https"]), timeout=10)
        with ssl.create_default_context(cadata=roots).wrap_socket(plain, server_hostname="httpbin.lab") as client:
            assert client.version() == "TLSv1.3"
            client.sendall(b"GET /status/200 HTTP/1.1\r\nHost: httpbin.lab\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert b"\r\nstrict-transport-security: max-age=63072000\r\n" in answer.lower()
        assert hosts[place].file("/etc/terrace/tls/public.key") == ("640", "root", "terrace-pki")
        assert state(hosts[place])["lacking"] == []
    assert pebble.problems() == []


def test_a_challenge_is_found_whichever_host_is_asked_for_it(hosts, pebble):
    path, text = "/.well-known/acme-challenge/a-token-of-this-test-0123456789", "found"
    hosts[FIRST].run(f"mkdir -p {STATE}/webroot$(dirname {path}) && echo {text} >{STATE}/webroot{path}")
    try:
        for host in (*PLACES, "virtual"):
            answer = lab.ask(host, path, headers={"Host": "httpbin.lab"}, port=lab.PORTS["http"])
            assert (answer.status, answer.body) == (200, b"found\n"), host
            assert lab.ask(host, f"{path}-not", port=lab.PORTS["http"]).status == 404
    finally:
        hosts[FIRST].run(f"rm {STATE}/webroot{path}")


def test_nobody_but_peers_gets_the_key(hosts, pebble):
    [file] = hosts[FIRST].run(f"ls {STATE}/newest").split()
    asked = f"https://{hosts[FIRST].address}:{lab.PORTS['certificates']}"
    curl = "curl --silent --output /dev/null --write-out '%{http_code}' --cacert /etc/terrace/pki/ca.crt"
    password = hosts[SECOND].run("sed -n 's/^password=//p' /etc/terrace/tls/certificates.conf")
    said = f"--header 'X-Terrace-Exchange: {password}'"
    assert hosts[SECOND].run(f"{curl} {said} {asked}/newest/{file}") == "200"
    assert hosts[SECOND].run(f"{curl} {asked}/newest/{file}") == "403"
    assert hosts[SERVER].run(f"{curl} {said} {asked}/newest/{file}") == "403"
    assert hosts[SECOND].run(f"{curl} {said} {asked}/state.json") == "404"


def test_one_that_is_alive_renews_it_and_one_that_comes_back_takes_it_up(hosts, pebble, home_engine):
    old = fingerprint(SECOND)
    units = f"terrace-certificates.timer nginx-certificates {home_engine.unit}"
    hosts[FIRST].run(f"systemctl stop keepalived && systemctl stop {units}")
    try:
        with due(hosts[SECOND]):
            look(hosts[SECOND])
        new = fingerprint(SECOND)
        assert new != old
        assert fingerprint("virtual") == new
    finally:
        hosts[FIRST].run(f"systemctl start {units} keepalived")
    look(hosts[FIRST])
    assert fingerprint(FIRST) == new


def test_a_server_that_is_down_leaves_the_old_one_and_is_asked_again(hosts, pebble):
    old, host = fingerprint(FIRST), hosts[FIRST]
    with due(host):
        host.run(f"ip route add unreachable {pebble.host.address}")
        try:
            look(host)
            failed = state(host)
            assert failed["failure"]["count"] == 1
            assert 800 < failed["next"] - failed["failure"]["at"] < 1000
            assert fingerprint(FIRST) == old
            said = f"{FIRST}: the certificate that clients see could not be renewed: "
            assert [problem for problem in pebble.problems() if problem.startswith(said)]
        finally:
            host.run(f"ip route del unreachable {pebble.host.address}")
        # The next try, without the pause before it.
        host.run(f'sed -i \'s/"next": [0-9.]*/"next": 0/\' {STATE}/state.json')
        look(host)
    look(host)
    assert fingerprint(FIRST) != old
    assert state(host)["failure"] is None


def test_a_name_that_is_refused_leaves_the_old_one_until_it_is_not(hosts, pebble):
    """With the other engine, to which the same run changes."""
    look(hosts[SECOND])
    old = fingerprint(SECOND)
    other = next(engine.name for engine in lab.ENGINES if engine.name != pebble.engine)
    pebble.leads(REFUSED, pebble.host.address)
    done = pebble.site("shop.lab", REFUSED, engine=other)
    assert done.returncode == 2, done.stdout
    assert f"there is no certificate for {REFUSED}: {REFUSED}: " in done.stdout
    assert [fingerprint(balancer) for balancer in lab.BALANCERS] == [old, old]
    said = f"{FIRST}: there is no certificate for {REFUSED}: "
    assert [problem for problem in pebble.problems() if problem.startswith(said)]
    pebble.leads(REFUSED, "")
    hosts[FIRST].run("terrace-certificates issue --force")
    for place in PLACES:
        look(hosts[place])
    assert names(shown(FIRST)) == {"httpbin.lab", "shop.lab", REFUSED}
    assert {fingerprint(place) for place in (*PLACES, "virtual")} == {fingerprint(FIRST)}
    assert pebble.problems() == []


def test_a_certificate_of_ones_own_is_taken_up(hosts, pebble, tmp_path, monkeypatch):
    """By the engine that runs, instead of that of the ACME server, whose exchange ends; and nobody notices."""
    authority, own = tmp_path / "own-authority", tmp_path / "httpbin.lab"
    certify(authority, 99)
    signed = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    certify(own, 30, *signed, "-addext", "subjectAltName=DNS:httpbin.lab")
    roots = pebble.host.run(f"curl --silent --insecure https://{pebble.host.address}:15000/roots/0")
    # Clients trust both authorities, and reach the hosts by addresses, which neither has certified.
    trusting = ssl.create_default_context(cadata=f"{roots}\n{Path(f'{authority}.pem').read_text()}")
    trusting.check_hostname = False
    monkeypatch.setattr(lab, "tls", lambda: trusting)
    files = {"mode": "files", "certificate": f"{own}.pem", "key": f"{own}.key", "ca": f"{authority}.pem"}
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(lab.Load(place, "/users?limit=1")) for place in PLACES]
        done = pebble.site(engine=lab.running_engine(hosts).name, tls=files)
        assert done.returncode == 0, done.stdout
        made = x509.load_pem_x509_certificate(Path(files["certificate"]).read_bytes())
        assert {shown(place) for place in (*PLACES, "virtual")} == {made}
        # On new connections, too.
        for place in PLACES:
            assert lab.ask(place, "/users?limit=1").status == 200
    for load in loads:
        assert not load.failed, load
    for place in PLACES:
        assert hosts[place].file("/etc/terrace/tls/public.key") == ("640", "root", "terrace-pki")
        assert hosts[place].show("terrace-certificates.timer", "ActiveState") == "inactive"
    told = pebble.status()
    assert [(its["host"], its["mode"], its["days"], its["names"]) for its in told["tls"]] == [
        (place, "files", 29, ["httpbin.lab"]) for place in PLACES
    ]
    # Nobody but its owner can renew it, and it is good for 30 days.
    ends = "the certificate that clients see has 29 days left"
    assert [problem.partition(";")[0] for problem in told["problems"]] == [f"{each}: {ends}" for each in PLACES]
