"""A host's key and certificate: what is made, what is found wanting, and that any half-way state is mended."""

from __future__ import annotations

import datetime
import grp
import json
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from landscape import load

module = load("plugins/modules/host_certificate.py", "host_certificate")
authority_good = load("plugins/filter/authority.py", "authority_filter").authority_good
WANTED = {"name": "db1", "names": ["db1", "shop.example.com"], "addresses": ["10.0.0.41", "127.0.0.1"]}


class Authority:
    """A certificate authority that signs what it is given.

    Parameters:
        days: how long it is good for itself.
        name: its common name.
    """

    def __init__(self, days: int = 7300, name: str = "Test") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key.public_key(), days, [])
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, subject, public_key, days: int, extensions):
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=subject,
            public_key=public_key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=days),
        )
        for extension in extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self.key, hashes.SHA256())

    def sign(self, request: str, days: int = 730) -> str:
        """Return the certificate for a request, as PEM."""
        asked = x509.load_pem_x509_csr(request.encode())
        signed = self._sign(asked.subject, asked.public_key(), days, asked.extensions)
        return signed.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def run(capsys, tmp_path, authority) -> Callable[..., dict]:
    """Runs the module as Ansible does, and returns what it answers."""

    def answer(check: bool = False, **arguments) -> dict:
        wanted = {} if "certificate" in arguments else WANTED | {"authority": authority.pem, "renew_days": 180}
        given = wanted | {
            "directory": str(tmp_path / "pki"),
            "owner": pwd.getpwuid(os.geteuid()).pw_name,
            "group": grp.getgrgid(os.getegid()).gr_name,
            "_ansible_check_mode": check,
        }
        with patch_module_args(given | arguments), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return answer


@pytest.fixture
def pki(tmp_path, run, authority) -> Path:
    """A host with key and certificate."""
    request = run()["request"]
    assert run(certificate=authority.sign(request))["changed"] is True
    return tmp_path / "pki"


def test_from_nothing(tmp_path, run, authority):
    assert run(check=True)["changed"] is True
    assert not (tmp_path / "pki").exists()
    first = run()
    assert (first["changed"], first["reasons"]) == (True, ["there is no certificate"])
    assert stat.S_IMODE((tmp_path / "pki/host.key").stat().st_mode) == 0o640
    assert sorted(path.name for path in (tmp_path / "pki").iterdir()) == ["ca.crt", "host.key"]
    # A run that was cut off before the certificate was signed: the key stays.
    key = (tmp_path / "pki/host.key").read_bytes()
    again = run()
    assert (again["changed"], again["reasons"]) == (False, ["there is no certificate"])
    assert (tmp_path / "pki/host.key").read_bytes() == key


def test_what_is_good_is_left_alone(pki, run):
    assert (run()["changed"], run()["reasons"], run()["request"]) == (False, [], "")
    assert run(check=True)["changed"] is False
    # The order of names does not count.
    assert run(names=["shop.example.com", "db1"])["reasons"] == []


def cut_off_before_the_certificate(pki: Path, authority: Authority) -> str:
    (pki / "host.crt").unlink()
    return "there is no certificate"


def half_a_certificate(pki: Path, authority: Authority) -> str:
    (pki / "host.crt").write_text((pki / "host.crt").read_text()[:300])
    return "there is no certificate"


def another_key(pki: Path, authority: Authority) -> str:
    (pki / "host.key").unlink()
    return "it is not of this key"


def half_a_key(pki: Path, authority: Authority) -> str:
    (pki / "host.key").write_text((pki / "host.key").read_text()[:100])
    return "it is not of this key"


def another_authority(pki: Path, authority: Authority) -> str:
    authority.__init__()
    return "it is not of this authority"


def soon_over(pki: Path, authority: Authority) -> str:
    request = module.make_request(module.load_key(pki / "host.key"), WANTED | {"client": False})
    text = request.public_bytes(serialization.Encoding.PEM).decode()
    (pki / "host.crt").write_text(authority.sign(text, days=179))
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=179)
    return f"it ends on {ends:%Y-%m-%d}"


@pytest.mark.parametrize(
    "harm",
    [
        cut_off_before_the_certificate,
        half_a_certificate,
        another_key,
        half_a_key,
        another_authority,
        soon_over,
    ],
)
def test_what_is_half_way_is_told_and_mended(pki, run, authority, harm):
    reason = harm(pki, authority)
    assert run(check=True, authority=authority.pem)["changed"] is True
    answer = run(authority=authority.pem)
    assert reason in answer["reasons"]
    run(certificate=authority.sign(answer["request"]))
    assert run(authority=authority.pem)["reasons"] == []


