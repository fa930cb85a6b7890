"""Declared indexes and databases: what is refused, how they are named and written, and what has to be done for them."""

from __future__ import annotations

import re

import pytest
import yaml
from ansible.module_utils import postgresql_index
from ansible.module_utils.postgresql_index import NEW, OLD, IndexesError, create, differences, interim, progress, work

from landscape import ROOT, Landscape, load
from terrace import databases, indexes
from terrace.contracts import contract, filled
from terrace.services import RESERVED, Services

databases_filter = load("plugins/filter/databases.py", "databases_filter")
services_filter = load("plugins/filter/services.py", "services_for_databases")
KEY = "k" * 32


def index(**its) -> dict:
    """Return an index as modules get it."""
    options = contract("service")["database"]["options"]["indexes"]["options"]
    return {"table": "orders", "place": "here", **filled({"columns": ["a"], **its}, options)}


def named(**its) -> dict:
    return index(**{"name": "i", **its})


def facts(**its) -> dict:
    """Return what PostgreSQL says of a plain index `i` of the table with the oid 7."""
    return {
        **{"oid": 8, "schema": "public", "name": "i", "table_oid": 7, "table_name": "orders", "method": "btree"},
        **{"is_unique": False, "nulls_distinct": True, "key_count": 1, "keys": ["a"], "order_and_nulls": [0]},
        **{"opclasses": ["pg_catalog.int4_ops"], "opclass_options": [""], "collations": ["-"], "predicate": None},
        **{"parameters": [], "is_valid": True, "is_identity": False, "constraint": None, "is_under_way": False},
        **{"definition": "CREATE INDEX i ON public.orders USING btree (a)"},
        **its,
    }


def todo(its: dict, *real: dict, declared: dict | None = None):
    """Return the work for an index, beside indexes that are there."""
    return work(its, declared or facts(), {each["name"]: each for each in real}, 7)


def steps(its: dict, *real: dict, declared: dict | None = None) -> list[tuple[str, str]]:
    done = todo(its, *real, declared=declared)
    return [(step.kind, step.name) for step in done.steps] if done else []


# What is refused


