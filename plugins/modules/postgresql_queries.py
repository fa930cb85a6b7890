#!/usr/bin/python
"""Run declared queries on a replica, as a reader, and say whether each does what is expected of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_queries
short_description: Hold declared queries against what is expected of their plans
description:
  - Runs on every database host. The first by name that is a replica and follows the primary runs the queries; where
    there is none, the primary does. All others only say who that is.
  - A replica first replays what the primary had written when it was asked.
  - Each query is executed by C(EXPLAIN (ANALYZE, BUFFERS)) in a session and a read-only transaction of its own, which
    is rolled back. It is one statement, since PostgreSQL prepares it by a message of the protocol that takes no more,
    and its parameters have the types that PostgreSQL infers. The plan is that for these parameters (a custom plan).
  - python3-psycopg2 has to be on the host.
options:
  name:
    description: The host's name.
    type: str
    required: true
  members:
    description: All database hosts, each with C(name) and C(address).
    type: list
    elements: dict
    required: true
  rest_port:
    description: The port of Patroni's REST API.
    type: int
    required: true
  queries:
    description:
      - The queries, each with C(service), C(name), C(database), C(user), C(query), C(parameters) (text, numbers, true,
        false or null) and C(expect), which has C(index), C(buffers), C(scan) (rows) and C(seconds).
    type: list
    elements: dict
    required: true
  passwords:
    description: The password of each C(user).
    type: dict
    required: true
  plans:
    description: Whether the plan is returned of queries that hold, too. It is executed once more for that.
    type: bool
    default: false
  wait:
    description: Seconds that a replica has to replay what the primary had written.
    type: int
    default: 15
  socket:
    description: Directory of PostgreSQL's unix socket.
    type: path
    default: /run/postgresql
  port:
    description: Port of PostgreSQL, which names the unix socket.
    type: int
    default: 5432
  ca_file:
    description: The environment's authority.
    type: path
    default: /etc/terrace/pki/ca.crt
author: Terrace
"""

EXAMPLES = r"""
- name: Try what is declared
  postgresql_queries:
    name: "{{ inventory_hostname }}"
    members: [{name: db1, address: 10.77.0.41}, {name: db2, address: 10.77.0.42}]
    rest_port: 8008
    queries:
      - service: orders
        name: of-user
        database: orders
        user: orders_reader
        query: SELECT id FROM orders WHERE user_id = $1 ORDER BY id DESC LIMIT 20
        parameters: [42]
        expect: {index: [orders_user_id_id_idx], buffers: 100, scan: 10000, seconds: 5}
    passwords: {orders_reader: "{{ reader_password }}"}
"""

RETURN = r"""
chosen:
  description: The host that runs the queries.
  type: str
  returned: success
replica:
  description: Whether that is a replica.
  type: bool
  returned: success
results:
  description:
    - Of each query C(service), C(name), C(ok), C(findings) (each with C(expectation), C(found) and C(verdict), which is
      holds, fails, or not judged), C(buffers), C(rows), C(milliseconds), C(plan) (as EXPLAIN prints it), C(warnings)
      and C(error), why it could not be tried.
    - Empty on hosts that were not chosen.
  type: list
  returned: success
"""

import ctypes
import json
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.patroni_cluster import Rest
from ansible.module_utils.postgresql_explain import FAILS, Index, Plan, Table, judge, read_plan, warnings
from ansible.module_utils.rendezvous import client_context

try:
    import psycopg2
    from psycopg2 import errorcodes, sql
except ImportError:
    psycopg2 = None

STATEMENT = "terrace_query"
# Milliseconds that a query waits for a lock: behind a change of the schema it would be cut off for no fault of its own.
LOCK_TIMEOUT = 2000
# A replica may cancel what reads rows that the primary has removed meanwhile.
TRIES = 3
POLL_SECONDS = 0.2
PGRES_COMMAND_OK = 1

# Tables by schema and name, and indexes by name, with the table or index whose partition each is. Of a name that is
# there in several schemas, the one that is found without its schema comes first.
RELATIONS = """
SELECT c.oid, n.nspname, c.relname, c.relkind IN ('i', 'I') AS is_index, coalesce(i.indisvalid, true) AS valid,
       t.oid AS table_oid, tn.nspname AS table_schema, t.relname AS table_name, t.reltuples::bigint AS table_rows,
       tr.nspname AS root_schema, tr.relname AS root_name, coalesce(ir.relname, c.relname) AS index_root
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indexrelid = c.oid
JOIN pg_class t ON t.oid = coalesce(i.indrelid, c.oid)
JOIN pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN LATERAL (
    SELECT r.relname, rn.nspname FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
    WHERE r.oid = coalesce(pg_partition_root(t.oid), t.oid)
) tr ON true
LEFT JOIN pg_class ir ON c.relkind IN ('i', 'I') AND ir.oid = pg_partition_root(c.oid)
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::text[], %(tables)s::text[]))
   OR (c.relkind IN ('i', 'I') AND c.relname = ANY (%(indexes)s))
ORDER BY pg_table_is_visible(c.oid), c.oid DESC
"""
# A partitioned table has no rows of its own, and is counted only where somebody says ANALYZE: its partitions are.
PARTS = """
SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint, coalesce(bool_and(c.reltuples >= 0), false)
FROM pg_partition_tree(%s::oid) p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf
"""