def test_whom_the_host_trusts_is_kept_and_needs_no_new_certificate(pki, run, authority):
    both = authority.pem + Authority(name="Next").pem
    assert run(check=True, authority=both)["changed"] is True
    assert (pki / "ca.crt").read_text() == authority.pem
    for trusted in (both, authority.pem):
        answer = run(authority=trusted)
        assert (answer["changed"], answer["reasons"]) == (True, [])
        assert (pki / "ca.crt").read_text() == trusted
        assert run(authority=trusted)["changed"] is False
    # A run that finds no authority takes none away.
    assert run(authority="")["reasons"] == ["there is no authority yet"]
    assert (pki / "ca.crt").read_text() == authority.pem


def test_the_first_authority_is_the_one_that_signs(pki, run, authority):
    coming = Authority(name="Next")
    answer = run(authority=coming.pem + authority.pem)
    assert answer["reasons"] == ["it is not of this authority"]
    assert run(certificate=coming.sign(answer["request"]))["changed"] is True
    assert run(authority=coming.pem + authority.pem)["reasons"] == []
    assert run(authority=coming.pem)["reasons"] == []


def test_a_new_key_takes_the_old_ones_place_with_its_certificate(pki, run, authority):
    before = (pki / "host.key").read_bytes()
    assert run(check=True, anew=True)["changed"] is True
    answer = run(anew=True)
    assert answer["reasons"] == ["a new one was asked for"]
    # Until it is signed, daemons find what they had; a run that is cut off here is done once more, with the same key.
    assert (pki / "host.key").read_bytes() == before
    assert run()["reasons"] == []
    coming = (pki / "next.key").read_bytes()
    answer = run(anew=True)
    assert (pki / "next.key").read_bytes() == coming
    assert run(certificate=authority.sign(answer["request"]))["changed"] is True
    assert (pki / "host.key").read_bytes() == coming
    assert sorted(path.name for path in pki.iterdir()) == ["ca.crt", "host.crt", "host.key"]
    assert stat.S_IMODE((pki / "host.key").stat().st_mode) == 0o640
    assert run()["reasons"] == []


def test_a_certificate_of_another_key_is_not_installed(pki, run, authority):
    before = (pki / "host.crt").read_text()
    request = module.make_request(ec.generate_private_key(ec.SECP256R1()), WANTED | {"client": False})
    stranger = authority.sign(request.public_bytes(serialization.Encoding.PEM).decode())
    answer = run(certificate=stranger)
    assert answer["failed"] is True
    assert "none of the host's keys" in answer["msg"]
    assert (pki / "host.crt").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "db2"}, "it is of another name"),
        ({"names": ["db1"]}, "its subjectAltName is not what is wanted"),
        ({"addresses": ["10.0.0.42", "127.0.0.1"]}, "its subjectAltName is not what is wanted"),
        ({"client": True}, "its extendedKeyUsage is not what is wanted"),
        ({"renew_days": 731}, "it ends on"),
    ],
)
def test_what_is_wanted_anew_is_told(pki, run, arguments, reason):
    [told] = run(**arguments)["reasons"]
    assert told.startswith(reason)


def test_modes_are_kept(pki, run):
    (pki / "host.key").chmod(0o644)
    (pki / "host.crt").chmod(0o600)
    assert run(check=True)["changed"] is True
    assert run()["changed"] is True
    assert [stat.S_IMODE((pki / name).stat().st_mode) for name in ("host.key", "host.crt")] == [0o640, 0o644]
    assert run()["changed"] is False


def test_when_the_authority_is_good(tmp_path):
    authority = Authority(days=800, name="Lab")
    assert authority_good(str(tmp_path), "Lab", 730) is False
    (tmp_path / "ca.crt").write_text(authority.pem)
    assert authority_good(str(tmp_path), "Lab", 730) is False, "a certificate without its key"
    (tmp_path / "ca.key").write_text("key")
    assert authority_good(str(tmp_path), "Lab", 730) is True
    assert authority_good(str(tmp_path), "Other", 730) is False
    assert authority_good(str(tmp_path), "Lab", 900) is False
    (tmp_path / "ca.crt").write_text(authority.pem[:200])
    assert authority_good(str(tmp_path), "Lab", 730) is False
