#!/usr/bin/python
"""Keep a host's key, and find out whether its certificate is what it should be."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_certificate
short_description: Keep a host's key and whom it trusts, and ask for a certificate where it has no good one
description:
  - Makes the host's key where there is none, and keeps the authority's certificate, directory, owners and modes.
  - Compares the certificate with the key, the authority, the names and the days that are wanted. Where something is
    different it says what, and gives a request for the authority to sign.
  - With O(certificate), the answer to that, it installs this instead; and the key that it is of, where that is a new
    one, in the same moment.
options:
  directory:
    description: Where C(host.key), C(host.crt) and C(ca.crt) are.
    type: path
    default: /etc/terrace/pki
  owner:
    description: The owner of the files.
    type: str
    default: root
  group:
    description: The group that may read the key.
    type: str
    required: true
  authority:
    description:
      - The authority's certificate, as PEM. It may be followed by those of others that the host is to trust, too.
      - Exactly one of this and O(certificate) is given.
    type: str
  certificate:
    description: The certificate to install, as PEM.
    type: str
  anew:
    description: Whether a certificate is wanted though the host has a good one, and a key of its own for it.
    type: bool
    default: false
  name:
    description: The subject's common name. It is needed with O(authority).
    type: str
  names:
    description: The DNS names that it is good for.
    type: list
    elements: str
    default: []
  addresses:
    description: The IP addresses that it is good for.
    type: list
    elements: str
    default: []
  client:
    description: Whether it is good for the client's side of a connection, too.
    type: bool
    default: false
  renew_days:
    description: With fewer days to go it is not good any more. It is needed with O(authority).
    type: int
author: Terrace
"""

EXAMPLES = r"""
- name: Keep the key
  host_certificate:
    group: terrace-pki
    authority: "{{ lookup('ansible.builtin.file', 'ca.crt') }}"
    name: db1
    names: [db1]
    addresses: [10.0.0.41]
    renew_days: 180
  register: asked

- name: Install what was signed
  host_certificate:
    group: terrace-pki
    certificate: "{{ signed.certificate }}"
"""

RETURN = r"""
reasons:
  description: Why a new certificate is needed; empty where it is not.
  type: list
  returned: with O(authority)
request:
  description: The request to sign, as PEM; empty where none is needed, or where check mode made no key.
  type: str
  returned: with O(authority)
"""

import datetime
import ipaddress
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    x509 = None


# A key that has no certificate yet, in the host's directory.
NEXT = "next.key"


def load_key(path: Path):
    """Return the key in a file; none where there is no file, or no key in it."""
    try:
        return serialization.load_pem_private_key(path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def load_certificate(path: Path):
    """Return the certificate in a file; none where there is no file, or no certificate in it."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def write(path: Path, content: bytes, mode: int) -> None:
    """Write a file, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    new.replace(path)


def make_key(path: Path):
    """Write a new key, whole or not at all, for root alone; return it."""
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write(path, text, 0o600)
    return key


def make_request(key, parameters: dict):
    """Return a request for what is wanted, signed with the key."""
    names = [x509.DNSName(name) for name in parameters["names"]]
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in parameters["addresses"]]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] + [ExtendedKeyUsageOID.CLIENT_AUTH] * parameters["client"]
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, parameters["name"])]))
        .add_extension(x509.SubjectAlternativeName(names + addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **dict.fromkeys(others, False)), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
    )


def differences(certificate, request, authority: str, renew_days: int) -> list[str]:
    """Return why a certificate does not do.

    Parameters:
        certificate: what the host has; none where it has none.
        request: what it should be.
        authority: the authority's certificate, as PEM; empty where there is none yet.
        renew_days: the days that it has to be good for.
    """
    if not authority:
        return ["there is no authority yet"]
    if certificate is None:
        return ["there is no certificate"]
    found = []
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (ValueError, TypeError, InvalidSignature):
        found.append("it is not of this authority")
    if certificate.public_key() != request.public_key():
        found.append("it is not of this key")
    if certificate.subject != request.subject:
        found.append("it is of another name")
    for wanted in request.extensions:
        try:
            has = certificate.extensions.get_extension_for_oid(wanted.oid)
        except x509.ExtensionNotFound:
            has = None
        if has is None or has.critical != wanted.critical or _value(has) != _value(wanted):
            found.append(f"its {wanted.oid._name} is not what is wanted")
    needed = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=renew_days)
    if certificate.not_valid_after_utc < needed:
        found.append(f"it ends on {certificate.not_valid_after_utc:%Y-%m-%d}")
    return found


