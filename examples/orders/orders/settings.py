"""What the environment says."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


class SettingError(ValueError):
    """A variable of the environment is missing or is not what it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The service's settings; durations are seconds.

    Attributes:
        database_url: The primary.
        database_read_url: A replica; the primary where the environment names none.
        database_pool_size: Connections that one process keeps open to each of the two.
        database_timeout: A transaction that takes longer is given up.
        users_url: Where the users service answers.
        users_timeout: How long it may take for one answer.
        node_name: Said in `X-Served-By`, and kept with each confirmation.
        log_level: A level name of the logging module.
        shutdown_delay: How long to go on serving, not ready, after SIGTERM.
        heartbeat: How often a live feed says something when there is nothing new.
        static_url: What the addresses of static files begin with.
        static_manifest: The file that gives their names, see `board.py`; empty for none.
        mailer_batch: Orders that are confirmed in one transaction.
        mailer_interval: How long the mailer rests when there is nothing to do.
    """

    database_url: str
    database_read_url: str
    database_pool_size: int = 5
    database_timeout: float = 15.0
    users_url: str = ""
    users_timeout: float = 3.0
    node_name: str = ""
    log_level: str = "INFO"
    shutdown_delay: float = 0.0
    heartbeat: float = 10.0
    static_url: str = "/orders/static/"
    static_manifest: str = ""
    mailer_batch: int = 20
    mailer_interval: float = 1.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings.

        Args:
            environment: Variables by name; an empty one counts as missing.

        Raises:
            SettingError: A variable is missing or malformed; the message names it.
        """
        database_url = text(environment, "DATABASE_URL")
        if not database_url:
            raise SettingError("DATABASE_URL is not set")
        return cls(
            database_url=database_url,
            database_read_url=text(environment, "DATABASE_READ_URL") or database_url,
            database_pool_size=int(number(environment, "DATABASE_POOL_SIZE", 5, minimum=1)),
            database_timeout=number(environment, "DATABASE_TIMEOUT", 15, minimum=0.1),
            users_url=text(environment, "USERS_URL").rstrip("/"),
            users_timeout=number(environment, "USERS_TIMEOUT", 3, minimum=0.01),
            node_name=text(environment, "NODE_NAME") or socket.gethostname(),
            log_level=(text(environment, "LOG_LEVEL") or "INFO").upper(),
            shutdown_delay=number(environment, "SHUTDOWN_DELAY", 0, minimum=0),
            heartbeat=number(environment, "HEARTBEAT", 10, minimum=0.01),
            static_url=text(environment, "STATIC_URL") or "/orders/static/",
            static_manifest=text(environment, "STATIC_MANIFEST"),
            mailer_batch=int(number(environment, "MAILER_BATCH", 20, minimum=1)),
            mailer_interval=number(environment, "MAILER_INTERVAL", 1, minimum=0.01),
        )


def text(environment: Mapping[str, str], name: str) -> str:
    """Return a variable without surrounding space; an empty string where it is missing."""
    return environment.get(name, "").strip()


def number(environment: Mapping[str, str], name: str, default: float, *, minimum: float) -> float:
    """Return a variable as a number.

    Raises:
        SettingError: It is not a number, or is below `minimum`.
    """
    try:
        value = float(text(environment, name) or default)
    except ValueError:
        raise SettingError(f"{name} is not a number") from None
    if not value >= minimum:
        raise SettingError(f"{name} is below {minimum}")
    return value
