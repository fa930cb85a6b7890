"""What a node's services come to on it: files, units and slots, as flat lists that tasks loop over.

Only `service_environments` has secrets in it. Ansible shows the item of a loop when a task fails, so what the other
filters return can be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNITS = "/etc/systemd/system"
SECRET = ("environment", "migrate_environment")


def _instances(service: Mapping) -> list[tuple[str, str]]:
    """Return the background processes of a service, one for each copy, as process and unit."""
    return [
        (name, f"svc-{service['name']}-{name}@{copy}.service")
        for name, process in service["processes"].items()
        for copy in range(1, int(process.get("count", 1)) + 1)
    ]


def service_directories(names: list[str]) -> list[dict[str, str]]:
    """Return the directories of the environments and of the sockets of services: path, owner, group, mode."""
    roots = [{"path": path, "owner": "root", "mode": "0755"} for path in ("/run/terrace", "/etc/terrace/services")]
    roots += [{"path": f"/etc/terrace/services/{name}", "owner": "root", "mode": "0755"} for name in names]
    sockets = [{"path": f"/run/terrace/{name}", "owner": f"svc-{name}", "mode": "2750"} for name in names]
    return [root | {"group": "root"} for root in roots] + [socket | {"group": "haproxy"} for socket in sockets]


def service_environments(services: list[Mapping]) -> list[dict]:
    """Return the environment files of services, with path, service and variables. They hold secrets."""
    return [
        {"path": f"/etc/terrace/services/{service['name']}/{kind}.env", "service": service["name"], "variables": given}
        for service in services
        for kind, given in (("service", service["environment"]), ("migrate", service["migrate_environment"]))
    ]


def service_files(services: list[Mapping]) -> list[dict]:
    """Return every other file that services have on a node.

    Parameters:
        services: the services, as `services_sized` gives them, where their text is wanted and not only their paths.
    Returns:
        For each file its `path`, its `template`, its `service` (without environments), and for a
        background process or a scheduled command its `name` and `command`, and when it runs (`at`).
    """
    files = []
    for service in services:
        unit = f"svc-{service['name']}"
        shown = {key: value for key, value in service.items() if key not in SECRET}
        own = [
            {"path": f"/etc/tmpfiles.d/{unit}.conf", "template": "tmpfiles.conf.j2"},
            {"path": f"{UNITS}/{unit}.target", "template": "svc.target.j2"},
            {"path": f"{UNITS}/{unit}@.service", "template": "svc@.service.j2"},
        ]
        for name, process in service["processes"].items():
            own.append({"path": f"{UNITS}/{unit}-{name}@.service", "template": "svc-process@.service.j2"})
            own[-1] |= {"name": name, **process}
        for name, schedule in service["schedule"].items():
            for kind in ("service", "timer"):
                own.append({"path": f"{UNITS}/{unit}-{name}.{kind}", "template": f"svc-schedule.{kind}.j2"})
                own[-1] |= {"name": name, **schedule}
        files += [file | {"service": shown} for file in own]
    return files


def service_units(services: list[Mapping]) -> list[dict]:
    """Return the units of services other than slots: what has to run, and the files that each runs on.

    Returns:
        `name` of the unit, its `service`, and `files`, for whose change it has to be restarted.
    """
    units = []
    for service in services:
        name = service["name"]
        # The slot is part of the target, so the target is never restarted.
        own = {f"svc-{name}.target": []}
        for process, unit in _instances(service):
            own[unit] = [
                f"{UNITS}/svc-{name}-{process}@.service",
                f"/etc/terrace/services/{name}/service.env",
                f"/srv/terrace/{name}/.live",
            ]
        for job in service["schedule"]:
            own[f"svc-{name}-{job}.timer"] = [f"{UNITS}/svc-{name}-{job}.{kind}" for kind in ("timer", "service")]
        units += [{"name": unit, "service": name, "files": files} for unit, files in own.items()]
    return units


def service_slots(services: list[Mapping]) -> list[dict]:
    """Return what the slots of services run on: `name`, `release`, `serial`, `keep`, `drain` (seconds) and `files`."""
    return [
        {
            "name": service["name"],
            "release": service["release"],
            "serial": service.get("serial", 0),
            "keep": service.get("keep", True),
            "drain": service["timeout"]["stop"],
            "files": [
                f"{UNITS}/svc-{service['name']}@.service",
                f"/etc/terrace/services/{service['name']}/service.env",
            ],
        }
        for service in services
    ]


def service_migrations(services: list[Mapping]) -> list[dict]:
    """Return the migrations that this node is to run, in order: `service`, and whether it comes `after` the switch."""
    return [
        {"service": service["name"], "after": key == "migrate_after"}
        for service in services
        for key in ("migrate", "migrate_after")
        if service.get(key)
    ]


def service_declared(services: list[Mapping]) -> list[str]:
    """Return the names of all units that services may have on a node: those with a file, and instances."""
    names = [file["path"].rpartition("/")[2] for file in service_files(services) if file["path"].startswith(UNITS)]
    names += [unit for service in services for _, unit in _instances(service)]
    return names + [f"svc-{service['name']}@{slot}.service" for service in services for slot in ("blue", "green")]


class FilterModule:
    """The filters of this file, for Ansible."""

    def filters(self) -> dict[str, Any]:
        functions = (
            service_directories,
            service_environments,
            service_files,
            service_migrations,
            service_units,
            service_slots,
            service_declared,
        )
        return {function.__name__: function for function in functions}
