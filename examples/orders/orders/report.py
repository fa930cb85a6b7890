"""A daily job: writes what a day brought, and drops idempotency keys that nobody will send again."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import create_engine, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orders.database import CONNECT_ARGUMENTS, driver_url
from orders.models import DailyTotal, IdempotencyKey, Order, OrderItem
from orders.settings import Settings

KEPT = timedelta(days=7)


def total(session: Session, day: date) -> dict[str, int]:
    """Return the number of orders and items, and the revenue in cents, of a day (UTC)."""
    begin = datetime.combine(day, time(), UTC)
    of_day = (Order.created_at >= begin, Order.created_at < begin + timedelta(days=1))
    orders, revenue = session.execute(
        select(func.count(), func.coalesce(func.sum(Order.total_cents), 0)).where(*of_day)
    ).one()
    items = session.scalar(
        select(func.coalesce(func.sum(OrderItem.quantity), 0))
        .join(Order, Order.id == OrderItem.order_id)
        .where(*of_day)
    )
    return {"orders": orders, "items": int(items or 0), "revenue_cents": int(revenue)}


def main() -> None:
    """Write the report of yesterday, or of the day asked for; a report that is there is brought up to date."""
    parser = argparse.ArgumentParser(prog="python -m orders.report", description=__doc__)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    parser.add_argument("--day", type=date.fromisoformat, default=yesterday, help="like 2025-12-31, UTC (yesterday)")
    day: date = parser.parse_args().day
    engine = create_engine(driver_url(Settings.from_environment().database_url), connect_args=CONNECT_ARGUMENTS)
    with Session(engine) as session, session.begin():
        totals = total(session, day)
        row = insert(DailyTotal).values(day=day, **totals)
        session.execute(row.on_conflict_do_update(index_elements=["day"], set_={**totals, "updated_at": func.now()}))
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - KEPT))
    engine.dispose()
    print(json.dumps({"day": day.isoformat(), **totals}))


if __name__ == "__main__":
    main()
