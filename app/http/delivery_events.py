"""
Receipts as stream events: what changed in the outbox since the last look, for the users who listen.

A receipt is an update, so it has no place in the order of the feed and no id to resume after: `delivery` events tell live what
``GET /api/v1/deliveries`` has for good. Transactions end out of order; each look therefore reaches back ``OVERLAP_S`` and leaves out
what was told already.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid5

import msgspec

from app.delivery.rules.messages import message_id
from app.http import delivery_shapes as shapes
from app.store import deliveries as store
from app.store.pool import Connection

LOOK_EVERY_S = 0.25
OVERLAP_S = 5.0
ROWS_MAX = 500

_encode = msgspec.json.Encoder().encode
_Key = tuple[int, UUID, datetime | None]


class DeliveryEvents:
    """The process's look at receipts; one per feed reader."""

    def __init__(self) -> None:
        self._told: dict[_Key, datetime] = {}
        self._since = datetime.now(UTC)
        self._looked_at = 0.0

    async def look(self, connection: Connection, readers: Iterable[UUID]) -> list[tuple[UUID, bytes]]:
        """New receipts of these users as encoded events, oldest first; [] when the last look was just now."""
        users = list(readers)
        if not users:
            self._since = datetime.now(UTC)  # nobody was to be told
            return []
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return []
        self._looked_at = time.monotonic()
        overlap = timedelta(seconds=OVERLAP_S)
        rows = await store.changed(connection, users, since=self._since - overlap, limit=ROWS_MAX)
        new = [row for row in rows if (row.source_id, row.destination_id, row.changed_at) not in self._told]
        for row in new:
            assert row.changed_at is not None  # noqa: S101 what the query looks for
            self._told[row.source_id, row.destination_id, row.changed_at] = row.changed_at
            self._since = max(self._since, row.changed_at)
        self._told = {key: at for key, at in self._told.items() if at > self._since - 2 * overlap}
        return [(row.user_id, b"event: delivery\ndata: %s\n\n" % _encode(delivery_of(row))) for row in new]


def delivery_of(row: store.Delivery) -> shapes.Delivery:
    """A row as JSON; its id follows from what makes it unique."""
    return shapes.Delivery(
        id=uuid5(row.destination_id, str(row.source_id)),
        signal_id=row.source_id if row.event == "signal" else None,
        trader_id=row.trader_id,
        destination_id=row.destination_id,
        event=cast("shapes.Event", row.event),
        state=cast("shapes.State", row.state),
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        queued_at=row.queued_at,
        sent_at=row.sent_at,
        answered_at=row.answered_at,
        expires_at=row.expires_at,
        status=row.status,
        answer=row.answer,
        message_id=message_id(row.source_id, row.destination_id),
    )
