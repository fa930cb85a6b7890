"""How Alembic reaches the database: DATABASE_URL, as the owner of the schema, over a session."""

from __future__ import annotations

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import create_engine, pool, text

from orders.database import driver_url
from orders.models import Base

# Any number, as long as nothing else in this database uses it.
LOCK = 7_104_002


def include_object(item: object, name: str, kind: str, reflected: bool, compare_to: object) -> bool:
    """Leave alone what only the database has: indexes that the service's file declares."""
    return not (kind == "index" and reflected and compare_to is None)


def migrate() -> None:
    """Migrate in one transaction, alone: whoever comes second waits, and finds nothing left to do."""
    engine = create_engine(driver_url(os.environ["DATABASE_URL"]), poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_object=include_object,
            compare_server_default=True,
        )
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            # A migration that waits for a table makes everyone else wait behind it.
            connection.execute(text("SET LOCAL lock_timeout = '10s'"))
            context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("migrations run against a database, not as a script")
if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
migrate()
