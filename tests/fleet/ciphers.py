"""What testssl.sh finds of the TLS that clients are offered, held against Mozilla's intermediate profile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lab

# Protocols, categories of ciphers, forward secrecy, and the attacks that take seconds to try. BREACH is left out, which
# is of what a service has compressed, and Strict-Transport-Security: the lab has certificates that come without it.
SCAN = (
    "testssl --quiet --warnings off --color 0 --nodns none --sneaky --disable-rating --protocols --std --fs"
    " --heartbleed --renegotiation --crime"
)
# Guidelines 6.0.
CIPHERS = {
    *("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"),
    *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    *("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"),
}
CURVES = {"X25519", "prime256v1", "secp384r1"}
# What has to be found, whatever testssl.sh thinks of it: it calls TLS 1.0 and CBC no worse than LOW.
WANTED = (
    dict.fromkeys(("SSLv2", "SSLv3", "TLS1", "TLS1_1"), "not offered")
    | {"TLS1_2": "offered", "TLS1_3": "offered with final", "ALPN_HTTP2": "h2", "FS": "offered"}
    | dict.fromkeys((f"cipherlist_{kind}" for kind in ("NULL", "aNULL", "EXPORT", "LOW", "3DES_IDEA")), "not offered")
    | {
        "cipherlist_OBSOLETED": "not offered",
        "cipherlist_STRONG_NOFS": "not offered",
        "cipherlist_STRONG_FS": "offered",
    }
    | {"heartbleed": "not vulnerable.*", "secure_renego": "supported", "secure_client_renego": "not vulnerable.*"}
    | {"CRIME_TLS": "not vulnerable.*", "FS_KEMs": "X25519MLKEM768"}
)
GOOD = {"OK", "INFO", "LOW"}
EXPLAINED = {"engine_problem": "Debian's OpenSSL has no engine for GOST, which nobody is to be offered"}


def judged(findings: Iterable[dict[str, str]]) -> list[str]:
    """Return what is wrong with what testssl.sh found; what it could not look at is wrong, too.

    Parameters:
        findings: its JSON, a dict each with `id`, `severity` and `finding`.
    """
    by = {its["id"]: its for its in findings}
    wrong = [
        f"{name}: {by[name]['finding'] if name in by else 'was not looked at'}"
        for name, wanted in WANTED.items()
        if name not in by or not re.fullmatch(wanted, by[name]["finding"])
    ]
    for name, known in (("FS_ciphers", CIPHERS), ("FS_ECDHE_curves", CURVES)):
        offered = set(by[name]["finding"].split()) if name in by else set()
        if not offered or offered - known:
            wrong.append(f"{name}: {', '.join(sorted(offered - known)) or 'none'}")
    told = {line.partition(":")[0] for line in wrong}
    for name, its in by.items():
        if its["severity"] not in GOOD and name not in EXPLAINED and name not in told:
            wrong.append(f"{name}: {its['severity']}: {its['finding']}")
    return wrong


def scan(host: lab.Host, address: str, name: str, port: int = 443) -> list[dict[str, str]]:
    """Return what testssl.sh on a host of the lab finds of an address.

    Parameters:
        host: who runs it; it is installed there where it is not.
        address, port: what is looked at.
        name: the host name that is asked for.
    """
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends testssl.sh"
    host.run(f"dpkg -s testssl.sh >/dev/null 2>&1 || {install}")
    file = "/run/testssl.json"
    # It ends with how much it found, or with an error, which then is a finding or leaves no file.
    told = host.try_run(f"rm -f {file}; {SCAN} --jsonfile {file} --ip {address} https://{name}:{port}", timeout=180)
    found = host.try_run(f"cat {file} && rm {file}")
    assert found.returncode == 0, f"{address}: {told.returncode}\n{told.stdout}{told.stderr}"
    return json.loads(found.stdout)
