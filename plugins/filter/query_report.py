"""What database hosts have counted of their queries, put together for the advisor and the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.query_report import merged


def query_workload(members: list[Mapping], hostvars: Mapping) -> dict[str, Any]:
    """Return what all database hosts have counted, as `terrace.query_report.merged` puts it together.

    Parameters:
        members: the database hosts, each with its name.
        hostvars: their variables; `query_workload` is what the module `postgresql_workload` returned.
    """
    return merged({member["name"]: hostvars[member["name"]].get("query_workload") for member in members})


def query_advisor(members: list[Mapping], hostvars: Mapping) -> str:
    """Return the host that plans and tries: a replica where one answered, so that the primary has no part in it.

    Parameters:
        members, hostvars: as of `query_workload`.
    Returns:
        Its name; empty where no host answered.
    """
    answers = {member["name"]: hostvars[member["name"]].get("query_workload") or {} for member in members}
    reached = [name for name, answer in answers.items() if answer.get("server")]
    return max(reached, key=lambda name: (answers[name]["server"]["replica"], -reached.index(name)), default="")


def query_services(services: list[Mapping]) -> dict[str, str]:
    """Return the service of each database.

    Parameters:
        services: of `services_list`.
    """
    return {service["database"]["name"]: service["name"] for service in services if service["database"]}


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {function.__name__: function for function in (query_workload, query_advisor, query_services)}