class QueryError(Exception):
    """A query could not be tried; the text says why, in one line."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(" ".join(text.split()))
        self.code = code


def prepare(connection: Any, query: str) -> None:
    """Have the server prepare a query as STATEMENT, by the message of the protocol that takes one statement only.

    psycopg2 sends nothing but simple queries, which may be several in one text. It documents `pgconn_ptr` for calls of
    libpq such as this one (https://www.psycopg.org/docs/connection.html#connection.pgconn_ptr).

    Raises QueryError where the server refuses it.
    """
    libpq = ctypes.CDLL("libpq.so.5")
    libpq.PQprepare.restype = ctypes.c_void_p
    libpq.PQprepare.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    libpq.PQresultStatus.argtypes = libpq.PQclear.argtypes = [ctypes.c_void_p]
    libpq.PQresultErrorField.argtypes = [ctypes.c_void_p, ctypes.c_int]
    libpq.PQresultErrorField.restype = ctypes.c_char_p
    result = libpq.PQprepare(connection.pgconn_ptr, STATEMENT.encode(), query.encode(), 0, None)
    try:
        if libpq.PQresultStatus(result) != PGRES_COMMAND_OK:
            code, text = (libpq.PQresultErrorField(result, ord(field)) or b"" for field in "CM")
            raise QueryError(text.decode(errors="replace") or "the session ended", code.decode())
    finally:
        libpq.PQclear(result)


def literal(value: Any) -> str | None:
    """Return a parameter as PostgreSQL reads it, whatever its type turns out to be."""
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


class Trial:
    """One query in a session and a transaction of its own, which ends with it.

    Parameters:
        query: as of the module.
        password: of its user.
        socket, port: where PostgreSQL is.
    Errors:
        QueryError where nobody can log in.
    """

    def __init__(self, query: Mapping[str, Any], password: str, socket: str, port: int) -> None:
        self.query = query
        try:
            self._connection = psycopg2.connect(
                host=socket, port=port, dbname=query["database"], user=query["user"], password=password,
                connect_timeout=5, application_name="terrace-queries",
            )  # fmt: skip
        except psycopg2.Error as error:
            raise QueryError(str(error)) from None
        self._connection.set_session(readonly=True)
        self._cursor = self._connection.cursor()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, statement: str, values: Any = None) -> list[tuple]:
        """Return the rows that a statement yields, in the transaction; QueryError where the server refuses it."""
        try:
            self._cursor.execute(statement, values)
            return self._cursor.fetchall() if self._cursor.description else []
        except psycopg2.Error as error:
            text = error.diag.message_primary or str(error)
            raise QueryError(text, error.pgcode or "") from None

    def begin(self) -> None:
        """Begin anew, with the query prepared and nothing that went before."""
        self._connection.rollback()
        milliseconds = self.query["expect"]["seconds"] * 1000
        self.ask(f"SET LOCAL statement_timeout = {milliseconds:d}")
        self.ask(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT:d}")
        self.ask("SET LOCAL plan_cache_mode = force_custom_plan")
        self.ask("DEALLOCATE ALL")
        prepare(self._connection, self.query["query"])

    def explain(self, options: str) -> list[tuple]:
        """Return what EXPLAIN says of the query, with the parameters as they are declared."""
        values = [literal(value) for value in self.query["parameters"]]
        places = f"({', '.join(['%s'] * len(values))})" if values else ""
        return self.ask(f"EXPLAIN ({options}) EXECUTE {STATEMENT}{places}", values)

    def run(self) -> tuple[Plan, bool]:
        """Return what the query did or, where it did not end in time, what it would do; and whether it ended."""
        for left in reversed(range(TRIES)):
            self.begin()
            try:
                [[explained]] = self.explain("ANALYZE, BUFFERS, VERBOSE, FORMAT JSON")
                return read_plan(_json(explained)[0]), True
            except QueryError as error:
                if error.code == errorcodes.SERIALIZATION_FAILURE and left:
                    continue
                if error.code != errorcodes.QUERY_CANCELED:
                    raise
                self.begin()
                [[explained]] = self.explain("VERBOSE, FORMAT JSON")
                return read_plan(_json(explained)[0]), False
        raise AssertionError

    def text(self, ended: bool) -> str:
        """Return the plan as EXPLAIN prints it; the query is executed once more, unless it did not end."""
        if ended:
            try:
                self.begin()
                return "\n".join(line for (line,) in self.explain("ANALYZE, BUFFERS"))
            except QueryError:
                pass
        self.begin()
        return "\n".join(line for (line,) in self.explain("COSTS"))

    def known(self, plan: Plan) -> tuple[dict[tuple[str, str], Table], dict[str, Index]]:
        """Return the tables that a plan reads sequentially, and the indexes that it uses or has to use."""
        scanned = [(scan.schema, scan.relation) for scan in plan.scans]
        names = {
            "schemas": [schema for schema, _ in scanned],
            "tables": [relation for _, relation in scanned],
            "indexes": [*plan.indexes, *self.query["expect"]["index"]],
        }
        tables, indexes = {}, {}
        for row in self.ask(RELATIONS, names):
            (_, schema, name, is_index, valid, oid, table_schema, table_name, rows, *root, index_root) = row
            analyzed = rows >= 0
            if not analyzed:
                rows, analyzed = self._counted(oid, table_schema, table_name)
            table = Table(_shown(table_schema, table_name), rows, _shown(*root), analyzed)
            if is_index:
                indexes[name] = Index(index_root, table, valid)
            else:
                tables[schema, name] = table
        return tables, indexes

    def _counted(self, oid: int, schema: str, name: str) -> tuple[int, bool]:
        """Return the rows of a table that was never counted, one too many at most; and whether its parts were."""
        [[rows, counted]] = self.ask(PARTS, [oid])
        if counted:
            return rows, True
        most = sql.Literal(self.query["expect"]["scan"] + 1)
        counting = sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT {}) AS few")
        [[rows]] = self.ask(counting.format(sql.Identifier(schema, name), most))
        return rows, False


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _shown(schema: str, name: str) -> str:
    return name if schema == "public" else f"{schema}.{name}"


def attempt(query: Mapping[str, Any], password: str, socket: str, port: int, plans: bool) -> dict[str, Any]:
    """Return what came of a query, as the module returns it."""
    result = {"service": query["service"], "name": query["name"], "ok": False, "findings": [], "error": ""}
    result |= {"buffers": None, "rows": None, "milliseconds": None, "plan": "", "warnings": []}
    try:
        with Trial(query, password, socket, port) as trial:
            plan, ended = trial.run()
            tables, indexes = trial.known(plan)
            findings = judge(plan, query["expect"], tables, indexes)
            ok = all(finding["verdict"] != FAILS for finding in findings)
            result |= {"ok": ok, "findings": findings, "warnings": warnings(plan, tables, indexes)}
            result |= {"buffers": plan.buffers, "rows": plan.rows, "milliseconds": plan.milliseconds}
            result["plan"] = trial.text(ended) if plans or not ok else ""
    except QueryError as error:
        result |= {"ok": False, "error": str(error)}
    return result


def choose(told: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the member that runs the queries: the first replica that follows, or else the primary; or none.

    Parameters:
        told: by name what each member says of itself.
    """
    for name in sorted(told):
        its = told[name]
        if its.get("role") == "replica" and its.get("replication_state") == "streaming":
            return name
    return next((name for name in sorted(told) if told[name].get("role") in ("primary", "master")), "")


def caught_up(trial: Trial, location: int, seconds: int) -> bool:
    """Wait until a replica has replayed the WAL up to a location, in bytes; say whether it has.

    Parameters:
        seconds: how long that may take.
    """
    end = time.monotonic() + seconds
    while True:
        [[replayed]] = trial.ask("SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')")
        if replayed is None or replayed >= location:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Run the module."""
    dicts: dict[str, Any] = {"type": "list", "elements": "dict", "required": True}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "members": dicts,
            "rest_port": {"type": "int", "required": True},
            "queries": dicts,
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "plans": {"type": "bool", "default": False},
            "wait": {"type": "int", "default": 15},
            "socket": {"type": "path", "default": "/run/postgresql"},
            "port": {"type": "int", "default": 5432},
            "ca_file": {"type": "path", "default": "/etc/terrace/pki/ca.crt"},
        },
        supports_check_mode=True,
    )
    its = module.params
    context = client_context(its["ca_file"])
    told = {m["name"]: Rest(m["address"], its["rest_port"], context).told() for m in its["members"]}
    chosen = choose(told)
    if not chosen:
        module.fail_json(msg="PostgreSQL has neither a replica that follows nor a primary now; `make status` tells why")
    replica = told[chosen]["role"] == "replica"
    answer = {"changed": False, "chosen": chosen, "replica": replica, "results": []}
    if chosen != its["name"]:
        module.exit_json(**answer)
    if psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    where = (its["socket"], its["port"])
    queries = its["queries"]
    written = [each["xlog"]["location"] for each in told.values() if "location" in each.get("xlog", {})]
    if replica and written and queries:
        try:
            with Trial(queries[0], its["passwords"][queries[0]["user"]], *where) as trial:
                if not caught_up(trial, max(written), its["wait"]):
                    text = f"{chosen} is behind the primary, for more than {its['wait']} s; `make status` tells why"
                    module.fail_json(msg=text)
        except QueryError:
            # The same is said of the query itself, below.
            pass
    answer["results"] = [attempt(q, its["passwords"][q["user"]], *where, its["plans"]) for q in queries]
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
