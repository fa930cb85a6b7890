"""What is read out of conditions and plans as PostgreSQL 17 writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.postgresql_conditions import predicates, sort_key
from ansible.module_utils.postgresql_plans import read

PLANS = json.loads((Path(__file__).parent / "data/plans.json").read_text())
ALIASES = {"o", "i", "x", "Weird T"}


def said(condition: str) -> list[str]:
    """Return what a condition says, each as `alias.key: kind`, with `> alias` of what it is compared with."""
    return [
        f"{one.key.alias}.{one.key.text}: {one.kind}" + (f" > {one.other}" if one.other else "")
        for one in predicates(condition, ALIASES)
    ]


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("(o.customer_id = $1)", ["o.customer_id: equal"]),
        (
            "((o.deleted_at IS NULL) AND (NOT o.paid) AND (o.total > $1) AND o.sent)",
            ["o.deleted_at: null", "o.paid: false", "o.total: range", "o.sent: true"],
        ),
        ("(o.id = ANY (ARRAY[$1, $2]))", ["o.id: any"]),
        ("(o.d = ANY ('{a,b}'::text[]))", ["o.d: any"]),
        ("(o.id <> ALL (ARRAY[$1, $2]))", []),
        ("(x.customer_id = o.customer_id)", ["x.customer_id: equal > o", "o.customer_id: equal > x"]),
        ('("Weird T"."Col A" = o.id)', ["Weird T.Col A: equal > o", "o.id: equal > Weird T"]),
        (
            "((i.sku ~~ $1) OR ((i.qty >= $2) AND (i.qty <= $3)))",
            ["i.sku: prefix", "i.qty: range", "i.qty: range"],
        ),
        ("(o.payload @> $1)", ["o.payload: contains"]),
        ("(ROW(o.created_at, o.id) > ROW($1, $2))", ["o.created_at: range", "o.id: range"]),
        ("(o.total > (SubPlan 1))", ["o.total: range"]),
        ("(o.id = (InitPlan 1).col1)", ["o.id: equal"]),
        ("(lower(o.email) = $1)", ["o.lower(email): equal"]),
        ("(EXTRACT(year FROM o.at) = $1)", ["o.EXTRACT(year FROM at): equal"]),
        ("((o.a + i.b) = $1)", []),
        ("(CASE WHEN (o.x = 1) THEN o.y ELSE o.z END = 3)", []),
        ("(NOT (hashed SubPlan 1))", []),
        ("((o.x IS NOT NULL) AND ((o.y)::text <> $1))", ["o.x: not null"]),
        ("(o.kind = 'it''s AND (o.secret = 1'::text)", ["o.kind: equal"]),
    ],
)
def test_conditions(condition, wanted):
    assert said(condition) == wanted


def test_a_cast_is_told_apart_from_its_column():
    [one] = predicates("((o.status)::text = $1)", ALIASES)
    assert (one.key.column, one.key.cast, one.key.expression) == ("status", "text", True)


@pytest.mark.parametrize(
    ("condition", "fixed"),
    [
        ("(lower(o.email) = $1)", True),
        ("(date_trunc($1, o.at) = $2)", False),
        ("((o.payload ->> 'a'::text) = $1)", False),
    ],
)
def test_an_expression_that_holds_a_value_is_no_index(condition, fixed):
    [one] = predicates(condition, ALIASES)
    assert one.key.fixed is fixed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("o.at", ("at", False, False)),
        ("o.at DESC", ("at", True, True)),
        ("o.at DESC NULLS LAST", ("at", True, False)),
        ('o.name COLLATE "C"', ("name", False, False)),
        ("lower(o.email)", ("lower(email)", False, False)),
    ],
)
def test_sort_keys(text, wanted):
    one = sort_key(text, ALIASES)
    assert (one.key.text, one.descending, one.nulls_first) == wanted


def test_a_sort_of_two_relations_is_of_none():
    assert sort_key("(o.a + i.b)", ALIASES) is None


def test_a_plan_says_what_it_reads_and_by_what():
    plan = read(PLANS["joined"]["explained"])
    assert plan.relations == {"o": ("public", "orders"), "i": ("public", "items")}
    assert {(one.key.alias, one.key.text, one.kind) for one in plan.predicates} >= {
        ("o", "customer_id", "any"),
        ("i", "qty", "range"),
        ("i", "order_id", "equal"),
    }
    assert plan.used["i"] == {"order_id", "sku", "qty"}
    assert plan.plain


def test_a_sort_and_its_columns_of_a_single_table_are_found():
    plan = read(PLANS["paged"]["explained"])
    assert [[key.key.text for key in sort] for sort in plan.sorts] == [["created_at"]]
    assert plan.sorts[0][0].descending
    assert {"id", "total", "created_at", "customer_id", "status"} <= plan.used["orders"]
    assert not plan.plain


def test_a_maximum_is_the_end_of_an_order():
    plan = read(PLANS["newest"]["explained"])
    assert [[key.key.text for key in sort] for sort in plan.sorts] == [["created_at"]]


def test_an_update_has_its_target_and_the_rows_that_it_finds():
    plan = read(PLANS["update"]["explained"])
    assert plan.target == ("public", "orders")
    assert plan.rows > 0


@pytest.mark.parametrize("name", PLANS)
def test_lines_show_no_value(name):
    """PostgreSQL's own constants in a plan are hidden as others are."""
    explained = json.loads(json.dumps(PLANS[name]["explained"]).replace("$1", "'s3cret'").replace("$2", "4711"))
    lines = "\n".join(read(explained).lines)
    assert "s3cret" not in lines
    assert "4711" not in lines
    assert explained[0]["Plan"]["Node Type"] in lines or "Update" in lines
