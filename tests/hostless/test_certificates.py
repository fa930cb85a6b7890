"""The certificate that clients see: what is refused before a run, and what a host does to have it and to renew it."""

from __future__ import annotations

import datetime
import grp
import ipaddress
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from landscape import load
from terrace import certificates

program = load("roles/certificates/files/terrace-certificates", "terrace_certificates")
PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)
DAY = 86400


class Certificate:
    """A certificate and its key, as an authority would make them.

    Parameters:
        name: its common name.
        names: the host names that it is good for; an authority has none.
        by: who signs it; without one, itself.
        begins, ends: days from now.
        key: its key, where it has to be a certain one.
    """

    def __init__(self, name: str, names: tuple[str, ...] = (), by=None, begins=-30.0, ends=60.0, key=None) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by.certificate.subject if by else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + datetime.timedelta(days=begins))
            .not_valid_after(NOW + datetime.timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        )
        if names:
            known = [x509.DNSName(each) for each in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=False)
        self.certificate = builder.sign(by.key if by else self.key, hashes.SHA256())

    @property
    def crt(self) -> str:
        return self.certificate.public_bytes(PEM).decode()

    def pem(self, password: str = "") -> str:
        secret = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        return self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, secret).decode()


@pytest.fixture(scope="module")
def root() -> Certificate:
    return Certificate("Root", ends=3000)


@pytest.fixture(scope="module")
def upper(root) -> Certificate:
    return Certificate("Upper", by=root, ends=2000)


# What is refused before a run


@pytest.fixture
def find(tmp_path):
    """Return a function that says what is wrong with `tls`, the files given by name, and the hosts of routes."""

    def found(given: dict, *hosts: str, **files: str) -> list[str]:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        routes = [("shop", f"routes[{number}].host", host) for number, host in enumerate(hosts)]
        own, wrong = certificates.findings(given, routes, str(tmp_path), Path.read_text)
        told = [f"{place}: {text}" for place, text in own] + [f"{':'.join(its[:2])}: {its[2]}" for its in wrong]
        return [line.replace(f"{tmp_path}/", "") for line in told]

    return found


def test_nothing_is_declared(find):
    assert find({}, "shop.lab", "10.0.0.1") == []
    its = certificates.declared({}, ["Shop.lab"], "/env")
    assert (its["mode"], its["path"], its["names"], its["hsts"]) == (
        "internal", "/etc/terrace/pki/host.crt", ["shop.lab"], 0,
    )  # fmt: skip


def test_what_is_declared_is_filled_in():
    given = {"mode": "acme", "names": ["WWW.example.com", "shop.example.com"], "ca": "acme.pem"}
    its = certificates.declared(given, ["shop.example.com"], "/env")
    assert its["names"] == ["shop.example.com", "www.example.com"]
    assert (its["ca"], its["key"], its["path"]) == ("/env/acme.pem", "", "/etc/terrace/tls/public.crt")
    assert (its["renew_days"], its["hsts"]) == (30, 63072000)
    assert certificates.declared({"mode": "files", "hsts": 0}, [], "/env")["renew_days"] == 7
    assert certificates.declared({"mode": "acme", "hsts": 0, "renew_days": 9}, [], "/env")["hsts"] == 0


def test_an_acme_server_certifies_names_alone(find):
    given = {"mode": "acme", "names": ["www.example.com", "*.example.com"]}
    assert find(given, "shop.example.com", "192.0.2.1", "intranet", "shop.internal") == [
        "names[1]: *.example.com is a wildcard, for which there is no certificate by HTTP-01; list the names, or use"
        " tls.mode files",
        "shop:routes[1].host: 192.0.2.1 is an address, for which there is no certificate by tls.mode acme; give a host"
        " name",
        "shop:routes[2].host: intranet has no dot, so no authority certifies it; give the whole name, as clients ask"
        " for it",
        "shop:routes[3].host: shop.internal is of a domain that nobody owns, so no public authority certifies it; give"
        " a public name, or the tls.directory of your own server",
    ]
    private = {"mode": "acme", "directory": "https://acme.internal/dir"}
    assert find(private, "shop.internal") == []
    assert find({"mode": "acme"}) == [
        "mode: is acme, and no route has a host name to certify; give a route its host, or names"
    ]
    many = [f"n{number}.example.com" for number in range(101)]
    assert find({"mode": "acme", "names": many}) == [
        "names: are 101 with those of routes; one certificate has at most 100"
    ]


