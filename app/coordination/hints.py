"""
NOTIFY as a hint: after the commit, coalesced, empty. Whoever listens polls every second anyway, so a lost
hint costs a second.

A transaction that writes *and* notifies holds a server-wide lock through its flush (0.33 of the throughput at
32 clients); one that only notifies flushes nothing. Hence never inside the writing transaction, and one
notification per ``COALESCE_S`` and process however many changes there were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

import psycopg
import structlog
from psycopg import sql
from psycopg_pool import PoolTimeout

from app.store.pool import Connection, Pool


class Channel(StrEnum):
    """
    Every notification of the service. Who listens: the keeper (TRADER, LEASE, SLOT), the feed reader (FEED,
    PREVIEW, USER).
    """

    TRADER = "vyx_trader"  # a trader's state or text changed
    LEASE = "vyx_lease"  # leases were given back or freed; others may claim them
    SLOT = "vyx_slot"  # a slot was closed
    FEED = "vyx_feed"  # the feed has new rows
    PREVIEW = "vyx_preview"  # a preview has ended
    USER = "vyx_user"  # this user, named in it, or a key of theirs is gone; sent by triggers, with the commit


COALESCE_S = 0.01

log = structlog.get_logger(__name__)


async def notify(connection: Connection, *channels: Channel) -> None:
    """Wake the listeners now, by a connection outside any transaction."""
    names = [channel.value for channel in channels]
    await connection.execute("select pg_notify(channel, '') from unnest(%s::text[]) channel", (names,))


async def listen(connection: Connection, *channels: Channel) -> None:
    """Hear these channels on a direct connection; a transaction pooler would hand it to somebody else."""
    for channel in channels:
        await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel.value)))


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
                    await notify(connection, *channels)
            except (psycopg.Error, PoolTimeout) as error:
                log.warning("hint not sent", channels=channels, error=str(error))
