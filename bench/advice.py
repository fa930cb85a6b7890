"""Part `advisor`: what the advice of `make query-report` is worth, by bench/advisor.py on the lab's primary.

That program needs no lab: it judges on any PostgreSQL. Here it is sent to the host that leads, which has psycopg2. And
the same workloads have databases that are declared, without a service: the report is made, the lines that it says are
declared, `site.yml` makes the indexes, and the workloads are timed before and after.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import yaml

import results
import stack
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


def run(primary: lab.Host, *words: str) -> dict:
    """Return what bench/advisor.py found, run on a host, where it has been sent to."""
    scale = float(os.environ.get("SCALE") or "1")
    environment = f"env PGHOST=/run/postgresql SCALE={scale}"
    command = " ".join(("python3 bench/advisor.py found.json", *words))
    primary.run(f"cd {PLACE} && sudo -u postgres {environment} {command}", timeout=3600)
    return json.loads(primary.run(f"cat {PLACE}/found.json"))


def said(databases: dict) -> dict[str, list[dict]]:
    """Return what `make query-report` advises, by database, each with the `lines` that are to be pasted."""
    with tempfile.TemporaryDirectory() as folder:
        told = stack.ansible(
            "ansible-playbook", "playbooks/query_report.yml",
            variables={"databases": databases, "query_out": str(Path(folder, "report.html")), "query_format": "json"},
            environment={"ANSIBLE_STDOUT_CALLBACK": "lines"},
        )[1]  # fmt: skip
    found = json.loads(told[told.index("{") :])
    return {its["name"]: its["advice"] for its in found["databases"] if its["name"] in databases}


def declared(databases: dict, advice: dict[str, list[dict]]) -> dict:
    """Return the databases of an environment with the lines of the report pasted into it.

    Errors:
        AssertionError, where a line is of another file, or of another database.
    """
    found = {name: dict(its) for name, its in databases.items()}
    for name, entries in advice.items():
        for entry in entries:
            content = yaml.safe_load(entry["lines"])
            assert list(content) == ["databases"], entry
            assert list(content["databases"]) == [name], entry
            for table, indexes in content["databases"][name]["indexes"].items():
                found[name].setdefault("indexes", {}).setdefault(table, []).extend(indexes)
    return found


def applied(primary: lab.Host) -> list[dict]:
    """Return of each workload what a round of it takes before and after `site.yml` made what the report advised."""
    names = {"bench_pgbench": "pgbench", "bench_tpcc": "tpcc", "bench_tpch": "tpch"}
    # Those that the lab has go on being declared.
    others = yaml.safe_load((lab.INVENTORY / "group_vars/all/services.yml").read_text())["databases"]
    databases: dict = {**others, **{name: {} for name in names}}
    try:
        results.say("site.yml makes three databases of no service")
        stack.ansible("ansible-playbook", "site.yml", variables={"databases": databases})
        before = run(primary, "--fill")["workloads"]
        lab.wait_for_replicas()
        advice = said(databases)
        results.say("site.yml makes what the report advises")
        took, shown = stack.ansible(
            "ansible-playbook", "site.yml", variables={"databases": declared(databases, advice)}
        )
        after = run(primary, "--time")["workloads"]
        return [
            {
                "workload": workload,
                "before_ms": before[workload]["round"],
                "after_ms": after[workload]["round"],
                "advised": [entry["lines"] for entry in advice[name]],
                "site_seconds": took,
                "changed": stack.changed(shown),
            }
            for name, workload in names.items()
        ]
    finally:
        for name in names:
            stack.ansible(
                "ansible-playbook", "playbooks/database_drop.yml",
                variables={"database_drop_name": name, "database_drop_confirm": name, "database_drop_force": True},
            )  # fmt: skip


def measure() -> dict:
    """Return what bench/advisor.py measured on the primary."""
    primary = lab.primary()
    results.say(f"judging the advisor on {primary.name}")
    primary.run(f"install -d -o postgres {PLACE} && base64 -d | tar -xz -C {PLACE}", stdin=packed())
    try:
        by_site = applied(primary)
        return {**run(primary), "applied": by_site}
    finally:
        primary.run(f"rm -rf {PLACE}")
