#!/usr/bin/python
"""Have databases have the settings that are declared of them, and no others."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_settings
short_description: Keep the settings that sessions of a PostgreSQL database begin with
description:
  - Sets what is declared by C(ALTER DATABASE ... SET), and resets what is not. Settings of roles, and of roles in a
    database, are left alone.
  - PostgreSQL itself says whether anything differs - all of it is set in a transaction, which is rolled back where the
    result is what was there.
  - Acts on a primary. Sessions that are open keep what they have.
options:
  databases:
    description:
      - The databases, each with C(name) and C(settings), values by name.
      - A value is text, a number, true, false, or a list of these where PostgreSQL takes one.
    type: list
    elements: dict
    required: true
  socket:
    description: Directory of PostgreSQL's unix socket.
    type: path
    default: /run/postgresql
  port:
    description: Port of PostgreSQL, which names the socket.
    type: int
    default: 5432
author: Terrace
"""

EXAMPLES = r"""
- name: Keep the settings of databases
  postgresql_settings:
    databases:
      - {name: orders, settings: {work_mem: 32MB, search_path: [shop, public]}}
  become: true
  become_user: postgres
"""

RETURN = r"""
databases:
  description: The databases of which settings were changed, or would be.
  type: list
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import psycopg2
    from psycopg2 import sql
except ImportError:
    psycopg2 = None

# The settings of a database that are no role's. In check mode it may not be there yet.
SETTINGS = """
SELECT array_agg(each ORDER BY each)
  FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase CROSS JOIN unnest(s.setconfig) AS each
 WHERE d.datname = %s AND s.setrole = 0
"""


def value(given: Any) -> Any:
    """Return a value as SQL has it: each a string, which PostgreSQL reads by the setting's own type."""
    parts = given if isinstance(given, list) else [given]
    texts = [("on" if part else "off") if isinstance(part, bool) else str(part) for part in parts]
    return sql.SQL(", ").join(map(sql.Literal, texts))


def setting(name: str) -> Any:
    """Return a setting's name as SQL has it."""
    return sql.Identifier(*name.split("."))


def settings(cursor: Any, database: str) -> list[str]:
    """Return the settings that a database has, each as `name=value`."""
    cursor.execute(SETTINGS, (database,))
    return cursor.fetchone()[0] or []


def keep(connection: Any, database: str, wanted: dict[str, Any], check: bool) -> tuple[list[str], list[str]]:
    """Have a database have its settings, and return those before and those after.

    Parameters:
        connection: to any database, with a transaction for each statement.
        database: its name.
        wanted: values by name.
        check: whether nothing is changed.
    """
    with connection.cursor() as cursor:
        before = settings(cursor, database)
        after = before
        if wanted or before:
            name = sql.Identifier(database)
            cursor.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))
            for key, given in wanted.items():
                statement = sql.SQL("ALTER DATABASE {} SET {} TO {}")
                cursor.execute(statement.format(name, setting(key), value(given)))
            after = settings(cursor, database)
    if check or before == after:
        connection.rollback()
    else:
        connection.commit()
    return before, after


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "databases": {"type": "list", "elements": "dict", "required": True},
            "socket": {"type": "path", "default": "/run/postgresql"},
            "port": {"type": "int", "default": 5432},
        },
        supports_check_mode=True,
    )
    if psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    its = module.params
    changed, differences, name = [], [], "postgres"
    try:
        connection = psycopg2.connect(host=its["socket"], port=its["port"], dbname=name, user="postgres")
        for database in its["databases"]:
            name = database["name"]
            before, after = keep(connection, name, database["settings"], module.check_mode)
            if before != after:
                changed.append(name)
                texts = ("".join(f"{line}\n" for line in lines) for lines in (before, after))
                differences.append(
                    dict(zip(("before", "after"), texts, strict=True), before_header=name, after_header=name)
                )
        connection.close()
    except psycopg2.Error as error:
        module.fail_json(msg=f"the settings of the database {name}: {' '.join(str(error).split())}")
    module.exit_json(changed=bool(changed), databases=changed, diff=differences)


if __name__ == "__main__":
    main()
