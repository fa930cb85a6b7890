#!/usr/bin/python
"""Have databases have the indexes that are declared of them, while they are written to."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_indexes
short_description: Build, exchange and drop declared indexes of PostgreSQL while tables are written to
description:
  - Compares each declared index with the real one as PostgreSQL itself normalises both, by making the declared one on
    an empty, temporary copy of its table, in a transaction that is rolled back.
  - What is missing is built by C(CREATE INDEX CONCURRENTLY), what is invalid is built anew, what differs is built under
    another name which then takes over. What is not declared is left alone.
  - Acts on a primary only; on a replica it does nothing. Two runs on one database wait for each other.
  - What a run that was cut off has left is mended by the next.
options:
  databases:
    description:
      - The databases, each with C(name), C(place) (where it is declared) and C(indexes).
      - Each index has every key of C(database.indexes) in the contract of services, and C(name), C(table) and C(place).
    type: list
    elements: dict
    required: true
  want:
    description:
      - C(apply) does what has to be done, C(plan) only says it, as check mode does.
      - C(progress) says how far the builds of another run of this module are.
    type: str
    choices: [apply, plan, progress]
    default: apply
  lock_timeout:
    description: Seconds that a statement may wait for a lock, or for older transactions, before it is given up.
    type: int
    default: 60
  exchange_timeout:
    description: Seconds that the exchange of two names may wait for its locks.
    type: int
    default: 2
  retries:
    description: How often a statement that waited for too long is run again, after 1, 2, 4, ... seconds.
    type: int
    default: 5
  wait:
    description: Seconds to wait for another run on the same database to end.
    type: int
    default: 60
  maintenance_work_mem:
    description: Memory for a build, as PostgreSQL writes it, such as C(512MB); without it the server's setting.
    type: str
    default: ''
  socket:
    description: Directory of PostgreSQL's unix socket.
    type: path
    default: /run/postgresql
  port:
    description: Port of PostgreSQL, which names the socket.
    type: int
    default: 5432
  user:
    description:
      - PostgreSQL's superuser, by whom it connects. Run by root, the module does so as the system user of this name.
    type: str
    default: postgres
author: Terrace
"""

EXAMPLES = r"""
- name: Have the database have its indexes
  postgresql_indexes:
    databases:
      - name: orders
        place: services/orders.yml
        indexes:
          - name: orders_user_id_idx
            table: orders
            place: "services/orders.yml: database.indexes.orders[0]"
            columns: [{column: user_id, expression: '', order: '', nulls: '', opclass: '', collation: ''}]
            method: btree
            unique: false
            nulls_distinct: true
            include: []
            where: ''
            with: {}
            state: present
  become: true
"""

RETURN = r"""
primary:
  description: Whether this host is the primary; where it is not, nothing was looked at.
  type: bool
  returned: always
under_way:
  description: Whether another run is at it.
  type: bool
  returned: where progress was asked for
progress:
  description: How far each build is, a line each.
  type: list
  returned: where progress was asked for
statements:
  description: The statements that were run, or would be, in order.
  type: list
  returned: on a primary
said:
  description: What has, or had, to be done, a line for each index.
  type: list
  returned: on a primary
created:
  description: The indexes that were missing, each as C(database.name).
  type: list
  returned: on a primary
changed_indexes:
  description: Those that differed, and were built anew.
  type: list
  returned: on a primary
rebuilt:
  description: Those that were invalid.
  type: list
  returned: on a primary
dropped:
  description: Those that were to be absent.
  type: list
  returned: on a primary
undeclared:
  description:
    - Indexes of the same tables that nobody declared, without those of constraints.
    - Each has C(database), C(table), C(name), C(definition) and C(valid).
  type: list
  returned: on a primary
seconds:
  description: How long it took.
  type: float
  returned: on a primary
"""

import os
import pwd
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.postgresql_index import (
    FACTS,
    NEW,
    OLD,
    PROGRESS,
    IndexesError,
    Step,
    Work,
    create,
    drop,
    interim,
    progress,
    qualified,
    quoted,
    schema_and_table,
    statements,
    undeclared,
    work,
)

try:
    import psycopg2
    import psycopg2.extras
    from psycopg2 import errors
except ImportError:
    psycopg2 = None

# By it others tell these sessions, and a second run finds the first.
APPLICATION = "terrace_indexes"
# Of the advisory lock that a run has on its database. Any number, as long as no application takes it, too.
LOCK = 8_413_770_529_061
SESSION = {
    "application_name": APPLICATION,
    # A build may take hours.
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    # A build whose module was killed ends by itself.
    "client_connection_check_interval": "2s",
    "default_transaction_read_only": "off",
}
VERBS = {
    "created": "build",
    "changed": "exchange",
    "rebuilt": "build anew",
    "dropped": "drop",
    "tidied": "clear away what is left of",
}
# What CREATE INDEX CONCURRENTLY takes, by pg_class.relkind: tables and materialized views; and why not others.
KINDS = ("r", "m")
OTHERS = {
    "p": "is partitioned, and PostgreSQL builds no index of all partitions concurrently; declare it for each partition",
    "f": "is a foreign table; declare it where the table is",
    "v": "is a view; declare it for a table",
}


