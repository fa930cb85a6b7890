"""Declared queries: what is refused, what plans of a real PostgreSQL 17 are found to do, and what is told of them.

The plans in data/plans are what PostgreSQL 17.12 answered to EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON), without
the keys that nobody reads here.
"""

from __future__ import annotations

import json
import os
import subprocess
from copy import deepcopy

import pytest
from ansible.module_utils.postgresql_explain import Index, Plan, Scan, Table, judge, nodes, read_plan, warnings

from landscape import ROOT, Landscape, load
from terrace import queries
from terrace.contracts import contract
from terrace.contracts import findings as typed
from terrace.services import listed

DATA = ROOT / "tests/hostless/data"
module = load("plugins/modules/postgresql_queries.py", "postgresql_queries")
filters = load("plugins/filter/queries.py", "filter_queries")

EXPECT = {"index": [], "buffers": None, "scan": 10000, "seconds": 5}
ORDERS, ITEMS = Table("orders", 400000, "orders"), Table("order_items", 400000, "order_items")
SMALL = Table("small", 50, "small")
PARTS = {
    ("public", f"events_{year}"): Table(f"events_{year}", rows, "events") for year, rows in ((2026, 7300), (2027, 6700))
}
TABLES = {("public", "orders"): ORDERS, ("public", "order_items"): ITEMS, ("public", "small"): SMALL} | PARTS
INDEXES = {
    "orders_pkey": Index("orders_pkey", ORDERS),
    "orders_user_id_id_idx": Index("orders_user_id_id_idx", ORDERS),
    "orders_total_idx": Index("orders_total_idx", ORDERS),
    "orders_broken_idx": Index("orders_broken_idx", ORDERS, valid=False),
    "order_items_pkey": Index("order_items_pkey", ITEMS),
    "small_name_key": Index("small_name_key", SMALL),
    "events_id_idx": Index("events_id_idx", Table("events", 14000, "events")),
    "events_2026_id_idx": Index("events_id_idx", PARTS["public", "events_2026"]),
    "events_2027_id_idx": Index("events_id_idx", PARTS["public", "events_2027"]),
}


def plan(name: str) -> Plan:
    """Return a plan of PostgreSQL's by the name of its file."""
    return read_plan(json.loads((DATA / f"plans/{name}.json").read_text()))


def scan(relation: str, rows: int | None, times: int | None = 1, skipped: bool = False) -> Scan:
    return Scan("public", relation, rows, times, skipped)


def judged(name: str, **expect) -> dict[str, tuple[str, str]]:
    """Return what was found of a plan: by expectation the verdict and what was found."""
    found = judge(plan(name), EXPECT | expect, TABLES, INDEXES)
    return {each["expectation"]: (each["verdict"], each["found"]) for each in found}


# What plans do


@pytest.mark.parametrize(
    ("name", "indexes", "scans", "buffers", "rows"),
    [
        ("index-only", ["orders_user_id_id_idx"], [], 4, 20),
        ("bitmap", ["orders_user_id_id_idx", "orders_total_idx"], [], 26, 20),
        ("sequential", [], [scan("small", 50)], 1, 1),
        # Three processes share one pass, and PostgreSQL tells the mean of theirs.
        ("parallel", [], [scan("orders", 399999, 3)], 3334, 1),
        ("partitioned", [], [scan("events_2026", 7300), scan("events_2027", 6700)], 77, 1),
        ("partitioned-index", ["events_2026_id_idx", "events_2027_id_idx"], [], 5, 1),
        # An init plan says which partition has it; the others are there, and do not run.
        ("pruned", ["orders_pkey"], [scan("events_2026", None, 0, True), scan("events_2027", None, 0, True)], 4, 1),
        ("nested-loop", ["orders_user_id_id_idx", "order_items_pkey"], [], 74, 20),
        # The inner side is gone through three times, each time all of it.
        ("nested-scan", [], [scan("small", 50), scan("small", 50, 3)], 4, 147),
        ("cte", [], [scan("orders", 400000)], 3340, 0),
        ("subplan", ["orders_user_id_id_idx"], [scan("small", 50)], 158, 50),
        ("never", [], [scan("small", 50), scan("orders", None, 0)], 1, 0),
        ("planned", [], [scan("orders", None, None), scan("orders", None, None)], None, None),
    ],
)
def test_what_a_plan_reads(name, indexes, scans, buffers, rows):
    found = plan(name)
    assert (list(found.indexes), list(found.scans)) == (indexes, scans)
    assert (found.buffers, found.rows) == (buffers, rows)
    assert (found.milliseconds is None) == (buffers is None)


