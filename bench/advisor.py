#!/usr/bin/env python3
"""Judges the advisor of `make query-report` on databases that nobody designed for it: `bench/advisor.py OUT.json
[NAME ...]`.

It makes databases after published benchmarks (`pgbench`, TPC-C, TPC-H), without their secondary indexes, runs a
workload on each, asks the advisor, makes the indexes that it names, and times the workload before and after. Beside
that, every index on one column and on two is tried by hypopg with the workload's own values, and the best thirty of
them, and all that were recommended, are made and timed one by one: those are the useful ones that precision and
recall are of.

PostgreSQL is the one that libpq's variables lead to (PGHOST, PGUSER, ...), as a superuser, with hypopg and
pg_stat_statements; the databases bench_advisor_* are made there and dropped in the end. It needs psycopg2 and nothing
else. `bench/run advisor` runs it on the lab's primary. SCALE (1) makes the tables so many times as large.

`bench/advisor.py OUT.json --fill` fills the databases bench_pgbench, bench_tpcc and bench_tpch, which are there
already, each with an owner (bench_pgbench_owner, ...), times the workloads and leaves their statistics to be read;
`--time` times them again. So `bench/run advisor` tries what `make query-report` advises and `site.yml` makes.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

# The advisor's logic is modules' own, which Ansible imports under this name.
HERE = Path(__file__).resolve().parent
for NAME, PLACE in (("ansible", []), ("ansible.module_utils", [str(HERE.parent / "plugins/module_utils"), str(HERE)])):
    sys.modules[NAME] = types.ModuleType(NAME)
    sys.modules[NAME].__path__ = PLACE

from ansible.module_utils import postgresql_advisor, postgresql_statistics  # noqa: E402
from ansible.module_utils.postgresql_plans import Session  # noqa: E402

SCALE = float(os.environ.get("SCALE") or 1)
BEST = 30
USEFUL = 0.02  # of the workload's time that an index saves to be useful,
HELPS = 0.1  # and of one statement's
CLOSE = 0.8  # of what it saves that the recommended ones have to save on the statements that it helps, to be as good
PAGES = 16
SLOW_MS = 500  # A statement that takes so long is timed without an index once, and not beside each.


@dataclass
class Statement:
    """A statement of a workload: its SQL, how often it is run for each once of the rarest, and what makes its"
    " values."""

    name: str
    sql: str
    weight: float
    values: Callable[[random.Random], tuple]
    samples: int = 8


@dataclass
class Workload:
    """Tables and what is asked of them."""

    name: str
    schema: str
    statements: list[Statement]
    repeats: int = 3


def size(rows: float) -> int:
    """Return a number of rows at this scale."""
    return max(1, int(rows * SCALE))


def tables(name: str, **rows: int) -> str:
    """Return the SQL that makes a workload's tables.

    Parameters:
        name: the workload's file.
        rows: the numbers that stand in it in braces.
    """
    return (HERE / f"workloads/{name}.sql").read_text().format(**rows)


