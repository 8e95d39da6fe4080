"""
Answers to POSTs that carry an Idempotency-Key, kept for a day: which request answers, and what the others
are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_QUERIES = queries.load("idempotent_answers")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    ``claim`` is not None when this request is to answer. Otherwise ``same_request`` says whether the key's
    first request was this one (None: it has just been given up), and ``status``, ``headers`` and ``body``
    are its answer once there is one.
    """

    claim: UUID | None
    same_request: bool | None
    status: int | None
    headers: dict[str, str] | None
    body: bytes | None


async def claim(
    connection: Connection, user_id: UUID, key: str, fingerprint: bytes, *, now: datetime | None = None
) -> Claim:
    """Be the one that answers, or learn what is known of it. *now* is the database's clock when None."""
    parameters = {"user_id": user_id, "key": key, "fingerprint": fingerprint, "now": now}
    async with connection.cursor(row_factory=rows_of(Claim)) as cursor:
        await cursor.execute(_QUERIES["claim_idempotent"], parameters)
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101 a function with OUT parameters returns one row
    return row


async def put_answer(  # noqa: PLR0917 the row's own order
    connection: Connection,
    user_id: UUID,
    key: str,
    claim: UUID,
    status: int,
    headers: dict[str, str],
    body: bytes,
) -> None:
    """Keep the answer of the request that holds *claim*; of one that was overtaken nothing is kept."""
    await connection.execute(
        _QUERIES["put_answer"],
        {
            "user_id": user_id,
            "key": key,
            "claim": claim,
            "status": status,
            "headers": Jsonb(headers),
            "body": body,
        },
    )


async def give_up(connection: Connection, user_id: UUID, key: str, claim: UUID) -> None:
    """There is no answer to keep: whoever asks again is answered anew."""
    await connection.execute(_QUERIES["give_up_claim"], {"user_id": user_id, "key": key, "claim": claim})


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Forget at most *limit* answers claimed before an instant; returns how many."""
    return (await connection.execute(_QUERIES["prune_answers"], {"before": before, "limit": limit})).rowcount
