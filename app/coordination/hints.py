"""
NOTIFY as a hint: after the commit, coalesced, empty. Whoever listens polls every second anyway, so a lost hint costs a second.

A transaction that writes *and* notifies holds a server-wide lock through its flush (0.33 of the throughput at 32 clients);
one that only notifies flushes nothing. Hence never inside the writing transaction, and one notification per
``COALESCE_S`` and process however many changes there were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from app.store.pool import Pool

Channel = Literal["vyx_trader", "vyx_feed", "vyx_slot", "vyx_preview"]
"""A trader's state or text changed · the feed has new rows · a slot was opened or closed · a preview has ended."""

COALESCE_S = 0.01

_log = structlog.get_logger(__name__)


class Hints:
    """
    Sends hints through the pool. Call ``send`` after the commit; ``close`` sends what is pending.

    *on_send* is called at once by each ``send``: for work that this process does itself.
    """

    def __init__(
        self, pool: Pool, *, coalesce_s: float = COALESCE_S, on_send: Callable[[], None] = lambda: None
    ) -> None:
        self._pool = pool
        self._on_send = on_send
        self._coalesce_s = coalesce_s
        self._pending: set[Channel] = set()
        self._task: asyncio.Task[None] | None = None

    def send(self, *channels: Channel) -> None:
        """Wake the listeners of these channels within ``COALESCE_S``. Never fails, never waits."""
        self._pending.update(channels)
        self._on_send()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._pending:
            await asyncio.sleep(self._coalesce_s)
            channels, self._pending = sorted(self._pending), set()
            try:
                async with self._pool.connection() as connection:
                    await connection.execute(
                        "select pg_notify(channel, '') from unnest(%s::text[]) channel", (channels,)
                    )
            except (psycopg.Error, PoolTimeout) as error:
                _log.warning("hint not sent", channels=channels, error=str(error))
