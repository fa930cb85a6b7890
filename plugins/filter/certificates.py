"""The certificate that clients see, in the shape that roles want."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace import certificates


def tls_declared(given: Mapping | None, hostnames: list[str], folder: str | None) -> dict:
    """Return what an environment says of the certificate that clients see, every key filled in.

    Parameters:
        given: `tls` of the environment; keys as `plugins/contracts/environment.yml` has them.
        hostnames: the host names of all routes.
        folder: the inventory's, to which files are relative.

    Returns:
        the contract's keys; `names` are all that the certificate is good for, in lower case, `hsts` is in seconds,
        files are absolute, or empty. Beside them `path`, where the certificate is on a host.
    """
    return certificates.declared(given, list(hostnames), str(folder or "."))


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict:
        return {"tls_declared": tls_declared}
