"""What PostgreSQL counts of its statements, tables and indexes, without any value out of a table.

Everything is read in read-only transactions, with a timeout. Of pg_stats only the widths and the numbers of different
values are asked for: its other columns hold values. Texts are masked before they are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ansible.module_utils.postgresql_text import HIDDEN, masked, shown

MOST_STATEMENTS = 100  # of a database, by total time
PAGE = 8192
# Where a bloated table is measured, and not estimated, it is read: so large it may be.
MOST_MEASURED = 1024**3

_STATEMENTS = """
SELECT * FROM (
    SELECT d.datname AS database, s.queryid::text AS id, max(s.query) AS text, sum(s.calls)::float8 AS calls,
        sum(s.total_exec_time) AS total_ms, max(s.max_exec_time) AS max_ms, sum(s.rows)::float8 AS rows,
        sum(s.shared_blks_hit)::float8 AS hit, sum(s.shared_blks_read)::float8 AS read,
        sum(s.temp_blks_read + s.temp_blks_written)::float8 AS temp,
        sum(sum(s.total_exec_time)) OVER (PARTITION BY d.datname) AS database_ms,
        sum(sum(s.calls)) OVER (PARTITION BY d.datname)::float8 AS database_calls,
        count(*) OVER (PARTITION BY d.datname) AS database_count,
        extract(epoch FROM min(min(s.stats_since)) OVER (PARTITION BY d.datname))::float8 AS database_since,
        row_number() OVER (PARTITION BY d.datname ORDER BY sum(s.total_exec_time) DESC) AS place
    FROM {schema}.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
    WHERE s.queryid IS NOT NULL GROUP BY d.datname, s.queryid) AS ranked
WHERE place <= %s ORDER BY database, place"""

_INFO = """
SELECT dealloc AS lost, extract(epoch FROM stats_reset)::float8 AS since FROM {schema}.pg_stat_statements_info"""

_SERVER = """
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS replica,
    current_setting('track_io_timing') AS io_timing, extract(epoch FROM now())::float8 AS now,
    current_setting('autovacuum_freeze_max_age')::int AS freeze_max_age"""

_DATABASES = """
SELECT d.datname AS name, age(datfrozenxid) AS age, mxid_age(datminmxid) AS mxid_age,
    extract(epoch FROM coalesce(s.stats_reset, pg_postmaster_start_time()))::float8 AS since,
    s.stats_reset IS NOT NULL AS reset, pg_database_size(d.oid) AS bytes
FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid
WHERE NOT datistemplate AND datallowconn AND d.datname <> 'postgres' ORDER BY 1"""

_RELATIONS = """
    NOT n.nspname LIKE ANY (ARRAY['pg\\_%', 'information\\_schema'])
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype =
    'e')"""

_TABLES = f"""
SELECT n.nspname AS schema, c.relname AS name, c.oid::int8 AS oid, c.relkind::text AS kind, c.relispartition AS part,
    c.relpages AS pages, greatest(c.reltuples, 0)::float8 AS rows, c.reltuples < 0 AS uncounted,
    pg_table_size(c.oid) AS bytes,
    pg_indexes_size(c.oid) AS index_bytes, pg_relation_size(c.oid) AS heap_bytes,
    s.seq_scan AS seq_scans, s.seq_tup_read AS seq_rows, s.n_tup_ins AS inserts, s.n_tup_upd AS updates,
    s.n_tup_del AS deletes, s.n_tup_hot_upd AS hot, s.n_live_tup AS live, s.n_dead_tup AS dead,
    s.n_mod_since_analyze AS changed,
    extract(epoch FROM greatest(s.last_analyze, s.last_autoanalyze))::float8 AS analyzed,
    extract(epoch FROM greatest(s.last_vacuum, s.last_autovacuum))::float8 AS vacuumed,
    CASE WHEN c.relkind IN ('r', 'm', 't') THEN age(c.relfrozenxid) END AS age,
    coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions)
              WHERE option_name = 'fillfactor'), 100) AS fill,
    EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS keyed
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND {_RELATIONS}"""  # noqa: S608 (no value in it)

_COLUMNS = f"""
SELECT a.attrelid::int8 AS oid, a.attname AS name, a.attnum AS number, format_type(a.atttypid, a.atttypmod) AS type,
    s.n_distinct::float8 AS distinct, coalesce(s.avg_width, CASE WHEN a.attlen > 0 THEN a.attlen END) AS width,
    coalesce(s.null_frac, 0)::float8 AS nulls
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
    AND s.inherited = (c.relkind = 'p')
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm') AND {_RELATIONS}
ORDER BY a.attrelid, a.attnum"""  # noqa: S608

_INDEXES = f"""
SELECT n.nspname AS schema, t.relname AS table, t.oid::int8 AS oid, c.relname AS name, am.amname AS method,
    i.indisunique AS unique, i.indisprimary AS primary, i.indisvalid AND i.indisready AS valid,
    i.indisreplident AS identity,
    pg_relation_size(c.oid) AS bytes, c.relpages AS pages, greatest(c.reltuples, 0)::float8 AS rows,
    s.idx_scan AS scans, extract(epoch FROM s.last_idx_scan)::float8 AS used,
    EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid) AS constrained,
    i.indnkeyatts AS keys, pg_get_expr(i.indpred, i.indrelid) AS where,
    ARRAY(SELECT pg_get_indexdef(i.indexrelid, p, true) FROM generate_series(1, i.indnatts) p) AS parts,
    ARRAY(SELECT i.indclass[p] || ' ' || i.indcollation[p] || ' ' || i.indoption[p]
          FROM generate_series(0, i.indnkeyatts - 1) p) AS ways
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_am am ON am.oid = c.relam
LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = c.oid
WHERE t.relkind IN ('r', 'm') AND t.relpersistence <> 't' AND {_RELATIONS.replace("c.oid", "t.oid")}
ORDER BY 1, 2, 4"""  # noqa: S608

_SEQUENCES = """
SELECT s.schemaname AS schema, s.sequencename AS name, t.relname AS table, a.attname AS column,
    CASE WHEN s.increment_by > 0 AND s.last_value IS NOT NULL THEN
        (s.last_value - s.min_value)::float8 / greatest(least(s.max_value, CASE a.atttypid WHEN 'int2'::regtype THEN
        32767
            WHEN 'int4'::regtype THEN 2147483647 ELSE s.max_value END) - s.min_value, 1) END AS share
FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname
JOIN pg_class c ON c.relname = s.sequencename AND c.relnamespace = n.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
    AND d.refclassid = 'pg_class'::regclass
LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE NOT s.cycle"""

_REFERENCES = """
SELECT n.nspname AS schema, c.relname AS table, k.conname AS name, f.relname AS target,
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY place) AS columns
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class f ON f.oid = k.confrelid
WHERE k.contype = 'f' AND NOT c.relispartition"""

_QUALS = """
SELECT n.nspname AS schema, c.relname AS table, a.attname AS column, o.oprname AS operator,
    sum(q.execution_count)::float8 AS rows, sum(q.nbfiltered)::float8 AS filtered, sum(q.occurences)::float8 AS seen
FROM {schema}.pg_qualstats q JOIN pg_class c ON c.oid = q.lrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = q.lrelid AND a.attnum = q.lattnum JOIN pg_operator o ON o.oid = q.opno
WHERE q.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND n.nspname NOT LIKE 'pg\\_%'
GROUP BY 1, 2, 3, 4 ORDER BY filtered DESC LIMIT 50"""

_MEASURED = """
SELECT (approx_free_percent + dead_tuple_percent) / 100 AS share FROM {schema}.pgstattuple_approx(%s::oid)"""

_EXTENSIONS = """
SELECT extname AS name, quote_ident(nspname) AS schema FROM pg_extension JOIN pg_namespace n ON n.oid =
extnamespace"""

Connect = Callable[[str], Any]


class Reader:
    """A session that reads one database, and changes nothing.

    Parameters:
        connection: of psycopg2, as a superuser.
        timeout: milliseconds for one question.
    """

    def __init__(self, connection: Any, timeout: int = 30000) -> None:
        self._connection = connection
        connection.autocommit = True
        self.ask("SET default_transaction_read_only = on")
        self.ask(f"SET statement_timeout = {timeout:d}")
        self.ask("SET lock_timeout = 1000")
        self.ask("SET search_path = pg_catalog")
        with suppress(Exception):
            # What is asked here is not a part of the workload.
            self.ask("SET pg_stat_statements.track = 'none'")
        self.extensions: dict[str, str] = {row["name"]: row["schema"] for row in self.ask(_EXTENSIONS)}

    def ask(self, statement: str, values: tuple = ()) -> list[dict[str, Any]]:
        """Return the rows of a statement, each as a dict."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            if not cursor.description:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def statements(reader: Reader, most: int = MOST_STATEMENTS) -> dict[str, Any]:
    """Return what pg_stat_statements has counted, of all databases.

    Returns:
        `known`, `why` it is not, `since` (seconds since the epoch), `lost` (statements that it had no room for), and
        `databases`: by name `total_ms`, `calls`, `count` and `since` of all, and the dearest `statements`.
    """
    nothing: dict[str, Any] = {"known": False, "why": "", "since": None, "lost": 0, "databases": {}}
    schema = reader.extensions.get("pg_stat_statements")
    if not schema:
        return nothing | {"why": "the database postgres has no extension pg_stat_statements"}
    try:
        rows = reader.ask(_STATEMENTS.format(schema=schema), (most,))
        info = reader.ask(_INFO.format(schema=schema))[0]
    except Exception as error:
        if not getattr(error, "pgcode", None):
            raise
        return nothing | {"why": "pg_stat_statements is not in shared_preload_libraries"}
    databases: dict[str, Any] = {}
    for row in rows:
        database = databases.setdefault(
            row["database"],
            {
                "total_ms": row["database_ms"],
                "calls": row["database_calls"],
                "count": row["database_count"],
                "since": row["database_since"],
                "statements": [],
            },
        )
        kept = {name: row[name] for name in ("id", "calls", "total_ms", "max_ms", "rows", "hit", "read", "temp")}
        text = row["text"] or ""
        database["statements"].append(kept | {"text": shown(text)})
    return nothing | {"known": True, "databases": databases} | info


