"""What `make query-report` makes of what hosts counted: findings, lines and a page, of which none shows a value."""

from __future__ import annotations

import copy
import html.parser
import json
import re
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.postgresql_statistics import expected_index_pages, expected_pages, statements

from landscape import ROOT, load
from terrace import query_report
from terrace.query_report import lines, merged, page, pasted, redundant, report, stale, unbounded, unindexed, unused

queries = load("plugins/filter/query_report.py", "query_report_filter")

NOW = 1_800_000_000.0
SINCE = NOW - 30 * 86400


def index(name: str, *parts: str, **more) -> dict:
    """Return a b-tree of table orders; parts beyond `keys` are only carried."""
    numbers = [sum(map(ord, part)) for part in parts]
    return {
        **{"schema": "public", "table": "orders", "name": name, "method": "btree", "valid": True, "where": ""},
        **{"unique": False, "primary": False, "constrained": False, "identity": False, "oid": 1},
        **{"bytes": 5_000_000, "pages": 600, "rows": 1e5, "scans": 10, "used": NOW - 60, "bloat": 0.0},
        **{"parts": list(parts), "keys": len(parts), "ways": ["1 0 0"] * len(parts), "alike": [*numbers, 0]},
    } | more


def table(name: str = "orders", **more) -> dict:
    return {
        **{"schema": "public", "name": name, "oid": 1, "kind": "r", "part": False, "rows": 1e5, "uncounted": False},
        **{"bytes": 2e7, "heap_bytes": 2e7, "index_bytes": 1e7, "inserts": 10, "updates": 5, "deletes": 0, "hot": 1},
        **{"live": 100_000, "dead": 10, "changed": 10, "analyzed": NOW - 60, "vacuumed": NOW - 60, "age": 1000},
        **{"keyed": True, "bloat": 0.0, "measured": False, "fill": 100, "columns": {}, "seq_scans": 1, "seq_rows": 1},
    } | more


def statement(number: str = "1", text: str = "SELECT a FROM orders WHERE b = $1", **more) -> dict:
    return {
        **{"id": number, "text": text, "calls": 100.0, "total_ms": 5000.0, "max_ms": 90.0, "rows": 1000.0},
        **{"hit": 900.0, "read": 100.0, "temp": 0.0},
    } | more


def answer(replica: bool = False, **database) -> dict:
    """Return what a host tells."""
    told = {
        **{"error": "", "since": SINCE, "reset": True, "age": 5000, "mxid_age": 10, "bytes": 5e7, "quals": None},
        **{"tables": [table()], "indexes": [index("orders_pkey", "id", primary=True, unique=True)], "sequences": []},
        **{"references": [], "extensions": ["hypopg"]},
    } | database
    known = {"total_ms": 5000.0, "calls": 100.0, "count": 1, "since": SINCE, "statements": [statement()]}
    return {
        "error": "",
        "server": {"version": "17.5", "replica": replica, "io_timing": "on", "now": NOW, "freeze_max_age": 200_000_000},
        "statements": {"known": True, "why": "", "since": SINCE, "lost": 0, "databases": {"orders": known}},
        "databases": {"orders": told},
    }


ADVICE = {
    "databases": {
        "orders": {
            **{"error": "", "hypopg": True, "failed": {}, "untried": [], "tried": 9},
            "plans": {"1": {"cost": 1000.0, "lines": ["Seq Scan on orders  (cost 1,000)", "  filter: (b = $1)"]}},
            "advice": [
                {
                    **{"schema": "public", "table": "orders", "sql": "CREATE INDEX ON orders (b)", "guess": False},
                    **{"saved_ms": 4900.0, "bytes": 3_000_000, "entries": 2.0, "hot_lost": 0.5},
                    "write_ms": 3.0,
                    "replaces": ["id"],
                    "declared": {"columns": ["b", {"column": "c", "order": "desc"}], "include": ["d"]},
                    "queries": [{"id": "1", "before": 1000.0, "after": 8.0, "saved_ms": 4900.0, "guess": False}],
                }
            ],
        }
    }
}  # fmt: skip


