"""
The endpoints under ``/api/v1/deliveries``: receipts, and sending again what did not arrive.
"""

from __future__ import annotations

from app.access import count_call
from app.errors import Kind, Refused
from app.http import delivery_shapes as shapes
from app.http import pages
from app.http.delivery_events import delivery_of
from app.http.endpoints import Call
from app.store import deliveries as store
from app.store.rate_limits import SAVE


async def list_deliveries(call: Call, query: shapes.DeliveryQuery) -> shapes.DeliveryList:
    """Your deliveries with their receipts, newest first."""
    async with call.service.pool.connection() as connection:
        rows = await store.list_deliveries(
            connection,
            call.user_id,
            signal_id=query.signal_id,
            destination_id=query.destination_id,
            state=query.state,
            before=pages.read_delivery_cursor(query.cursor),
            limit=query.limit + 1,
        )
    page = rows[: query.limit]
    more = len(rows) > query.limit
    cursor = pages.write_cursor(page[-1].queued_at, page[-1].source_id) if more else None
    return shapes.DeliveryList([delivery_of(row) for row in page], cursor)


async def redrive_deliveries(call: Call, body: shapes.Redrive) -> shapes.Redriven:
    """Send again what did not arrive, with the same ids and an hour to arrive in."""
    chosen = (body.signal_id, body.destination_id, body.since, body.until)
    if all(field is None for field in chosen):
        raise Refused(Kind.REQUEST_INVALID, "Say which: give signal_id, destination_id, from or until.")
    async with call.service.pool.connection() as connection:
        await count_call(connection, call.user_id, SAVE)
        count = await store.redrive(
            connection,
            user_id=call.user_id,
            signal_id=body.signal_id,
            destination_id=body.destination_id,
            since=body.since,
            until=body.until,
            states=body.states,
        )
    return shapes.Redriven(count)