def test_an_acme_server_that_cannot_be_asked(find, root):
    given = {"mode": "acme", "directory": "http://acme.example.com", "email": "x", "renew_days": 0, "ca": "ca.pem"}
    assert find(given, "shop.example.com") == [
        "directory: is 'http://acme.example.com'; has to be the https URL of the server's directory",
        "email: is 'x'; has to be one address",
        "renew_days: is 0, so a certificate would end before there is a new one; give days, such as 30",
        "ca: there is no file ca.pem; put it there, or name another, relative to the inventory",
    ]
    given = {"mode": "acme", "ca": "ca.pem", "key": "x"}
    assert find(given, "shop.example.com", **{"ca.pem": "nothing"}) == [
        "key: does nothing with the mode acme; remove it, or set mode to files",
        "ca: ca.pem has no certificate in PEM form; give one that begins with -----BEGIN CERTIFICATE-----",
    ]


FILES = {"mode": "files", "certificate": "crt", "key": "key"}


def test_a_certificate_of_ones_own(find, root, upper):
    leaf = Certificate("shop", ("shop.example.com", "*.example.org"), by=upper)
    hosts = ("Shop.example.com", "a.example.org")
    assert find(FILES, *hosts, crt=leaf.crt + upper.crt + root.crt, key=leaf.pem()) == []
    assert find(FILES | {"ca": "root"}, *hosts, crt=leaf.crt + upper.crt, key=leaf.pem(), root=root.crt) == []
    text = (
        "is not in the certificate that tls.certificate names; have it made anew with that name, or take the name out"
    )
    assert find(FILES | {"ca": "root", "names": ["b.a.example.org"]}, *hosts, "example.org") == [
        "names[0]: b.a.example.org is not in the certificate; have it made anew with that name, or take the name out",
        f"shop:routes[2].host: example.org {text}",
    ]


def test_a_certificate_that_does_not_belong_to_its_key(find, root, upper):
    leaf = Certificate("shop", ("shop.example.com",), by=upper)
    chain = leaf.crt + upper.crt + root.crt
    assert find(FILES, crt=chain, key=root.pem()) == [
        "key: is not that of the certificate (CN=shop); put its 3. certificate first"
    ]
    assert find(FILES, crt=chain, key=Certificate("x").pem()) == [
        "key: is not that of the certificate (CN=shop); give the one that it was made with"
    ]
    assert find(FILES, crt=chain, key=leaf.pem("typed")) == [
        "key: key wants a passphrase, which no daemon could type; take it off, and encrypt the file with ansible-vault"
    ]
    assert find(FILES, crt="", key="") == [
        "certificate: crt has no certificate in PEM form; give one that begins with -----BEGIN CERTIFICATE-----",
        "key: key has no private key in PEM form; give one that begins with -----BEGIN PRIVATE KEY-----",
    ]
    assert find({"mode": "files"}) == [
        f"{key}: is missing; give the file of the {key}, relative to the inventory" for key in ("certificate", "key")
    ]


