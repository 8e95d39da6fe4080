"""Retries: traders in error whose time has come start again; whichever machine looks first moves them."""

from __future__ import annotations

from app.coordination.pieces import Piece
from app.metrics import WorkerMetrics
from app.store import trader_state
from app.store.pool import Connection


class Retries:
    """Moves them a piece at a time."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._piece = Piece("retry", metrics)

    async def run(self, connection: Connection) -> bool:
        """True when there may be more that are due."""
        size = self._piece.size
        return await self._piece.run(lambda n: trader_state.retry_due(connection, n)) >= size
