"""Which indexes the advisor chooses, with a planner of which the costs are known, and plans that are PostgreSQL's"
" own."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from ansible.module_utils.postgresql_advisor import (
    Choice,
    Index,
    Part,
    Query,
    Table,
    advise,
    candidates,
    carrying,
    known,
    quoted,
    tables_of,
    updated,
)
from ansible.module_utils.postgresql_plans import Plan, PlanError, read

PLANS = json.loads((Path(__file__).parent / "data/plans.json").read_text())
ORDERS, ITEMS = ("public", "orders"), ("public", "items")


def column(kind: str = "integer", distinct: float = -1, width: int = 4) -> dict:
    return {"type": kind, "distinct": distinct, "width": width, "nulls": 0.0}


def tables(**orders) -> dict:
    """Return the tables that the plans are of."""
    columns = {
        "id": column("bigint", -1, 8),
        "customer_id": column(distinct=5000),
        "status": column("character varying(20)", 3, 5),
        "total": column("numeric", 100, 6),
        "created_at": column("timestamp with time zone", -1, 8),
        "deleted_at": column("timestamp with time zone", 0, 8),
        "paid": column("boolean", 2, 1),
        "payload": column("jsonb", 1, 20),
        "email": column("text", -1, 12),
        "tags": column("text[]", 9, 30),
    }
    items = {"id": column("bigint"), "order_id": column("bigint"), "sku": column("text", 700), "qty": column()}
    given = {"pages": 1500, "rows": 100_000, "columns": columns, "indexes": [("id",)]} | orders
    return {ORDERS: Table(**given), ITEMS: Table(pages=1200, rows=200_000, columns=items, indexes=[("id",)])}


class Planner:
    """A planner for which a plan costs what the test says.

    Parameters:
        costs: by a part of a statement: patterns of CREATE INDEX, each with the cost that the statement has with such
            an index.
    """

    def __init__(self, costs: dict[str, dict[str, float]] | None = None) -> None:
        self.costs = costs or {}
        self.assumed: list[str] = []

    def explain(self, statement: str, forced: bool = False) -> Plan:
        """Return the recorded plan of a statement, at its cost with the indexes that are assumed."""
        for its in PLANS.values():
            if re.sub(r"\s", "", re.sub("LIMIT.*", "", its["statement"])) in re.sub(r"\s", "", statement):
                plan = copy.deepcopy(read(its["explained"]))
                for part, patterns in self.costs.items():
                    if part in statement:
                        for definition in self.assumed:
                            for pattern, cost in patterns.items():
                                if re.search(pattern, definition) and cost < plan.cost:
                                    plan.cost = cost
                                    plan.indexes.add(definition)
                return plan
        raise PlanError("UndefinedTable (42P01)")

    def assume(self, definitions) -> dict[str, str]:
        """Have these indexes; their names are what makes them."""
        self.assumed = list(definitions)
        return {definition: definition for definition in self.assumed}

    def size(self, definition: str) -> int:
        """Return a size."""
        return 1_000_000


def query(name: str, total_ms: float = 1000.0, calls: float = 10, rows: float = 100) -> Query:
    return Query(
        name,
        PLANS[name]["statement"].replace("LIMIT 20", "LIMIT $3").replace("LIMIT 10", "LIMIT $3"),
        calls,
        total_ms,
        rows,
    )


def chosen(planner: Planner, *queries: Query, total_ms: float | None = None, **orders):
    choice = Choice(list(queries), tables(**orders), planner, 1000, total_ms or sum(q.total_ms for q in queries))
    choice.plan()
    return choice.choose()


def names(name: str) -> set[str]:
    return {
        index.sql.removeprefix("CREATE INDEX ON public.")
        for index in candidates(read(PLANS[name]["explained"]), tables())
    }


# Candidates


def test_equality_comes_before_the_order():
    found = names("paged")
    assert {"orders (customer_id)", "orders (customer_id, status)", "orders (customer_id, status, created_at)"} <= found
    assert "orders (customer_id, created_at)" in found
    assert "orders (created_at, customer_id)" not in found


def test_flags_are_conditions_of_a_partial_index():
    assert "orders (customer_id, created_at) WHERE deleted_at IS NULL AND NOT paid" in names("paged") | {
        name.replace("NOT paid AND deleted_at IS NULL", "deleted_at IS NULL AND NOT paid") for name in names("paged")
    }


def test_a_varchar_compared_as_text_is_its_column():
    assert "orders (status)" in names("paged")


def test_joins_are_candidates_on_both_sides():
    found = names("joined")
    assert {"items (order_id)", "items (order_id, qty)", "orders (customer_id)"} <= found
    assert "orders (id)" not in found  # it is there


def test_expressions_are_candidates_where_they_hold_no_value():
    assert "orders ((lower(email)))" in names("expression")


def test_a_range_alone_and_what_is_ordered_by_rows():
    assert "orders (created_at)" in names("ranged")
    assert "orders (created_at, id)" in names("rows")


def test_what_is_grouped_and_the_newest():
    assert "orders (customer_id)" in names("grouped")
    assert "orders (customer_id, created_at)" in names("newest")


def test_what_hypopg_cannot_try_is_no_candidate():
    assert names("contained") == set()


def test_small_tables_are_left_alone():
    assert candidates(read(PLANS["paged"]["explained"]), tables(pages=10)) == []


def test_an_index_that_there_is_is_no_candidate():
    table = tables(indexes=[("customer_id", "status", "created_at")])[ORDERS]
    assert known(Index(ORDERS, (Part("customer_id"),)), table)
    assert known(Index(ORDERS, (Part("customer_id"), Part("status"))), table)
    assert not known(Index(ORDERS, (Part("status"),)), table)
    assert not known(Index(ORDERS, (Part("customer_id"),), where="paid"), table)


def test_a_function_that_is_read_from_is_no_table():
    plan = read(json.loads((Path(__file__).parent / "data/plan-function.json").read_text()))
    assert plan.relations == {"u": ORDERS}
    assert list(plan.used) == ["u"]
    assert "id" in plan.used["u"]


def test_columns_are_carried_where_they_are_few_and_narrow():
    plan = read(PLANS["joined"]["explained"])
    index = carrying(Index(ITEMS, (Part("order_id"),)), plan, tables()[ITEMS])
    assert index.include == ("qty", "sku")
    wide = tables()
    wide[ITEMS].columns["sku"]["width"] = 200
    assert carrying(Index(ITEMS, (Part("order_id"),)), plan, wide[ITEMS]) is None


def test_names_are_quoted_where_they_have_to_be():
    assert [quoted(name) for name in ("a_1", "Order", "user", 'a"b', "ä")] == [
        "a_1",
        '"Order"',
        '"user"',
        '"a""b"',
        '"ä"',
    ]
    index = Index(
        ("s", "user"), (Part("lower(x)", True), Part("at", descending=True, nulls_first=False)), ("B",), "a IS NULL"
    )
    assert index.sql == 'CREATE INDEX ON s."user" ((lower(x)), at DESC NULLS LAST) INCLUDE ("B") WHERE a IS NULL'
    assert index.declared == {
        "columns": [{"expression": "lower(x)"}, {"column": "at", "order": "desc", "nulls": "last"}],
        "include": ["B"],
        "where": "a IS NULL",
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("UPDATE t SET a = $1, b = b + $2 WHERE c = $3", {"a", "b"}),
        ('UPDATE t SET "A" = (SELECT x FROM y WHERE z = $1) FROM u WHERE t.c = u.c', {"A"}),
        ("UPDATE t SET (a, b) = ($1, $2)", {"a", "b"}),
        ("SELECT a FROM t WHERE b = $1", set()),
    ],
)
def test_columns_that_an_update_sets(text, wanted):
    assert updated(text) == wanted


# The choice


def test_the_index_that_saves_is_chosen_and_told_with_what_it_saves():
    [advice] = chosen(Planner({"customer_id = $1 AND status": {r"\(customer_id": 50}}), query("paged"))
    assert advice.index.sql == "CREATE INDEX ON public.orders (customer_id)"
    before = read(PLANS["paged"]["explained"]).cost
    assert advice.queries == [
        {
            "id": "paged",
            "before": before,
            "after": 50,
            "saved_ms": pytest.approx(1000 * (1 - 50 / before)),
            "guess": False,
        }
    ]
    assert advice.bytes == 1_000_000


def test_the_wider_index_is_chosen_where_it_saves_much_more():
    planner = Planner({"customer_id = $1 AND status": {r"\(customer_id\)": 1000, r"\(customer_id, created_at\)": 5}})
    [advice] = chosen(planner, query("paged"))
    assert [part.text for part in advice.index.parts] == ["customer_id", "created_at"]


def test_one_index_serves_two_statements():
    planner = Planner({"customer_id": {r"orders \(customer_id": 50}})
    [advice] = chosen(planner, query("paged"), query("update"))
    assert {each["id"] for each in advice.queries} == {"paged", "update"}


def test_nothing_is_chosen_that_helps_little():
    cost = read(PLANS["paged"]["explained"]).cost
    assert chosen(Planner({"customer_id": {r"\(customer_id": cost * 0.8}}), query("paged")) == []


def test_nothing_is_chosen_for_a_statement_that_takes_no_time():
    assert chosen(Planner({"customer_id": {r"\(customer_id": 5}}), query("paged", 10.0), total_ms=10_000) == []


def test_a_slow_statement_hides_no_other():
    planner = Planner(
        {"status = $2": {r"orders \(customer_id": 0.01}, "max(created_at)": {r"orders \(customer_id, created_at\)": 1}}
    )
    found = chosen(planner, query("paged", 1_000_000), query("newest", 5000))
    assert {"paged", "newest"} == {each["id"] for advice in found for each in advice.queries}


def test_the_sides_of_an_or_are_tried_together():
    """Only with an index for each of them PostgreSQL needs not read the whole table."""

    class Both(Planner):
        def explain(self, statement: str, forced: bool = False) -> Plan:
            plan = super().explain(statement, forced)
            if all(any(f"({column})" in each for each in self.assumed) for column in ("customer_id", "email")):
                plan.cost = 9.0
            return plan

    one = Query("either", PLANS["either"]["statement"], 10, 1000.0, 10)
    found = chosen(Both(), one)
    assert {advice.index.sql for advice in found} == {
        "CREATE INDEX ON public.orders (customer_id)",
        "CREATE INDEX ON public.orders (email)",
    }
    assert [each["after"] for advice in found for each in advice.queries] == [9.0, 9.0]


def test_trying_ends_when_its_time_is_over():
    choice = Choice([query("paged")], tables(), Planner({"customer_id": {r"\(customer_id": 50}}), 1000, 1000, budget=0)
    choice.plan()
    assert choice.choose() == []
    assert choice.cut


def test_writes_outweigh_what_is_saved():
    planner = Planner({"customer_id": {r"\(customer_id": 50}})
    assert len(chosen(planner, query("paged"), inserts=10)) == 1
    # A million milliseconds have passed; each entry costs a hundredth of one.
    assert chosen(planner, query("paged"), inserts=200) == []


def test_updates_that_are_no_longer_hot_count():
    planner = Planner({"max(created_at)": {r"orders \(customer_id": 50}, "WHERE total": {r"\(total": 5}})
    [advice] = chosen(planner, query("newest", 50_000), query("update", rows=4000), updates=5, hot=5)
    assert advice.hot_lost == 0
    table = tables(updates=5, hot=5)
    choice = Choice([query("update", rows=4000)], table, Planner(), 1000, 1000)
    choice.plan()
    assert choice.writes(Index(ORDERS, (Part("total"),))) == (4, 4)
    assert choice.writes(Index(ORDERS, (Part("customer_id"),))) == (0, 0)


def test_the_beginning_of_a_longer_one_is_left_out():
    index, longer = Index(ORDERS, (Part("customer_id"),)), Index(ORDERS, (Part("customer_id"), Part("created_at")))
    planner = Planner(
        {"max(created_at)": {r"\(customer_id\)": 1000, "created_at": 50}, "status": {r"\(customer_id": 50}}
    )
    choice = Choice([query("paged"), query("newest")], tables(), planner, 1000, 2000)
    choice.plan()
    assert choice.pruned([index, longer]) == [longer]


def test_a_wider_one_that_saves_little_more_is_left_out():
    """Even where that little is much of what is left."""
    planner = Planner({"customer_id = $1 AND status": {r"\(customer_id\)": 50, r"INCLUDE": 1}})
    [advice] = chosen(
        planner, query("paged"), columns={name: column() for name in ("customer_id", "status", "total", "id")}
    )
    assert advice.index.sql == "CREATE INDEX ON public.orders (customer_id)"


def test_two_that_carry_other_columns_become_one():
    one, other = Index(ORDERS, (Part("customer_id"),), ("id",)), Index(ORDERS, (Part("customer_id"),), ("total",))
    planner = Planner({"customer_id = $1": {r"\(customer_id": 50}})
    choice = Choice([query("paged"), query("newest")], tables(), planner, 1000, 2000)
    choice.plan()
    assert choice.joined([one, other]) == [Index(ORDERS, (Part("customer_id"),), ("id", "total"))]


def test_an_index_that_it_begins_like_is_told():
    planner = Planner({"customer_id": {r"\(customer_id, created_at": 5}})
    [advice] = chosen(planner, query("newest"), indexes=[("id",), ("customer_id",)])
    assert advice.replaces == [("customer_id",)]


# What came tells what a range selects


def test_more_rows_than_expected_make_an_index_dearer():
    planner = Planner({"created_at >=": {r"\(created_at": 100}})
    plan = read(PLANS["ranged"]["explained"])
    assert len(chosen(planner, query("ranged", calls=10, rows=10 * plan.rows))) == 1
    assert chosen(planner, query("ranged", calls=10, rows=10 * plan.rows * plan.cost / 100)) == []


def test_a_range_between_unknown_bounds_has_to_be_worth_it_for_ten_times_as_many_rows():
    plan = read(PLANS["ranged"]["explained"])
    choice = Choice([query("ranged", calls=1, rows=plan.rows)], tables(), Planner(), 1000, 1000)
    choice.plan()
    assert choice.between(choice.queries[0], Index(ORDERS, (Part("created_at"),)))
    assert not choice.between(choice.queries[0], Index(ORDERS, (Part("id"), Part("created_at"))))


# The whole


def gathered() -> dict:
    """Return a database as it is gathered."""
    table = tables()[ORDERS]
    entry = {
        **{
            "schema": "public",
            "name": "orders",
            "kind": "r",
            "part": False,
            "rows": table.rows,
            "heap_bytes": 1500 * 8192,
        },
        **{"columns": table.columns, "inserts": 5000, "updates": 100, "hot": 50},
    }
    index = {
        **{"schema": "public", "table": "orders", "method": "btree", "valid": True, "where": ""},
        **{"parts": ["id", "total"], "keys": 1},
    }
    return {
        "tables": [entry, {**entry, "name": "part_1", "part": True}],
        "indexes": [index],
        "now": 1000.0,
        "since": 0.0,
    }


def test_tables_are_made_of_what_was_gathered():
    found = tables_of(gathered(), 1000)
    assert list(found) == [ORDERS]
    table = found[ORDERS]
    assert (table.pages, table.indexes, table.inserts, table.hot) == (1500, [("id",)], 5.0, 0.05)


def test_advice_is_plain_data():
    statements = {
        "total_ms": 3000.0,
        "statements": [
            {"id": "1", "text": PLANS["paged"]["statement"].replace("LIMIT 20", "LIMIT"
                " $3"), "calls": 10, "total_ms": 1000.0, "rows": 200},
            {"id": "2", "text": "ALTER ROLE", "calls": 1, "total_ms": 10.0, "rows": 0},
            {"id": "3", "text": "SELECT a FROM nowhere", "calls": 1, "total_ms": 10.0, "rows": 0},
            {"id": "4", "text": PLANS["contained"]["statement"], "calls": 1, "total_ms": 1000.0, "rows": 0},
        ],
    }  # fmt: skip
    told = advise(Planner({"customer_id": {r"\(customer_id": 50}}), gathered(), statements, 1000, True)
    assert json.loads(json.dumps(told)) == told
    [advice] = told["advice"]
    assert (advice["schema"], advice["table"], advice["declared"]) == ("public", "orders", {"columns": ["customer_id"]})
    assert set(told["plans"]) == {"1", "4"}
    assert told["failed"] == {"2": "a command without a plan", "3": "UndefinedTable (42P01)"}
    assert {(each["id"], each["text"].split(":")[0]) for each in told["untried"]} == {
        ("4", "an index by gin on payload"),
        ("4", "an index by gin on tags"),
    }
    without = advise(Planner(), gathered(), statements, 1000, False)
    assert without["advice"] == []
    assert set(without["plans"]) == {"1", "4"}
