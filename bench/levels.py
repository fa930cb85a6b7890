"""Part `levels`: bytes and processor time of gzip and brotli by level, for answers of three sizes; needs no lab.

The libraries are those that nginx and HAProxy's rivals call (zlib, brotli), by their bindings for Python.
"""

from __future__ import annotations

import json
import random
import time
import uuid
import zlib
from collections.abc import Callable

import brotli

import results

SIZES = (2_000, 20_000, 200_000)
WORDS = [
    *("order", "delivery", "customer", "address", "invoice", "express", "standard", "parcel", "blue", "green", "large"),
    *("small", "cotton", "paper", "steel", "lamp", "chair", "table", "desk", "garden", "kitchen", "winter", "summer"),
    *("price", "discount", "shipping", "returned", "confirmed", "pending", "cancelled", "today", "tomorrow", "soon"),
]


def as_json(size: int) -> bytes:
    """Return a list of orders as an API answers it, of about a size in bytes."""
    chance, rows = random.Random(size), []  # noqa: S311 (nothing here is secret)
    while len(text := json.dumps({"orders": rows, "next": None})) < size:
        rows.append(
            {
                "id": str(uuid.UUID(int=chance.getrandbits(128))),
                "user": chance.randrange(1_000_000),
                "created_at": f"2026-11-{chance.randrange(10, 29)}T12:14:{chance.random():.6f}Z",
                "status": chance.choice(["confirmed", "pending", "shipped"]),
                "total_cents": chance.randrange(100, 90_000),
                "items": [
                    {"sku": f"{chance.choice(WORDS)}-{chance.randrange(10_000)}", "quantity": chance.randrange(1, 5)}
                    for _ in range(chance.randrange(1, 4))
                ],
                "note": " ".join(chance.choices(WORDS, k=chance.randrange(0, 12))),
            }
        )
    return text.encode()


def as_html(size: int) -> bytes:
    """Return a page with a list of products, of about a size in bytes."""
    chance, rows = random.Random(size + 1), []  # noqa: S311
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Products</title>'
        '<link rel="stylesheet" href="/static/site.3f1c9a5b.css"></head>\n<body><nav class="nav"><ul>'
        + "".join(
            f'<li class="nav-item"><a class="nav-link" href="/{word}">{word.title()}</a></li>' for word in WORDS[:8]
        )
        + '</ul></nav>\n<main class="container">\n'
    )
    while len(text := head + "".join(rows) + "</main></body></html>\n") < size:
        number = chance.randrange(100_000)
        rows.append(
            f'<article class="card mb-4" id="product-{number}">\n  <a class="card-link" href="/products/{number}">'
            f'<img class="card-img" src="/media/{chance.getrandbits(64):x}.webp" alt="" width="320" height="240"></a>\n'
            f'  <h2 class="card-title">{" ".join(chance.choices(WORDS, k=3)).title()}</h2>\n'
            f'  <p class="card-text">{" ".join(chance.choices(WORDS, k=chance.randrange(8, 25)))}.</p>\n'
            f'  <span class="badge badge-price">{chance.randrange(1, 300)}.{chance.randrange(100):02} EUR</span>\n'
            "</article>\n"
        )
    return text.encode()


def gzip(level: int) -> Callable[[bytes], bytes]:
    """Return what compresses as nginx does by a level of gzip."""

    def compress(data: bytes) -> bytes:
        made = zlib.compressobj(level, zlib.DEFLATED, 31)
        return made.compress(data) + made.flush()

    return compress


def by_brotli(level: int) -> Callable[[bytes], bytes]:
    """Return what compresses by a level of brotli, with the window that nginx takes by itself."""
    return lambda data: brotli.compress(data, quality=level, lgwin=19)


WAYS = {f"gzip {level}": gzip(level) for level in range(1, 10)} | {
    f"brotli {level}": by_brotli(level) for level in range(10)
}


def cost(compress: Callable[[bytes], bytes], data: bytes) -> float:
    """Return the processor time of compressing once, in microseconds, from as many times as take 20 ms."""
    times, start = 0, time.process_time()
    while (spent := time.process_time() - start) < 0.02:
        compress(data)
        times += 1
    return spent / times * 1e6


def measure() -> dict:
    """Return bytes and processor time by content, size and level.

    Returns:
        `rows`: for each `content`, `size` in bytes and `way`, the `bytes` that are left, and `rounds` of microseconds.
    """
    rows = []
    for content, make in (("JSON", as_json), ("HTML", as_html)):
        for size in SIZES:
            data = make(size)
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(results.rounds()):
                for way, compress in WAYS.items():
                    found[way].append(cost(compress, data))
            for way, spent in found.items():
                rows.append(
                    {"content": content, "size": len(data), "way": way, "bytes": len(WAYS[way](data)), "rounds": spent}
                )
            results.say(f"{content} of {len(data)} bytes")
    return {"rows": rows}