def made(advice=ADVICE, advisor: str = "db1", now: float = NOW, **database) -> dict:
    """Return the report of a cluster of one."""
    return report(merged({"db1": answer(**database)}), copy.deepcopy(advice), advisor, {"orders": "orders"}, "lab", now)


# Hosts together


def test_scans_of_all_hosts_count():
    primary = answer(indexes=[index("a_idx", "a", scans=0, used=None)])
    replica = answer(True, indexes=[index("a_idx", "a", scans=7, used=NOW - 5)], since=SINCE + 100)
    found = merged({"db1": replica, "db2": primary})
    assert found["base"] == "db2"
    [one] = found["databases"]["orders"]["indexes"]
    assert (one["scans"], one["used"]) == (7, NOW - 5)
    assert found["databases"]["orders"]["counted_since"] == SINCE + 100


def test_statements_of_all_hosts_are_added_up():
    found = merged({"db1": answer(), "db2": answer(True)})["databases"]["orders"]["statements"]
    assert (found["total_ms"], found["calls"], found["count"]) == (10_000.0, 200.0, 1)
    [one] = found["statements"]
    assert (one["calls"], one["total_ms"], one["max_ms"], one["hit"]) == (200.0, 10_000.0, 90.0, 1800.0)


@pytest.mark.parametrize("silent", [None, {}, {"unreachable": True}, {"error": "OperationalError (no answer)"}])
def test_a_host_that_was_not_reached_is_told(silent):
    found = report(merged({"db1": answer(), "db2": silent}), ADVICE, "db1", {}, "lab", NOW)
    assert [sentence for sentence in found["unknown"] if sentence.startswith("db2: ")]
    assert "db2 (not read)" in " ".join(page(found).split())


def test_without_any_host_nothing_is_known():
    found = report(merged({"db1": None}), None, "", {}, "lab", NOW)
    assert "No database host answered, so nothing is known at all." in found["unknown"]
    assert "Nothing to do was found." not in lines(found)
    assert "nothing is known" in page(found)


def test_a_replica_alone_is_told():
    found = report(merged({"db1": answer(True), "db2": None}), ADVICE, "db1", {}, "lab", NOW)
    assert [sentence for sentence in found["unknown"] if sentence.startswith("The primary did not answer")]


# What is not known


def test_what_is_missing_is_told():
    host = answer()
    host["statements"] = {"known": False, "why": "no pg_stat_statements", "since": None, "lost": 0, "databases": {}}
    found = report(merged({"db1": host}), {"databases": {}}, "db1", {}, "lab", NOW)
    assert "db1: no pg_stat_statements, so no statement is known of it. `make site` mends that." in found["unknown"]
    assert page(found)


def test_young_and_lost_statistics_are_told():
    host = answer(since=NOW - 3600)
    host["statements"] |= {"since": NOW - 3600, "lost": 5}
    found = report(merged({"db1": host}), ADVICE, "db1", {}, "lab", NOW)
    said = "\n".join(found["unknown"])
    assert "forgot statements 5 times" in said
    assert "counted for 1 hour only, so weekly ones may lack" in said
    assert "the use of its indexes is counted for 1 hour only" in said


def test_a_database_without_hypopg_is_told():
    advice = copy.deepcopy(ADVICE)
    advice["databases"]["orders"] |= {"hypopg": False, "advice": []}
    assert [sentence for sentence in made(advice)["unknown"] if "CREATE EXTENSION hypopg SCHEMA terrace" in sentence]


def test_a_failed_advisor_and_statements_without_plan_are_told():
    assert (
        "orders: the advisor failed, OperationalError (None)."
        in made({"databases": {"orders": {"error": "OperationalError (None)"}}})["unknown"]
    )
    advice = copy.deepcopy(ADVICE)
    advice["databases"]["orders"] |= {"failed": {"1": "SyntaxError (42601)"}, "cut": True}
    found = made(advice)
    assert "orders: the time for trying indexes ran out, so some were not tried." in found["unknown"]
    assert "orders: 1 statement could not be planned, and are listed there." in found["unknown"]
    assert "SyntaxError (42601)" in page(found)
    assert [sentence for sentence in made(None)["unknown"] if "there are neither plans nor advice" in sentence]


# Indexes that are not needed