def test_every_plan_is_tried_and_all_its_nodes_are_seen():
    names = {path.stem for path in (DATA / "plans").glob("*.json")}
    assert len(names) == 13
    kinds = set()
    for name in names:
        text = (DATA / f"plans/{name}.json").read_text()
        found = list(nodes(json.loads(text)["Plan"]))
        assert len(found) == text.count('"Node Type"')
        kinds |= {node["Node Type"] for node, _ in found}
    assert {"Bitmap Index Scan", "BitmapOr", "Index Only Scan", "Gather", "Append", "CTE Scan", "Nested Loop"} <= kinds


# Whether that is what was expected


def test_an_index_that_is_used_is_found_in_every_form():
    for name, index in (
        ("index-only", "orders_user_id_id_idx"),
        ("bitmap", "orders_total_idx"),
        ("nested-loop", "order_items_pkey"),
        ("subplan", "orders_user_id_id_idx"),
        ("pruned", "orders_pkey"),
        # By the name of the whole table's index, and by that of a partition's.
        ("partitioned-index", "events_id_idx"),
        ("partitioned-index", "events_2027_id_idx"),
    ):
        assert judged(name, index=[index])[f"uses the index {index}"] == ("holds", "it does")


@pytest.mark.parametrize(
    ("name", "index", "verdict", "found"),
    [
        ("bitmap", "orders_pkey", "fails", "it uses orders_user_id_id_idx, orders_total_idx"),
        ("parallel", "orders_user_id_id_idx", "fails", "it uses no index"),
        ("bitmap", "orders_user_idx", "fails", "there is no index of that name; declare it, or mend the name"),
        (
            "bitmap",
            "orders_broken_idx",
            "fails",
            "the index is invalid, since its build did not end; build it again",
        ),
        (
            "sequential",
            "small_name_key",
            "not judged",
            "small has 50 rows, and PostgreSQL reads a table of less than 10,000 as it likes",
        ),
    ],
)
def test_an_index_that_is_not_used(name, index, verdict, found):
    assert judged(name, index=[index])[f"uses the index {index}"] == (verdict, found)


def test_a_table_that_may_not_be_read_sequentially_at_all_is_never_too_small():
    found = judged("sequential", index=["small_name_key"], scan=0)
    assert found["uses the index small_name_key"] == ("fails", "it uses no index")
    assert found["no sequential scan at all"] == ("fails", "small, 50 rows")
    assert judged("index-only", scan=0)["no sequential scan at all"] == ("holds", "none")


@pytest.mark.parametrize(
    ("name", "most", "verdict", "found"),
    [
        ("index-only", 10000, "holds", "none"),
        ("sequential", 50, "holds", "small, 50 rows"),
        ("sequential", 49, "fails", "small, 50 rows"),
        ("parallel", 399999, "fails", "orders, 400,000 rows"),
        # Each is smaller than that, and the table is not.
        ("partitioned", 10000, "fails", "events, 14,000 rows in 2 partitions"),
        ("partitioned", 14000, "holds", "events, 14,000 rows in 2 partitions"),
        ("pruned", 1, "holds", "none"),
        # A table that is read twice is as large as once.
        ("nested-scan", 50, "holds", "small, 50 rows"),
        ("cte", 10000, "fails", "orders, 400,000 rows"),
        # With other values it would run.
        ("never", 10000, "fails", "small, 50 rows; orders, 400,000 rows"),
        ("planned", 10000, "fails", "orders, 400,000 rows"),
    ],
)
def test_sequential_scans(name, most, verdict, found):
    assert judged(name, scan=most)[f"no sequential scan of a table with more than {most:,} rows"] == (verdict, found)


def test_rows_that_were_read_count_where_statistics_are_old():
    old = TABLES | {("public", "orders"): Table("orders", 0, "orders")}
    index = INDEXES | {"orders_pkey": Index("orders_pkey", old["public", "orders"])}
    found = judge(plan("cte"), EXPECT | {"index": ["orders_pkey"]}, old, index)
    assert [each["verdict"] for each in found] == ["holds", "fails", "fails"]


def test_buffers_and_seconds():
    assert judged("bitmap", buffers=26)["reads at most 26 buffers"] == ("holds", "26")
    assert judged("parallel", buffers=3333)["reads at most 3,333 buffers"] == ("fails", "3,334")
    assert list(judged("index-only")) == [
        "ends within 5 s",
        "no sequential scan of a table with more than 10,000 rows",
    ]
    cut = judged("planned", buffers=10, seconds=1)
    assert cut["ends within 1 s"] == ("fails", "it was cut off")
    assert cut["reads at most 10 buffers"] == ("not judged", "nobody knows, since it did not end")


