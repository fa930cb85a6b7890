"""Declared indexes on the real cluster: every kind exactly, and every way in which a run may be held up or cut off."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import lab

sys.path.insert(0, str(lab.ROOT / "plugins"))
from terrace import indexes
from terrace.contracts import contract, filled

DATABASE = "terrace_test_indexes"
PLACE = "test.yml: database.indexes"
# Enough rows that a build can be caught at it.
ROWS = 400_000
TABLES = f"""
CREATE EXTENSION pg_trgm;
CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner bigint NOT NULL, name text NOT NULL,
    "Kind of" text, data jsonb, tags text[], place point, net inet, due timestamptz,
    twice bigint GENERATED ALWAYS AS (owner * 2) STORED, gone int, CONSTRAINT things_name_key UNIQUE (name));
ALTER TABLE things DROP COLUMN gone;
ALTER TABLE things ADD COLUMN late int;
CREATE INDEX mine ON things (late);
CREATE FUNCTION plus(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
INSERT INTO things (owner, name, due) SELECT n % 1000, 'thing ' || n, now() FROM generate_series(1, 200) AS n;
CREATE SCHEMA "Sales";
CREATE TABLE "Sales".orders (id int, span int4range);
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE many (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text);
INSERT INTO many (text) SELECT md5(n::text) FROM generate_series(1, {ROWS}) AS n;
"""
# A build that takes some seconds.
SLOW = {"columns": [{"expression": "md5(" * 20 + "text" + ")" * 20}], "name": "slow"}
# The server process that builds something here.
BUILDS = f"SELECT pid FROM pg_stat_progress_create_index WHERE datname = '{DATABASE}'"

# Declared, and what PostgreSQL then says of it.
KINDS: list[tuple[str, dict, str]] = [
    ("things", {"columns": ["owner"]}, "INDEX things_owner_idx ON public.things USING btree (owner)"),
    (
        "things",
        {"columns": ["Kind of", "twice", "late"]},
        'INDEX "things_Kind of_twice_late_idx" ON public.things USING btree ("Kind of", twice, late)',
    ),
    (
        "things",
        {
            "name": "ordered",
            "columns": [
                {"column": "due", "order": "desc", "nulls": "last"},
                {"column": "id", "order": "desc"},
                {"column": "late", "nulls": "first"},
            ],
        },
        "INDEX ordered ON public.things USING btree (due DESC NULLS LAST, id DESC, late NULLS FIRST)",
    ),
    (
        "things",
        {"columns": [{"expression": "lower(name)"}, {"expression": "plus(things.owner) * 2"}]},
        "INDEX things_lower_expr_idx ON public.things USING btree (lower(name), ((plus(owner) * 2)))",
    ),
    (
        "things",
        {"name": "sole", "columns": ["owner", "id"], "unique": True},
        "UNIQUE INDEX sole ON public.things USING btree (owner, id)",
    ),
    (
        "things",
        {"name": "nulls", "columns": ["id", "late"], "unique": True, "nulls_distinct": False},
        "UNIQUE INDEX nulls ON public.things USING btree (id, late) NULLS NOT DISTINCT",
    ),
    (
        "things",
        {"columns": ["owner"], "include": ["late", "Kind of"]},
        'INDEX "things_owner_late_Kind of_idx" ON public.things USING btree (owner) INCLUDE (late, "Kind of")',
    ),
    (
        "things",
        {"name": "part", "columns": ["owner"], "where": "late IN (1, 2) AND name LIKE 'a;%'"},
        "INDEX part ON public.things USING btree (owner) WHERE ((late = ANY (ARRAY[1, 2])) AND (name ~~ 'a;%'::text))",
    ),
    (
        "things",
        {"name": "stored", "columns": ["owner"], "with": {"fillfactor": 70, "deduplicate_items": False}},
        "INDEX stored ON public.things USING btree (owner) WITH (fillfactor='70', deduplicate_items=off)",
    ),
    (
        "things",
        {"name": "collated", "columns": [{"column": "name", "collation": "C", "opclass": "text_pattern_ops"}]},
        'INDEX collated ON public.things USING btree (name COLLATE "C" text_pattern_ops)',
    ),
    ("things", {"columns": ["name"], "method": "hash"}, "INDEX things_name_idx ON public.things USING hash (name)"),
    ("things", {"columns": ["tags"], "method": "gin"}, "INDEX things_tags_idx ON public.things USING gin (tags)"),
    (
        "things",
        {"columns": [{"column": "data", "opclass": "jsonb_path_ops"}], "method": "gin", "with": {"fastupdate": False}},
        "INDEX things_data_idx ON public.things USING gin (data jsonb_path_ops) WITH (fastupdate=off)",
    ),
    (
        "things",
        {"name": "like", "columns": [{"column": "name", "opclass": "gist_trgm_ops(siglen=32)"}], "method": "gist"},
        "INDEX \"like\" ON public.things USING gist (name gist_trgm_ops (siglen='32'))",
    ),
    ("things", {"columns": ["place"], "method": "gist"}, "INDEX things_place_idx ON public.things USING gist (place)"),
    ("things", {"columns": ["net"], "method": "spgist"}, "INDEX things_net_idx ON public.things USING spgist (net)"),
    (
        "things",
        {"columns": ["due"], "method": "brin", "with": {"pages_per_range": 32}},
        "INDEX things_due_idx ON public.things USING brin (due) WITH (pages_per_range='32')",
    ),
    (
        "Sales.orders",
        {"columns": ["span"], "method": "gist"},
        'INDEX orders_span_idx ON "Sales".orders USING gist (span)',
    ),
]


@pytest.fixture(scope="module")
def db() -> Iterator[lab.Host]:
    """Return the primary, which has a database of these tests; it is gone after them."""
    lab.wait(lab.whole_cluster, 90, "every replica follows the primary", pause=1)
    host = lab.primary()
    lab.sql(host, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    lab.sql(host, f"CREATE DATABASE {DATABASE}")
    lab.sql(host, TABLES, DATABASE)
    yield host
    lab.sql(host, f"DROP DATABASE {DATABASE} WITH (FORCE)")


Run = Callable[..., dict]


@pytest.fixture(scope="module")
def run(db: lab.Host, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that has the primary have declared indexes, by table, and returns what the module answered."""
    path = tmp_path_factory.mktemp("indexes") / "indexes.yml"

    def have(declared: dict[str, list[dict]], *words: str, strategy: str = "mitogen_linear", **its: object) -> dict:
        options = contract("service")["database"]["options"]["indexes"]["options"]
        whole = {table: [filled(each, options) for each in some] for table, some in declared.items()}
        database = {"name": DATABASE, "place": "test.yml: database", "indexes": indexes.listed(whole, PLACE)}
        task = {
            "name": "Have them",
            "postgresql_indexes": {"databases": [database], "port": lab.PORTS["postgresql"], **its},
        }
        play = {"name": "Indexes", "hosts": db.name, "become": True, "gather_facts": False, "tasks": [task]}
        path.write_text(json.dumps([play]))
        environment = {"ANSIBLE_STRATEGY": strategy, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        done = subprocess.run(
            [lab.ROOT / ".venv/bin/ansible-playbook", f"--inventory={lab.INVENTORY}", path, *words],
            cwd=lab.ROOT,
            env=lab.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        told, brace, answer = done.stdout.partition("{\n")
        assert brace, done.stdout + done.stderr
        [result] = json.loads(brace + answer)["plays"][0]["tasks"][0]["hosts"].values()
        return result | {"told": told.splitlines()}

    return have


def there(db: lab.Host, table: str = "many") -> dict[str, bool]:
    """Return the indexes of a table by name, each with whether it is valid; the primary key's left out."""
    rows = lab.sql(
        db,
        "SELECT x.relname, i.indisvalid FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid"
        f" WHERE i.indrelid = '{table}'::regclass AND NOT i.indisprimary ORDER BY 1",
        DATABASE,
    )
    return {name: valid == "t" for name, valid in (row.split("|") for row in rows.splitlines())}


def definition(db: lab.Host, name: str) -> str:
    """Return what PostgreSQL says that an index is."""
    return lab.sql(db, f"SELECT pg_get_indexdef('{name}'::regclass)", DATABASE)


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def holding(db: lab.Host, statement: str, seconds: float) -> threading.Thread:
    """Have a transaction of somebody else be open for some seconds, from now on."""
    thread = in_background(lambda: lab.sql(db, f"BEGIN; {statement}; SELECT pg_sleep({seconds}); COMMIT;", DATABASE))
    active = (
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{DATABASE}' AND query LIKE '%pg_sleep({seconds})%'"
    )
    lab.wait(
        lambda: lab.sql(db, f"{active} AND pid <> pg_backend_pid()") == "1", 10, "the transaction is open", pause=0.1
    )
    return thread


def test_every_kind_is_as_declared_and_stays_so(db, run):
    declared: dict[str, list[dict]] = {}
    for table, its, _ in KINDS:
        declared.setdefault(table, []).append(its)
    checked = run(declared, "--check")
    assert checked["changed"]
    assert len(checked["statements"]) == len(KINDS)
    assert there(db, "things") == {"mine": True, "things_name_key": True}
    made = run(declared)
    assert made.get("msg") is None
    assert made["statements"] == checked["statements"]
    wanted = [f"CREATE {its}" for _, _, its in KINDS]
    query = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname IN ('public', 'Sales') AND tablename IN ('things', 'orders')"
    )
    found = lab.sql(db, query, DATABASE).splitlines()
    assert sorted(set(found) & set(wanted)) == sorted(wanted)
    assert all(there(db, "things").values())
    again = run(declared)
    assert (again["changed"], again["statements"]) == (False, [])
    # What others made is left alone, and told.
    assert [(each["name"], each["valid"]) for each in again["undeclared"]] == [("mine", True)]
    assert f"{DATABASE}: not declared, and left alone: mine" in again["told"]


def test_a_changed_one_is_exchanged_and_one_is_there_at_every_moment(db, run):
    assert run({"many": [{"name": "swapped", "columns": ["text"]}]})["created"] == [f"{DATABASE}.swapped"]
    # Looks in one session, as often as it can, until there is a table `seen`; yields how often it found none.
    watch = """
    CREATE PROCEDURE watch() LANGUAGE plpgsql AS $$
    DECLARE without int := 0; looks int := 0;
    BEGIN
        LOOP
            COMMIT;
            looks := looks + 1;
            IF NOT EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
                           WHERE x.relname = 'swapped' AND i.indisvalid) THEN without := without + 1; END IF;
            EXIT WHEN to_regclass('public.seen') IS NOT NULL;
            PERFORM pg_sleep(0.001);
        END LOOP;
        CREATE TABLE watched AS SELECT without, looks;
    END $$
    """
    lab.sql(db, watch, DATABASE)
    watcher = in_background(lambda: lab.sql(db, "CALL watch()", DATABASE))
    changed = run({"many": [{"name": "swapped", "columns": [{"column": "text", "order": "desc"}, "id"]}]})
    lab.sql(db, "CREATE TABLE seen ()", DATABASE)
    watcher.join(30)
    assert changed["changed_indexes"] == [f"{DATABASE}.swapped"]
    assert definition(db, "swapped").endswith("(text DESC, id)")
    assert there(db) == {"swapped": True}
    without, looks = map(int, lab.sql(db, "SELECT * FROM watched", DATABASE).split("|"))
    assert without == 0
    assert looks > 100


def test_what_is_not_there_or_stands_under_a_constraint_is_refused(db, run):
    before = there(db, "things")
    refused = run({"nothing": [{"columns": ["a"]}], "parted": [{"columns": ["id"]}]})
    first, second = refused["msg"].splitlines()
    assert first.startswith(f"{PLACE}.nothing[0]: there is no table nothing in the database {DATABASE}; ")
    assert second.startswith(f"{PLACE}.parted[0]: parted is partitioned, ")
    columns = run({"things": [{"columns": ["nothing"]}, {"columns": [{"expression": "now()"}]}]})["msg"].splitlines()
    assert columns[0] == (
        f'{PLACE}.things[0]: PostgreSQL refuses it for things: column "nothing" does not exist; correct it'
    )
    assert columns[1].startswith(f"{PLACE}.things[1]: PostgreSQL refuses it for things: functions in index expression")
    for its in ({"state": "absent"}, {"columns": ["late"]}):
        said = run({"things": [{"name": "things_name_key", **its}]})
        assert "the constraint things_name_key stands on it, so it is not touched" in said["msg"]
    assert there(db, "things") == before


def test_an_older_transaction_leads_to_another_try(db, run):
    other = holding(db, "UPDATE many SET text = text WHERE id = 1", 5)
    made = run({"many": [{"name": "late", "columns": ["id", "text"]}]}, lock_timeout=1, retries=5)
    other.join()
    assert made["created"] == [f"{DATABASE}.late"]
    # More than one try: the first alone would have taken one second at most to be given up.
    assert made["seconds"] > 2
    assert there(db)["late"]


def test_a_build_that_waits_in_vain_says_for_what_and_is_mended_by_the_next_run(db, run):
    other = holding(db, "UPDATE many SET text = text WHERE id = 2", 9)
    vain = run({"many": [{"name": "vain", "columns": ["id", "text"]}]}, lock_timeout=1, retries=0)
    assert "vain: 1 times in vain: canceling statement due to lock timeout; the oldest transactions are" in vain["msg"]
    assert there(db).get("vain") in (False, None)
    other.join()
    assert run({"many": [{"name": "vain", "columns": ["id", "text"]}]})["changed"]
    assert there(db)["vain"]


def test_an_invalid_one_is_built_anew(db, run):
    lab.sql(db, "INSERT INTO many (text) VALUES ('twice'), ('twice')", DATABASE)
    # Outside of a transaction, which several statements of one call would be.
    failed = db.try_run(
        "cd / && sudo -u postgres psql -h /run/postgresql --no-psqlrc"
        f" -c 'CREATE UNIQUE INDEX CONCURRENTLY broken ON many (text)' {DATABASE}"
    )
    assert "could not create unique index" in failed.stderr
    assert there(db)["broken"] is False
    assert run({"many": [{"name": "broken", "columns": ["text"]}]})["rebuilt"] == [f"{DATABASE}.broken"]
    assert there(db)["broken"] is True
    # A unique one cannot be, and says so without anybody's values.
    said = run({"many": [{"name": "unique", "columns": ["text"], "unique": True}]})["msg"]
    assert "unique cannot be unique, since rows have the same values" in said
    assert "'twice'" not in said
    assert "unique" not in there(db)


@pytest.mark.parametrize("killed", ["session", "module"])
def test_a_build_that_is_killed_is_mended_by_the_next_run(db, run, killed):
    lab.sql(db, "DROP INDEX IF EXISTS slow", DATABASE)
    answers: list[dict] = []
    # Mitogen has no process of its own for a module.
    strategy = "linear" if killed == "module" else "mitogen_linear"
    runs = in_background(lambda: answers.append(run({"many": [SLOW]}, strategy=strategy)))
    lab.wait(lambda: lab.sql(db, BUILDS), 30, "it is built", pause=0.1)
    if killed == "session":
        lab.sql(db, f"SELECT pg_terminate_backend(pid) FROM ({BUILDS}) AS b")
    else:
        # Only the process that is connected: the job's other ones tell of its end.
        db.run("kill -9 $(pgrep -f '[A]nsiballZ_postgresql_indexes[.]py$')")
    runs.join(60)
    lab.wait(lambda: not lab.sql(db, BUILDS), 10, "its session has ended", pause=0.2)
    assert answers[0]["failed"]
    assert there(db)["slow"] is False
    assert run({"many": [SLOW]})["rebuilt"] == [f"{DATABASE}.slow"]
    assert there(db)["slow"] is True


def test_a_long_build_says_how_far_it_is(run):
    told = run({"many": [SLOW | {"name": "slower"}]})["told"]
    assert any(line.startswith(f"{DATABASE}: slower: building index: ") and line.endswith(" %") for line in told), told


def test_what_is_absent_is_dropped_and_nothing_else(db, run):
    names = sorted(there(db))
    assert "mine" not in names
    kept = names.pop()
    gone = {"many": [{"name": name, "state": "absent"} for name in [*names, "never"]]}
    assert run(gone, "--check")["dropped"] == [f"{DATABASE}.{name}" for name in names]
    assert sorted(there(db)) == [*names, kept]
    assert run(gone)["dropped"] == [f"{DATABASE}.{name}" for name in names]
    assert there(db) == {kept: True}
    assert run(gone)["changed"] is False


def test_a_replica_does_nothing(db, playbook):
    """The tasks of site.yml and of deploys, limited to one: what is declared is none of its business."""
    replica = next(name for name in lab.GROUPS["database"] if name != db.name)
    done = playbook("playbooks/indexes.yml", f"--limit={replica}")
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout


def test_declared_indexes_of_services_are_there(db):
    declared = {
        name: service["database"]["indexes"]
        for name, service in lab.SERVICES.items()
        if (service.get("database") or {}).get("indexes")
    }
    assert declared
    options = contract("service")["database"]["options"]["indexes"]["options"]
    for service, tables in declared.items():
        whole = {table: [filled(each, options) for each in its] for table, its in tables.items()}
        for index in indexes.listed(whole, ""):
            query = f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{index['name']}'::regclass"
            assert lab.sql(db, query, service.replace("-", "_")) == "t", index["name"]
