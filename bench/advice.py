"""Part `advisor`: what the advice of `make query-report` is worth, by bench/advisor.py on the lab's primary.

That program needs no lab: it judges on any PostgreSQL. Here it is sent to the host that leads, which has psycopg2.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile

import results
from stack import lab

PLACE = "/var/lib/postgresql/bench-advisor"
FILES = (
    *("bench/advisor.py", "bench/workloads/pgbench.sql", "bench/workloads/tpcc.sql", "bench/workloads/tpch.sql"),
    *(
        f"plugins/module_utils/postgresql_{name}.py"
        for name in ("text", "conditions", "plans", "advisor", "statistics")
    ),
)


def packed() -> str:
    """Return what has to be sent, as an archive in base64."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in FILES:
            archive.add(results.ROOT / name, arcname=name)
    return base64.b64encode(content.getvalue()).decode()


def measure() -> dict:
    """Return what bench/advisor.py measured on the primary."""
    primary = lab.primary()
    results.say(f"judging the advisor on {primary.name}")
    primary.run(f"install -d -o postgres {PLACE} && base64 -d | tar -xz -C {PLACE}", stdin=packed())
    scale = os.environ.get("SCALE") or "1"
    try:
        environment = f"env PGHOST=/run/postgresql SCALE={float(scale)}"
        primary.run(f"cd {PLACE} && sudo -u postgres {environment} python3 bench/advisor.py found.json", timeout=3600)
        return json.loads(primary.run(f"cat {PLACE}/found.json"))
    finally:
        primary.run(f"rm -rf {PLACE}")