@pytest.mark.parametrize(
    ("its", "key", "said"),
    [
        ({"columns": []}, "", "has neither a name nor columns; give columns"),
        ({"name": "x", "columns": []}, ".columns", "is empty; name at least one column, or an expression"),
        ({"state": "absent"}, "", "has neither a name nor columns; give a name, or the columns that it was made of"),
        (
            {"name": "x" * 64, "columns": ["a"]},
            ".name",
            "has 64 bytes, and PostgreSQL keeps 63; choose a shorter one",
        ),
        ({"name": "ä" * 32, "columns": ["a"]}, ".name", "has 64 bytes, and PostgreSQL keeps 63; choose a shorter one"),
        ({"name": " x", "columns": ["a"]}, ".name", "is ' x'; give one without spaces around it"),
        (
            {"name": "x_terrace_new", "columns": ["a"]},
            ".name",
            "ends as those of indexes that are being exchanged do; choose another",
        ),
        (
            {"name": "x_ccnew1", "columns": ["a"]},
            ".name",
            "ends as those of indexes that are being exchanged do; choose another",
        ),
        ({"columns": [{}]}, ".columns[0]", "give either a column or an expression"),
        ({"columns": [{"column": "a", "expression": "a"}]}, ".columns[0]", "give either a column or an expression"),
        (
            {"columns": ["lower(a)"]},
            ".columns[0]",
            "is 'lower(a)', which is no column; write {expression: ...}, or order and nulls beside column",
        ),
        (
            {"columns": ["a desc"]},
            ".columns[0]",
            "is 'a desc', which is no column; write {expression: ...}, or order and nulls beside column",
        ),
        (
            {"columns": [{"expression": "lower(a), b"}]},
            ".columns[0].expression",
            "is more than one expression; give each as a column of its own",
        ),
        (
            {"columns": [{"expression": "a); DROP TABLE orders"}]},
            ".columns[0].expression",
            "has a ; in it; write one expression, without what ends a statement",
        ),
        (
            {"columns": [{"expression": "a), (b"}]},
            ".columns[0].expression",
            "has a bracket without its other one; close each that is opened",
        ),
        ({"columns": [{"expression": "a -- b"}]}, ".columns[0].expression", "has a comment; take it out"),
        (
            {"columns": [{"expression": "a || 'b"}]},
            ".columns[0].expression",
            "has a quote that is not closed; close it",
        ),
        (
            {"columns": ["a"], "where": "where a > 0"},
            ".where",
            "begins with WHERE, which is added; write the condition alone",
        ),
        (
            {"columns": ["a"], "where": "a > 0; COMMIT"},
            ".where",
            "has a ; in it; write one expression, without what ends a statement",
        ),
        (
            {"columns": [{"column": "a", "order": "desc"}], "method": "gin"},
            ".columns[0].order",
            "is not for gin, which has no order; take it out",
        ),
        (
            {"columns": [{"column": "a", "opclass": "x y z"}]},
            ".columns[0].opclass",
            "is 'x y z'; write its name, and options as in name(siglen=32)",
        ),
        (
            {"columns": ["a"], "method": "hash", "include": ["b"]},
            ".include",
            "is not for hash; take it out, or choose one of btree, gist, spgist",
        ),
        (
            {"columns": ["a"], "include": ["a"]},
            ".include",
            "has a, which is among the columns already; take it out here",
        ),
        ({"columns": ["a"], "include": ["b", "b"]}, ".include", "has b twice; keep one"),
        ({"columns": ["a"], "method": "gin", "unique": True}, ".unique", "is not for gin; only a btree can be unique"),
        (
            {"columns": ["a"], "nulls_distinct": False},
            ".nulls_distinct",
            "is of a unique index; add unique: true, or take it out",
        ),
        ({"columns": ["a", "b"], "method": "hash"}, ".columns", "has 2, and hash takes one; make an index of each"),
        (
            {"columns": [f"c{number}" for number in range(33)]},
            ".columns",
            "has more than 32 with what is included, which PostgreSQL does not take; take some out",
        ),
        (
            {"columns": ["a"], "with": {"fillfactor": "70) WHERE (a"}},
            ".with.fillfactor",
            "is '70) WHERE (a'; has to be a word, a number, true or false",
        ),
        (
            {"columns": ["a"], "with": {"Fill factor": 70}},
            ".with.Fill factor",
            "is no name of a storage parameter; write it as PostgreSQL does: fillfactor",
        ),
    ],
)
def test_what_is_refused(its, key, said):
    assert list(indexes.index_findings({"orders": [its]}, "p")) == [(f"p.orders[0]{key}", said)]


@pytest.mark.parametrize("table", ["", "a.b.c", ".a", " a"])
def test_names_of_tables_that_are_none(table):
    [(key, said)] = indexes.index_findings({table: [{"columns": ["a"]}]}, "p")
    assert (key, said) == (f"p.{table}", "is no name of a table; write table, or schema.table")


def test_tables_of_postgresql_itself():
    [(_, said)] = indexes.index_findings({"pg_catalog.pg_class": [{"columns": ["relname"]}]}, "p")
    assert said == "is PostgreSQL's own; declare indexes of tables of the application"


def test_no_two_have_one_name():
    its = {"a": [{"columns": ["b_c"]}, {"name": "x", "columns": ["d"]}], "a_b": [{"columns": ["c"]}]}
    assert list(indexes.index_findings(its, "p")) == [
        ("p.a_b[0]", "is called a_b_c_idx, as p.a[0] is; give one of them another name")
    ]
    # In another schema it is another one.
    assert list(indexes.index_findings({"a": [{"columns": ["b"]}], "s.a": [{"columns": ["b"]}]}, "p")) == []


@pytest.mark.parametrize(
    "its",
    [
        {"columns": [{"expression": "lower(a || 'it''s; -- ')"}], "where": "b IN ('x;', \"C;\") AND (a > 0)"},
        {
            "columns": [{"column": "a", "opclass": "public.gist_trgm_ops(siglen=32)", "collation": "C"}],
            "method": "gist",
        },
        {"columns": [{"expression": "coalesce(a, 0)"}, {"column": "b", "order": "desc", "nulls": "last"}]},
        {"columns": ["Mixed Case"], "unique": True, "nulls_distinct": False, "include": ["b"]},
        {"columns": ["a", "b"], "method": "brin", "with": {"pages_per_range": 32, "autosummarize": True}},
        {"name": "old", "state": "absent"},
    ],
)
def test_what_is_sound(its):
    assert list(indexes.index_findings({"sales.orders": [its]}, "p")) == []


