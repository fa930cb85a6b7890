#!/usr/bin/python
"""Tell what a PostgreSQL has counted of its statements, tables and indexes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_workload
short_description: Tell what a PostgreSQL has counted of its statements, tables and indexes
description:
  - Reads, in read-only transactions with a timeout, what PostgreSQL counts on this host, a primary or a replica, of
    every database but C(postgres) and templates. It changes nothing.
  - Nothing that it returns holds a value out of a table, or a constant out of a statement. C(pg_stat_statements) is
    normalised already; what it is not, as commands, comments and conditions of indexes, is masked on the host.
options:
  socket:
    description: Directory of PostgreSQL's unix socket.
    type: path
    default: /run/postgresql
  port:
    description: Port of PostgreSQL, which names the unix socket.
    type: int
    default: 5432
  most:
    description: How many statements of each database are told, the dearest ones by total time.
    type: int
    default: 100
author: Terrace
"""

EXAMPLES = r"""
- name: Ask what was counted
  postgresql_workload:
  become: true
  become_user: postgres
  register: query_workload
"""

RETURN = r"""
error:
  description: Why nothing could be asked, in which case there is nothing else; empty otherwise.
  type: str
  returned: success
server:
  description: "C(version), whether it is a C(replica), and C(now), in seconds since the epoch."
  type: dict
  returned: success
statements:
  description: >-
    Whether they are C(known), and C(why) not; C(since) when they are counted, in seconds since the epoch; how many
    were C(lost) for want of room; and by database C(total_ms), C(calls), C(count), and the dearest C(statements),
    each with C(id), C(text), C(calls), C(total_ms), C(max_ms), C(rows), and blocks of 8 kB C(hit), C(read) and C(temp).
  type: dict
  returned: success
databases:
  description: >-
    By name C(error), C(since), C(age), C(bytes), and C(tables), C(indexes), C(sequences), C(references), C(quals),
    C(extensions), as C(postgresql_statistics) has them.
  type: dict
  returned: success
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.postgresql_statistics import workload

try:
    import psycopg2

    MISSING = ""
except ImportError:
    MISSING = traceback.format_exc()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "default": "/run/postgresql"},
            "port": {"type": "int", "default": 5432},
            "most": {"type": "int", "default": 100},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("psycopg2"), exception=MISSING)
    where = {"host": module.params["socket"], "port": module.params["port"], "connect_timeout": 5}
    try:
        found = workload(lambda name: psycopg2.connect(dbname=name, **where), module.params["most"])
    except psycopg2.Error as error:
        # PostgreSQL's own words may quote a value.
        module.exit_json(changed=False, error=f"{type(error).__name__} ({error.pgcode or 'no answer'})")
    module.exit_json(changed=False, error="", **found)


if __name__ == "__main__":
    main()
