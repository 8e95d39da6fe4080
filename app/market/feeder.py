"""
The feeder: opens the venue and runs ingest on it, for as long as this machine holds the ingest lock.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Self

import structlog
from rich import progress as bars

from app.coordination.progress import Progress
from app.coordination.supervisor import supervise
from app.domain import timeframes
from app.market.client import ExchangeClient, OwnTime
from app.market.file_holes import watch_holes
from app.market.hold_gate import HandedOver, HoldGate
from app.market.ingest import Ingest
from app.market.metrics import MarketMetrics
from app.market.one_error import one_error
from app.market.venue import MarketUnusable, Venue, open_venue
from app.settings import Settings
from app.store import markets
from app.store.pool import Connection, Pool

log = structlog.get_logger(__name__)
STEP_BOUND_S = 180.0  # a slot comes every minute; an exchange that is silent for longer is connected to anew
CLOSE_MARGIN_S = 1.0  # a row is closed when both clocks have passed its end by so much market time
HISTORY_BARS_OF_FILES = (
    5000  # nothing limits how much of a file may be read: as far back as any plan may look
)


class Feeder:
    """
    Args:
        wake: Defers the tick job inside a slot's transaction.
        on_unusable: Called when the market cannot be served at all (unreadable files, another market in this database): retrying is no use.
        progress: Each closed slot and each piece of history is a step.
        on_stalled: Called when ingest made no progress after a restart either: another machine may do better.
        on_held: Called when the exchange must not be asked from here while another machine may ask.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        metrics: MarketMetrics,
        *,
        wake: Callable[[Connection], Awaitable[None]],
        on_unusable: Callable[[MarketUnusable], None],
        progress: Progress | None = None,
        on_stalled: Callable[[str], None] = lambda _name: None,
        on_held: Callable[[], None] = lambda: None,
    ) -> None:
        self._progress = progress or Progress(STEP_BOUND_S)
        self._on_stalled = on_stalled
        self._on_held = on_held
        self._on_unusable = on_unusable
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._wake = wake
        self._stopping = asyncio.Event()

    async def run(self, boot_id: int) -> None:
        """
        Feed the market until cancelled or closed; whatever breaks is reported and started again.

        Returns when the exchange must not be asked from here while another machine may ask: the lock should go to that one.
        """
        self._metrics.feeding.set(1)
        ended = asyncio.Event()
        try:
            await supervise(
                "ingest",
                lambda: self._feed(boot_id, ended),
                ended,
                progress=self._progress,
                on_hopeless=self._on_stalled,
            )
        finally:
            self._progress.rest()
            self._metrics.feeding.set(0)

    async def close(self) -> None:
        self._stopping.set()

    async def _feed(self, boot_id: int, ended: asyncio.Event) -> None:
        self._progress.expect()
        if self._stopping.is_set():
            ended.set()
            return
        feeding = asyncio.create_task(self._ingest(boot_id))
        closing = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({feeding, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not feeding.done():
                ended.set()
                return
            feeding.result()
        except MarketUnusable as error:
            ended.set()
            self._on_unusable(error)
        except HandedOver as handed_over:
            log.warning("another machine may feed the market", reason=str(handed_over))
            ended.set()
            self._on_held()
        finally:
            for task in (feeding, closing):
                task.cancel()
            await asyncio.gather(feeding, closing, return_exceptions=True)

    async def _ingest(self, boot_id: int) -> None:
        async with open_venue(self._settings, self._pool) as venue:
            gate = await HoldGate.enter(self._pool, venue, boot_id)
            async with self._client(venue, gate) as client, one_error():
                self._metrics.watch(client)
                async with asyncio.TaskGroup() as tasks:
                    watching = [
                        tasks.create_task(gate.watch(client)),
                        tasks.create_task(watch_holes(self._pool, venue, boot_id)),
                    ]
                    await gate.until_free(client)
                    log.info("feeding", market=venue.source, speed=venue.speed)
                    await self._run(client, venue, boot_id)
                    for task in watching:
                        task.cancel()

    def _client(self, venue: Venue, gate: HoldGate) -> ExchangeClient:
        return ExchangeClient(
            venue.rest_url,
            venue.stream_url,
            record=gate.record,
            own_time=self._own_time,
            margin_s=CLOSE_MARGIN_S,
            on_answer=self._metrics.answered,
        )

    async def _own_time(self) -> OwnTime | None:
        async with self._pool.connection() as connection:
            market = await markets.find(connection)
        if market is None or market.market_time is None:
            return None
        has_ended = market.ends_at is not None and market.market_time >= market.ends_at
        return OwnTime(timeframes.epoch_ms(market.market_time), has_ended)

    async def _run(self, client: ExchangeClient, venue: Venue, boot_id: int) -> None:
        is_file = venue.source.startswith("files ")
        with _HistoryProgress(venue, self._progress) as progress:
            ingest = Ingest(
                self._pool,
                client,
                self._metrics,
                boot_id=boot_id,
                speed=venue.speed,
                history_bars=HISTORY_BARS_OF_FILES if is_file else self._settings.history_bars,
                symbols_max=self._settings.symbols_max,
                min_quote_volume=self._settings.min_quote_volume,
                universe_refresh_s=self._settings.universe_refresh_s,
                wake=self._wake,
                on_progress=progress.show,
            )
            await ingest.run()


class _HistoryProgress:
    """A bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, venue: Venue, progress: Progress) -> None:
        self._venue = venue
        self._progress = progress
        self._bar: bars.Progress | None = None
        self._told = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        self._progress.step()
        if sys.stderr.isatty():
            self._draw(done, total)
        elif (tenth := done * 10 // total) > self._told:
            self._told = tenth
            log.info("loading history", done=done, total=total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (
                bars.TextColumn(f"loading history from {self._venue.source}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
            )
            self._bar = bars.Progress(*columns, transient=True)
            self._bar.add_task("history", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)
        if done == total:
            self._bar.stop()
