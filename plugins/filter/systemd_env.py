"""A filter for the file that systemd reads a service's environment from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# systemd keeps a backslash before any other character, so exactly these are escaped between double quotes.
SPECIAL = re.compile(r'(["\\`$])')
# Those that systemd refuses in a value; it drops the variable and logs that, so the service would miss it silently.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def systemd_env(environment: Mapping[str, Any]) -> str:
    """Return environment variables as the lines of a systemd EnvironmentFile.

    Parameters:
        environment: values by name, a string, a number or a boolean each. A boolean becomes "true" or "false". Any
            text is passed on exactly, line feeds and tabs too.

    Returns:
        One variable a line, sorted by name, quoted so that systemd reads back the very same value.

    Raises:
        AnsibleFilterError: a name that is none, or a value that cannot be one. The value itself is not in the message,
            since it may be a secret.
    """
    if not isinstance(environment, Mapping):
        raise AnsibleFilterError("systemd_env needs a mapping of environment variables")
    return "\n".join(f'{_name(name)}="{_value(name, environment[name])}"' for name in sorted(environment, key=str))


def _name(name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise AnsibleFilterError(f"{name!r} is not a name for an environment variable: use letters, digits and _")
    return str(name)


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise AnsibleFilterError(f"environment variable {name}: its value is no text, number or boolean; quote it")
    text = str(value)
    if CONTROL.search(text):
        raise AnsibleFilterError(f"environment variable {name}: systemd passes on no control characters in a value")
    return SPECIAL.sub(r"\\\1", text)


class FilterModule:
    """The filter of this file, for Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"systemd_env": systemd_env}
