"""Databases of no service, and the indexes that are declared of all databases, in the shapes that modules want."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

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


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict:
        return {function.__name__: function for function in (databases_list, databases_indexes)}