# After pgbench: its tables, its transaction, and readers who ask by other columns than its keys.
ACCOUNTS, HISTORY = size(500_000), size(200_000)
PGBENCH = Workload(
    "pgbench",
    tables("pgbench", accounts=ACCOUNTS, history=HISTORY),
    [
        Statement("update accounts", "UPDATE pgbench_accounts SET abalance = abalance + %s WHERE aid = %s", 20,
                  lambda r: (r.randint(-5000, 5000), r.randint(1, ACCOUNTS))),
        Statement("select account", "SELECT abalance FROM pgbench_accounts WHERE aid = %s", 40,
                  lambda r: (r.randint(1, ACCOUNTS),)),
        Statement("update tellers", "UPDATE pgbench_tellers SET tbalance = tbalance + %s WHERE tid = %s", 20,
                  lambda r: (r.randint(-5000, 5000), r.randint(1, 50))),
        Statement("update branches", "UPDATE pgbench_branches SET bbalance = bbalance + %s WHERE bid = %s", 20,
                  lambda r: (r.randint(-5000, 5000), r.randint(1, 5))),
        Statement("insert history",
                  "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (%s, %s, %s, %s,"
                  " CURRENT_TIMESTAMP)", 20,
                  lambda r: (r.randint(1, 50), r.randint(1, 5), r.randint(1, ACCOUNTS), r.randint(-5000, 5000))),
        Statement("rich accounts of a branch",
                  "SELECT aid, abalance FROM pgbench_accounts WHERE bid = %s AND abalance > %s ORDER BY abalance"
                  " DESC LIMIT 20", 2,
                  lambda r: (r.randint(1, 5), r.randint(4900, 4990))),
        Statement("last of an account", "SELECT * FROM pgbench_history WHERE aid = %s ORDER BY mtime DESC LIMIT 10", 4,
                  lambda r: (r.randint(1, ACCOUNTS),)),
        Statement("tellers within an hour",
                  "SELECT tid, sum(delta) FROM pgbench_history WHERE mtime >= %s::timestamp"
                  " AND mtime < %s::timestamp + interval '1 hour' GROUP BY tid", 2,
                  lambda r: (f"2026-01-{d:02} 10:00",) * 2 if (d := r.randint(2, 20)) else ()),
        Statement("sum of a teller", "SELECT count(*), sum(delta) FROM pgbench_history WHERE tid = %s", 1,
                  lambda r: (r.randint(1, 50),)),
    ],
)  # fmt: skip

# After TPC-C: two warehouses, the statements of its five transactions; customers by name and orders by customer have
# no index.
W, D, C, O, I = 2, 10, size(3000), size(3000), size(50_000)  # noqa: E741
TPCC = Workload(
    "tpcc",
    tables("tpcc", c=C, d=D, i=I, o=O, w=W),
    [
        Statement("customer by name",
                  "SELECT c_id, c_first, c_balance, c_credit, c_data FROM customer"
                  " WHERE c_w_id = %s AND c_d_id = %s AND c_last = %s ORDER BY c_first", 9,
                  lambda r: (r.randint(1, W), r.randint(1, D), f"LAST{r.randint(0, 999)}")),
        Statement("count by name", "SELECT count(c_id) FROM customer WHERE c_last = %s AND c_d_id = %s AND c_w_id ="
                  " %s", 3,
                  lambda r: (f"LAST{r.randint(0, 999)}", r.randint(1, D), r.randint(1, W))),
        Statement("customer by key",
                  "SELECT c_first, c_last, c_discount, c_credit FROM customer WHERE c_w_id = %s AND c_d_id = %s AND"
                  " c_id = %s", 18,
                  lambda r: (r.randint(1, W), r.randint(1, D), r.randint(1, C))),
        Statement("pay", "UPDATE customer SET c_balance = c_balance - %s, c_payment_cnt = c_payment_cnt + 1"
                  " WHERE c_w_id = %s AND c_d_id = %s AND c_id = %s", 15,
                  lambda r: (r.randint(1, 99), r.randint(1, W), r.randint(1, D), r.randint(1, C))),
        Statement("pay warehouse", "UPDATE warehouse SET w_ytd = w_ytd + %s WHERE w_id = %s", 15,
                  lambda r: (r.randint(1, 99), r.randint(1, W))),
        Statement("pay district", "UPDATE district SET d_ytd = d_ytd + %s WHERE d_w_id = %s AND d_id = %s", 15,
                  lambda r: (r.randint(1, 99), r.randint(1, W), r.randint(1, D))),
        Statement("note payment", "INSERT INTO history VALUES (%s, %s, %s, %s, %s, now(), %s)", 15,
                  lambda r: (r.randint(1, C), r.randint(1, D), r.randint(1, W), 1, 1, 5)),
        Statement("last order of a customer",
                  "SELECT o_id, o_carrier_id, o_entry_d FROM orders WHERE o_w_id = %s AND o_d_id = %s AND o_c_id = %s"
                  " ORDER BY o_id DESC LIMIT 1", 4,
                  lambda r: (r.randint(1, W), r.randint(1, D), r.randint(1, C))),
        Statement("lines of an order",
                  "SELECT ol_i_id, ol_quantity, ol_amount, ol_delivery_d FROM order_line"
                  " WHERE ol_w_id = %s AND ol_d_id = %s AND ol_o_id = %s", 4,
                  lambda r: (r.randint(1, W), r.randint(1, D), r.randint(1, O))),
        Statement("oldest new order",
                  "SELECT no_o_id FROM new_order WHERE no_w_id = %s AND no_d_id = %s ORDER BY no_o_id LIMIT 1", 4,
                  lambda r: (r.randint(1, W), r.randint(1, D))),
        Statement("deliver", "UPDATE orders SET o_carrier_id = %s WHERE o_w_id = %s AND o_d_id = %s AND o_id = %s", 4,
                  lambda r: (r.randint(1, 10), r.randint(1, W), r.randint(1, D), r.randint(1, O))),
        Statement("stock level",
                  "SELECT count(DISTINCT s_i_id) FROM order_line JOIN stock ON s_i_id = ol_i_id AND s_w_id = ol_w_id"
                  " WHERE ol_w_id = %s AND ol_d_id = %s AND ol_o_id < %s AND ol_o_id >= %s AND s_quantity < %s", 2,
                  lambda r: (r.randint(1, W), r.randint(1, D), o, o - 20, 15) if (o := r.randint(100, O)) else ()),
        Statement("price", "SELECT i_price, i_name, i_data FROM item WHERE i_id ="
                  " %s", 40, lambda r: (r.randint(1, I),)),
        Statement("take", "UPDATE stock SET s_quantity = s_quantity - 1, s_ytd = s_ytd + 1 WHERE s_i_id = %s AND"
                  " s_w_id = %s", 40,
                  lambda r: (r.randint(1, I), r.randint(1, W))),
        Statement("orders of an item", "SELECT sum(ol_quantity) FROM order_line WHERE ol_i_id = %s", 1,
                  lambda r: (r.randint(1, I),)),
    ],
)  # fmt: skip

