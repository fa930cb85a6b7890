"""What comes in and what goes out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_ID = 2**63 - 1
MAX_CENTS = 100_000_000

Sku = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Item(BaseModel):
    """One line of an order."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=1000)]
    price_cents: Annotated[int, Field(ge=0, le=MAX_CENTS)]


class NewOrder(BaseModel):
    """An order to be made."""

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[int, Field(ge=1, le=MAX_ID)]
    items: Annotated[list[Item], Field(min_length=1, max_length=100)]


class OrderOut(BaseModel):
    """An order as the world sees it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    user_id: int
    items: list[Item]
    total_cents: int
    created_at: datetime
    confirmed_at: datetime | None


class OrderPage(BaseModel):
    """Some orders; `next` is the `after` of the page that follows, null on the last one."""

    orders: list[OrderOut]
    next: int | None
