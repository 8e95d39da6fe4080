"""
The endpoints that make, list and revoke API keys.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from starlette.responses import Response

from app.access import count_call
from app.errors import Kind, Refused
from app.http import shapes
from app.http.api_key_auth import hash_of, make_key
from app.http.endpoints import Call
from app.store import api_keys
from app.store.rate_limits import SAVE

KEYS_MAX = 50  # of one user
HINT_LENGTH = 10


async def list_keys(call: Call) -> shapes.KeyList:
    """Your API keys, oldest first; never the keys themselves."""
    async with call.service.pool.connection() as connection:
        rows = await api_keys.list_keys(connection, call.user_id)
    return shapes.KeyList([show_key(row) for row in rows])


async def create_key(call: Call, body: shapes.NewKey) -> shapes.MadeKey:
    """Make an API key. The key is in this answer alone: store it now."""
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC) + timedelta(seconds=1):
        raise Refused(Kind.REQUEST_INVALID, "Body: expires_at has passed.")
    key = make_key()
    async with call.service.pool.connection() as connection:
        await count_call(connection, call.user_id, SAVE)
        row = await api_keys.insert_key(
            connection,
            call.user_id,
            name=body.name,
            scopes=sorted({scope.value for scope in body.scopes}),
            secret_hash=hash_of(key),
            hint=f"{key[:HINT_LENGTH]}…",
            expires_at=body.expires_at,
            keys_max=KEYS_MAX,
        )
    if row is None:
        raise Refused(Kind.REQUEST_INVALID, f"A user has at most {KEYS_MAX} keys; revoke one first.")
    return shapes.MadeKey(
        key=key,
        id=row.id,
        name=row.name,
        scopes=sorted(set(body.scopes)),
        hint=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=None,
    )


async def delete_key(call: Call, key_id: UUID) -> Response:
    """Revoke an API key, everywhere and at once."""
    async with call.service.pool.connection() as connection:
        if not await api_keys.delete_key(connection, call.user_id, key_id):
            raise Refused(Kind.NOT_FOUND, f"You have no key {key_id}.")
    return Response(status_code=204)


def show_key(row: api_keys.ApiKey) -> shapes.Key:
    """As the contract's Key."""
    return shapes.Key(
        id=row.id,
        name=row.name,
        scopes=[shapes.Scope(scope) for scope in row.scopes],
        hint=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