def test_it_is_told_of_services():
    """By the machinery that tells all else of them, types too."""

    def told(**database) -> list[tuple[str, str]]:
        declared = {
            "shop": {"source": {"path": "x"}, "app": "a:a", "interface": "asgi", "port": 8001, "database": database}
        }
        return Services(declared, {}, {"app": ["app1"]}).findings["shop"]

    assert told(indexes={"orders": [{"columns": ["a"]}]}) == []
    assert told(indexes={"orders": [{"columns": ["a"], "methd": "gin"}]}) == [
        ("database.indexes.orders[0].methd", "unknown key; did you mean 'method'?")
    ]
    assert told(indexes={"orders": [{"columns": ["a"], "method": "tree"}]})[0][0] == "database.indexes.orders[0].method"
    assert told(indexes={"orders": [{"columns": ["a;b", ""]}]}) == [
        ("database.indexes.orders[0].columns[1]", "give either a column or an expression")
    ]
    assert told(extensions=["pg_trgm", "a b", "pg_trgm"], connections=0) == [
        ("database.extensions", "has pg_trgm twice; keep one"),
        ("database.extensions", "has 'a b'; give names alone, such as pg_trgm"),
        ("database.connections", "is 0; has to be 1 or more"),
    ]
    assert told(
        settings={"work mem": 1, "jit": None, "search_path": ["a", "b"], "pg_stat_statements.track": "all"}
    ) == [
        ("database.settings.work mem", "is no name of a setting; write it as PostgreSQL does, such as work_mem"),
        ("database.settings.jit", "is None; has to be text, a number, true, false, or a list of these"),
    ]


# How they are named


@pytest.mark.parametrize(
    ("table", "its", "name"),
    [
        ("orders", {"columns": ["user_id", "id"]}, "orders_user_id_id_idx"),
        ("sales.orders", {"columns": ["a"], "unique": True}, "orders_a_idx"),
        ("orders", {"columns": ["a"], "include": ["b"]}, "orders_a_b_idx"),
        ("orders", {"columns": [{"expression": "lower(a)"}]}, "orders_lower_idx"),
        ("orders", {"columns": [{"expression": "s.f(g(a), ')')"}]}, "orders_f_idx"),
        ("orders", {"columns": [{"expression": "a + 1"}, {"expression": "f(a) + f(b)"}]}, "orders_expr_expr1_idx"),
        # Shortened as PostgreSQL 17 does it, tried there.
        (
            "a_table_with_quite_a_long_name_indeed",
            {"columns": ["a_column_with_a_long_name_too", "another"]},
            "a_table_with_quite_a_long_nam_a_column_with_a_long_name_too_idx",
        ),
        ("t", {"columns": ["x" * 63]}, f"t_{'x' * 57}_idx"),
    ],
)
def test_names_that_are_derived(table, its, name):
    assert indexes.derived_name(table, index(**its)) == name
    assert len(name.encode()) <= 63


def test_names_for_a_while_are_told_apart():
    assert interim("i", NEW) == "i_terrace_new"
    long = ["x" * 62 + "a", "x" * 62 + "b", "ä" * 31]
    names = [interim(name, ending) for name in long for ending in (NEW, OLD)]
    assert len(set(names)) == 6
    assert max(len(name.encode()) for name in names) <= 63
    assert all(indexes.OURS.fullmatch(name) for name in names)


# How they are written


