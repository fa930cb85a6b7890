"""What tests of a migration history have in common. The working directory is the project's."""

from __future__ import annotations

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine

from testing.postgresql import DatabaseUrls

COLUMNS = """
    SELECT table_name, column_name, data_type, column_default, is_nullable, is_identity
    FROM information_schema.columns WHERE table_schema = 'public'
"""
INDEXES = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'"
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""


def alembic(urls: DatabaseUrls, action: str, *arguments: str) -> None:
    """Run one of Alembic's commands on a database, as its owner.

    Args:
        urls: The database.
        action: upgrade, downgrade or check.
        arguments: Those of the command.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", urls.owner)
        getattr(command, action)(Config("alembic.ini"), *arguments)


def revision(urls: DatabaseUrls) -> str:
    """Return the revision that a database is at."""
    with psycopg.connect(urls.owner) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert row is not None
    return row[0]


def shape(urls: DatabaseUrls) -> list[tuple[str, ...]]:
    """Return all columns, indexes and constraints of a database, but for Alembic's own."""
    with psycopg.connect(urls.owner) as connection:
        parts = [row for query in (COLUMNS, INDEXES, CONSTRAINTS) for row in connection.execute(query).fetchall()]
    return sorted((row for row in parts if row[0] != "alembic_version"), key=str)


def create(urls: DatabaseUrls, tables: MetaData) -> None:
    """Make the tables of models in an empty database, without any migration."""
    engine = create_engine(urls.owner.replace("postgresql:", "postgresql+psycopg:", 1))
    tables.create_all(engine)
    engine.dispose()
