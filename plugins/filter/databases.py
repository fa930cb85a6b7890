"""Databases of no service, and the indexes that are declared of all databases, in the shapes that modules want."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terrace import indexes
from terrace.databases import listed


def databases_list(declared: Mapping[str, Mapping] | None) -> list[dict]:
    """Return the databases of no service, every default filled in, in the shape of services that have only a database.

    Parameters:
        declared: the environment's `databases:`.
    """
    return listed(declared)


def databases_indexes(services: list[Mapping], names: list[str] | None = None) -> list[dict]:
    """Return the databases that have declared indexes, each with its `name`, `place` and `indexes`.

    Parameters:
        services: of `services_list` and `databases_list`.
        names: of which of them; None for all.
    """
    found = []
    for service in services:
        database = service["database"]
        if database and database["indexes"] and (names is None or service["name"] in names):
            name = service["name"]
            place = f"services/{name}.yml: database" if "source" in service else f"databases.{name}"
            its = indexes.listed(database["indexes"], f"{place}.indexes")
            found.append({"name": database["name"], "place": place, "indexes": its})
    return found


def databases_bare(databases: list[Mapping]) -> list[dict]:
    """Return databases, as `services_databases` has them, without the passwords that are anywhere in them.

    `ansible.utils.remove_keys` does the same, and takes two seconds: it reads its documentation for each task anew.
    """

    def bare(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: bare(part) for key, part in value.items() if key != "password"}
        return [bare(part) for part in value] if isinstance(value, list) else value

    return bare(databases)


def database_drop_roles(name: str) -> list[str]:
    """Return the roles of a database: logins before what they are members of.

    Parameters:
        name: the database's.
    """
    return [f"{name}_{suffix}" for suffix in ("app_a", "app_b", "app", "reader", "owner")]


def database_drop_refused(name: str, there: list[Mapping], declared: list[str]) -> str:
    """Return why a database cannot be dropped, with the mend; empty where it can.

    Parameters:
        name: the database's.
        there: those that PostgreSQL has, its own left out, each with `name`, `size` and `sessions`.
        declared: the names of those that are declared.
    """
    found = next((database for database in there if database["name"] == name), None)
    if name in declared:
        return (
            f"Nothing was dropped: {name} is declared. Take it out of the inventory, run make site, and drop it then."
        )
    if found is None:
        others = ", ".join(each["name"] for each in there if each["name"] not in declared)
        return f"There is no database {name} to drop; not declared are: {others or 'none'}."
    if found["sessions"]:
        return (
            f"Nothing was dropped: {name} has {found['sessions']} sessions. Run make site, so that no pooler leads to "
            "it, and end what else is connected."
        )
    return ""


def database_drop_told(name: str, there: list[Mapping], declared: list[str]) -> list[str] | str:
    """Return which databases are not declared, where the name is `?`, or else what dropping this one means.

    Parameters:
        name, there, declared: as of `database_drop_refused`.
    """
    by_name = {each["name"]: each for each in there}
    if name != "?":
        roles = ", ".join(database_drop_roles(name))
        return f"Drops the database {name} ({by_name[name]['size']}) and the roles {roles}. Only a backup has it then."
    lines = [
        f"{each['name']}: {each['size']}, {each['sessions']} sessions" for each in there if each["name"] not in declared
    ]
    return lines or ["Every database is declared."]


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        names = (
            databases_list,
            databases_indexes,
            databases_bare,
            database_drop_roles,
            database_drop_refused,
            database_drop_told,
        )
        return {function.__name__: function for function in names}