@pytest.mark.parametrize(
    ("its", "statement"),
    [
        ({}, 'CREATE INDEX CONCURRENTLY "i" ON "public"."orders" USING btree ("a")'),
        (
            {"table": 'sales.Or"ders', "columns": ["a", {"column": "b", "order": "desc", "nulls": "last"}]},
            'CREATE INDEX CONCURRENTLY "i" ON "sales"."Or""ders" USING btree ("a", "b" DESC NULLS LAST)',
        ),
        (
            {"columns": [{"expression": " lower(a) "}], "unique": True, "nulls_distinct": False, "where": "b > 0 "},
            'CREATE UNIQUE INDEX CONCURRENTLY "i" ON "public"."orders" USING btree ((lower(a))) '
            "NULLS NOT DISTINCT WHERE (b > 0)",
        ),
        (
            {"columns": [{"column": "a", "collation": "C", "opclass": "public.x_ops(siglen=32)"}], "method": "gist"},
            'CREATE INDEX CONCURRENTLY "i" ON "public"."orders" USING gist '
            '("a" COLLATE "C" "public"."x_ops" (siglen=32))',
        ),
        (
            {"include": ["b", "C"], "with": {"fillfactor": 70, "deduplicate_items": False}},
            'CREATE INDEX CONCURRENTLY "i" ON "public"."orders" USING btree ("a") INCLUDE ("b", "C") '
            "WITH (fillfactor = 70, deduplicate_items = off)",
        ),
    ],
)
def test_statements(its, statement):
    given = named(**{key: value for key, value in its.items() if key != "table"})
    assert create({**given, "table": its.get("table", "orders")}) == statement


def test_a_statement_for_the_copy():
    assert (
        create(named(), concurrently=False, on="pg_temp.orders")
        == 'CREATE INDEX "i" ON pg_temp.orders USING btree ("a")'
    )


# What has to be done


def test_what_is_as_declared_is_left_alone():
    assert todo(named(), facts()) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "hash"}, ["method"]),
        ({"is_unique": True}, ["unique"]),
        ({"nulls_distinct": False}, ["nulls_distinct"]),
        ({"keys": ["b"]}, ["columns"]),
        ({"keys": ["a", "b"], "key_count": 2, "order_and_nulls": [0, 0], "collations": ["-", "-"]}, ["columns"]),
        # The second one is included there, and a key here.
        ({"keys": ["a", "b"]}, ["columns"]),
        ({"order_and_nulls": [3]}, ["order and nulls"]),
        ({"opclasses": ["x"], "opclass_options": ["siglen=3"]}, ["operator classes"]),
        ({"collations": ['"C"']}, ["collations"]),
        ({"predicate": "(a > 0)"}, ["where"]),
        ({"parameters": ["fillfactor=70"]}, ["with"]),
    ],
)
def test_differences(change, said):
    assert differences(facts(), facts(**change)) == said
    assert steps(named(), facts(**change)) == [("build", f"i{NEW}"), ("exchange", "i"), ("drop", f"i{OLD}")]


def test_what_is_missing_is_built():
    assert steps(named()) == [("build", "i")]
    assert todo(named()).outcome == "created"


def test_a_changed_one_is_exchanged_in_one_transaction():
    done = todo(named(), facts(keys=["b"]))
    assert (done.outcome, done.why) == ("changed", "differs in columns")
    assert postgresql_index.statements([done]) == [
        'CREATE INDEX CONCURRENTLY "i_terrace_new" ON "public"."orders" USING btree ("a")',
        "BEGIN",
        'ALTER INDEX "public"."i" RENAME TO "i_terrace_old"',
        'ALTER INDEX "public"."i_terrace_new" RENAME TO "i"',
        "COMMIT",
        'DROP INDEX CONCURRENTLY IF EXISTS "public"."i_terrace_old"',
    ]


def test_an_invalid_one_is_built_anew():
    assert steps(named(), facts(is_valid=False)) == [("drop", "i"), ("build", "i")]
    assert todo(named(), facts(is_valid=False, keys=["b"])).outcome == "rebuilt"