def test_an_index_that_nobody_used():
    own = [
        index("a", "a", scans=0),
        index("b", "b", scans=0, unique=True),
        index("c", "c", scans=1),
        index("d", "d", scans=None),
        index("e", "e", scans=0, bytes=8192),
        index("f", "f", scans=0, valid=False),
    ]
    assert [one["name"] for one in unused(own)] == ["a", "d"]


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (index("a", "x"), index("b", "x"), [("a", "b", "duplicate")]),
        (index("a", "x"), index("b", "x", unique=True), [("a", "b", "duplicate")]),
        (index("a", "x", unique=True), index("b", "x", unique=True), []),
        (index("a", "x"), index("b", "x", "y"), [("a", "b", "beginning")]),
        (index("a", "y"), index("b", "x", "y"), []),
        (index("a", "x"), index("b", "x", "y", unique=True), [("a", "b", "beginning")]),
        (index("a", "x", unique=True), index("b", "x", "y"), []),
        (index("a", "x", ways=["1 0 3"]), index("b", "x"), []),
        (index("a", "x", alike=[9, 1]), index("b", "x", alike=[9, 2]), []),
        (index("a", "x", method="gin"), index("b", "x", "y", method="gin"), []),
        (index("a", "x", table="items"), index("b", "x"), []),
        (index("a", "x", "z", keys=1), index("b", "x"), [("b", "a", "duplicate")]),
        (index("a", "x", "z", keys=1), index("b", "x", "y"), []),
        (index("a", "x", valid=False), index("b", "x"), []),
    ],
)
def test_indexes_that_others_make_needless(one, other, wanted):
    found = [(mine["name"], its["name"], why) for mine, its, why in redundant([one, other])]
    assert found == wanted
    assert [(mine["name"], its["name"], why) for mine, its, why in redundant([other, one])] == wanted


def test_of_three_alike_one_stays():
    gone = {one["name"] for one, _, _ in redundant([index("a", "x"), index("b", "x"), index("c", "x")])}
    assert len(gone) == 2


def test_a_foreign_key_without_an_index():
    key = {"schema": "public", "table": "orders", "name": "k", "target": "users", "columns": ["b", "a"]}
    database = {"tables": [table(), table("users", deletes=3)], "indexes": [], "references": [key]}
    assert unindexed(database) == [key]
    assert unindexed(database | {"indexes": [index("i", "a", "b", "c")]}) == []
    assert unindexed(database | {"indexes": [index("i", "a", "c", "b")]}) == [key]
    assert unindexed(database | {"indexes": [index("i", "a", "b", where="x IS NULL")]}) == [key]
    assert unindexed(database | {"tables": [table(), table("users")]}) == []


# Tables and statements


def test_stale_statistics():
    found = stale(
        [
            table("never", analyzed=None, uncounted=True),
            table("old", changed=30_000),
            table("fresh"),
            table("small", live=10, changed=900, analyzed=None, uncounted=True),
        ]
    )
    assert [(one["name"], why) for one, why in found] == [
        ("never", "it was never analyzed"),
        ("old", "30,000 rows changed since it was analyzed, of 100,000"),
    ]


def test_unbounded_statements():
    found = unbounded(
        [
            statement("1", "SELECT a FROM t LIMIT $1 OFFSET $2", rows=1000.0),
            statement("2", "SELECT a FROM t", rows=500_000.0),
            statement("3", "SELECT a FROM t LIMIT $1", rows=500_000.0),
            statement("4", "SELECT a FROM t", rows=1000.0),
            statement("5", "UPDATE t SET a = $1", rows=500_000.0),
            statement("6", "SELECT a FROM t FETCH FIRST $1 ROWS ONLY", rows=500_000.0),
        ]
    )
    assert [(one["id"], why) for one, why in found] == [("1", "offset"), ("2", "limit")]


def test_pages_that_rows_need():
    """By hand: 24 of header, 8 + 8 of columns, 4 of pointer are 44 bytes a row, in 8168 bytes of a page."""
    columns = [{"width": 8, "nulls": 0.0}, {"width": 4, "nulls": 0.0}]
    assert expected_pages(8168, columns, 100) == pytest.approx(44)
    assert expected_pages(8168, columns, 50) == pytest.approx(88)
    assert expected_index_pages(8152 * 0.9, [{"width": 4, "nulls": 0.0}]) == pytest.approx(21)