def _value(extension):
    """Return an extension's value, in which the order of names and usages does not count."""
    value = extension.value
    return set(value) if isinstance(value, (x509.SubjectAlternativeName, x509.ExtendedKeyUsage)) else value


def install(directory: Path, text: str) -> bool:
    """Install a certificate, and the key that it is of where that is the new one; return whether anything was changed.

    Daemons read both whenever somebody connects, so the two change places one right after the other.

    Raises ValueError where it is of neither key.
    """
    content = text.strip().encode() + b"\n"
    public = x509.load_pem_x509_certificate(content).public_key()
    own, coming = load_key(directory / "host.key"), load_key(directory / NEXT)
    if coming is not None and coming.public_key() == public:
        write(directory / ".host.crt.signed", content, 0o644)
        (directory / NEXT).replace(directory / "host.key")
        (directory / ".host.crt.signed").replace(directory / "host.crt")
        return True
    if own is None or own.public_key() != public:
        raise ValueError("the certificate is of none of the host's keys")
    if (directory / "host.crt").exists() and (directory / "host.crt").read_bytes() == content:
        return False
    write(directory / "host.crt", content, 0o644)
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/terrace/pki"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "required": True},
            "authority": {"type": "str"},
            "certificate": {"type": "str"},
            "anew": {"type": "bool", "default": False},
            "name": {"type": "str"},
            "names": {"type": "list", "elements": "str", "default": []},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "client": {"type": "bool", "default": False},
            "renew_days": {"type": "int"},
        },
        required_one_of=[["authority", "certificate"]],
        mutually_exclusive=[["authority", "certificate"]],
        required_by={"authority": ["name", "renew_days"]},
        supports_check_mode=True,
    )
    parameters = module.params
    if x509 is None:
        if module.check_mode:
            module.exit_json(changed=True, reasons=["python3-cryptography is not installed yet"], request="")
        module.fail_json(msg=missing_required_lib("cryptography"))

    directory = Path(parameters["directory"])
    if parameters["certificate"] is not None:
        try:
            changed = not module.check_mode and install(directory, parameters["certificate"])
        except ValueError as error:
            module.fail_json(msg=str(error))
        module.exit_json(changed=owned(module, directory, changed))

    key_file = directory / "host.key"
    key = load_key(key_file)
    changed = key is None
    if key is None and module.check_mode:
        module.exit_json(changed=True, reasons=["there is no key"], request="")
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if key is None:
        key = make_key(key_file)
    changed |= trust(directory / "ca.crt", parameters["authority"], not module.check_mode)
    changed = owned(module, directory, changed)

    reasons = differences(
        load_certificate(directory / "host.crt"),
        make_request(key, parameters),
        parameters["authority"],
        parameters["renew_days"],
    )
    if parameters["anew"]:
        reasons.append("a new one was asked for")
        # One that a run before has left was never certified.
        if not module.check_mode:
            key = load_key(directory / NEXT) or make_key(directory / NEXT)
    text = make_request(key, parameters).public_bytes(serialization.Encoding.PEM).decode() if reasons else ""
    # What signs and installs the certificate says that it did; in check mode nobody does.
    module.exit_json(changed=changed or (module.check_mode and bool(reasons)), reasons=reasons, request=text)


def trust(path: Path, authority: str, do: bool) -> bool:
    """Keep the certificates of whom the host trusts; return whether they were others, or none.

    Parameters:
        path: where they are.
        authority: what they are to be; empty where there is no authority yet.
        do: whether to write them, or only to look.
    """
    content = authority.strip().encode() + b"\n"
    if not authority.strip() or (path.exists() and path.read_bytes() == content):
        return False
    if do:
        write(path, content, 0o644)
    return True


def owned(module: AnsibleModule, directory: Path, changed: bool) -> bool:
    """Keep owners and modes; return whether anything was changed by now."""
    parameters = module.params
    for path, group, mode in (
        (directory, None, "0755"),
        (directory / "host.key", parameters["group"], "0640"),
        (directory / "host.crt", None, "0644"),
        (directory / "ca.crt", None, "0644"),
    ):
        if path.exists():
            changed = module.set_owner_if_different(str(path), parameters["owner"], changed)
            changed = module.set_group_if_different(str(path), group, changed)
            changed = module.set_mode_if_different(str(path), mode, changed)
    return changed


if __name__ == "__main__":
    main()
