"""The environment's certificate authority, as the controller has it."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID


def authority_good(directory: str, name: str, days: int) -> bool:
    """Return whether there is an authority that can sign certificates.

    Parameters:
        directory: the folder with its ca.crt and ca.key, on the controller.
        name: its common name.
        days: how many days a certificate signed now has to be good for, which the authority has to outlive.
    """
    try:
        certificate = x509.load_pem_x509_certificate((Path(directory) / "ca.crt").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    names = [part.value for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    needed = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=int(days))
    there = (Path(directory) / "ca.key").exists()
    return there and names == [name] and certificate.not_valid_after_utc >= needed


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict:
        return {"authority_good": authority_good}