def _align(width: float) -> float:
    """Return a width as PostgreSQL aligns a tuple's, to 8 bytes."""
    return -(-width // 8) * 8


def expected_pages(rows: float, columns: list[Mapping[str, Any]], fill: int) -> float:
    """Return how many pages a table's rows need, by the average widths of its columns.

    It is the estimate that check_postgres and PostgreSQL's wiki (Show database bloat) made known: a tuple is a header
    of 23 bytes, a bit for each column where there are nulls, its columns, aligned to 8, and a pointer of 4 in the
    page.
    """
    data = sum(float(column["width"] or 0) * (1 - column["nulls"]) for column in columns)
    nulls = -(-len(columns) // 8) if any(column["nulls"] for column in columns) else 0
    return rows * (_align(23 + nulls) + _align(data) + 4) / ((PAGE - 24) * fill / 100)


def expected_index_pages(rows: float, columns: list[Mapping[str, Any]]) -> float:
    """Return how many pages a b-tree's entries need: a header of 8 bytes, its keys, a pointer, pages filled to 90 %."""
    data = sum(float(column["width"] or 0) * (1 - column["nulls"]) for column in columns)
    return rows * (8 + _align(data) + 4) / ((PAGE - 24 - 16) * 0.9) + 1


def database(reader: Reader) -> dict[str, Any]:
    """Return what there is to say of a database: `tables`, `indexes`, `sequences`, `references`, `quals`,"
    " `extensions`."""
    columns: dict[int, list[dict[str, Any]]] = {}
    for column in reader.ask(_COLUMNS):
        columns.setdefault(column.pop("oid"), []).append(column)
    measured = reader.extensions.get("pgstattuple")
    tables = reader.ask(_TABLES)
    for table in tables:
        own = columns.get(table["oid"], [])
        table["columns"] = {
            column["name"]: {name: column[name] for name in ("type", "distinct", "width", "nulls")} for column in own
        }
        table["bloat"], table["measured"] = 0.0, False
        actual = table["heap_bytes"] / PAGE
        known = all(column["width"] is not None for column in own) and not table["uncounted"]
        if table["kind"] != "p" and actual > 100 and known:
            table["bloat"] = max(0.0, 1 - expected_pages(table["rows"], own, table["fill"]) / actual)
            if measured and table["bloat"] > 0.2 and table["heap_bytes"] <= MOST_MEASURED:
                with suppress(Exception):
                    found = reader.ask(_MEASURED.format(schema=measured), (table["oid"],))
                    table["bloat"], table["measured"] = float(found[0]["share"]), True
    indexes = reader.ask(_INDEXES)
    numbers: dict[str, int] = {}
    for index in indexes:
        # Masked, two expressions may look alike: what they are is told by numbers.
        raw = [*index["parts"], index["where"] or ""]
        index["alike"] = [numbers.setdefault(text, len(numbers)) for text in raw]
        index["where"] = masked(index["where"]) if index["where"] else ""
        own = {column["name"]: column for column in columns.get(index["oid"], [])}
        keys = [own.get(part.strip('"')) for part in index["parts"]]
        index["parts"] = [masked(part) for part in index["parts"]]
        index["bloat"] = 0.0
        known = all(keys) and all(key["width"] is not None for key in keys if key)
        if index["method"] == "btree" and index["pages"] > 100 and known and not index["where"]:
            actual = index["bytes"] / PAGE
            index["bloat"] = max(0.0, 1 - expected_index_pages(index["rows"], keys) / actual)
    schema = reader.extensions.get("pg_qualstats")
    quals: list[dict[str, Any]] | None = None
    if schema:
        with suppress(Exception):
            quals = reader.ask(_QUALS.format(schema=schema))
    return {
        "tables": tables,
        "indexes": indexes,
        "sequences": reader.ask(_SEQUENCES),
        "references": reader.ask(_REFERENCES),
        "quals": quals,
        "extensions": sorted(reader.extensions),
    }


def workload(connect: Connect, most: int = MOST_STATEMENTS) -> dict[str, Any]:
    """Return what a host's PostgreSQL has counted.

    Parameters:
        connect: gives a connection to a database, by its name.
        most: how many statements of a database are told, by total time.
    Returns:
        `server`, `statements`, and `databases` by name, each with `error` where it could not be read.
    """
    with _closing(connect("postgres")) as connection:
        reader = Reader(connection)
        server = reader.ask(_SERVER)[0]
        known = statements(reader, most)
        names = reader.ask(_DATABASES)
    databases = {}
    for found in names:
        name = found.pop("name")
        try:
            with _closing(connect(name)) as connection:
                databases[name] = found | {"error": ""} | database(Reader(connection))
        except Exception as error:
            databases[name] = found | {"error": f"{type(error).__name__} ({getattr(error, 'pgcode', None) or HIDDEN})"}
    return {"server": server, "statements": known, "databases": databases}


class _closing:  # noqa: N801 (like contextlib's, of a connection of psycopg2, whose own `with` does not close it)
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __enter__(self) -> Any:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
