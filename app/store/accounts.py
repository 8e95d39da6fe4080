"""
Users as far as the screener knows them: that they exist, their tier, and what they run.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.refusals import translated
from app.store.rows import rows_of

_SQL = queries.load("accounts")


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user's tier; ``max_running`` None is unlimited; ``running`` counts what the quota counts."""

    tier: str
    max_running: int | None
    running: int


@dataclass(frozen=True, kw_only=True)
class FullQuota:
    tier: str
    limit: int
    used: int


async def user_exists(connection: Connection, user_id: UUID) -> bool:
    row = await (await connection.execute(_SQL["user_exists"], {"user_id": user_id})).fetchone()
    return row is not None and bool(row[0])


async def find_account(connection: Connection, user_id: UUID) -> Account:
    async with connection.cursor(row_factory=rows_of(Account)) as cursor:
        await cursor.execute(_SQL["find_account"], {"user_id": user_id})
        account = await cursor.fetchone()
    assert account is not None  # noqa: S101 tiers has a row for every tier an account may name, free included
    return account


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