def test_tables_that_were_never_analyzed_are_told_once():
    blind = {("public", "small"): Table("small", 50, "small", analyzed=False)}
    told = "small was never analyzed, so its plan is a guess; run ANALYZE, or wait for autovacuum"
    assert warnings(plan("nested-scan"), blind, {}) == [told]
    assert warnings(plan("nested-scan"), TABLES, INDEXES) == []
    index = {"orders_pkey": Index("orders_pkey", Table("orders", 3, "orders", analyzed=False))}
    assert warnings(plan("pruned"), TABLES, index)[0].startswith("orders was never analyzed")


# Who runs them, and with which values


def test_a_replica_that_follows_runs_them_before_the_primary():
    primary = {"role": "primary", "state": "running"}
    replica = {"role": "replica", "state": "running", "replication_state": "streaming"}
    late = replica | {"replication_state": "in archive recovery"}
    assert module.choose({"db1": primary, "db3": replica, "db2": replica}) == "db2"
    assert module.choose({"db1": primary, "db2": late, "db3": replica}) == "db3"
    assert module.choose({"db1": late, "db2": primary, "db3": {}}) == "db2"
    assert module.choose({"db1": {}, "db2": late}) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (None, None), (7, "7"), (2.5, "2.5"), ("it's", "it's")]
)
def test_parameters_are_given_as_text_for_postgresql_to_read(value, text):
    assert module.literal(value) == text


# What is refused, before any host is asked


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("SELECT 1", []),
        ("select $1, $2 from t where a = $1;", [1, None]),
        ("\n  WITH a AS (SELECT 1) SELECT * FROM a ; -- the end; really", []),
        ("(SELECT 1) UNION ALL (SELECT $1::int)", [1]),
        ("VALUES ($1::text)", ["x"]),
        ("SELECT ';', 'it''s; $3', E'a\\';$4', \"odd;$5\" FROM t", []),
        ("SELECT $$a;b $1$$, $tag$ $$ ; $1 $tag$ || $1", ["x"]),
        ("SELECT 1 /* ; /* nested $2 */ ; */ + $1 -- $9", [1]),
        ("SELECT a$1, b FROM t WHERE b = $1", [1]),
        ("SELECT count(*) AS update, (delete) FROM t", []),
        ("SELECT 1 FROM t WHERE d = $1 AND e = $2 AND f = $3", [True, 2.5, "2026-01-31"]),
    ],
)
def test_what_is_one_query_with_all_its_parameters(query, parameters):
    assert list(queries.findings({"one": {"query": query, "parameters": parameters}})) == []


@pytest.mark.parametrize(
    ("its", "key", "text"),
    [
        ({"query": " -- nothing"}, "query", "is empty; give one SELECT"),
        (
            {"query": "SELECT 1; SELECT 2"},
            "query",
            "has more than one statement; give one, and the others a name of their own",
        ),
        (
            {"query": "DELETE FROM t"},
            "query",
            "begins with 'delete'; give one SELECT, WITH or VALUES, which only reads",
        ),
        (
            {"query": "EXPLAIN SELECT 1"},
            "query",
            "begins with 'explain'; give one SELECT, WITH or VALUES, which only reads",
        ),
        (
            {"query": "WITH a AS (DELETE FROM t RETURNING *) SELECT 1"},
            "query",
            "has DELETE in it; give what only reads",
        ),
        ({"query": "WITH a AS (SELECT 1) update t SET b = 1"}, "query", "has UPDATE in it; give what only reads"),
        ({"query": "SELECT 'open"}, "query", "has a quote that is not closed; close it"),
        ({"query": "SELECT $a$ open $b$"}, "query", "has a quote that is not closed; close it"),
        ({"query": "SELECT 1 /* /* */"}, "query", "has a comment that is not closed; close it by */"),
        ({"query": "SELECT $0"}, "query", "has a $0; the first parameter is $1"),
        (
            {"query": "SELECT $1, $3", "parameters": [1, 2, 3]},
            "query",
            "has no $2; number its parameters from $1 on, without a gap",
        ),
        ({"query": "SELECT $2"}, "parameters", "has 0 where the query's highest is $2; give one value for each"),
        ({"query": "SELECT 1", "parameters": [1]}, "parameters", "the query has no $1; give one value for each"),
        (
            {"query": "SELECT $1", "parameters": [[1, 2]]},
            "parameters[0]",
            "is [1, 2]; has to be text, a number, true, false or null; put dates and arrays in quotes",
        ),
        ({"query": "SELECT 1", "expect": {"buffers": 0}}, "expect.buffers", "is 0; has to be 1 or more"),
        ({"query": "SELECT 1", "expect": {"scan": -1}}, "expect.scan", "is -1; has to be 0 or more"),
        ({"query": "SELECT 1", "expect": {"seconds": 0}}, "expect.seconds", "is 0; has to be 1 or more"),
        ({"query": "SELECT 1", "expect": {"seconds": 301}}, "expect.seconds", "is 301; has to be 300 or less"),
        ({"query": "SELECT 1", "expect": {"index": [" "]}}, "expect.index[0]", "is empty; name an index"),
    ],
)
def test_what_is_refused(its, key, text):
    assert list(queries.findings({"one": its})) == [(f"database.queries.one.{key}", text)]


