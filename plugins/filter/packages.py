"""Which Debian packages the roles of a host need."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import yaml
from ansible.errors import AnsibleFilterError
from jinja2 import pass_context

ROLES = Path(__file__).resolve().parents[2] / "roles"


@pass_context
def roles_packages(context: Mapping, roles: list[str]) -> list[str]:
    """Return the packages that roles install, so that one task can install them all.

    Each role names its packages in its input `<role>_packages`: the environment's value counts, else the role's
    default. A role without such an input needs none.

    Parameters:
        context: the variables that the filter sees (Jinja gives them).
        roles: names of roles.

    Returns:
        names of packages, each once, sorted.

    Raises:
        AnsibleFilterError: there is no such role, or its default is a template, which only the role itself can render.
    """
    found: set[str] = set()
    for role in roles:
        if not (ROLES / role).is_dir():
            raise AnsibleFilterError(f"there is no role '{role}' in {ROLES}")
        given = context.get(f"{role}_packages")
        names = _default(role) if given is None else given
        if any("{{" in name for name in names):
            raise AnsibleFilterError(f"{role}_packages is a template, and has to be plain names")
        found |= {str(name) for name in names}
    return sorted(found)


@functools.cache
def _default(role: str) -> list[str]:
    path = ROLES / role / "defaults/main.yml"
    defaults = yaml.load(path.read_text(), Loader=yaml.CSafeLoader) if path.exists() else None
    return (defaults or {}).get(f"{role}_packages", [])


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict:
        return {"roles_packages": roles_packages}
