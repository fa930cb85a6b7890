"""Queries that services declare: which are to be run, by whom, and what hosts answered."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace.queries import listed


def services_queries(services: list[dict], service: str = "", name: str = "", gates: bool = False) -> list[dict]:
    """Return the declared queries as the module `postgresql_queries` takes them.

    Parameters:
        services: of `services_list`.
        service: that of which service; empty for all.
        name: which query; empty for all.
        gates: whether only those are wanted that a deploy has to pass.
    """
    return listed(services, service, name, gates)


def queries_passwords(queries: list[dict], databases: list[dict]) -> dict[str, str]:
    """Return the passwords of the readers that queries are run as, by their names.

    Parameters:
        queries: of `services_queries`.
        databases: of `services_databases`.
    """
    readers = {query["user"] for query in queries}
    return {
        each["reader"]["name"]: each["reader"]["password"] for each in databases if each["reader"]["name"] in readers
    }


def queries_called(query: Mapping) -> str:
    """Return the name of a query as people are told it, with its service's."""
    return f"{query['service']}/{query['name']}"


def query_answers(members: list[dict], hostvars: Mapping, register: str) -> list[Mapping]:
    """Return what database hosts answered to `postgresql_queries`; of those that did not, nothing.

    Parameters:
        members: the database hosts.
        hostvars: Ansible's variable of that name.
        register: the variable that has a host's answer.
    """
    answers = [hostvars[member["name"]].get(register) for member in members]
    return [answer for answer in answers if answer]


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {
            function.__name__: function
            for function in (services_queries, queries_passwords, queries_called, query_answers)
        }