@contextmanager
def as_user(name: str) -> Iterator[None]:
    """Be another user for a moment, where this one is root: over its socket PostgreSQL knows by that who connects."""
    if os.geteuid() != 0:
        yield
        return
    its = pwd.getpwnam(name)
    before = os.getegid()
    os.setegid(its.pw_gid)
    os.seteuid(its.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before)


class Session:
    """A session on one database.

    Parameters:
        database: its name.
        its: the module's parameters.
        place: where the database is declared, for errors.
        watching: whether it only looks at what others do.
    """

    def __init__(self, database: str, its: Mapping[str, Any], place: str, watching: bool = False) -> None:
        try:
            with as_user(its["user"]):
                self.connection = psycopg2.connect(
                    host=its["socket"], port=its["port"], dbname=database, user=its["user"], connect_timeout=10
                )
        except psycopg2.OperationalError as error:
            raise IndexesError(
                f"{place}: cannot reach the database {database}: {' '.join(str(error).split())}"
            ) from None
        self.database = database
        self.connection.autocommit = True
        if watching:
            return
        for name, value in SESSION.items():
            self.set(name, value)
        if its["maintenance_work_mem"]:
            self.set("maintenance_work_mem", its["maintenance_work_mem"])
        self.set("lock_timeout", f"{its['lock_timeout']}s")

    def set(self, name: str, value: str) -> None:
        """Give a parameter a value, for this session."""
        self.rows("SELECT set_config(%s, %s, false)", (name, value))

    def rows(self, query: str, values: Any = None) -> list[dict[str, Any]]:
        """Return what a query yields, each row by its columns' names."""
        with self.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(query, values)
            return [dict(row) for row in cursor.fetchall()]

    def one(self, query: str, values: Any = None) -> Any:
        """Return the first value that a query yields."""
        return next(iter(self.rows(query, values)[0].values()))

    def run(self, statement: str) -> None:
        """Run a statement."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)

    @contextmanager
    def transaction(self, ending: str) -> Iterator[None]:
        """Run statements in a transaction that ends as said, or is rolled back where one fails."""
        self.run("BEGIN")
        try:
            yield
        except BaseException:
            if not self.connection.closed:
                self.run("ROLLBACK")
            raise
        self.run(ending)

    def in_schema(self, schema: str) -> None:
        """Have what expressions name be looked for in a table's schema, then in `public`."""
        self.set("search_path", f"{quoted(schema)}, public")

    def close(self) -> None:
        """End it."""
        self.connection.close()


def said(error: Exception) -> str:
    """Return what PostgreSQL says, without the values of rows that its details have."""
    diagnosis = getattr(error, "diag", None)
    text = (diagnosis.message_primary if diagnosis else None) or str(error)
    hint = diagnosis.message_hint if diagnosis else None
    return " ".join(f"{text} ({hint})".split() if hint else text.split())


def tables_of(session: Session, indexes: list[dict]) -> dict[str, dict[str, Any]]:
    """Return by declared table what it is; tables of which indexes are only to be absent may be missing.

    Errors:
        IndexesError, a line for each table that is not there or cannot have its indexes built concurrently.
    """
    found, wrong = {}, []
    for index in indexes:
        table = index["table"]
        if table in found:
            continue
        rows = session.rows(
            "SELECT oid, relkind::text AS kind, pg_get_userbyid(relowner) AS owner FROM pg_class"
            " WHERE oid = to_regclass(%s)",
            (qualified(table),),
        )
        needed = [each for each in indexes if each["table"] == table and each["state"] == "present"]
        if not rows and needed:
            wrong.append(
                f"{needed[0]['place']}: there is no table {table} in the database {session.database}; correct the "
                "name, or have a migration of the service make it (a deploy runs it)"
            )
        elif rows and rows[0]["kind"] not in KINDS and needed:
            why = OTHERS.get(rows[0]["kind"], "is no table; take it out")
            wrong.append(f"{needed[0]['place']}: {table} {why}")
        found[table] = rows[0] if rows else {}
    if wrong:
        raise IndexesError("\n".join(wrong))
    return found


