"""
Reading signals: the list. Following them live is ``stream.py``.
"""

from __future__ import annotations

from starlette.responses import Response

from app.http import exports, pages, shapes
from app.http.endpoints import Call
from app.store import signals


async def list_signals(call: Call, query: shapes.SignalQuery) -> shapes.SignalList | Response:
    """
    Your signals in order of creation, newest last or (`order=newest`) first. A page ends at `limit` or at
    about 1 MiB.

    With `Accept: text/csv` or `application/vnd.apache.parquet` the answer is a file of all that match,
    whatever `limit`, `cursor` and `order` say.
    """
    media_type = exports.wanted_format(call.request)
    if media_type is not None:
        return exports.signal_file(call, media_type, _wanted(query))
    async with call.service.pool.connection() as connection:
        page = await signals.list_signals(
            connection,
            call.user_id,
            _wanted(query),
            is_newest_first=query.order == "newest",
            after=pages.read_signal_cursor(query.cursor),
            limit=query.limit,
        )
    last = page.items[-1] if page.has_more else None
    return shapes.SignalList(
        [_signal(row) for row in page.items],
        None if last is None else pages.write_cursor(last.created_at, last.id),
    )


async def stream(call: Call, query: shapes.StreamQuery) -> Response:
    """
    Your signals and your traders' changes of state as they happen, as server-sent events.

    Events: `signal`, `trader`, `delivery` (a receipt; without an id, told live only), `reset` (the cursor
    could not be resumed), `bye` (the server ends the stream). `Last-Event-ID`, or `cursor`, resumes after
    that event on any replica.
    """
    assert call.caller is not None  # noqa: S101 the endpoint needs a user
    if call.request.method == "HEAD":
        return Response(media_type="text/event-stream")
    return await call.service.streams.open(call.request, call.caller, query.cursor)


def _wanted(query: shapes.SignalQuery) -> signals.Wanted:
    return signals.Wanted(
        trader_id=query.trader_id,
        symbol=None if query.symbol is None else query.symbol.upper(),
        since=query.since,
        first=query.first,
        last=query.until,
    )


def _signal(row: signals.Signal) -> shapes.Signal:
    return shapes.Signal(
        id=row.id,
        trader_id=row.trader_id,
        symbol=row.symbol,
        timeframe=row.timeframe,
        triggered_at=row.triggered_at,
        price=row.price,
        values=row.shown,
        screened_at=row.screened_at,
        created_at=row.created_at,
        late=row.late,
        forming=row.forming,
    )
