"""No literal value and no secret gets past the scanner of statements, however it is written."""

from __future__ import annotations

import pytest
from ansible.module_utils.postgresql_text import plannable, shown, tag

# What nobody may see, wherever it stands.
SECRET = "s3cret"  # noqa: S105


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT '{SECRET}'",
        f"SELECT 'it''s {SECRET}' FROM t",
        f"SELECT E'a\\'{SECRET}' FROM t",
        f"SELECT 'a\\'{SECRET}' FROM t",
        f"SELECT e'{SECRET}\\\\' || 'x' FROM t",
        f"SELECT U&'{SECRET}', N'{SECRET}', b'1', X'1F'",
        f"SELECT $${SECRET}$$, $a$ $$ {SECRET} $a$",
        f"SELECT $a$ {SECRET}",
        f"SELECT 1 -- {SECRET}",
        f"SELECT 1 --{SECRET}\r\n, 2",
        f"SELECT 1+--{SECRET}\n2",
        f"SELECT /* {SECRET} /* {SECRET} */ {SECRET} */ a FROM t",
        f"SELECT a /*{SECRET}",
        f"SELECT a*/**/b, '{SECRET}' FROM t",
        f"SELECT '{SECRET}' '{SECRET}'\n'{SECRET}'",
        f"SELECT a FROM t WHERE b = '{SECRET}",
        f"SELECT \"a'b\", '{SECRET}' FROM t",
        f"SELECT $1'{SECRET}'",
        f"CREATE ROLE a PASSWORD '{SECRET}'",
        f"ALTER ROLE {SECRET} PASSWORD '{SECRET}'",
        f"ALTER USER {SECRET} WITH PASSWORD '{SECRET}'",
        f"/* x */ alter role a password '{SECRET}'",
        f"COPY t FROM PROGRAM 'curl {SECRET}'",
        f"SET my.{SECRET} = '{SECRET}'",
        f"set role {SECRET}",
        f"DO $x$ BEGIN PERFORM '{SECRET}'; END $x$",
        f"CALL f('{SECRET}')",
        f"EXECUTE f('{SECRET}')",
        f"CREATE SERVER a OPTIONS (password '{SECRET}')",
        f"CREATE USER MAPPING FOR a SERVER b OPTIONS (password '{SECRET}')",
        f"NOTIFY a, '{SECRET}'",
        f"PREPARE {SECRET} AS SELECT '{SECRET}'",
        f"EXPLAIN SELECT '{SECRET}'",
        f"DECLARE {SECRET} CURSOR FOR SELECT 1",
        f"{SECRET}",
        f"'{SECRET}'",
    ],
)
def test_nothing_secret_is_shown(text):
    assert SECRET not in shown(text)


@pytest.mark.parametrize(
    "number", ["4711", "4711.5", ".4711", "4711e3", "0x4711", "4_711", "-4711", "1.5e+4711", "4711::int8"]
)
def test_no_number_is_shown(number):
    assert shown(f"SELECT a1 FROM t WHERE b={number} LIMIT 10").replace("-", "").replace("::int8", "") == (
        "SELECT a1 FROM t WHERE b=? LIMIT ?"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('SELECT  a,\n b FROM "T 1" WHERE c = $1', 'SELECT a, b FROM "T 1" WHERE c = $1'),
        ("SELECT a::numeric(10, 2) FROM t ORDER BY 2 DESC, 1", "SELECT a::numeric(10, 2) FROM t ORDER BY 2 DESC, 1"),
        ("SELECT f(3), a[1] FROM t GROUP BY 1, 4711", "SELECT f(?), a[?] FROM t GROUP BY 1, ?"),
        ("SELECT a FROM t ORDER BY (4)", "SELECT a FROM t ORDER BY (?)"),
    ],
)
def test_what_is_no_value_stays(text, wanted):
    assert shown(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ALTER ROLE a", "ALTER ROLE"),
        ("create unique index x on y (z)", "CREATE UNIQUE"),
        ("VACUUM t", "VACUUM"),
        ("BEGIN", "BEGIN"),
        ("secret stuff", "another statement"),
        ("", "another statement"),
    ],
)
def test_a_command_is_told_by_its_own_words(text, wanted):
    assert tag(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT a FROM t WHERE d >= date $1", "SELECT a FROM t WHERE d >= CAST($1 AS date)"),
        ("SELECT now() - interval $1 day", "SELECT now() - CAST($1 AS interval)"),
        ("SELECT a::date, $1::date FROM t WHERE t.date = $2", "SELECT a::date, $1::date FROM t WHERE t.date = $2"),
        ("SELECT a FROM t LIMIT $1", "SELECT a FROM t LIMIT 7"),
        ("SELECT a FROM t FETCH FIRST $1 ROWS ONLY", "SELECT a FROM t FETCH FIRST 7 ROWS ONLY"),
        ("SELECT a FROM t LIMIT $1 OFFSET $2", "SELECT a FROM t LIMIT $1 OFFSET $2"),
        ("SELECT a FROM (SELECT a FROM t LIMIT $1) x", "SELECT a FROM (SELECT a FROM t LIMIT $1) x"),
        (
            "SELECT date_trunc($1, d), a / $2 FROM t GROUP BY date_trunc(?, d), a / ?",
            "SELECT date_trunc ( $1 , d ) , a / $2 FROM t GROUP BY date_trunc ( $1 , d ) , a / $2",
        ),
        ("SELECT a FROM t WHERE b = ?", "SELECT a FROM t WHERE b = ?"),
    ],
)
def test_statements_are_made_ready_for_planning(text, wanted):
    assert plannable(text, 6.2) == wanted
