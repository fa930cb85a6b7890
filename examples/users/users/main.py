"""The HTTP interface of users."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request, Response
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp

from users.cache import Loaded, UserCache
from users.database import Database, DatabaseUnavailableError
from users.logs import configure_logging
from users.models import User
from users.schemas import MAX_ID, NewUser, UserChange, UserOut, UserPage
from users.settings import Settings
from users.web import Lifecycle, Problem, add_basics, error_answer, log

UserId = Annotated[int, Path(ge=1, le=MAX_ID)]
TAKEN = "Another user has this e-mail address."


def create_app(settings: Settings) -> ASGIApp:
    """Make the service.

    Args:
        settings: What the environment says.
    """
    configure_logging(settings.log_level)
    lifecycle = Lifecycle(settings.shutdown_delay)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = {"pool_size": settings.database_pool_size, "timeout": settings.database_timeout}
        app.state.primary = Database(settings.database_url, **pool)
        app.state.replica = Database(settings.database_read_url, **pool)
        app.state.cache = UserCache(settings.redis_url, ttl=settings.cache_ttl, timeout=settings.cache_timeout)
        lifecycle.started()
        yield
        await lifecycle.stopped()
        await app.state.cache.close()
        await app.state.replica.close()
        await app.state.primary.close()

    app = FastAPI(title="users", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(DatabaseUnavailableError)
    async def refuse_for_now(request: Request, error: DatabaseUnavailableError) -> Response:
        log.error("database is away: %s", error)
        return error_answer(503, "The database is away; try again.", headers={"Retry-After": "2"})

    @app.post("/users", status_code=201, response_model=UserOut)
    async def create_user(given: NewUser, request: Request, response: Response) -> User:
        """Make a user."""
        try:
            async with request.app.state.primary.transaction() as session:
                user = User(**given.model_dump())
                session.add(user)
        except IntegrityError as error:
            raise Problem(409, TAKEN) from error
        response.headers["Location"] = f"/users/{user.id}"
        return user

    @app.get("/users/{user_id}", response_model=UserOut)
    async def read_user(user_id: UserId, request: Request) -> Response:
        """Return one user; `X-Cache` says whether the cache had it."""

        async def load() -> Loaded:
            # A replica may be behind a change, and the cache would keep what it said.
            try:
                async with request.app.state.primary.reading(settings.primary_timeout) as session:
                    return Loaded(await find(session, user_id), keep=True)
            except DatabaseUnavailableError:
                async with request.app.state.replica.reading() as session:
                    found = Loaded(await find(session, user_id), keep=False)
                # Who is not there may be too young for a replica.
                if found.user is None:
                    raise
                return found

        body, hit = await request.app.state.cache.read(user_id, load)
        headers = {"X-Cache": "hit" if hit else "miss"}
        if body is None:
            return error_answer(404, f"There is no user {user_id}.", headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    @app.patch("/users/{user_id}", response_model=UserOut)
    async def change_user(user_id: UserId, given: UserChange, request: Request) -> User:
        """Change what is given."""
        try:
            async with request.app.state.primary.transaction() as session:
                user = await session.get(User, user_id, with_for_update=True)
                if user is None:
                    raise Problem(404, f"There is no user {user_id}.")
                for name, value in given.model_dump(exclude_unset=True).items():
                    setattr(user, name, value)
        except IntegrityError as error:
            raise Problem(409, TAKEN) from error
        await request.app.state.cache.forget(user_id)
        return user

    @app.delete("/users/{user_id}", status_code=204)
    async def delete_user(user_id: UserId, request: Request) -> None:
        """Delete a user."""
        async with request.app.state.primary.transaction() as session:
            deleted = await session.scalar(delete(User).where(User.id == user_id).returning(User.id))
        if deleted is None:
            raise Problem(404, f"There is no user {user_id}.")
        await request.app.state.cache.forget(user_id)

    @app.get("/users")
    async def list_users(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
    ) -> UserPage:
        """Return users by id, from a replica. `next` of one page is `after` of the following one."""
        async with request.app.state.replica.reading() as session:
            found = await session.scalars(select(User).where(User.id > after).order_by(User.id).limit(limit + 1))
            users = [UserOut.model_validate(user) for user in found]
        return UserPage(users=users[:limit], next=users[limit - 1].id if len(users) > limit else None)

    return add_basics(app, node_name=settings.node_name, lifecycle=lifecycle)


async def find(session: AsyncSession, user_id: int) -> bytes | None:
    """Return a user as the cache keeps it; None where there is none."""
    user = await session.scalar(select(User).where(User.id == user_id))
    return None if user is None else UserOut.model_validate(user).model_dump_json().encode()


app = create_app(Settings.from_environment())