def test_findings_come_in_the_order_of_their_urgency():
    found = made(
        sequences=[
            {"schema": "public", "name": "s", "table": "orders", "column": "id", "share": 0.95},
            {"schema": "public", "name": "r", "table": None, "column": None, "share": 0.6},
            {"schema": "public", "name": "q", "table": None, "column": None, "share": None},
        ],
        indexes=[index("bad", "x", valid=False), index("a", "y"), index("b", "y"), index("idle", "z", scans=0)],
        tables=[table(keyed=False, bloat=0.6), table("t", changed=90_000)],
        age=380_000_000,
    )
    assert [finding["place"] for finding in found["findings"]] == [
        *("age", "sequences", "invalid", "advice-0", "redundant", "unused", "stale", "bloat", "keyless"),
    ]
    assert "Widen orders.id before its sequence ends" in found["findings"][1]["title"]
    assert [one["name"] for one in found["databases"][0]["sequences"]] == ["s", "r"]


# What is shown


def test_lines_to_paste_are_a_services():
    text = pasted("orders", "orders", ADVICE["databases"]["orders"]["advice"][0])
    assert text == (
        "database:\n  indexes:\n    orders:\n      - columns: [b, {column: c, order: desc}]\n        include: [d]\n"
    )
    other = {"schema": "audit", "table": "log", "declared": {"columns": ["a"], "where": "b IS NULL"}}
    wanted = {"audit.log": [{"columns": ["a"], "where": "b IS NULL"}]}
    assert yaml.safe_load(pasted("", "reports", other)) == {"databases": {"reports": {"indexes": wanted}}}


def test_the_summary_says_what_to_do():
    said = "\n".join(lines(made(), "report.html"))
    assert "100 %     50 ms x 100     SELECT a FROM orders WHERE b = $1" in said
    assert "orders: Add an index on orders: b, c desc: saves about 98 % of the database's time" in said
    assert (
        "# into services/orders.yml\ndatabase:\n  indexes:\n    orders:\n      - columns: [b, {column: c, order: desc}]"
        in said
    )
    assert said.endswith("The page: report.html")


class Checker(html.parser.HTMLParser):
    """Follows a page: what is open, the anchors there are, and those that are led to."""

    VOID = ("meta", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        assert not {"src", "onclick", "onload"} & set(given), (tag, given)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def full() -> dict:
    """Return a report with something in each section."""
    advice = copy.deepcopy(ADVICE)
    advice["databases"]["orders"]["untried"] = [{"id": "1", "table": "public.orders", "text": "an index by gin"}]
    advice["databases"]["orders"]["failed"] = {"1": "SyntaxError (42601)"}
    key = {"schema": "public", "table": "orders", "name": "k", "target": "users", "columns": ["b"]}
    host = answer(
        sequences=[{"schema": "public", "name": "s", "table": "orders", "column": "id", "share": 0.95}],
        indexes=[index("bad", "x", valid=False), index("a", "y"), index("b", "y"), index("idle", "z", scans=0)],
        tables=[table(keyed=False, bloat=0.6), table("t", changed=90_000), table("users", deletes=3)],
        references=[key],
        quals=[
            {
                "schema": "public",
                "table": "orders",
                "column": "b",
                "operator": "=",
                "rows": 9.0,
                "filtered": 8.0,
                "seen": 1.0,
            }
        ],
        age=380_000_000,
    )
    host["statements"]["databases"]["orders"]["statements"].append(
        statement("2", 'SELECT <b> FROM "a&b" OFFSET $1', total_ms=900.0)
    )
    broken = {"error": "OperationalError (None)", "since": SINCE}
    host["databases"]["broken"] = broken
    return report(merged({"db1": host, "db2": None}), advice, "db1", {"orders": "orders"}, "lab", NOW)


def test_the_page_is_whole_and_needs_nothing_else(full):
    text = page(full)
    found = Checker(text)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert len(found.links) == len(full["findings"])
    assert not {"script", "link", "iframe", "img", "object"} & found.tags
    assert "://" not in text
    assert "&lt;b&gt;" in text
    assert "<b> FROM" not in text
    assert 'lang="en"' in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"built-in method|Undefined|\bNone\b", text.replace("OperationalError (None)", ""))