def test_a_name_is_refused_that_nobody_can_say():
    found = list(queries.findings({"Of_User": {"query": "SELECT 1"}}))
    assert found == [("database.queries.Of_User", "a name is 1 to 24 of a-z, 0-9 and -, and starts with a letter")]


def test_the_contract_has_their_keys():
    given = {"database": {"queries": {"one": {"expect": {"index": "a_idx"}, "gates": True}}}}
    found = dict(typed(given, contract("service")))
    assert found["database.queries.one.query"] == "is missing; give text"
    assert found["database.queries.one.expect.index"] == "is 'a_idx'; has to be a list of text"
    assert found["database.queries.one.gates"] == "unknown key; did you mean 'gate'?"


# What is run


def services() -> list[dict]:
    """Return two services, of which one has queries, and one no database."""
    shop = {
        "source": {"path": "x"}, "app": "a:b", "interface": "asgi", "port": 8001,
        "database": {"queries": {"one": {"query": "SELECT $1", "parameters": [1]},
                                 "two": {"query": "SELECT 2", "gate": True, "expect": {"buffers": 5}}}},
    }  # fmt: skip
    return listed({"shop-eu": shop, "plain": {**shop, "database": None}})


def test_the_wanted_ones_are_listed_with_their_defaults():
    one, two = filters.services_queries(services())
    assert one == {
        "service": "shop-eu", "name": "one", "database": "shop_eu", "user": "shop_eu_reader",
        "query": "SELECT $1", "parameters": [1], "expect": EXPECT,
    }  # fmt: skip
    assert two["expect"] == EXPECT | {"buffers": 5}
    assert filters.services_queries(services(), gates=True) == [two]
    assert filters.services_queries(services(), "shop-eu", "one") == [one]
    assert filters.services_queries(services(), "plain") == []
    assert filters.queries_called(one) == "shop-eu/one"


def test_only_the_readers_passwords_that_are_needed_are_passed_on():
    databases = [
        {"name": name, "reader": {"name": f"{name}_reader", "password": name * 2}} for name in ("shop_eu", "b")
    ]
    wanted = filters.services_queries(services())
    assert filters.queries_passwords(wanted, databases) == {"shop_eu_reader": "shop_eushop_eu"}


def test_answers_are_those_of_hosts_that_gave_one():
    members = [{"name": "db1"}, {"name": "db2"}]
    assert filters.query_answers(members, {"db1": {}, "db2": {"asked": {"chosen": "db1"}}}, "asked") == [
        {"chosen": "db1"}
    ]


# What is told

WELL = {
    "service": "orders", "name": "of-user", "ok": True, "buffers": 1234, "rows": 1, "milliseconds": 0.5, "plan": "",
    "error": "", "warnings": ["small was never analyzed"],
    "findings": [{"expectation": "uses the index a_idx", "found": "small has 50 rows", "verdict": "not judged"},
                 {"expectation": "ends within 5 s", "found": "0.5 ms", "verdict": "holds"}],
}  # fmt: skip
BROKEN = WELL | {
    "name": "newest", "ok": False, "plan": "Seq Scan on orders\n  Filter: x", "warnings": [], "rows": 20,
    "findings": [{"expectation": "reads at most 3 buffers", "found": "1,234", "verdict": "fails"}],
}  # fmt: skip
UNTRIED = WELL | {
    "name": "gone", "ok": False, "buffers": None, "rows": None, "milliseconds": None, "findings": [], "warnings": [],
    "error": 'relation "gone" does not exist',
}  # fmt: skip


