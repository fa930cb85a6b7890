#!/usr/bin/python
"""Find out which indexes a workload lacks, by trying hypothetical ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_advice
short_description: Plan the statements of a workload, and try which indexes would make them cheaper
description:
  - Plans each statement by C(EXPLAIN (GENERIC_PLAN)), which runs none of them, and tries indexes by the extension
    C(hypopg), whose indexes exist in this session alone. All of it is read-only, so that it works on a replica, too,
    and changes nothing.
  - Where a database has no C(hypopg) there are plans, and no advice.
options:
  workload:
    description: "What all hosts have counted, as the filter C(query_workload) puts it together."
    type: dict
    required: true
  socket:
    description: Directory of PostgreSQL's unix socket.
    type: path
    default: /run/postgresql
  port:
    description: Port of PostgreSQL, which names the unix socket.
    type: int
    default: 5432
  plan_ms:
    description: How long planning one statement may take, in milliseconds.
    type: int
    default: 10000
  seconds:
    description: How long indexes may be tried for one database.
    type: int
    default: 120
author: Terrace
"""

EXAMPLES = r"""
- name: Try what is missing
  postgresql_advice:
    workload: "{{ topology_query_workload }}"
  become: true
  become_user: postgres
  register: query_advice
"""

RETURN = r"""
databases:
  description: >-
    By name C(error), whether indexes were tried (C(hypopg)), C(advice), each with C(declared) as a service's file
    takes it, C(sql), C(saved_ms), C(bytes), C(entries) and C(hot_lost) a second, C(write_ms), and the C(queries) that
    it helps with the planner's cost C(before) and C(after); C(plans) by statement; C(failed), why there is none;
    C(untried), what hypopg cannot try; and whether trying was C(cut) short.
  type: dict
  returned: success
"""

import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.postgresql_advisor import advise
from ansible.module_utils.postgresql_plans import PlanError, Session

try:
    import psycopg2

    MISSING = ""
except ImportError:
    MISSING = traceback.format_exc()


def advised(connection: Any, found: dict[str, Any], plan_ms: int, seconds: int) -> dict[str, Any]:
    """Return the advice for one database.

    Parameters:
        connection: to that database.
        found: what was counted of it, as the filter `query_workload` has it.
        plan_ms, seconds: as of the module.
    """
    session = Session(connection, plan_ms)
    counted = found["now"] - found["statements"]["since"]
    told = advise(session, found, found["statements"], counted, bool(session.schema), seconds)
    return {"error": "", "hypopg": bool(session.schema)} | told


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "workload": {"type": "dict", "required": True},
            "socket": {"type": "path", "default": "/run/postgresql"},
            "port": {"type": "int", "default": 5432},
            "plan_ms": {"type": "int", "default": 10000},
            "seconds": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("psycopg2"), exception=MISSING)
    parameters = module.params
    databases: dict[str, Any] = {}
    for name, found in parameters["workload"]["databases"].items():
        if found["error"] or not found.get("statements"):
            continue
        try:
            connection = psycopg2.connect(
                host=parameters["socket"], port=parameters["port"], dbname=name, connect_timeout=5
            )
            try:
                databases[name] = advised(connection, found, parameters["plan_ms"], parameters["seconds"])
            finally:
                connection.close()
        except (psycopg2.Error, PlanError) as error:
            # PostgreSQL's own words may quote a value.
            code = getattr(error, "pgcode", None)
            databases[name] = {
                "error": str(error) if isinstance(error, PlanError) else f"{type(error).__name__} ({code})"
            }
    module.exit_json(changed=False, databases=databases)


if __name__ == "__main__":
    main()
