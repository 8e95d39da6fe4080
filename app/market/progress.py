"""What the feeder is doing, for people: a row that status and health read, and the bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from app.store import market_progress
from app.store.pool import Pool

WRITE_EVERY_S: Final = 1.0


class Progress:
    """
    Args:
        on_progress: Called with (done, total) requests while history loads.
    """

    def __init__(self, pool: Pool, on_progress: Callable[[int, int], None]) -> None:
        self._pool = pool
        self._on_progress = on_progress
        self._written_at = float("-inf")

    async def say(self, stage: str, reason: str | None = None) -> None:
        """A new stage: starting, held or live."""
        async with self._pool.connection() as connection:
            await market_progress.put(connection, stage, reason)

    async def loaded(self, done: int, total: int) -> None:
        """So many requests of history are done; the row follows once a second."""
        self._on_progress(done, total)
        now = time.monotonic()
        if now - self._written_at < WRITE_EVERY_S and done < total:
            return
        self._written_at = now
        reason = f"history is loading, {done:,} of {total:,}"
        async with self._pool.connection() as connection:
            await market_progress.put(connection, "history", reason, done=done, total=total)