def as_declared(session: Session, table: str, its: Mapping[str, Any], indexes: list[dict]) -> dict[str, dict[str, Any]]:
    """Return what PostgreSQL says of the declared indexes of a table, by name: they are made on an empty copy of it.

    The copy has the table's name, since expressions may use it, and its owner, by whom PostgreSQL runs their functions.

    Errors:
        IndexesError, a line for each index that PostgreSQL refuses.
    """
    _, name = schema_and_table(table)
    copy = f"pg_temp.{quoted(name)}"
    refused = []
    with session.transaction("ROLLBACK"):
        session.run(f"CREATE TEMPORARY TABLE {quoted(name)} (LIKE {qualified(table)}) ON COMMIT DROP")
        session.run(f"ALTER TABLE {copy} OWNER TO {quoted(its['owner'])}")
        for index in indexes:
            session.run("SAVEPOINT index")
            try:
                session.run(create(index, concurrently=False, on=copy))
            except psycopg2.Error as error:
                session.run("ROLLBACK TO SAVEPOINT index")
                refused.append(f"{index['place']}: PostgreSQL refuses it for {table}: {said(error)}; correct it")
        if refused:
            raise IndexesError("\n".join(refused))
        oid = session.one("SELECT %s::regclass::oid", (copy,))
        return {facts["name"]: facts for facts in session.rows(FACTS, {"tables": [oid], "schemas": [], "names": []})}


def plan(session: Session, indexes: list[dict]) -> tuple[list[Work], list[dict[str, Any]]]:
    """Return what has to be done in a database, and what it has besides.

    Errors:
        IndexesError, a line for each thing that is wrong; nothing was changed then.
    """
    tables = tables_of(session, indexes)
    works, besides, wrong = [], [], []
    for table, its in tables.items():
        own = [index for index in indexes if index["table"] == table]
        schema, _ = schema_and_table(table)
        session.in_schema(schema)
        names = [
            each for index in own for each in (index["name"], interim(index["name"], NEW), interim(index["name"], OLD))
        ]
        oid = its.get("oid")
        facts = session.rows(FACTS, {"tables": [oid] if oid else [], "schemas": [schema] * len(names), "names": names})
        real = {each["name"]: each for each in facts if each["schema"] == schema}
        besides += undeclared(own, [each for each in facts if each["table_oid"] == oid])
        try:
            present = [index for index in own if index["state"] == "present"]
            declared = as_declared(session, table, its, present) if present else {}
            works += filter(None, (work(index, declared.get(index["name"]), real, oid) for index in own))
        except IndexesError as error:
            wrong.append(str(error))
    if wrong:
        raise IndexesError("\n".join(wrong))
    return works, besides


def blockers(session: Session) -> str:
    """Return the oldest transactions of others in this database, which a build waits for, without what they run."""
    rows = session.rows(
        "SELECT pid, usename AS role, coalesce(nullif(application_name, ''), 'no name') AS application, state,"
        " round(extract(epoch FROM clock_timestamp() - xact_start)) AS seconds FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        " AND backend_type = 'client backend' ORDER BY xact_start LIMIT 3"
    )
    told = [
        f"{row['pid']} of {row['role']} ({row['application']}, {row['state']}) since {row['seconds']} s" for row in rows
    ]
    return f"; the oldest transactions are {', '.join(told)}" if told else ""


class Builder:
    """Carries out what is planned for one database.

    Parameters:
        session: on it.
        its: the module's parameters.
        sleep: waits for some seconds.
    """

    def __init__(self, session: Session, its: Mapping[str, Any], sleep: Callable[[float], None] = time.sleep) -> None:
        self.session, self.its, self.sleep = session, its, sleep

    def carry_out(self, one: Work) -> None:
        """Do what has to be done for one index.

        Errors:
            IndexesError, where it cannot be, with the mend; a further run goes on from there.
        """
        schema, _ = schema_and_table(one.index["table"])
        self.session.in_schema(schema)
        for step in one.steps:
            try:
                self._patiently(one, step)
            except errors.UniqueViolation:
                self._patiently(one, drop(one.index, step.name))
                raise IndexesError(_twice(one.index)) from None
            except psycopg2.Error as error:
                if self.session.connection.closed:
                    raise IndexesError(
                        f"{one.index['place']}: the connection was lost ({said(error)}); the next run mends what is "
                        f"left of {step.name}: make site"
                    ) from None
                raise IndexesError(f"{one.index['place']}: {step.name} could not be made: {said(error)}") from None

    def _patiently(self, one: Work, step: Step) -> None:
        """Run a step; where it has to wait for too long, let others go first, and try again."""
        for attempt in range(self.its["retries"] + 1):
            try:
                if attempt and step.kind == "build":
                    # A build that was given up leaves an invalid index.
                    self._run(drop(one.index, step.name))
                self._run(step)
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                told = blockers(self.session)
                if attempt < self.its["retries"]:
                    self.sleep(2**attempt)
                    continue
                if step.kind == "build":
                    # Where it cannot be dropped either, the next run does.
                    with suppress(errors.LockNotAvailable):
                        self._run(drop(one.index, step.name))
                raise IndexesError(
                    f"{one.index['place']}: {step.name}: {attempt + 1} times in vain: {said(error)}{told}; end what "
                    "holds it up, and run it again: make site"
                ) from None
            else:
                return

    def _run(self, step: Step) -> None:
        if step.kind != "exchange":
            self.session.run(step.statements[0])
            return
        with self.session.transaction("COMMIT"):
            self.session.run(f"SET LOCAL lock_timeout = '{self.its['exchange_timeout']}s'")
            for statement in step.statements:
                self.session.run(statement)


