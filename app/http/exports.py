"""
Long answers, written while they are read: signals as CSV or Parquet, and everything of a user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app import export
from app.http import shapes
from app.http.api_keys import show_key
from app.http.endpoints import Call
from app.http.feed import encode_entry
from app.http.limits import InFlight
from app.http.traders import show_row
from app.store import accounts, api_keys, feed, traders
from app.store.pool import Pool
from app.store.signals import Wanted

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
_FORMATS = {CSV: "csv", PARQUET: "parquet"}
_encode = msgspec.json.Encoder().encode


class Streamed(StreamingResponse):
    """An answer that counts as under way until its last byte is written or its client is gone."""

    def __init__(
        self,
        content: AsyncIterator[bytes],
        *,
        media_type: str,
        file_name: str,
        limit: InFlight,
        user_id: UUID,
    ) -> None:
        super().__init__(
            content,
            media_type=media_type,
            headers={"content-disposition": f'attachment; filename="{file_name}"'},
        )
        self._limit = limit
        self._user_id = user_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._limit.counted(self._user_id):
            await super().__call__(scope, receive, send)


def wanted_format(request: Request) -> str | None:
    """
    The media type of a file that the client prefers to JSON (Accept, RFC 9110, 12.5.1); None when it does
    not.
    """
    best, best_quality = None, 0.0
    for part in ",".join(request.headers.getlist("accept")).lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((_quality(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        if quality > best_quality and (
            media_type in _FORMATS or media_type in ("application/json", "application/*", "*/*")
        ):
            best, best_quality = media_type, quality
    return best if best in _FORMATS else None


def _quality(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


def signal_file(call: Call, media_type: str, wanted: Wanted) -> Response:
    """
    All the user's signals that are wanted, as a file of that type.

    Raises:
        Refused: RATE_LIMITED, as many exports of the user are under way.
    """
    service = call.service
    if call.request.method == "HEAD":
        return Response(media_type=media_type)
    service.exports.check(call.user_id)
    name = _FORMATS[media_type]
    batches = export.read_batches(service.pool.connection, call.user_id, wanted)
    return Streamed(
        export.WRITERS[name](batches),
        media_type=media_type,
        file_name=f"signals.{name}",
        limit=service.exports,
        user_id=call.user_id,
    )


async def export_me(call: Call) -> Response:
    """
    Everything of yours, as one JSON document.

    `account`, `traders` with their filters, `keys` without the keys, and `history`: every signal and every
    change of state, in order, as the stream tells them.
    """
    service = call.service
    if call.request.method == "HEAD":
        return Response(media_type="application/json")
    service.exports.check(call.user_id)
    return Streamed(
        _everything(service.pool, call.user_id),
        media_type="application/json",
        file_name="vyx-export.json",
        limit=service.exports,
        user_id=call.user_id,
    )


async def delete_me(call: Call) -> Response:
    """
    Delete your account and everything of yours, for good: traders, signals, keys, destinations. Your tokens
    end with it.
    """
    await call.service.lifecycle.delete_user(call.user_id)
    return Response(status_code=204)


async def _everything(pool: Pool, user_id: UUID) -> AsyncIterator[bytes]:
    async with pool.connection() as connection:
        account = await accounts.find_account(connection, user_id)
        keys = [show_key(row) for row in await api_keys.list_keys(connection, user_id)]
    head = {"exported_at": datetime.now(UTC), "user_id": user_id, "account": account, "keys": keys}
    yield _encode(head)[:-1]
    yield b',"traders":['
    async for piece in _joined(_traders(pool, user_id)):
        yield piece
    yield b'],"history":['
    async for piece in _joined(_history(pool, user_id)):
        yield piece
    yield b"]}"


async def _joined(batches: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    before = b""
    async for batch in batches:
        yield before + b",".join(batch)
        before = b","


async def _traders(pool: Pool, user_id: UUID) -> AsyncIterator[list[bytes]]:
    after: tuple[datetime, UUID] | None = None
    while True:
        async with pool.connection() as connection:
            page = await traders.list_traders(
                connection, user_id, after=after, limit=export.PAGE_ROWS, with_filter=True
            )
        if page.items:
            yield [_encode(show_row(row)) for row in page.items]
        if not page.has_more:
            return
        after = (page.items[-1].created_at, page.items[-1].id)


async def _history(pool: Pool, user_id: UUID) -> AsyncIterator[list[bytes]]:
    after = 0
    while True:
        async with pool.connection() as connection:
            rows = await feed.read_feed(
                connection, [user_id], after=after, through=shapes.BIGINT_MAX, limit=export.PAGE_ROWS
            )
        if rows:
            yield [encode_entry(row) for row in rows]
        if len(rows) < export.PAGE_ROWS:
            return
        after = rows[-1].id