@pytest.mark.parametrize(
    ("real", "wanted"),
    [
        # Cut off while the new one was built, and before the exchange.
        (
            [facts(keys=["b"]), facts(name=f"i{NEW}", is_valid=False)],
            [("drop", f"i{NEW}"), ("build", f"i{NEW}"), ("exchange", "i"), ("drop", f"i{OLD}")],
        ),
        ([facts(keys=["b"]), facts(name=f"i{NEW}")], [("exchange", "i"), ("drop", f"i{OLD}")]),
        # That one is of an older declaration.
        (
            [facts(keys=["b"]), facts(name=f"i{NEW}", keys=["c"])],
            [("drop", f"i{NEW}"), ("build", f"i{NEW}"), ("exchange", "i"), ("drop", f"i{OLD}")],
        ),
        # After it.
        ([facts(), facts(name=f"i{OLD}", keys=["b"])], [("drop", f"i{OLD}")]),
        (
            [facts(keys=["b"]), facts(name=f"i{OLD}", keys=["c"])],
            [("drop", f"i{OLD}"), ("build", f"i{NEW}"), ("exchange", "i"), ("drop", f"i{OLD}")],
        ),
        # Somebody dropped the one that was to be exchanged.
        ([facts(name=f"i{NEW}")], [("exchange", "i")]),
        ([facts(name=f"i{NEW}", is_valid=False)], [("drop", f"i{NEW}"), ("build", "i")]),
        # What REINDEX left; what is being built is not left.
        (
            [facts(), facts(name="i_ccnew", is_valid=False), facts(name="i_ccold2", is_valid=False)],
            [("drop", "i_ccnew"), ("drop", "i_ccold2")],
        ),
        ([facts(), facts(name="i_ccnew", is_valid=False, is_under_way=True), facts(name="i_ccnew1")], []),
    ],
)
def test_what_a_run_that_was_cut_off_left_is_mended(real, wanted):
    assert steps(named(), *real) == wanted


def test_what_is_to_be_absent():
    absent = named(state="absent")
    assert todo(absent) is None
    assert steps(absent, facts()) == [("drop", "i")]
    assert todo(absent, facts()).outcome == "dropped"
    # Nothing says what it was.
    assert steps({**absent, "columns": []}, facts(is_valid=False)) == [("drop", "i")]
    assert todo(absent, facts(name=f"i{OLD}")).outcome == "tidied"


@pytest.mark.parametrize("its", [{}, {"state": "absent"}])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"constraint": "orders_pkey"}, "the constraint orders_pkey stands on it, so it is not touched"),
        ({"is_identity": True}, "it is the replica identity of its table, so it is not touched"),
    ],
)
def test_what_others_stand_on_is_not_touched(its, change, said):
    for also in ({"keys": ["b"]}, {"is_valid": False}):
        with pytest.raises(IndexesError, match=re.escape(said)):
            todo(named(**its), facts(**change, **also))


def test_a_constraint_s_index_may_be_declared_as_it_is():
    assert todo(named(), facts(constraint="i")) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table_oid": 9, "table_name": "users"}, "here: i is the name of an index of users; give it another one"),
        ({"is_under_way": True}, "here: somebody builds i at this moment"),
    ],
)
def test_what_is_somebody_else_s_is_refused(change, said):
    with pytest.raises(IndexesError, match=said):
        todo(named(), facts(**change))


def test_what_is_not_declared_is_told():
    real = [
        facts(),
        facts(name="mine"),
        facts(name="pkey", constraint="pkey"),
        facts(name=f"i{NEW}"),
        facts(name="i_ccnew", is_valid=False),
    ]
    assert [each["name"] for each in postgresql_index.undeclared([named()], real)] == ["mine"]
    # Of another schema it is another one.
    assert [each["name"] for each in postgresql_index.undeclared([{**named(), "table": "s.orders"}], [facts()])] == [
        "i"
    ]


# How far a build is


@pytest.mark.parametrize(
    ("its", "said"),
    [
        ({"phase": "initializing"}, "shop: i: initializing"),
        (
            {"phase": "building index: scanning table", "blocks_done": 43, "blocks_total": 100},
            "shop: i: building index: scanning table, 43 %",
        ),
        (
            {
                "phase": "building index: loading tuples in tree",
                "blocks_done": 9,
                "blocks_total": 9,
                "tuples_done": 1,
                "tuples_total": 3,
            },
            "shop: i: building index: loading tuples in tree, 33 %",
        ),
        (
            {"phase": "waiting for old snapshots", "lockers_done": 0, "lockers_total": 2},
            "shop: i: waiting for old snapshots",
        ),
        ({"index": "", "phase": "initializing"}, "shop: orders: initializing"),
    ],
)
def test_progress(its, said):
    row = dict.fromkeys([f"{what}_{when}" for what in ("blocks", "tuples", "lockers") for when in ("done", "total")], 0)
    assert progress({"database": "shop", "index": "i", "table": "orders", **row, **its}) == said


