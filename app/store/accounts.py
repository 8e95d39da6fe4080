"""
Users as far as the screener knows them: that they exist, their tier, and what they run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.refusals import translated
from app.store.rows import rows_of

_SQL = queries.load("accounts")


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user's tier and use; None is unlimited; ``running`` counts what the quota counts."""

    tier: str
    max_running: int | None
    max_stored: int | None
    max_streams: int
    signals_per_day: int | None
    running: int
    stored: int


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What a tier allows; None is unlimited."""

    tier: str
    max_running: int | None
    max_stored: int | None
    max_streams: int
    signals_per_day: int | None


@dataclass(frozen=True, kw_only=True)
class Whose:
    """Whether a database holds our tables, and whether its users come from an auth server's sign-up."""

    is_migrated: bool
    has_sign_up: bool


@dataclass(frozen=True, kw_only=True)
class FullQuota:
    tier: str
    limit: int
    used: int
    next_tier: str | None


async def know_user(connection: Connection, user_id: UUID) -> bool:
    """
    Whether the user exists. Their account is made at the first sight of them, so that its end can be
    announced.

    Raises:
        psycopg.errors.ForeignKeyViolation: the user was deleted in this moment.
    """
    row = await (await connection.execute(_SQL["find_user"], {"user_id": user_id})).fetchone()
    assert row is not None  # noqa: S101 a select without from returns one row
    exists, has_account = row
    if exists and not has_account:
        await connection.execute(_SQL["put_account"], {"user_id": user_id})
    return bool(exists)


async def user_exists(connection: Connection, user_id: UUID) -> bool:
    return await missing_users(connection, [user_id]) == []


async def missing_users(connection: Connection, user_ids: Iterable[UUID]) -> list[UUID]:
    """Those of *user_ids* that are gone."""
    cursor = await connection.execute(_SQL["missing_users"], {"user_ids": list(user_ids)})
    return [row[0] for row in await cursor.fetchall()]


async def whose_database(connection: Connection) -> Whose:
    async with connection.cursor(row_factory=rows_of(Whose)) as cursor:
        await cursor.execute(_SQL["whose_database"])
        whose = await cursor.fetchone()
    assert whose is not None  # noqa: S101 a select without from returns one row
    return whose


async def stop_beyond_tiers(connection: Connection) -> int:
    """Stop the newest traders of users whose tier was lowered below what runs; returns how many."""
    row = await (await connection.execute(_SQL["stop_beyond_tiers"])).fetchone()
    assert row is not None  # noqa: S101 a function returns a row
    return int(row[0])


async def stream_limit(connection: Connection, user_id: UUID) -> int:
    """How many streams the user may hold open on one web process."""
    row = await (await connection.execute(_SQL["stream_limit"], {"user_id": user_id})).fetchone()
    assert row is not None  # noqa: S101 tiers has a row for every tier an account may name, free included
    return int(row[0])


async def find_account(connection: Connection, user_id: UUID) -> Account:
    async with connection.cursor(row_factory=rows_of(Account)) as cursor:
        await cursor.execute(_SQL["find_account"], {"user_id": user_id})
        account = await cursor.fetchone()
    assert account is not None  # noqa: S101 tiers has a row for every tier an account may name, free included
    return account


async def list_tiers(connection: Connection) -> list[Tier]:
    """Every tier, the smallest first."""
    async with connection.cursor(row_factory=rows_of(Tier)) as cursor:
        await cursor.execute(_SQL["list_tiers"])
        return await cursor.fetchall()


async def full_quota(connection: Connection, user_id: UUID, trader_id: UUID) -> FullQuota | None:
    """
    The quota of the user's tier that starting this trader of theirs would break; None when it would not.
    """
    async with connection.cursor(row_factory=rows_of(FullQuota)) as cursor:
        await cursor.execute(_SQL["full_quota"], {"user_id": user_id, "trader_id": trader_id})
        return await cursor.fetchone()


async def put_user(connection: Connection, user_id: UUID) -> None:
    """Make the user's row when it is missing. On plain Postgres; on Supabase users come from sign-up."""
    await connection.execute(_SQL["put_user"], {"user_id": user_id})


async def set_tier(connection: Connection, user_id: UUID, tier: str) -> None:
    """
    Give a user a tier.

    Raises:
        Refused: there is no such tier or user.
    """
    with translated():
        await connection.execute(_SQL["set_tier"], {"user_id": user_id, "tier": tier})


async def delete_user(connection: Connection, user_id: UUID) -> None:
    """Delete the user, and by cascade everything of theirs; every web process hears of it with the commit."""
    await connection.execute(_SQL["delete_calls"], {"user_id": user_id})
    await connection.execute(_SQL["delete_user"], {"user_id": user_id})
