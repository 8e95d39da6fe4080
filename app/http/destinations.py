"""
The endpoints under ``/api/v1/destinations``: requests into operations of ``app/delivery/destinations.py``, rows into JSON.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from app.access import count_call
from app.delivery.destinations import Draft, Made
from app.http import delivery_shapes as shapes
from app.http import pages
from app.http.delivery_events import delivery_of
from app.http.endpoints import Answer, Call
from app.http.shapes import PageQuery
from app.store import destinations as store
from app.store.rate_limits import DELIVERY_TEST, SAVE

_NOT_IN_DRAFT = ("enabled", "rotate_secret")


async def create_destination(call: Call, body: shapes.NewDestination) -> Answer:
    """
    Add a destination. The secret of a webhook's signatures is in this answer alone.

    A template is filled in with a sample signal before it is saved.
    """
    await _count(call)
    given: dict[str, Any] = msgspec.to_builtins(body)
    draft = Draft(**_fields(given | {"trader_ids": body.trader_ids}, "signature"))
    made = await call.service.destinations.create(call.user_id, draft, signature=body.signature)
    return Answer(_made(made), {"location": f"/api/v1/destinations/{made.destination.id}"})


async def list_destinations(call: Call, query: PageQuery) -> shapes.DestinationList:
    """Your destinations, newest first."""
    rows = await call.service.destinations.list_own(
        call.user_id, before=pages.read_trader_cursor(query.cursor), limit=query.limit + 1
    )
    page = rows[: query.limit]
    more = len(rows) > query.limit
    cursor = pages.write_cursor(page[-1].created_at, page[-1].id) if more else None
    return shapes.DestinationList([shapes.Destination(**_columns(row)) for row in page], cursor)


async def show_destination(call: Call, destination_id: UUID) -> shapes.DestinationDetails:
    """One of your destinations, with how its deliveries went."""
    found, figures = await call.service.destinations.figures(call.user_id, destination_id)
    return shapes.DestinationDetails(**_columns(found), figures=_figures(figures))


async def change_destination(
    call: Call, destination_id: UUID, body: shapes.DestinationChange
) -> shapes.MadeDestination:
    """Change a destination; what is left out stays as it is."""
    await _count(call)
    given: dict[str, Any] = msgspec.to_builtins(body)
    if "trader_ids" in given:
        given["trader_ids"] = body.trader_ids
    enabled = given.get("enabled")
    changes = _fields(given, *_NOT_IN_DRAFT)
    made = await call.service.destinations.change(
        call.user_id, destination_id, changes, enabled=enabled, rotate=body.rotate_secret
    )
    return _made(made)


async def delete_destination(call: Call, destination_id: UUID) -> None:
    """Delete a destination, its secrets and its deliveries."""
    await call.service.destinations.delete(call.user_id, destination_id)


async def check_destination(call: Call, destination_id: UUID) -> shapes.Delivery:
    """
    Send a test message now and answer with what the destination itself answered.

    It goes past quiet hours, digests and holds, is tried once, and never places an order with a bot. `state` is `pending` when there
    was no answer within 14 s.
    """
    async with call.service.pool.connection() as connection:
        await count_call(connection, call.user_id, DELIVERY_TEST)
    return delivery_of(await call.service.destinations.test(call.user_id, destination_id))


async def _count(call: Call) -> None:
    async with call.service.pool.connection() as connection:
        await count_call(connection, call.user_id, SAVE)


def _fields(given: dict[str, Any], *without: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in without}


def _columns(row: store.Destination) -> dict[str, Any]:
    """A row's columns as the shape's fields."""
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "hint": row.hint,
        "events": row.events,
        "trader_ids": row.trader_ids,
        "preset": row.preset,
        "template": row.template,
        "quiet_hours": row.quiet_hours,
        "digest": row.digest,
        "rate": row.rate,
        "expires_after_s": row.expires_after_s,
        "enabled": row.enabled,
        "disabled_reason": row.disabled_reason,
        "failing_since": row.failing_since,
        "created_at": row.created_at,
    }


def _made(made: Made) -> shapes.MadeDestination:
    return shapes.MadeDestination(
        **_columns(made.destination), secret=made.secret, public_key=made.public_key
    )


def _figures(figures: store.Figures) -> shapes.DestinationFigures:
    ended = figures.sent + figures.failed + figures.expired
    return shapes.DestinationFigures(
        sent=figures.sent,
        failed=figures.failed,
        expired=figures.expired,
        pending=figures.pending,
        success_rate=figures.sent / ended if ended else None,
        p50_ms=figures.p50_ms,
        p99_ms=figures.p99_ms,
        last_failure_at=figures.last_failure_at,
        last_failure=figures.last_failure,
    )