# After TPC-H: its tables and fourteen of its questions, in words of our own, with their keys and no further index.
HO, HC, HP, HS = size(40_000), size(4000), size(8000), size(400)


def day(r: random.Random, first: int = 1993, last: int = 1997) -> str:
    """Return the first of a month."""
    return f"{r.randint(first, last)}-{r.randint(1, 12):02}-01"


TPCH = Workload(
    "tpch",
    tables("tpch", hc=HC, ho=HO, hp=HP, hs=HS),
    [
        Statement("1 summary", "SELECT l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice * (1 -"
                  " l_discount)), count(*)"
                  " FROM lineitem WHERE l_shipdate <= %s::date GROUP BY l_returnflag, l_linestatus ORDER BY 1, 2", 1,
                  lambda r: ("1998-09-02",), 1),
        Statement("2 cheapest supplier", "SELECT s_acctbal, s_name, p_partkey FROM part JOIN partsupp ON p_partkey ="
                  " ps_partkey"
                  " JOIN supplier ON s_suppkey = ps_suppkey WHERE p_size = %s AND p_type LIKE %s AND ps_supplycost ="
                  " (SELECT min(ps_supplycost) FROM partsupp ps WHERE ps.ps_partkey = p_partkey) ORDER BY s_acctbal"
                  " DESC LIMIT 100", 4,
                  lambda r: (r.randint(1, 50), f"TYPE {r.randint(1, 14)}%"), 3),
        Statement("3 unshipped", "SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate"
                  " FROM customer"
                  " JOIN orders ON c_custkey = o_custkey JOIN lineitem ON l_orderkey = o_orderkey WHERE c_mktsegment"
                  " = %s"
                  " AND o_orderdate < %s::date AND l_shipdate > %s::date GROUP BY l_orderkey, o_orderdate ORDER BY"
                  " revenue DESC LIMIT 10", 2,
                  lambda r: ("BUILDING", "1995-03-15", "1995-03-15"), 1),
        Statement("4 late orders", "SELECT o_orderpriority, count(*) FROM orders WHERE o_orderdate >= %s::date"
                  " AND o_orderdate < %s::date + interval '3 months' AND EXISTS (SELECT FROM lineitem WHERE"
                  " l_orderkey = o_orderkey"
                  " AND l_commitdate < l_receiptdate) GROUP BY o_orderpriority ORDER BY o_orderpriority", 2,
                  lambda r: (day(r),) * 2, 2),
        Statement("5 nations of a region", "SELECT n_name, sum(l_extendedprice) FROM customer JOIN orders ON"
                  " c_custkey = o_custkey"
                  " JOIN lineitem ON l_orderkey = o_orderkey JOIN supplier ON s_suppkey = l_suppkey AND s_nationkey"
                  " = c_nationkey"
                  " JOIN nation ON n_nationkey = s_nationkey JOIN region ON r_regionkey = n_regionkey WHERE r_name = %s"
                  " AND o_orderdate >= %s::date AND o_orderdate < %s::date + interval '1 year' GROUP BY n_name", 2,
                  lambda r: ("ASIA", "1994-01-01", "1994-01-01"), 1),
        Statement("6 discounts", "SELECT sum(l_extendedprice * l_discount) FROM lineitem WHERE l_shipdate >= %s::date"
                  " AND l_shipdate < %s::date + interval '1 year' AND l_discount BETWEEN %s AND %s AND l_quantity <"
                  " %s", 2,
                  lambda r: ("1994-01-01", "1994-01-01", 0.05, 0.07, 24), 1),
        Statement("10 returned by a customer", "SELECT c_custkey, c_name, sum(l_extendedprice) FROM customer"
                  " JOIN orders ON c_custkey = o_custkey JOIN lineitem ON l_orderkey = o_orderkey WHERE o_orderdate"
                  " >= %s::date"
                  " AND o_orderdate < %s::date + interval '3 months' AND l_returnflag = %s GROUP BY c_custkey,"
                  " c_name ORDER BY 3 DESC LIMIT 20", 2,
                  lambda r: (*(day(r),) * 2, "R"), 2),
        Statement("12 modes", "SELECT l_shipmode, count(*) FROM orders JOIN lineitem ON o_orderkey = l_orderkey"
                  " WHERE l_shipmode IN (%s, %s)"
                  " AND l_commitdate < l_receiptdate AND l_shipdate < l_commitdate AND l_receiptdate >= %s::date"
                  " AND l_receiptdate < %s::date + interval '1 year' GROUP BY l_shipmode", 2,
                  lambda r: ("MAIL", "SHIP", "1994-01-01", "1994-01-01"), 1),
        Statement("14 promotion", "SELECT sum(CASE WHEN p_type LIKE %s THEN l_extendedprice ELSE 0 END) /"
                  " sum(l_extendedprice)"
                  " FROM lineitem JOIN part ON l_partkey = p_partkey WHERE l_shipdate >= %s::date"
                  " AND l_shipdate < %s::date + interval '1 month'", 3,
                  lambda r: ("TYPE 1%", *(day(r),) * 2), 3),
        Statement("17 small quantities", "SELECT sum(l_extendedprice) / 7.0 FROM lineitem JOIN part ON p_partkey ="
                  " l_partkey"
                  " WHERE p_brand = %s AND p_container = %s AND l_quantity <"
                  " (SELECT 0.2 * avg(l_quantity) FROM lineitem l WHERE l.l_partkey = p_partkey)", 1,
                  lambda r: ("Brand#3", f"BOX {r.choice((2, 27, 52, 77))}"), 1),
        Statement("18 large orders of a customer", "SELECT c_name, o_orderkey, o_totalprice, sum(l_quantity) FROM"
                  " customer"
                  " JOIN orders ON c_custkey = o_custkey JOIN lineitem ON o_orderkey = l_orderkey WHERE c_custkey = %s"
                  " GROUP BY c_name, o_orderkey, o_totalprice ORDER BY o_totalprice DESC LIMIT 100", 10,
                  lambda r: (r.randint(1, HC),), 4),
        Statement("20 stock of a part", "SELECT s_name FROM supplier JOIN partsupp ON ps_suppkey = s_suppkey"
                  " WHERE ps_partkey = %s AND ps_availqty > (SELECT 0.5 * sum(l_quantity) FROM lineitem"
                  " WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey AND l_shipdate >= %s::date)", 6,
                  lambda r: (r.randint(1, HP), "1994-01-01"), 3),
        Statement("22 customers without orders", "SELECT count(*), sum(c_acctbal) FROM customer WHERE c_acctbal > %s"
                  " AND c_nationkey IN (%s, %s)"
                  " AND NOT EXISTS (SELECT FROM orders WHERE o_custkey = c_custkey)", 3,
                  lambda r: (r.randint(5000, 9000), r.randint(0, 11), r.randint(12, 24)), 2),
        Statement("ship an order", "UPDATE lineitem SET l_linestatus = %s WHERE l_orderkey = %s", 10,
                  lambda r: ("F", r.randint(1, HO)), 4),
    ],
    repeats=2,
)  # fmt: skip

