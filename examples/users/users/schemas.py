"""What comes in and what goes out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MAX_ID = 2**63 - 1
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$"),
    AfterValidator(str.lower),
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=PRINTABLE)]
City = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100, pattern=PRINTABLE)]


class NewUser(BaseModel):
    """A user to be made."""

    model_config = ConfigDict(extra="forbid")

    email: Email
    name: Name
    city: City = ""


class UserChange(BaseModel):
    """What to change; what is not given stays."""

    model_config = ConfigDict(extra="forbid")

    # Never None: a default only says that the field may be left out.
    email: Email = Field(default="")
    name: Name = Field(default="")
    city: City = ""


class UserOut(BaseModel):
    """A user as the world sees it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    email: str
    name: str
    city: str
    created_at: datetime
    updated_at: datetime


class UserPage(BaseModel):
    """Some users; `next` is the `after` of the page that follows, null on the last one."""

    users: list[UserOut]
    next: int | None
