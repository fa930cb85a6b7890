#!/usr/bin/python
"""Try a login with a password, which has to be accepted, or refused."""

from __future__ import annotations

DOCUMENTATION = r"""
module: login_tried
short_description: Try whether a daemon accepts a password, or refuses it
description:
  - Logs in, and changes nothing. No password is on a command line, nor in a file.
  - A daemon that cannot be reached neither accepts nor refuses, and is a failure.
  - For PostgreSQL and PgBouncer C(psql) has to be on the host.
options:
  daemon:
    description: What is asked.
    type: str
    choices: [postgresql, redis]
    required: true
  address:
    description: Where it is.
    type: str
    required: true
  port:
    description: On which port.
    type: int
    required: true
  user:
    description: Who logs in.
    type: str
    required: true
  password:
    description: With which password.
    type: str
    required: true
  database:
    description: Into which database of PostgreSQL, or alias of PgBouncer.
    type: str
    default: ''
  tls:
    description: Whether PostgreSQL is to be asked over TLS; a pooler is asked without.
    type: bool
    default: false
  expect:
    description: What has to come of it.
    type: str
    choices: [accepted, refused]
    required: true
  wait:
    description: Seconds in which that has to be so; a change needs some to come to a replica.
    type: int
    default: 10
author: Terrace
"""

EXAMPLES = r"""
- name: Find the old password refused
  login_tried:
    daemon: redis
    address: 10.0.0.31
    port: 6379
    user: orders
    password: "{{ old }}"
    expect: refused
"""

RETURN = r"""
said:
  description: What the daemon said where it refused; empty where it accepted.
  type: str
  returned: success
"""

import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.redis_resp import Redis, RedisError

POLL_SECONDS = 0.5
# As PostgreSQL and PgBouncer say no to a password or to a user. Anything else is no answer to the question.
REFUSED = re.compile(
    r"authentication failed|no such user|not permitted to log in|role \S+ does not exist", re.IGNORECASE
)


class TriedError(Exception):
    """The daemon could not be asked; the text says why."""


def try_redis(its: dict) -> str:
    """Return what Redis says where it refuses a login; nothing where it accepts it.

    Raises TriedError where it cannot be asked.
    """
    try:
        with Redis(its["address"], its["port"], its["password"], its["user"]):
            return ""
    except RedisError as error:
        if str(error).startswith("WRONGPASS"):
            return str(error)
        raise TriedError(str(error)) from None
    except OSError as error:
        raise TriedError(str(error)) from None


def try_postgresql(module: AnsibleModule, its: dict) -> str:
    """Return what PostgreSQL or PgBouncer says where it refuses a login; nothing where it accepts it.

    Raises TriedError where it cannot be asked.
    """
    settings = {
        "PGHOST": its["address"],
        "PGPORT": str(its["port"]),
        "PGUSER": its["user"],
        "PGPASSWORD": its["password"],
        "PGDATABASE": its["database"],
        "PGSSLMODE": "require" if its["tls"] else "disable",
        "PGCONNECT_TIMEOUT": "5",
        "PGAPPNAME": "terrace-rotation",
        "LC_ALL": "C.UTF-8",
    }
    code, _, said = module.run_command(
        ["psql", "--no-psqlrc", "--no-password", "--quiet", "--command=SELECT 1"], environ_update=settings
    )
    said = " ".join(said.split())
    if code and not REFUSED.search(said):
        raise TriedError(said or f"psql ended with {code}")
    return said if code else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "daemon": {"type": "str", "choices": ["postgresql", "redis"], "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "database": {"type": "str", "default": ""},
            "tls": {"type": "bool", "default": False},
            "expect": {"type": "str", "choices": ["accepted", "refused"], "required": True},
            "wait": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    its = module.params
    deadline = time.monotonic() + its["wait"]
    where = f"{its['user']} at {its['address']}:{its['port']}" + (f"/{its['database']}" if its["database"] else "")
    while True:
        try:
            said = try_redis(its) if its["daemon"] == "redis" else try_postgresql(module, its)
            outcome = "refused" if said else "accepted"
            wrong = f"the password of {where} is {outcome}, and has to be {its['expect']}"
            if outcome == its["expect"]:
                module.exit_json(changed=False, said=said)
        except TriedError as error:
            wrong = f"the password of {where} could not be tried: {error}"
        if time.monotonic() >= deadline:
            module.fail_json(msg=wrong)
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
