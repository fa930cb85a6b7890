"""The certificate that clients see: what an environment declares of it, and what is wrong with that."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import itertools
import re
import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from terrace.contracts import contract, filled
from terrace.services import HOST

INTERNAL, PUBLIC = "/etc/terrace/pki/host.crt", "/etc/terrace/tls/public.crt"
# Mozilla's Server Side TLS guidelines, 6.0, `hsts_min_age`.
HSTS = 63072000
# Days that a certificate has to have left: when an ACME server is asked for a new one, which Let's Encrypt advises for
# its 90 days; and of the user's own, whose renewal somebody has to see to.
RENEW = {"acme": 30, "files": 7, "internal": 0}
# Names in one certificate of Let's Encrypt, https://letsencrypt.org/docs/rate-limits/
MOST_NAMES = 100
# Nobody has these to himself (RFC 6761, 6762, 7686, 8375, 9476), so no public authority certifies them.
SPECIAL = ("alt", "example", "home.arpa", "internal", "invalid", "local", "localhost", "onion", "test")
# Keys that do something in one mode only.
OF_MODE = {
    "acme": ("directory", "email", "ca", "renew_days"),
    "files": ("certificate", "key", "ca", "renew_days"),
    "internal": (),
}

Finding = tuple[str, str]


def declared(given: Mapping[str, Any] | None, hostnames: list[str], folder: str) -> dict[str, Any]:
    """Return what an environment says of the certificate, every key filled in.

    Beside the contract's keys it has `path`, where the certificate is on a host; `names` are all that it is good for,
    and files are absolute.

    Parameters:
        given: `tls` of the environment.
        hostnames: those of all routes.
        folder: the inventory's.
    """
    its = filled(given or {}, contract("environment")["tls"]["options"])
    names = [name.lower() for name in (*hostnames, *its["names"])]
    return {
        "hsts": HSTS if its["mode"] != "internal" else 0,
        "renew_days": RENEW[its["mode"]],
        **its,
        "names": list(dict.fromkeys(names)),
        **{key: str(Path(folder) / its[key]) if its[key] else "" for key in ("ca", "certificate", "key")},
        "path": INTERNAL if its["mode"] == "internal" else PUBLIC,
    }


def findings(
    given: Mapping[str, Any],
    routes: list[tuple[str, str, str]],
    folder: str,
    text: Callable[[Path], str],
    now: datetime.datetime | None = None,
) -> tuple[list[Finding], list[tuple[str, str, str]]]:
    """Return what is wrong with what an environment says of the certificate, and with services' routes because of it.

    Parameters:
        given: `tls` of the environment, of the types that the contract wants.
        routes: service, place in it such as `routes[0].host`, and host name of each.
        folder: the inventory's.
        text: returns the text of a file, decrypted where ansible-vault has encrypted it.
        now: the time; without it, what the clock says.

    Returns:
        keys within `tls` with what is wrong there; and services, places and what is wrong there.
    """
    its = declared(given, [name for _, _, name in routes], folder)
    found = list(_keys(given, its))
    wrong: list[tuple[str, str, str]] = []
    named = [(f"names[{number}]", name) for number, name in enumerate(given.get("names") or [])]
    if its["mode"] == "acme":
        public = (
            urlsplit(its["directory"]).hostname
            == urlsplit(contract("environment")["tls"]["options"]["directory"]["default"]).hostname
        )
        found += _server(its, text)
        found += [(place, said) for place, name in named if (said := _unissuable(name, public))]
        wrong += [(service, place, said) for service, place, name in routes if (said := _unissuable(name, public))]
        if not its["names"]:
            found.append(("mode", "is acme, and no route has a host name to certify; give a route its host, or names"))
        elif len(its["names"]) > MOST_NAMES:
            found.append(
                ("names", f"are {len(its['names'])} with those of routes; one certificate has at most {MOST_NAMES}")
            )
    else:
        found += [
            (place, f"is {name!r}; has to be a host name alone, without port or path")
            for place, name in named
            if not _name(name)
        ]
    if its["mode"] == "files":
        certificate, more = _files(its, given, text, now or datetime.datetime.now(datetime.UTC))
        found += more
        if certificate is not None:
            covered = _names(certificate)
            mend = "have it made anew with that name, or take the name out"
            found += [
                (place, f"{name} is not in the certificate; {mend}")
                for place, name in named
                if not _covers(covered, name)
            ]
            wrong += [
                (service, place, f"{name} is not in the certificate that tls.certificate names; {mend}")
                for service, place, name in routes
                if not _covers(covered, name)
            ]
    return found, wrong


def _keys(given: Mapping, its: Mapping) -> Iterator[Finding]:
    """Tell of keys that do nothing, and of numbers that cannot be."""
    for key in ("directory", "email", "ca", "renew_days", "certificate", "key"):
        if given.get(key) not in (None, "") and key not in OF_MODE[its["mode"]]:
            modes = " or ".join(mode for mode, keys in OF_MODE.items() if key in keys)
            yield key, f"does nothing with the mode {its['mode']}; remove it, or set mode to {modes}"
    for key in ("hsts", "renew_days"):
        if its[key] < 0:
            yield key, f"is {its[key]}; has to be 0 or more"


def _server(its: Mapping, text: Callable[[Path], str]) -> Iterator[Finding]:
    """Tell of an ACME server that cannot be asked."""
    url = urlsplit(its["directory"])
    if url.scheme != "https" or not url.hostname:
        yield "directory", f"is {its['directory']!r}; has to be the https URL of the server's directory"
    if its["email"] and not re.fullmatch(r"[^@\s,]+@[^@\s,]+\.[^@\s,]+", its["email"]):
        yield "email", f"is {its['email']!r}; has to be one address"
    if its["renew_days"] == 0:
        yield "renew_days", "is 0, so a certificate would end before there is a new one; give days, such as 30"
    if its["ca"]:
        _, said = _certificates(its["ca"], text)
        if said:
            yield "ca", said


def _name(name: str) -> bool:
    return bool(HOST.fullmatch(name)) and not _address(name)


def _address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _unissuable(name: str, public: bool) -> str:
    """Return why an ACME server certifies no such name by HTTP-01, with the mend; empty where it may."""
    if _address(name):
        return f"{name} is an address, for which there is no certificate by tls.mode acme; give a host name"
    if name.startswith("*."):
        return (
            f"{name} is a wildcard, for which there is no certificate by HTTP-01; list the names, or use tls.mode files"
        )
    if not HOST.fullmatch(name):
        return f"is {name!r}; has to be a host name alone, without port or path"
    if "." not in name:
        return f"{name} has no dot, so no authority certifies it; give the whole name, as clients ask for it"
    if public and name.lower().endswith(tuple(f".{end}" for end in SPECIAL)):
        return (
            f"{name} is of a domain that nobody owns, so no public authority certifies it;"
            " give a public name, or the tls.directory of your own server"
        )
    return ""


def _certificates(file: str, text: Callable[[Path], str]) -> tuple[list[x509.Certificate], str]:
    """Return the certificates of a file, or what is wrong with it."""
    content, said = _read(file, text)
    if said:
        return [], said
    try:
        return x509.load_pem_x509_certificates(content), ""
    except ValueError:
        return [], f"{file} has no certificate in PEM form; give one that begins with -----BEGIN CERTIFICATE-----"


def _read(file: str, text: Callable[[Path], str]) -> tuple[bytes, str]:
    if not Path(file).is_file():
        return b"", f"there is no file {file}; put it there, or name another, relative to the inventory"
    try:
        return text(Path(file)).encode(), ""
    except Exception as error:
        # Ansible's own, of several kinds: a wrong password of the vault, a file that may not be read.
        return b"", f"{file} cannot be read: {' '.join(str(error).split())}"


def _files(
    its: Mapping, given: Mapping, text: Callable[[Path], str], now: datetime.datetime
) -> tuple[x509.Certificate | None, list[Finding]]:
    """Return the user's certificate, and what is wrong with it, its key and its chain."""
    missing = [
        (key, f"is missing; give the file of the {key}, relative to the inventory")
        for key in ("certificate", "key")
        if not given.get(key)
    ]
    if missing:
        return None, missing
    found: list[Finding] = []
    chain, said = _certificates(its["certificate"], text)
    if said:
        found.append(("certificate", said))
    key, said = _key(its["key"], text)
    if said:
        found.append(("key", said))
    if not chain:
        return None, found
    if key is not None and key.public_key() != chain[0].public_key():
        behind = [number for number, each in enumerate(chain, 1) if each.public_key() == key.public_key()]
        mend = f"put its {behind[0]}. certificate first" if behind else "give the one that it was made with"
        found.append(("key", f"is not that of the certificate ({_subject(chain[0])}); {mend}"))
    public = chain[0].public_key()
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < 2048:
        found.append(("key", f"is RSA with {public.key_size} bits, which OpenSSL refuses; make one of 2048 or more"))
    roots, said = _certificates(its["ca"], text) if its["ca"] else ([], "")
    if said:
        found.append(("ca", said))
    found += [("certificate", wrong) for wrong in _chain(chain, roots)]
    found += [("certificate", wrong) for wrong in _time(chain, its["renew_days"], now)]
    return chain[0], found


