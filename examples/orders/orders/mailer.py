"""A background process: confirms new orders. Any number may run; each order is confirmed once.

There is no mail server here. The confirmation is a row and a line in the log.
"""

from __future__ import annotations

import logging
import signal
import threading

from sqlalchemy import create_engine, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orders.database import CONNECT_ARGUMENTS, driver_url, reason
from orders.logs import configure_logging
from orders.models import Confirmation, Order
from orders.settings import Settings

log = logging.getLogger("orders.mailer")


def confirm_some(session: Session, *, limit: int, sent_by: str) -> list[tuple[int, int]]:
    """Confirm orders that nobody else is confirming.

    Args:
        session: In a transaction, which the caller commits.
        limit: How many at most.
        sent_by: Kept with the confirmation.

    Returns:
        The id and the user id of each.
    """
    orders = session.execute(
        select(Order.id, Order.user_id)
        .where(Order.confirmed_at.is_(None))
        .order_by(Order.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if orders:
        session.add_all(Confirmation(order_id=order.id, sent_by=sent_by) for order in orders)
        session.flush()
        session.execute(
            update(Order)
            .where(Order.id.in_([order.id for order in orders]))
            .values(
                confirmed_at=select(Confirmation.sent_at).where(Confirmation.order_id == Order.id).scalar_subquery()
            )
            .execution_options(synchronize_session=False)
        )
    return [(order.id, order.user_id) for order in orders]


def main() -> None:
    """Work until SIGTERM or SIGINT; the batch at hand is finished first."""
    settings = Settings.from_environment()
    configure_logging(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = create_engine(
        driver_url(settings.database_url),
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args=CONNECT_ARGUMENTS,
    )
    log.info("started, %d orders at a time", settings.mailer_batch)
    away = False
    while not stop.is_set():
        try:
            with Session(engine) as session, session.begin():
                confirmed = confirm_some(session, limit=settings.mailer_batch, sent_by=settings.node_name)
        except DBAPIError as error:
            if not away:
                log.error("database is away, will try again: %s", reason(error))
            away = True
            stop.wait(max(settings.mailer_interval, 1))
            continue
        if away:
            log.info("database is back")
        away = False
        for order_id, user_id in confirmed:
            log.info("confirmed order %d to user %d", order_id, user_id)
        if not confirmed:
            stop.wait(settings.mailer_interval)
    engine.dispose()
    log.info("stopped")


if __name__ == "__main__":
    main()