def answers(*results: dict, replica: bool = True) -> list[dict]:
    """Return what three hosts answer, of which one could not be reached and another one was chosen."""
    said = {"chosen": "db2", "replica": replica}
    return [said | {"results": []}, said | {"results": list(results)}, {"unreachable": True}]


def test_what_holds_is_told_in_a_line_and_what_was_not_judged_beside_it():
    assert queries.Report(answers(WELL)).lines() == [
        "Run on db2, a replica:",
        "",
        "orders/of-user: ok (1,234 buffers, 1 row, 0.5 ms)",
        "  not judged  uses the index a_idx: small has 50 rows",
        "  beware      small was never analyzed",
        "",
        "1 query is as expected.",
    ]


def test_what_does_not_hold_is_told_with_its_plan():
    report = queries.Report(answers(WELL, BROKEN, UNTRIED, replica=False))
    lines = report.lines()
    assert lines[0] == "Run on db2, the primary, since no replica follows it:"
    assert lines[6:] == [
        "orders/newest: NOT AS EXPECTED (1,234 buffers, 20 rows, 0.5 ms)",
        "  fails       reads at most 3 buffers: 1,234",
        "    Seq Scan on orders",
        "      Filter: x",
        "",
        "orders/gone: NOT AS EXPECTED",
        '  error       relation "gone" does not exist',
        "",
        "2 of 3 queries are not as expected.",
    ]
    assert report.problems == [
        "orders/newest: reads at most 3 buffers: 1,234",
        'orders/gone: relation "gone" does not exist',
    ]
    assert report.data()["ok"] is False
    assert [each["name"] for each in report.data()["queries"]] == ["of-user", "newest", "gone"]


def test_with_its_plan_all_is_told_of_one_that_holds():
    lines = queries.Report(answers(WELL | {"plan": "Result"})).lines()
    assert "  holds       ends within 5 s: 0.5 ms" in lines
    assert "    Result" in lines


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([], "no database host answered; `make status` tells why"),
        (answers(), "db2 was to run the queries, and could not; `make status` tells why"),
    ],
)
def test_where_nobody_ran_them_nothing_is_well(said, problem):
    report = queries.Report(deepcopy(said))
    assert report.lines() == report.problems == [problem]
    assert report.data()["ok"] is False


def reported(folder, said: list[dict], shape: str) -> subprocess.CompletedProcess:
    """Return how a playbook ended that shows answers, with the callback that `make check-queries` has."""
    play = [
        {"hosts": "localhost", "gather_facts": False, "tasks": [{"queries_report": {"answers": said, "format": shape}}]}
    ]
    (folder / "show.yml").write_text(json.dumps(play))
    return subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "--inventory=localhost,", folder / "show.yml"],
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "lines", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_ends_as_its_queries_do(tmp_path):
    done = reported(tmp_path, answers(WELL), "table")
    assert (done.returncode, done.stdout.splitlines()) == (0, queries.Report(answers(WELL)).lines())
    done = reported(tmp_path, answers(WELL, BROKEN), "json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == queries.Report(answers(WELL, BROKEN)).data()
    done = reported(tmp_path, answers(WELL), "xml")
    assert done.returncode == 2
    assert "there is no format 'xml'; choose table or json" in done.stderr


# The example services


def test_examples_declare_queries_and_nothing_keeps_them_from_being_tried(lab: Landscape):
    wanted = lab.value("db1", "topology_services | services_queries")
    assert {query["service"] for query in wanted} >= {"orders", "users"}
    readers = {f"{query['database']}_reader" for query in wanted}
    passwords = lab.value(
        "db1",
        "topology_services | services_queries"
        " | queries_passwords(topology_services | services_databases(vault_key, topology_rotation))",
    )
    assert set(passwords) == readers
    assert all(len(password) == 43 for password in passwords.values())


def test_a_deploy_has_the_gates_of_what_it_deploys(lab: Landscape):
    """None of the examples' queries is one, unless an environment says so."""
    assert lab.value("app1", "deploy_gates") == []
    gated = {"orders": {"database": {"queries": {"of-user": {"gate": True}}}}, "users": {}}
    own = Landscape(ROOT / "inventory/lab", lab_state="/nowhere", services=gated, deploy_services=["orders"])
    assert [query["name"] for query in own.value("app1", "deploy_gates")] == ["of-user"]
    other = Landscape(ROOT / "inventory/lab", lab_state="/nowhere", services=gated, deploy_services=["users"])
    assert other.value("app1", "deploy_gates") == []