# Databases of no service


def told_of(declared, services=None) -> list[tuple[str, str]]:
    return list(databases.databases_findings(declared, services or {}, RESERVED))


def test_databases_that_are_sound():
    assert told_of({"reports": {}, "a_b": {"pool": 3, "extensions": ["pg_trgm"]}}, {"orders": "orders"}) == []


@pytest.mark.parametrize(
    ("declared", "finding"),
    [
        ({"My": {}}, ("databases.My", "a name is 1 to 24 of a-z, 0-9 and _, and starts with a letter")),
        ({"postgres": {}}, ("databases.postgres", "PostgreSQL keeps this name for itself; choose another")),
        (
            {"my_shop": {}},
            ("databases.my_shop", "is the database of the service 'my-shop'; declare it there, or choose another name"),
        ),
        (
            {"my_shop_read": {}},
            ("databases.my_shop_read", "is an alias of the database 'my_shop' in the poolers; choose another name"),
        ),
        (
            {"b": {}, "b_session": {}},
            ("databases.b_session", "is an alias of the database 'b' in the poolers; choose another name"),
        ),
        (
            {"x": {}},
            ("databases.x", "has an alias x_read in the poolers, which is a service's database; choose another name"),
        ),
        ({"b": {"pool": -1}}, ("databases.b.pool", "is -1; has to be 0 or more")),
        ({"b": {"indexes": {"t": [{}]}}}, ("databases.b.indexes.t[0]", "has neither a name nor columns; give columns")),
    ],
)
def test_databases_that_are_refused(declared, finding):
    assert told_of(declared, {"my_shop": "my-shop", "x_read": "x-read"}) == [finding]


def test_limits_have_to_carry_the_pools():
    [its] = databases.listed({"b": {"pool": 10, "connections": 43}})
    assert list(databases.limit_findings(its, 2)) == [
        ("connections", "is 43, and the pools of all nodes come to 44; raise it to that at least, or lower the pool")
    ]
    [its] = databases.listed({"b": {"pool": 10, "connections": 44}})
    assert list(databases.limit_findings(its, 2)) == []
    [its] = databases.listed({"b": {"pool": 10}})
    assert list(databases.limit_findings(its, 2)) == []


def test_a_database_of_no_service_has_roles_as_a_service_has():
    declared = databases_filter.databases_list({"reports": {"extensions": ["pg_trgm"], "connections": 5}})
    [made] = services_filter.services_databases(declared, KEY)
    assert (made["name"], made["owner"]["name"], made["reader"]["name"]) == (
        "reports",
        "reports_owner",
        "reports_reader",
    )
    assert made["owner"]["password"] == services_filter.derive(KEY, "postgresql/reports/owner")
    assert (made["extensions"], made["connections"], made["settings"]) == (["pg_trgm"], 5, {})
    # No pooler leads to it, so none has to know its logins.
    assert services_filter.services_pools(declared) == []
    assert services_filter.services_logins(declared, KEY) == []
    pooled = databases_filter.databases_list({"reports": {"pool": 3}})
    assert [pool["name"] for pool in services_filter.services_pools(pooled)] == [
        "reports",
        "reports_read",
        "reports_session",
    ]
    assert len(services_filter.services_logins(pooled, KEY)) == 3


def test_what_modules_get():
    its = {"indexes": {"sales.t": [{"columns": ["a"]}, {"name": "x", "state": "absent"}]}}
    shop = {"name": "my-shop", "source": {}, "database": filled(its, contract("service")["database"]["options"])}
    shop["database"]["name"] = "my_shop"
    declared = [
        shop,
        {"name": "none", "source": {}, "database": None},
        *databases_filter.databases_list({"r": its, "s": {}}),
    ]
    [first, second] = databases_filter.databases_indexes(declared)
    assert (first["name"], first["place"]) == ("my_shop", "services/my-shop.yml: database")
    assert [(each["name"], each["table"], each["place"]) for each in first["indexes"]] == [
        ("t_a_idx", "sales.t", "services/my-shop.yml: database.indexes.sales.t[0]"),
        ("x", "sales.t", "services/my-shop.yml: database.indexes.sales.t[1]"),
    ]
    assert second["indexes"][0]["place"] == "databases.r.indexes.sales.t[0]"
    assert databases_filter.databases_indexes(declared, ["none"]) == []


