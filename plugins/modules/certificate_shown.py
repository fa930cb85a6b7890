#!/usr/bin/python
"""See that ports of a host show the certificate that the host has, and that whoever trusts what it trusts takes it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_shown
short_description: See that a host's ports show its current certificate
description:
  - Connects to each port as a client that trusts what the host trusts, and compares the certificate with the host's.
  - A certificate of another issuer, such as a public one on a load balancer, is none of ours and is left out.
options:
  address:
    description: The host's address.
    type: str
    required: true
  ports:
    description: The ports.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What listens there.
        type: str
        required: true
      port:
        description: The number.
        type: int
        required: true
      postgresql:
        description: Whether TLS is asked for first, in PostgreSQL's way.
        type: bool
        default: false
  directory:
    description: Where C(host.crt), C(host.key) and C(ca.crt) are.
    type: path
    default: /etc/terrace/pki
  wait:
    description: Seconds for a daemon that was reloaded to show it.
    type: int
    default: 30
author: Terrace
"""

EXAMPLES = r"""
- name: Ask each port for its certificate
  certificate_shown:
    address: 10.0.0.41
    ports:
      - {name: patroni, port: 8008}
      - {name: postgresql, port: 5432, postgresql: true}
"""

RETURN = r"""
shown:
  description: The ports that show it, by name.
  type: list
  returned: success
"""

import socket
import ssl
import struct
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

POLL_SECONDS = 1.0
SECONDS = 5.0
# A client's wish for TLS, instead of a first message: its length and a number that is no version of the protocol.
TLS_PLEASE = struct.pack("!ii", 8, 80877103)


def shown(address: str, port: dict, context: ssl.SSLContext) -> bytes:
    """Return the certificate that a port shows, as DER.

    Raises OSError where it is not reached or shows none that the context trusts (ssl.SSLError is one).
    """
    with socket.create_connection((address, port["port"]), SECONDS) as plain:
        if port["postgresql"]:
            plain.sendall(TLS_PLEASE)
            if plain.recv(1) != b"S":
                raise OSError("it has no TLS")
        with context.wrap_socket(plain) as client:
            return client.getpeercert(binary_form=True) or b""


def issuer(der: bytes, openssl) -> str:
    """Return who has signed a certificate, in openssl's words."""
    _, out, _ = openssl(["openssl", "x509", "-noout", "-issuer"], data=ssl.DER_cert_to_PEM_cert(der))
    return out.strip()


def wrong(its: dict, openssl) -> list[str]:
    """Return what is wrong with the ports, each in words.

    Parameters:
        its: the module's arguments.
        openssl: runs a command, as AnsibleModule.run_command does.
    """
    home = Path(its["directory"])
    own = ssl.PEM_cert_to_DER_cert((home / "host.crt").read_text())
    trusting, looking = (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2))
    for context in (trusting, looking):
        context.check_hostname = False
        # Some want to know their clients.
        context.load_cert_chain(home / "host.crt", home / "host.key")
    looking.verify_mode = ssl.CERT_NONE
    trusting.load_verify_locations(home / "ca.crt")
    found = []
    for port in its["ports"]:
        place = f"{port['name']} on {its['address']}:{port['port']}"
        try:
            der = shown(its["address"], port, looking)
            if issuer(der, openssl) != issuer(own, openssl):
                continue
            if der != own:
                found.append(f"{place} shows another certificate than the host has")
            else:
                shown(its["address"], port, trusting)
        except OSError as error:
            found.append(f"{place}: {error}")
    return found


def main() -> None:
    """Run the module."""
    port = {
        "name": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "postgresql": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "ports": {"type": "list", "elements": "dict", "required": True, "options": port},
            "directory": {"type": "path", "default": "/etc/terrace/pki"},
            "wait": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    deadline = time.monotonic() + module.params["wait"]
    while True:
        try:
            found = wrong(module.params, module.run_command)
        except (OSError, ValueError) as error:
            found = [f"the host's own certificate cannot be read: {error}"]
        if not found:
            module.exit_json(changed=False, shown=[port["name"] for port in module.params["ports"]])
        if time.monotonic() >= deadline:
            module.fail_json(msg="; ".join(found))
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