def _twice(index: Mapping[str, Any]) -> str:
    keys = ", ".join(quoted(each["column"]) if each["column"] else each["expression"] for each in index["columns"])
    where = f" WHERE {index['where']}" if index["where"] else ""
    them = f"{keys}, count(*) FROM {qualified(index['table'])}{where} GROUP BY {keys} HAVING count(*) > 1"
    return (
        f"{index['place']}: {index['name']} cannot be unique, since rows have the same values; find them: SELECT {them}"
    )


def lock(session: Session, place: str, seconds: int) -> None:
    """Keep other runs away from a database as long as the session lasts: they hold a lock that is no transaction's.

    Errors:
        IndexesError, where another run goes on for longer.
    """
    deadline = time.monotonic() + seconds
    while not session.one("SELECT pg_try_advisory_lock(%s)", (LOCK,)):
        if time.monotonic() >= deadline:
            raise IndexesError(
                f"{place}: another run goes on with indexes of {session.database}; run it again when it has ended (in "
                f"pg_stat_activity it is the one with application_name {APPLICATION})"
            )
        time.sleep(1)


def how_far(its: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Return whether another run is at it, and how far its builds are; a database that cannot be asked has none."""
    under_way, lines = False, []
    for database in its["databases"]:
        with suppress(IndexesError, psycopg2.Error):
            session = Session(database["name"], its, database["place"], watching=True)
            lines += map(progress, session.rows(PROGRESS, {"application": APPLICATION}))
            query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %s)"
            under_way = under_way or session.one(query, (APPLICATION,))
            session.close()
    return under_way, lines


def said_of(database: str, one: Work) -> str:
    """Return what is to be done for an index, in a line."""
    return f"{database}: {VERBS[one.outcome]} {one.index['name']} on {one.index['table']}: it {one.why}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "databases": {"type": "list", "elements": "dict", "required": True},
            "want": {"type": "str", "choices": ["apply", "plan", "progress"], "default": "apply"},
            "lock_timeout": {"type": "int", "default": 60},
            "exchange_timeout": {"type": "int", "default": 2},
            "retries": {"type": "int", "default": 5},
            "wait": {"type": "int", "default": 60},
            "maintenance_work_mem": {"type": "str", "default": ""},
            "socket": {"type": "path", "default": "/run/postgresql"},
            "port": {"type": "int", "default": 5432},
            "user": {"type": "str", "default": "postgres"},
        },
        supports_check_mode=True,
    )
    if psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    its = module.params
    if its["want"] == "progress":
        under_way, lines = how_far(its)
        module.exit_json(changed=False, primary=True, under_way=under_way, progress=lines)
    start = time.monotonic()
    only_plan = its["want"] == "plan" or module.check_mode
    told: dict[str, Any] = {"primary": True, "statements": [], "said": [], "undeclared": []}
    told |= {outcome: [] for outcome in ("created", "changed_indexes", "rebuilt", "dropped", "tidied")}
    wrong: list[str] = []
    for database in its["databases"]:
        session = None
        try:
            session = Session(database["name"], its, database["place"])
            if session.one("SELECT pg_is_in_recovery()"):
                module.exit_json(changed=False, primary=False)
            if not only_plan:
                lock(session, database["place"], its["wait"])
            works, besides = plan(session, database["indexes"])
            told["undeclared"] += [{"database": database["name"], **each} for each in besides]
            builder = Builder(session, its)
            for one in works:
                if not only_plan:
                    builder.carry_out(one)
                told["statements"] += statements([one])
                told["said"].append(said_of(database["name"], one))
                outcome = "changed_indexes" if one.outcome == "changed" else one.outcome
                told[outcome].append(f"{database['name']}.{one.index['name']}")
        except IndexesError as error:
            wrong.append(str(error))
        except psycopg2.Error as error:
            wrong.append(f"{database['place']}: {said(error)}")
        finally:
            if session:
                session.close()
    told["seconds"] = round(time.monotonic() - start, 3)
    told["changed"] = bool(told["statements"])
    if told["statements"]:
        told["diff"] = [{"prepared": "".join(f"{statement};\n" for statement in told["statements"])}]
    if wrong:
        module.fail_json(msg="\n".join(wrong), **told)
    module.exit_json(**told)


if __name__ == "__main__":
    main()
