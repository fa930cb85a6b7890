"""Loads a large set of users: `python -m users.load --count 100000`.

The users get the ids 1 to count. The same seed gives the same users; those that are there are left as they are, so that
a load that was cut off can be started again.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta

import psycopg

CHUNK = 5000
FIRST_DAY = datetime(2023, 1, 1, tzinfo=UTC)
DAYS = 700


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


GIVEN = words(
    """
    Ada Alan Amara Anja Anton Aroha Ayo Bea Björn Carla Chen Chloé Dagny Daniel Deepa Diego Elif Elena Emil
    Emma Farid Fatima Felix Frida Gita Grace Hana Hassan Helga Hugo Ines Ingrid Ivan Jamal Jana João Jonas
    Kaito Karin Kofi Lars Leila Lena Liam Lucía Magnus Mai Marek Maria Mateo Mei Milan Mira Nadia Nia Nils
    Noah Noor Olga Omar Oskar Paula Pavel Petra Priya Quinn Rafael Ravi Rosa Sami Sara Sofia Stefan Sven Tariq
    Tessa Thomas Tova Uma Valentina Viktor Wanda Wei Yara Yusuf Zoë
    """
)
FAMILY = words(
    """
    Abbott Acheampong Adeyemi Ahmed Andersson Bauer Becker Bianchi Brown Castillo Chowdhury Costa Da-Silva
    Dubois Eriksson Evans Farouk Fischer Flores Fontaine García Gruber Gupta Haddad Hansen Hernández Hoffmann
    Horvat Ibrahim Ito Ivanova Jansen Jensen Johansson Jones Kaya Keita Khan Kim Kowalski Kumar Larsen Lefèvre
    Li López Maier Martin Mbeki Moreau Müller Nakamura Nguyen Novák Nowak O'Brien Okafor Olsen Papadopoulos
    Patel Peeters Pereira Petrov Popescu Quispe Rahman Reyes Rossi Russo Sánchez Sato Schmidt Sharma Silva
    Singh Smith Suzuki Svensson Takahashi Tanaka Tóth Usman Van-Dijk Vargas Virtanen Wagner Walker Wang Weber
    Williams Wójcik Yamamoto Yildiz Zhang Zimmermann
    """
)
CITIES = words(
    """
    Accra Amsterdam Athens Auckland Austin Bangalore Barcelona Berlin Bogotá Boston Brussels Bucharest
    Budapest Cairo Chicago Copenhagen Dakar Delhi Dublin Hamburg Hanoi Helsinki Istanbul Jakarta Kraków Kyiv
    Lagos Lima Lisbon Ljubljana London Lyon Madrid Manila Melbourne Milan Montréal Mumbai München Nairobi
    Osaka Oslo Paris Porto Prague Riga Rome Rotterdam Santiago Seoul Stockholm Sydney Tallinn Tokyo Toronto
    Turin Vienna Vilnius Warsaw Wellington Zagreb Zürich
    """
)
CITY_WEIGHTS = [1 / (rank + 3) for rank in range(len(CITIES))]

Row = tuple[int, str, str, str, datetime, datetime]


def users(first: int, last: int, *, seed: int) -> list[Row]:
    """Make users.

    Args:
        first: The id of the first one; chunks begin at a multiple of the chunk size plus one.
        last: The id of the last one.
        seed: The same seed makes the same users.
    """
    chance = random.Random(f"{seed}:{first}")  # noqa: S311 (made to be foreseen)
    rows = []
    for user_id in range(first, last + 1):
        given, family = chance.choice(GIVEN), chance.choice(FAMILY)
        city = chance.choices(CITIES, CITY_WEIGHTS)[0]
        # The id keeps addresses apart. example.org belongs to nobody.
        local = f"{given}.{family}".lower().replace("'", "").encode("ascii", "ignore").decode()
        created = FIRST_DAY + timedelta(days=DAYS * (user_id % 1_000_000) / 1_000_000, seconds=chance.random() * 60)
        rows.append((user_id, f"{local}.{user_id}@example.org", f"{given} {family}", city, created, created))
    return rows


def load_chunk(connection: psycopg.Connection, first: int, last: int, *, seed: int) -> int:
    """Add the users of a range of ids that are not there yet.

    Args:
        connection: In autocommit; the chunk is one transaction.
        first: The id that the range begins with.
        last: The id that it ends with.
        seed: The same seed makes the same users.

    Returns:
        How many were added.
    """
    with connection.transaction(), connection.cursor() as cursor:
        there = {row[0] for row in cursor.execute("SELECT id FROM users WHERE id BETWEEN %s AND %s", (first, last))}
        if len(there) == last - first + 1:
            return 0
        with cursor.copy("COPY users (id, email, name, city, created_at, updated_at) FROM STDIN") as copy:
            for row in users(first, last, seed=seed):
                if row[0] not in there:
                    copy.write_row(row)
    return last - first + 1 - len(there)


def reserve(connection: psycopg.Connection, count: int) -> None:
    """Make sure that users made from now on get ids above `count`."""
    connection.execute(
        "SELECT setval(sequence, %s) FROM pg_get_serial_sequence('users', 'id') AS sequence"
        " WHERE coalesce(pg_sequence_last_value(sequence::regclass), 0) < %s",
        (count, count),
    )


def positive(value: str) -> int:
    """Return an argument as a number of at least 1."""
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def main() -> None:
    """Load, and say how far it is."""
    parser = argparse.ArgumentParser(prog="python -m users.load", description="Load a large set of users.")
    parser.add_argument("--count", type=positive, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    url = os.environ.get("DATABASE_SESSION_URL") or os.environ.get("DATABASE_URL")
    if not url:
        sys.exit("DATABASE_URL is not set")
    begun, said, added = time.monotonic(), time.monotonic(), 0
    with psycopg.connect(url, autocommit=True, prepare_threshold=None, connect_timeout=10) as connection:
        reserve(connection, options.count)
        for first in range(1, options.count + 1, CHUNK):
            last = min(first + CHUNK - 1, options.count)
            added += load_chunk(connection, first, last, seed=options.seed)
            if time.monotonic() - said > 2:
                said = time.monotonic()
                print(f"users: {last:,} of {options.count:,}", flush=True)
    print(
        f"users: {options.count:,} there, {added:,} of them new, {time.monotonic() - begun:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