def test_every_section_is_there(full):
    text = page(full)
    for title in (
        *("Missing indexes", "Costliest queries", "Queries without a bound", "Worth a thought, and not tried"),
        *("Invalid indexes", "Indexes that others make needless", "Indexes that nobody used", "Stale statistics"),
        *("Foreign keys without an index", "Sequences close to their end", "Bloat", "Tables without a primary key"),
        *("Conditions that threw most rows away", "Statements without a plan", "Transaction numbers"),
        *("What could not be known", "It could not be read: OperationalError (None)."),
    ):
        assert title in text, title


def test_the_report_is_plain_data(full):
    assert json.loads(json.dumps(full)) == full


# No value


class Reader:
    """A database whose statements hold secrets.

    Parameters:
        texts: of pg_stat_statements.
    """

    def __init__(self, *texts: str) -> None:
        self.extensions = {"pg_stat_statements": "public"}
        self.texts = texts

    def ask(self, statement: str, values: tuple = ()) -> list[dict]:
        """Return what is asked for."""
        if "pg_stat_statements_info" in statement:
            return [{"lost": 0, "since": SINCE}]
        numbers = {"calls": 1.0, "total_ms": 1.0, "max_ms": 1.0, "rows": 1e6, "hit": 1.0, "read": 0.0, "temp": 0.0}
        shared = {"database": "orders", "database_ms": 9.0, "database_calls": 9.0, "database_count": 9}
        shared |= {"database_since": SINCE, "place": 1}
        return [numbers | shared | {"id": str(number), "text": text} for number, text in enumerate(self.texts)]


def test_secrets_in_statements_reach_neither_page_nor_data():
    texts = [
        "ALTER ROLE orders_a PASSWORD 's3cret'",
        "CREATE USER MAPPING FOR a SERVER b OPTIONS (password 's3cret')",
        "SELECT a FROM orders WHERE b = 's3cret' -- s3cret\n/* s3cret */ AND c = 4711",
        "SELECT $$s3cret$$ OFFSET 4711",
        "COPY orders FROM PROGRAM 's3cret'",
    ]
    host = answer()
    host["statements"] = statements(Reader(*texts))
    found = report(merged({"db1": host}), None, "db1", {"orders": "orders"}, "lab", NOW)
    assert len(found["databases"][0]["queries"]) == 5
    for text in (page(found), json.dumps(found), "\n".join(lines(found)), json.dumps(host)):
        assert "s3cret" not in text
        assert "4711" not in text
        assert "ALTER ROLE" in text


def test_the_template_escapes_everything():
    """Names of tables and statements are anybody's."""
    assert "|safe" not in Path(query_report.TEMPLATE).read_text().replace(" ", "")
    found = made(tables=[table("<script>alert(1)</script>", keyed=False)])
    assert "<script>" not in page(found)


def test_the_playbook_asks_only_what_it_may():
    """Each task that reaches a database does so by a module that reads."""
    [play] = yaml.safe_load((ROOT / "playbooks/query_report.yml").read_text())
    asked = [set(task) & {"postgresql_workload", "postgresql_advice", "query_report"} for task in play["tasks"]]
    assert [name for names in asked for name in names] == ["postgresql_workload", "postgresql_advice", "query_report"]


# The filters


def test_a_replica_tries_where_one_answers():
    members = [{"name": name} for name in ("db1", "db2", "db3")]
    hosts = {"db1": {"query_workload": answer()}, "db2": {}, "db3": {"query_workload": answer(True)}}
    assert queries.query_advisor(members, hosts) == "db3"
    assert queries.query_advisor(members, hosts | {"db3": {"query_workload": {"error": "no answer"}}}) == "db1"
    assert queries.query_advisor(members, {"db1": {}, "db2": {}, "db3": {}}) == ""
    found = queries.query_workload(members, hosts)
    assert {name: host["reached"] for name, host in found["hosts"].items()} == {"db1": True, "db2": False, "db3": True}


def test_databases_are_their_services(lab):
    """As the lab's topology has them."""
    found = lab.value("db1", "topology_query_services")
    assert found["orders"] == "orders"
