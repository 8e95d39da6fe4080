"""
The feeder: opens the venue and runs ingest on it, for as long as this machine holds the ingest lock.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Self

import structlog
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.coordination.supervisor import supervise
from app.market.client import ExchangeClient
from app.market.ingest import Ingest
from app.market.metrics import MarketMetrics
from app.market.venue import MarketUnusable, Venue, open_venue
from app.settings import Settings
from app.store.pool import Connection, Pool

log = structlog.get_logger(__name__)
HISTORY_BARS_OF_FILES = (
    5000  # nothing limits how much of a file may be read: as far back as any plan may look
)


class Feeder:
    """
    Args:
        wake: Defers the tick job inside a slot's transaction.
        on_unusable: Called when the market cannot be served at all (unreadable files, another market in this database): retrying is no use.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        metrics: MarketMetrics,
        *,
        wake: Callable[[Connection], Awaitable[None]],
        on_unusable: Callable[[MarketUnusable], None],
    ) -> None:
        self._on_unusable = on_unusable
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._wake = wake
        self._stopping = asyncio.Event()

    async def run(self, boot_id: int) -> None:
        """Feed the market until cancelled or closed; whatever breaks is reported and started again."""
        self._metrics.feeding.set(1)
        try:
            await supervise("ingest", lambda: self._feed(boot_id), self._stopping)
        finally:
            self._metrics.feeding.set(0)

    async def close(self) -> None:
        self._stopping.set()

    async def _feed(self, boot_id: int) -> None:
        try:
            await self._ingest(boot_id)
        except MarketUnusable as error:
            self._stopping.set()
            self._on_unusable(error)

    async def _ingest(self, boot_id: int) -> None:
        async with (
            open_venue(self._settings, self._pool) as venue,
            ExchangeClient(venue.rest_url, venue.stream_url) as client,
        ):
            log.info("feeding", market=venue.source, speed=venue.speed)
            with _HistoryProgress(venue) as progress:
                ingest = Ingest(
                    self._pool,
                    client,
                    self._metrics,
                    boot_id=boot_id,
                    speed=venue.speed,
                    history_bars=HISTORY_BARS_OF_FILES
                    if venue.source.startswith("files ")
                    else self._settings.history_bars,
                    symbols_max=self._settings.symbols_max,
                    min_quote_volume=self._settings.min_quote_volume,
                    wake=self._wake,
                    on_progress=progress.show,
                )
                await ingest.run()


class _HistoryProgress:
    """A bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._bar: Progress | None = None
        self._told = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self._draw(done, total)
        elif (tenth := done * 10 // total) > self._told:
            self._told = tenth
            log.info("loading history", done=done, total=total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (
                TextColumn(f"loading history from {self._venue.source}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, transient=True)
            self._bar.add_task("history", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)
        if done == total:
            self._bar.stop()