# Dropping one

THERE = [
    {"name": "old", "size": "8 MB", "sessions": 0},
    {"name": "orders", "size": "9 MB", "sessions": 3},
    {"name": "used", "size": "9 MB", "sessions": 2},
]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("old", ""),
        (
            "orders",
            "Nothing was dropped: orders is declared. Take it out of the inventory, run make site, and drop it then.",
        ),
        ("gone", "There is no database gone to drop; not declared are: old, used."),
        ("postgres", "There is no database postgres to drop; not declared are: old, used."),
    ],
)
def test_what_may_be_dropped(name, said):
    assert databases_filter.database_drop_refused(name, THERE, ["orders"]) == said


def test_nobody_may_be_connected_to_what_is_dropped():
    said = databases_filter.database_drop_refused("used", THERE, ["orders"])
    assert said.startswith("Nothing was dropped: used has 2 sessions.")


def test_what_is_told_before_a_drop():
    told = databases_filter.database_drop_told
    assert told("?", THERE, ["orders"]) == ["old: 8 MB, 0 sessions", "used: 9 MB, 2 sessions"]
    assert told("?", THERE, ["orders", "old", "used"]) == ["Every database is declared."]
    assert told("old", THERE, []) == (
        "Drops the database old (8 MB) and the roles old_app_a, old_app_b, old_app, old_reader, old_owner. "
        "Only a backup has it then."
    )


def test_roles_that_are_dropped_are_those_that_are_made():
    [made] = services_filter.services_databases(databases_filter.databases_list({"old": {}}), KEY)
    names = {made["owner"]["name"], made["reader"]["name"], made["application"]["name"]}
    names |= {login["name"] for login in made["application"]["logins"]}
    assert set(databases_filter.database_drop_roles("old")) == names


def test_every_key_of_an_index_is_on_its_page():
    text = (ROOT / "docs/indexes.md").read_text()
    keys = contract("service")["database"]["options"]["indexes"]["options"]
    assert [key for key in keys if f"`{key}`" not in text] == []


# Where it is wired


def test_poolers_and_postgresql_know_a_database_of_no_service():
    declared = {"reports": {"pool": 2, "extensions": ["pg_trgm"], "settings": {"jit": False}}, "archive": {}}
    landscape = Landscape(ROOT / "tests/hostless/data/inventory/single", databases=declared)
    pools = landscape.value("solo", "pgbouncer_databases | map(attribute='name') | list")
    assert {"reports", "reports_read", "reports_session"} <= set(pools)
    assert [name for name in pools if name.startswith("archive")] == []
    users = landscape.value("solo", "pgbouncer_users | map(attribute='name') | list")
    assert {"reports_owner", "reports_app_a", "reports_app_b"} <= set(users)
    made = {its["name"]: its for its in landscape.value("solo", "postgresql_databases")}
    assert (made["reports"]["extensions"], made["reports"]["settings"]) == (["pg_trgm"], {"jit": False})
    assert {"reports", "archive"} <= set(landscape.value("solo", "topology_databases_all"))


def test_indexes_are_applied_after_the_migrations():
    """In a deploy before a node is switched, and near the end of a run of the landscape."""
    plays = yaml.safe_load((ROOT / "playbooks/deploy_switch.yml").read_text())
    [block] = plays[0]["tasks"]
    names = [task["name"] for task in block["block"]]
    migrated = names.index("Migrate the databases")
    assert names[migrated + 1] == "Have their databases have their indexes"
    assert plays[1]["name"].startswith("Switch the nodes")
    imported = [play["ansible.builtin.import_playbook"] for play in yaml.safe_load((ROOT / "site.yml").read_text())]
    # What an ACME server refuses keeps nothing else from being done.
    assert imported[-2:] == ["playbooks/indexes.yml", "playbooks/certificates.yml"]