def test_files_that_cannot_be_read(tmp_path, find, root):
    missing = "put it there, or name another, relative to the inventory"
    given = FILES | {"ca": "ca"}
    assert find(given) == [
        f"certificate: there is no file crt; {missing}",
        f"key: there is no file key; {missing}",
    ]
    leaf = Certificate("shop", ("shop.example.com",), by=root)
    assert find(given, crt=leaf.crt, key=leaf.crt)[:2] == [
        "key: key has no private key in PEM form; give one that begins with -----BEGIN PRIVATE KEY-----",
        f"ca: there is no file ca; {missing}",
    ]
    # As authorities also hand it out, which is no text.
    der = leaf.certificate.public_bytes(serialization.Encoding.DER)
    (tmp_path / "crt").write_bytes(der)
    [said] = find(FILES, key=leaf.pem())
    assert said.startswith("certificate: crt cannot be read: 'utf-8' codec can't decode")
    cut = leaf.crt[: len(leaf.crt) // 2]
    assert find(FILES, crt=cut, key=leaf.pem()) == [
        "certificate: crt has no certificate in PEM form; give one that begins with -----BEGIN CERTIFICATE-----"
    ]


def test_a_key_that_the_vault_has_is_that_of_the_certificate(tmp_path, root):
    """As roles get it, decrypted; and by another password it cannot be told."""
    leaf = Certificate("shop", ("shop.example.com",), by=root)
    (tmp_path / "crt").write_text(leaf.crt + root.crt)
    secrets = [[("default", VaultSecret(password))] for password in (b"right", b"wrong")]
    (tmp_path / "key").write_bytes(VaultLib(secrets[0]).encrypt(leaf.pem()))

    def found(secret: list) -> list[tuple[str, str]]:
        loader = DataLoader()
        loader.set_vault_secrets(secret)
        return certificates.findings(FILES, [], str(tmp_path), lambda path: loader.get_text_file_contents(str(path)))[0]

    assert found(secrets[0]) == []
    [(place, said)] = found(secrets[1])
    assert place == "key"
    assert said.startswith(f"{tmp_path}/key cannot be read: ")
    assert leaf.pem().splitlines()[1] not in said


def test_a_chain_that_is_not_whole(find, root, upper):
    leaf = Certificate("shop", ("shop.example.com",), by=upper)
    assert find(FILES, crt=leaf.crt, key=leaf.pem()) == [
        "certificate: ends with CN=shop, whose authority CN=Upper is neither behind it nor trusted by this machine;"
        " append what your authority calls chain or intermediate, or name a private one's file as tls.ca"
    ]
    assert find(FILES, crt=leaf.crt + root.crt + upper.crt) == [
        "certificate: its 1. certificate (CN=shop) is not signed by the one behind it (CN=Root); put them in order,"
        " each before the one that signed it"
    ]
    assert find(FILES, crt=leaf.crt + root.crt) == [
        "certificate: its 1. certificate (CN=shop) is not signed by the one behind it (CN=Root); put that of CN=Upper"
        " there"
    ]
    alone = Certificate("alone", ("shop.example.com",))
    assert find(FILES, crt=alone.crt, key=alone.pem()) == [
        "certificate: is signed by itself, which no client trusts; use tls.mode internal, or one of an authority"
    ]


def test_a_certificate_whose_time_is_over(find, root):
    old = Certificate("Old", by=root, ends=-1)
    leaf = Certificate("shop", ("shop.example.com",), by=old, ends=5.5)
    assert find(FILES, crt=leaf.crt + old.crt + root.crt, key=leaf.pem()) == [
        "certificate: has 5 days left; put a new one there, or lower tls.renew_days (7) meanwhile",
        f"certificate: its 2. certificate (CN=Old) has run out on {NOW - datetime.timedelta(days=1):%Y-%m-%d};"
        " put a new one there",
    ]
    coming = Certificate("shop", ("shop.example.com",), by=root, begins=2)
    assert find(FILES, crt=coming.crt + root.crt, key=coming.pem()) == [
        f"certificate: begins on {NOW + datetime.timedelta(days=2):%Y-%m-%d} only; keep the old one until then"
    ]


def test_a_key_that_openssl_refuses(find, root):
    weak = Certificate("shop", ("a.example.com",), by=root, key=rsa.generate_private_key(65537, 1024))  # noqa: S505
    assert find(FILES, crt=weak.crt + root.crt, key=weak.pem()) == [
        "key: is RSA with 1024 bits, which OpenSSL refuses; make one of 2048 or more"
    ]


# What a host does


NAMES = ("a.example.com", "b.example.com")


@pytest.fixture
def settings() -> program.Settings:
    return program.Settings(
        directory="https://acme.example.com/dir", names=NAMES, email="", ca="", renew_days=30, renew_share=0.33,
        order=0, hosts=2, units=("haproxy@lb",), peers={}, password="secret",  # noqa: S106
    )  # fmt: skip


def bundle(upper: Certificate, *names: str, begins: float = -30, ends: float = 60) -> program.Bundle:
    """Return what certbot or another host gives: a certificate, that of its authority, and the key."""
    leaf = Certificate("leaf", names or NAMES, by=upper, begins=begins, ends=ends)
    return program.Bundle.read((leaf.pem() + leaf.crt + upper.crt).encode())


@pytest.fixture
def host(tmp_path, monkeypatch, root, settings):
    """A host that has a certificate of the environment, and no other yet; server, peers and systemd are made up."""
    group = grp.getgrgid(os.getgid()).gr_name
    monkeypatch.setattr(program, "READERS", group)
    monkeypatch.setattr(program, "EXCHANGE", group)
    for name in ("tls", "pki", "state", "state/newest", "units"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(program, name.upper(), tmp_path / name, raising="/" not in name)
    own = Certificate("lb1", ("lb1", *NAMES), by=root, ends=700)
    (tmp_path / "pki/ca.crt").write_text(root.crt)
    (tmp_path / "pki/host.crt").write_text(own.crt)
    (tmp_path / "pki/host.key").write_text(own.pem())
    return Host(tmp_path, monkeypatch)


class Host:
    """What happens on a host: the commands that it ran, and what its ACME server and its peers say."""

    def __init__(self, path: Path, monkeypatch) -> None:
        self.path = path
        self.ordered: list[bool] = []
        self.reloaded: list[str] = []
        self.answer: object = program.CertificateError("there is no server")
        self.peers: list[program.Bundle] = []
        self.broken = False
        self.now = NOW.timestamp()
        monkeypatch.setattr(program, "order", self._order)
        monkeypatch.setattr(program, "fetched", lambda _settings: iter(self.peers))
        monkeypatch.setattr(program.subprocess, "run", self._run)
        monkeypatch.setattr(program.time, "time", lambda: self.now)

    def _order(self, _settings: program.Settings, subset: bool) -> tuple:
        self.ordered.append(subset)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _run(self, words: list[str], **_: object) -> subprocess.CompletedProcess:
        assert words[:2] == ["systemctl", "try-reload-or-restart"]
        self.reloaded.append(words[2])
        return subprocess.CompletedProcess(words, int(self.broken), "", "it is broken\n" if self.broken else "")

    @property
    def shown(self) -> str:
        return program.shown().fingerprint

    @property
    def state(self) -> dict:
        return json.loads((self.path / "state/state.json").read_text())


def test_it_begins_with_the_hosts_own(host, settings):
    host.answer = (None, "")
    assert program.keep(settings, "fetch")["changed"]
    assert (host.path / "tls/public.crt").read_text() == (host.path / "pki/host.crt").read_text()
    assert (host.path / "tls/public.key").stat().st_mode & 0o777 == 0o640
    assert host.ordered == []
    assert not program.keep(settings, "fetch")["changed"]
    assert host.reloaded == ["haproxy@lb"]


def test_the_first_one_is_gotten_by_a_run_of_site(host, settings, upper):
    new = bundle(upper)
    host.answer = (new, "")
    assert program.keep(settings, "issue") == {"changed": True, "problem": ""}
    assert host.ordered == [True]
    assert host.shown == new.fingerprint
    [kept] = (host.path / "state/newest").iterdir()
    assert kept.name == f"{settings.identity}.pem"
    assert program.Bundle.load(kept).fingerprint == new.fingerprint
    assert (host.path / "tls/public.crt").read_text().count("BEGIN CERTIFICATE") == 2
    # A second run asks for nothing.
    assert program.keep(settings, "issue") == {"changed": False, "problem": ""}
    assert len(host.ordered) == len(host.reloaded) == 1


def test_the_timer_leaves_the_first_one_to_a_run_of_site_for_a_while(host, settings, upper):
    host.answer = (bundle(upper), "")
    second = replace(settings, order=1)
    for minutes, ordered in ((0, 0), (19, 0), (21, 1)):
        host.now = NOW.timestamp() + minutes * 60
        program.keep(second, "run")
        assert len(host.ordered) == ordered, minutes


def test_what_a_peer_has_is_taken_up(host, settings, upper):
    host.peers = [bundle(upper), bundle(upper, ends=61), bundle(upper, "a.example.com", ends=90)]
    assert program.keep(settings, "issue") == {"changed": True, "problem": ""}
    assert host.shown == host.peers[1].fingerprint
    assert host.ordered == []
    host.peers = []
    assert program.keep(settings, "run") == {"changed": False, "problem": ""}


def test_hosts_take_turns_at_renewing(settings, upper):
    new = bundle(upper)
    ends = new.ends
    window = 90 * DAY * 0.33
    assert program.due(new, settings) == pytest.approx(ends - window)
    assert program.due(new, replace(settings, order=1)) == pytest.approx(ends - window + DAY)
    assert program.late(new, settings) == pytest.approx(ends - window / 2)
    long, short = bundle(upper, ends=330), bundle(upper, begins=-1, ends=5)
    assert program.due(long, settings) == pytest.approx(long.ends - 30 * DAY)
    # Of six days two are left to twelve hosts, the last of which begins in time.
    last = program.due(short, replace(settings, order=11, hosts=12))
    assert short.ends - 2 * DAY < last < program.late(short, settings)


def test_one_that_ends_soon_is_renewed_in_turn(host, settings, upper):
    old, new = bundle(upper, ends=29), bundle(upper, begins=0, ends=90)
    host.peers = [old]
    host.answer = (new, "")
    short = replace(settings, renew_days=10)
    program.keep(short, "run")
    assert (host.ordered, host.shown) == ([], old.fingerprint)
    host.now = NOW.timestamp() + 19.5 * DAY
    program.keep(replace(short, order=1), "run")
    assert host.ordered == []
    program.keep(short, "run")
    assert (host.ordered, host.shown) == ([False], new.fingerprint)


def test_a_refusal_leaves_the_old_one_and_is_tried_again_ever_later(host, settings, upper):
    old = bundle(upper, "a.example.com", ends=80)
    host.peers = [old]
    program.keep(replace(settings, names=("a.example.com",)), "run")
    host.answer = program.CertificateError("b.example.com: refused (connection)")
    when = NOW.strftime("%Y-%m-%d")
    said = program.keep(settings, "issue")["problem"]
    assert (
        said.startswith(
            f"there is no certificate for b.example.com: b.example.com: refused (connection); the next try is at {when}"
        )
        or NOW.hour == 23
    )
    assert host.shown == old.fingerprint
    pauses = []
    for _ in range(8):
        state = host.state
        pauses.append(round((state["next"] - state["failure"]["at"]) / 60))
        host.now = state["next"] - 1
        program.keep(settings, "run")
        assert host.state["failure"]["count"] == len(pauses)
        host.now = state["next"]
        program.keep(settings, "run")
    assert pauses == [15, 30, 60, 120, 240, 480, 720, 720]
    # Old names may not be lost for the new one's sake, as long as there is time.
    assert set(host.ordered) == {False}
    # Who has mended it need not wait; nor is a success forgotten.
    host.answer = (bundle(upper, begins=0, ends=90), "")
    assert program.keep(settings, "issue", force=True) == {"changed": True, "problem": ""}
    assert host.state["failure"] is None


def test_the_failure_of_other_names_does_not_count(host, settings):
    program.keep(settings, "issue")
    assert host.state["failure"]["text"] == "there is no server"
    program.keep(replace(settings, names=("c.example.com",)), "issue")
    assert len(host.ordered) == 2
    assert host.state["failure"]["count"] == 1


def test_a_part_of_the_names_is_better_than_none(host, settings, upper):
    """At the beginning, and shortly before the end; what is refused is tried again, with all names."""
    part = bundle(upper, "a.example.com")
    host.answer = (part, "b.example.com: refused")
    said = program.keep(settings, "issue")
    assert said["changed"]
    assert said["problem"].startswith("there is no certificate for b.example.com: b.example.com: refused; the next try")
    assert (host.ordered, host.shown) == ([True], part.fingerprint)
    host.now = host.state["next"]
    program.keep(settings, "run")
    assert host.ordered == [True, False]
    host.now = part.ends - 5 * DAY
    program.keep(settings, "run")
    assert host.ordered == [True, False, True]


def test_what_the_user_has_put_there_stays_until_all_names_are_certified(host, settings, upper):
    own = bundle(upper, ends=200)
    program.place(own)
    host.answer = (bundle(upper, "a.example.com"), "b.example.com: refused")
    program.keep(settings, "issue")
    assert host.shown == own.fingerprint
    host.answer = (bundle(upper), "")
    program.keep(settings, "issue", force=True)
    assert host.shown == host.answer[0].fingerprint


def test_another_server_is_asked_anew(host, settings, upper):
    host.answer = (bundle(upper), "")
    program.keep(settings, "issue")
    trial, host.answer = host.answer[0], (bundle(upper), "")
    program.keep(replace(settings, directory="https://other.example.com/dir"), "issue")
    assert host.shown == host.answer[0].fingerprint != trial.fingerprint


def test_a_key_that_leaked_is_replaced(host, settings, upper):
    host.answer = (bundle(upper), "")
    program.keep(settings, "issue")
    # Though the server gives it a shorter life by now.
    host.answer = (bundle(upper, begins=0, ends=45), "")
    assert program.keep(settings, "issue", anew=True) == {"changed": True, "problem": ""}
    assert host.shown == host.answer[0].fingerprint
    host.answer = program.CertificateError("there is no server")
    assert program.keep(settings, "issue", anew=True) == {"changed": False, "problem": "there is no server"}


def test_a_daemon_that_does_not_take_it_up_is_told_again(host, settings, upper):
    host.answer = (bundle(upper), "")
    host.broken = True
    assert program.keep(settings, "issue")["problem"] == "haproxy@lb cannot be reloaded: it is broken"
    assert host.state["reload"]
    host.broken = False
    assert program.keep(settings, "run") == {"changed": False, "problem": ""}
    assert host.reloaded == ["haproxy@lb"] * 2


def test_a_run_of_site_has_nothing_to_reload_after_it(host, settings, upper):
    """The module systemd_current goes by digests of what a unit has loaded."""
    path = str(host.path / "tls/public.crt")
    record = host.path / "units/haproxy@lb.service.json"
    record.write_text(json.dumps({"files": {path: "old", "/etc/haproxy/lb.cfg": "x"}, "invocation": "i"}))
    host.answer = (bundle(upper), "")
    program.keep(settings, "issue")
    unit = load("plugins/module_utils/systemd_unit.py", "systemd_unit_for_certificates")
    known = json.loads(record.read_text())
    assert known == {"files": {path: unit.digest(path), "/etc/haproxy/lb.cfg": "x"}, "invocation": "i"}


def test_what_does_not_belong_together_is_not_taken(root, upper):
    leaf, other = Certificate("leaf", NAMES, by=upper), Certificate("other")
    for text, why in (
        (leaf.pem(), "it cannot be read"),
        (leaf.crt, "it cannot be read"),
        (other.pem() + leaf.crt + upper.crt, "its key is that of another certificate"),
        (leaf.pem() + leaf.crt + root.crt, "its certificates do not follow on each other"),
    ):
        with pytest.raises(program.CertificateError, match=why):
            program.Bundle.read(text.encode())


def test_what_certbot_prints_becomes_a_line():
    """As certbot 4.0 printed it."""
    refused = """\
Account registered.
Requesting a certificate for shop.example.com and bad.example.com

Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
  Domain: bad.example.com
  Type:   connection
  Detail: Get "http://bad.example.com:80/x": dial tcp 10.9.0.50:80: connect: connection refused

  Domain: other.example.com
  Type:   dns
  Detail: DNS problem: NXDOMAIN looking up A for
other.example.com

Hint: The Certificate Authority failed to download the temporary challenge files created by Certbot.

Some challenges have failed.
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile /l for more details.
"""
    assert program.refusals(refused) == (
        'bad.example.com: Get "http://bad.example.com:80/x": dial tcp 10.9.0.50:80: connect: connection refused'
        " (connection); other.example.com: DNS problem: NXDOMAIN looking up A for other.example.com (dns)"
    )
    down = """\
Saving debug log to /l/letsencrypt.log
An unexpected error occurred:
ValueError: Requesting 10.9.0.50/dir: Connection refused
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile /l for more details.
"""
    assert program.refusals(down) == "ValueError: Requesting 10.9.0.50/dir: Connection refused"
    assert program.refusals("") == "certbot says nothing"


def test_settings_are_those_of_the_template(nginx, stored, tmp_path):
    for landscape, name, order, peers, email in (
        (nginx, "lb2", 1, {"lb1": "192.0.2.11:8402"}, ""),
        (stored, "one", 0, {"two": "192.0.2.12:8402", "three": "192.0.2.13:8402"}, "ops@example.com"),
    ):
        [file] = [f for f in landscape.files if (f.host, f.path) == (name, "/etc/terrace/tls/certificates.conf")]
        (tmp_path / "conf").write_text(file.text)
        its = program.Settings.load(tmp_path / "conf")
        assert (its.order, its.peers, its.email, its.hosts) == (order, peers, email, len(peers) + 1)
        assert its.directory == certificates.declared({}, [], "")["directory"]
        assert set(its.names) == {"shop.example.com", "api.example.com"} | ({"www.example.com"} if email else set())
        assert its.ca == ("/etc/terrace/tls/acme-ca.crt" if email else "")
        assert its.units == (f"{landscape.value(name, 'topology_engine')}@lb",)


def test_only_peers_are_let_in(stored):
    [file] = [f for f in stored.files if (f.host, f.path) == ("two", "/etc/nginx/certificates.conf")]
    listed = [line.strip() for line in file.text.splitlines() if line.strip().startswith(("allow ", "deny "))]
    peers = [f"allow {stored.value(name, 'topology_address')};" for name in ("one", "three")]
    assert listed == ["deny all;", *peers, "deny all;"]
    password = stored.value("two", "certificates_password")
    assert len(password) == 43
    assert f'"{password}" peer;' in file.text
    assert file.text.count(f'proxy_set_header X-Terrace-Exchange "{password}";') == 2
    # A challenge that is not here is looked for at one after the other.
    assert file.text.count("proxy_ssl_verify on;") == 2
    assert "try_files $uri @one;" in file.text
    assert file.text.count("error_page 404 502 504 = @three;") == 1
    address = str(ipaddress.ip_address(stored.value("two", "topology_address")))
    assert f"listen {address}:8402 ssl;" in file.text