WORKLOADS = {workload.name: workload for workload in (PGBENCH, TPCC, TPCH)}


def say(line: str) -> None:
    """Print a line of progress at once, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


class Bench:
    """A database with a workload.

    Parameters:
        workload: which.
        declared: whether its database is there already, declared in an environment; otherwise it is made.
    """

    def __init__(self, workload: Workload, declared: bool = False) -> None:
        self.workload = workload
        self.database = f"bench_{workload.name}" if declared else f"bench_advisor_{workload.name}"
        if not declared:
            self._administer(f"DROP DATABASE IF EXISTS {self.database}", f"CREATE DATABASE {self.database}")
        self.connection = self.connect()
        chance = random.Random(42)  # noqa: S311 (it has to be the same each time)
        self.values = {
            statement.name: [statement.values(chance) for _ in range(statement.samples)]
            for statement in workload.statements
        }

    def connect(self, database: str = "") -> Any:
        """Return a new connection to its database, or to another one."""
        connection = psycopg2.connect(dbname=database or self.database)
        connection.autocommit = True
        return connection

    def _administer(self, *statements: str) -> None:
        connection = psycopg2.connect(dbname="postgres")
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)
        connection.close()

    def run(self, statement: str, values: tuple | None = None) -> list[tuple]:
        """Return the rows of a statement."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def fill(self) -> None:
        """Make the tables, and what the advisor needs."""
        self._fill()
        self.run("CREATE SCHEMA terrace")
        self.run("CREATE EXTENSION hypopg SCHEMA terrace")

    def fill_declared(self) -> None:
        """Make the tables as the owner of a declared database, as a migration would."""
        left = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        for (table,) in self.run(left):
            self.run(f"DROP TABLE {table} CASCADE")
        self.run(f"SET ROLE {self.database}_owner")
        self._fill()

    def _fill(self) -> None:
        self.run("SELECT setseed(0.42)")
        self.run(self.workload.schema)
        self.run("RESET ROLE")
        self.run("VACUUM ANALYZE")
        self.run("CHECKPOINT")

    def drop(self) -> None:
        """Remove the database."""
        self.connection.close()
        self._administer(f"DROP DATABASE {self.database} WITH (FORCE)")

    def once(self, statement: Statement, values: tuple) -> float:
        """Return the seconds that a statement takes; what it wrote is undone."""
        with self.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            start = time.perf_counter()
            cursor.execute(statement.sql, values)
            if cursor.description:
                cursor.fetchall()
            taken = time.perf_counter() - start
            cursor.execute("ROLLBACK")
        return taken

    def timed(self, names: Iterable[str] | None = None) -> dict[str, float]:
        """Return the milliseconds of each statement: the mean over its values of the least of several runs."""
        taken = {}
        for statement in self.workload.statements:
            if names is not None and statement.name not in names:
                continue
            best = [
                min(self.once(statement, values) for _ in range(self.workload.repeats))
                for values in self.values[statement.name]
            ]
            taken[statement.name] = 1000 * sum(best) / len(best)
        return taken

    def total(self, taken: dict[str, float]) -> float:
        """Return what a round of the workload takes, in milliseconds."""
        return sum(statement.weight * taken[statement.name] for statement in self.workload.statements)

    def work(self) -> None:
        """Run the workload as pg_stat_statements is to see it: each statement as often as it counts, ten times over."""
        chance = random.Random(7)  # noqa: S311
        for statement in self.workload.statements:
            for _ in range(max(1, round(statement.weight * min(statement.samples, 4)))):
                self.once(statement, statement.values(chance))

    def counted(self) -> float:
        """Run the workload so that its statistics are of nothing else, and return how many seconds that took."""
        reset = "SELECT pg_stat_statements_reset(0, (SELECT oid FROM pg_database WHERE datname = %s))"
        other = self.connect("postgres")
        other.cursor().execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        other.cursor().execute(reset, (self.database,))
        other.close()
        # What this session has not told yet would be counted after the reset.
        self.run("SELECT pg_stat_force_next_flush()")
        self.run("SELECT pg_stat_reset()")
        start = time.time()
        self.work()
        self.run("SELECT pg_stat_force_next_flush()")
        return time.time() - start

    def advised(self) -> tuple[dict[str, Any], float]:
        """Return what the advisor says of the workload, and how many seconds it took."""
        start = time.time()
        seconds = self.counted()
        other = self.connect("postgres")
        with other:
            told = postgresql_statistics.statements(postgresql_statistics.Reader(other))
        other.close()
        connection = self.connect()
        found = postgresql_statistics.database(postgresql_statistics.Reader(connection))
        found |= {"now": time.time(), "since": start}
        session = Session(self.connect())
        began = time.time()
        advice = postgresql_advisor.advise(session, found, told["databases"][self.database], seconds, True)
        return advice, time.time() - began

    def columns(self) -> dict[str, list[str]]:
        """Return the columns of each table that is not small."""
        rows = self.run(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relpages > %s ORDER BY 1, attnum",
            (PAGES,),
        )
        tables: dict[str, list[str]] = {}
        for table, column in rows:
            tables.setdefault(table, []).append(column)
        return tables

    def every(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Return every index on one column and on two, as table and columns."""
        for table, columns in self.columns().items():
            for count in (1, 2):
                yield from ((table, chosen) for chosen in itertools.permutations(columns, count))

    def costs(self, base: dict[str, float]) -> list[dict[str, Any]]:
        """Return every such index with what the planner, who is told the values, says that it saves, the best first."""
        planned: dict[str, list[tuple[str, float]]] = {}
        reads: dict[str, set[str]] = {}
        for statement in self.workload.statements:
            for values in self.values[statement.name][:2]:
                with self.connection.cursor() as cursor:
                    text = cursor.mogrify(statement.sql, values).decode()
                planned.setdefault(statement.name, []).append((text, self._cost(text)[0]))
            reads[statement.name] = self._cost(planned[statement.name][0][0])[1]
        found = []
        for table, columns in self.every():
            self.run("SELECT terrace.hypopg_reset()")
            self.run("SELECT terrace.hypopg_create_index(%s)", (f"CREATE INDEX ON {table} ({', '.join(columns)})",))
            saved = 0.0
            for statement in self.workload.statements:
                if table in reads[statement.name]:
                    part = [1 - self._cost(text)[0] / before for text, before in planned[statement.name] if before]
                    saved += statement.weight * base[statement.name] * max(0.0, sum(part) / len(part))
            found.append({"table": table, "columns": list(columns), "saved": saved})
        self.run("SELECT terrace.hypopg_reset()")
        return sorted(found, key=lambda each: -each["saved"])

    def _cost(self, text: str) -> tuple[float, set[str]]:
        plan = self.run(f"EXPLAIN (FORMAT JSON) {text}")[0][0][0]["Plan"]

        def tables(node: dict) -> set[str]:
            inner = [tables(each) for each in node.get("Plans", [])]
            return set().union(*inner, {node["Relation Name"]} if "Relation Name" in node else set())

        return plan["Total Cost"], tables(plan)

    @contextmanager
    def having(self, statements: Iterable[str]) -> Iterator[None]:
        """Have these indexes for a while."""
        made = []
        for number, statement in enumerate(statements):
            self.run(statement.replace("CREATE INDEX ON", f"CREATE INDEX bench_{number} ON"))
            made.append(f"bench_{number}")
        self.run("CHECKPOINT")
        try:
            yield
        finally:
            for name in made:
                self.run(f"DROP INDEX {name}")

    def with_indexes(self, statements: Iterable[str]) -> dict[str, float]:
        """Return the times of all statements with these indexes, which are made and dropped again."""
        with self.having(statements):
            return self.timed()

    def concerned(self, table: str, name: str = "bench_0") -> list[str]:
        """Return the statements that an index there is concerns: those whose plan has it, and those that write to"
        " its table."""
        found = []
        for statement in self.workload.statements:
            writes = re.match(rf"(INSERT INTO|UPDATE|DELETE FROM) {table}\b", statement.sql)
            plans = []
            for values in self.values[statement.name]:
                with self.connection.cursor() as cursor:
                    cursor.execute("EXPLAIN (FORMAT JSON) " + statement.sql, values)
                    plans.append(json.dumps(cursor.fetchall()))
            if writes or any(f'"{name}"' in plan for plan in plans):
                found.append(statement.name)
        return found


def judge(workload: Workload) -> dict[str, Any]:
    """Return what the advisor recommends for a workload, and what came of it."""
    bench = Bench(workload)
    try:
        say(f"{workload.name}: filling")
        bench.fill()
        bench.work()
        base = bench.timed()
        whole = bench.total(base)
        advice, seconds = bench.advised()
        recommended = [each["sql"] for each in advice["advice"]]
        say(f"{workload.name}: {len(recommended)} recommended after {advice['tried']} plans in {seconds:.1f} s")
        for statement in recommended:
            say(f"  {statement}")
        with_all = bench.with_indexes(recommended)
        say(f"{workload.name}: {whole:.0f} ms before, {bench.total(with_all):.0f} after; trying every index")
        bench.run("VACUUM ANALYZE")
        every = bench.costs(base)
        best = [each for each in every[:BEST] if each["saved"] > 0]
        say(f"{workload.name}: {len(every)} tried by hypopg; timing the best {len(best)}")
        for each in best:
            each["sql"] = f"CREATE INDEX ON {each['table']} ({', '.join(each['columns'])})"
            each |= timed_alone(bench, each, base)
        rows = []
        for each in advice["advice"]:
            alone = timed_alone(bench, each, base)
            with bench.having([each["sql"], *(sql for sql in recommended if sql != each["sql"])]):
                names = bench.concerned(each["table"])
                fast = bench.timed(names)
            with bench.having(sql for sql in recommended if sql != each["sql"]):
                slow = bench.timed(names)
            # What goes without it, of what a round takes with all of them.
            beside = (bench.total(with_all | slow) - bench.total(with_all | fast)) / bench.total(with_all | fast)
            useful = alone["useful"] or beside >= USEFUL
            rows.append({"sql": each["sql"], "useful": useful, "saves": alone["saves"], "beside": beside})
        useful = [each for each in best if each["useful"]]
        weights = {statement.name: statement.weight for statement in workload.statements}
        for each in useful:
            alone = sum(weights[name] * (base[name] - each["with"][name]) for name in each["helps"])
            all_of_them = sum(weights[name] * (base[name] - with_all[name]) for name in each["helps"])
            each["found"] = all_of_them >= CLOSE * alone
        say(f"{workload.name}: done")
        return {
            "before_ms": whole,
            "after_ms": bench.total(with_all),
            "statements": {name: {"before_ms": base[name], "after_ms": with_all[name]} for name in base},
            "advisor_seconds": seconds,
            "plans_tried": advice["tried"],
            "failed": advice["failed"],
            "recommended": rows,
            "precision": share(rows, "useful"),
            "every": len(every),
            "best": [{key: value for key, value in each.items() if key != "with"} for each in best],
            "recall": share(useful, "found"),
        }
    finally:
        bench.drop()


def timed_alone(bench: Bench, each: dict[str, Any], base: dict[str, float]) -> dict[str, Any]:
    """Return what an index alone saves: a share of the workload, the statements that it helps, and if it is useful.

    Only statements that it concerns are timed, and the quick ones of them without it at the same time: all others
        would add
    nothing but the machine's noise.
    """
    with bench.having([each["sql"]]):
        names = bench.concerned(each["table"])
        taken = bench.timed(names)
    beside = {name: base[name] for name in names} | bench.timed([name for name in names if base[name] < SLOW_MS])
    helps = [name for name in names if taken[name] < beside[name] * (1 - HELPS)]
    saved = sum(s.weight * (beside[s.name] - taken[s.name]) for s in bench.workload.statements if s.name in names)
    saves = saved / bench.total(base)
    return {"saves": saves, "helps": helps, "with": taken, "useful": saves >= USEFUL and bool(helps)}


def share(rows: list[dict[str, Any]], key: str) -> float | None:
    """Return which part of the rows has something; none where there are no rows."""
    return sum(1 for row in rows if row[key]) / len(rows) if rows else None


def entry_ms() -> float:
    """Return what one entry into one more index costs, in milliseconds: rows inserted with it and without it."""
    bench = Bench(Workload("entry", "", []))
    try:
        bench.run("CREATE TABLE entry (a int, b int)")

        def insert() -> float:
            start = time.perf_counter()
            bench.run("INSERT INTO entry SELECT i, hashint4(i) FROM generate_series(1, 200000) i")
            return time.perf_counter() - start

        insert()
        plain = min(insert() for _ in range(3))
        bench.run("CREATE INDEX ON entry (b)")
        return 1000 * (min(insert() for _ in range(3)) - plain) / 200_000
    finally:
        bench.drop()


def filled(workload: Workload) -> dict[str, float]:
    """Fill a declared database, and return the milliseconds of each statement and of a `round`."""
    say(f"{workload.name}: filling")
    bench = Bench(workload, declared=True)
    bench.fill_declared()
    bench.work()
    taken = bench.timed()
    bench.counted()
    return {**taken, "round": bench.total(taken)}


def timed_again(workload: Workload) -> dict[str, float]:
    """Return what `filled` returned, of what the database has become since."""
    say(f"{workload.name}: timing")
    bench = Bench(workload, declared=True)
    bench.run("VACUUM ANALYZE")
    taken = bench.timed()
    return {**taken, "round": bench.total(taken)}


def main() -> None:
    """Judge the advisor on the workloads that are named, or on all, and write what came of it."""
    modes = {"--fill": filled, "--time": timed_again}
    names = sys.argv[2:]
    mode = names.pop(0) if names and names[0] in modes else ""
    if len(sys.argv) < 2 or set(names) - set(WORKLOADS):
        sys.exit(__doc__)
    names = names or list(WORKLOADS)
    start = time.time()
    found: dict[str, Any] = {"scale": SCALE, "workloads": {}}
    if not mode:
        found["entry_ms"] = entry_ms()
    for name in names:
        found["workloads"][name] = modes.get(mode, judge)(WORKLOADS[name])
    found["seconds"] = time.time() - start
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