def _key(file: str, text: Callable[[Path], str]) -> tuple[Any, str]:
    content, said = _read(file, text)
    if said:
        return None, said
    try:
        return serialization.load_pem_private_key(content, None), ""
    except TypeError:
        mend = "take it off, and encrypt the file with ansible-vault"
        return None, f"{file} wants a passphrase, which no daemon could type; {mend}"
    except ValueError:
        return None, f"{file} has no private key in PEM form; give one that begins with -----BEGIN PRIVATE KEY-----"


def _signed(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "without a subject"


def trusted() -> list[x509.Certificate]:
    """Return the authorities that this machine trusts."""
    found = []
    for der in ssl.create_default_context().get_ca_certs(binary_form=True):
        # Some roots of old have what no standard allows any more, of which cryptography warns, or which it refuses.
        with contextlib.suppress(ValueError), warnings.catch_warnings(action="ignore"):
            found.append(x509.load_der_x509_certificate(der))
    return found


def _chain(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> Iterator[str]:
    """Tell of certificates that do not follow on each other up to an authority that clients know."""
    for number, (lower, upper) in enumerate(itertools.pairwise(chain), 1):
        if not _signed(lower, upper):
            mend = f"put that of {lower.issuer.rfc4514_string()} there"
            if any(_signed(lower, each) for each in chain):
                mend = "put them in order, each before the one that signed it"
            who = f"its {number}. certificate ({_subject(lower)})"
            yield f"{who} is not signed by the one behind it ({_subject(upper)}); {mend}"
            return
    last = chain[-1]
    if len(chain) > 1 and _signed(last, last):
        return
    if len(chain) == 1 and _signed(last, last):
        yield "is signed by itself, which no client trusts; use tls.mode internal, or one of an authority"
    elif not any(_signed(last, root) for root in [*roots, *trusted()] if root.subject == last.issuer):
        yield (
            f"ends with {_subject(last)}, whose authority {last.issuer.rfc4514_string()} is neither behind it nor"
            " trusted by this machine; append what your authority calls chain or intermediate, or name a private one's"
            " file as tls.ca"
        )


def _time(chain: list[x509.Certificate], days: int, now: datetime.datetime) -> Iterator[str]:
    for number, each in enumerate(chain, 1):
        left = (each.not_valid_after_utc - now).days
        whose = "" if number == 1 else f"its {number}. certificate ({_subject(each)}) "
        if each.not_valid_after_utc <= now:
            yield f"{whose}has run out on {each.not_valid_after_utc:%Y-%m-%d}; put a new one there"
        elif each.not_valid_before_utc > now:
            yield f"{whose}begins on {each.not_valid_before_utc:%Y-%m-%d} only; keep the old one until then"
        elif left < days:
            yield f"{whose}has {left} days left; put a new one there, or lower tls.renew_days ({days}) meanwhile"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in found.value.get_values_for_type(x509.DNSName)]


def _covers(names: list[str], name: str) -> bool:
    """Say whether a certificate is good for a host name; a star stands for one whole part (RFC 6125, 6.4.3)."""
    name = name.lower()
    return name in names or f"*.{name.partition('.')[2]}" in names
