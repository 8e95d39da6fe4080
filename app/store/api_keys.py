"""API keys of users: ``sql/queries/api_keys.sql``. The key itself is never stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("api_keys")


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """``expires_at`` None: never; ``last_used_at`` to the minute."""

    id: UUID
    user_id: UUID
    name: str
    scopes: list[str]
    hint: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


async def insert_key(
    connection: Connection,
    user_id: UUID,
    *,
    name: str,
    scopes: list[str],
    secret_hash: bytes,
    hint: str,
    expires_at: datetime | None,
    keys_max: int,
) -> ApiKey | None:
    """
    Store a new key; None when the user has *keys_max* already.

    Raises:
        psycopg.errors.ForeignKeyViolation: there is no such user.
    """
    parameters = {
        "user_id": user_id,
        "name": name,
        "scopes": scopes,
        "secret_hash": secret_hash,
        "hint": hint,
        "expires_at": expires_at,
        "keys_max": keys_max,
    }
    async with connection.cursor(row_factory=rows_of(ApiKey)) as cursor:
        await cursor.execute(_SQL["insert_key"], parameters)
        return await cursor.fetchone()


async def list_keys(connection: Connection, user_id: UUID) -> list[ApiKey]:
    """The user's keys, oldest first."""
    async with connection.cursor(row_factory=rows_of(ApiKey)) as cursor:
        await cursor.execute(_SQL["list_keys"], {"user_id": user_id})
        return await cursor.fetchall()


async def delete_key(connection: Connection, user_id: UUID, key_id: UUID) -> bool:
    """Revoke a key; False when the user has no such key."""
    cursor = await connection.execute(_SQL["delete_key"], {"user_id": user_id, "key_id": key_id})
    return cursor.rowcount == 1


async def use_key(connection: Connection, secret_hash: bytes) -> ApiKey | None:
    """The valid key of this hash, its use noted; None when there is none."""
    async with connection.cursor(row_factory=rows_of(_with_note)) as cursor:
        await cursor.execute(_SQL["find_key"], {"secret_hash": secret_hash})
        found = await cursor.fetchone()
    if found is None:
        return None
    key, is_noted = found
    if not is_noted:
        await connection.execute(_SQL["note_use"], {"key_id": key.id})
    return key


def _with_note(*, is_noted: bool, **columns: Any) -> tuple[ApiKey, bool]:
    return ApiKey(**columns), is_noted
