"""
Ingest: from the exchange to rows. Runs on one machine of the cluster at a time (the holder of the ingest lock).

Three parts, joined here: *history* (what is not known of each pair is asked for until it is whole: `history`, `backfill`), *follow*
(minute by minute from the streams, with REST for what they did not deliver: `follow`) and *close* (one transaction per slot:
`closing`). Beside them the universe is watched (`watch`) and rows are compared with ranges (`comparison`).
A later machine goes on from the ledger and the ranges: what is missing comes by REST, and only what the exchange does not have
becomes an outage, with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from app.domain import timeframes
from app.market.assembly import MINUTE_MS, Assembly
from app.market.backfill import Backfill
from app.market.client import ExchangeClient
from app.market.closing import SlotCloser
from app.market.comparison import Comparison
from app.market.corrections import Corrections
from app.market.fetching import Fetching
from app.market.follow import GRACE_MIN_S, GRACE_S, Follow
from app.market.history import History
from app.market.metrics import MarketMetrics
from app.market.one_error import one_error
from app.market.pairs import Pairs
from app.market.progress import Progress
from app.market.streams import KlineStreams
from app.market.watch import Watch
from app.store import slots
from app.store.pool import Connection, Pool

log = structlog.get_logger(__name__)
UNIVERSE_REFRESH_S: Final = 600.0


class Ingest:
    """
    Args:
        boot_id: The machine on whose behalf everything is written; a buried one is refused.
        speed: Market minutes per real minute.
        history_bars: How many bars of each timeframe a pair must have.
        universe_refresh_s: Between two looks at the exchange's list.
        wake: Defers the tick job inside the slot's transaction.
        on_progress: Called with (done, total) requests while history loads.
    """

    def __init__(
        self,
        pool: Pool,
        client: ExchangeClient,
        metrics: MarketMetrics,
        *,
        boot_id: int,
        speed: float,
        history_bars: int,
        symbols_max: int,
        min_quote_volume: float,
        universe_refresh_s: float = UNIVERSE_REFRESH_S,
        wake: Callable[[Connection], Awaitable[None]],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._pool = pool
        self._client = client
        self._metrics = metrics
        self._pairs = pairs = Pairs()
        self._grace_s = max(GRACE_MIN_S, GRACE_S / speed)
        self._progress = Progress(pool, on_progress)
        self._watch = Watch(
            pool,
            client,
            pairs,
            metrics,
            boot_id=boot_id,
            symbols_max=symbols_max,
            min_quote_volume=min_quote_volume,
            refresh_s=universe_refresh_s,
        )
        self._closer = SlotCloser(pool, pairs, metrics, boot_id=boot_id, wake=wake)
        fetching = Fetching(client, lambda _symbol: self._watch.wake())
        corrections = Corrections(pool, pairs, metrics, boot_id=boot_id)
        history = History(pool, fetching, pairs, corrections, metrics, boot_id=boot_id, bars=history_bars)
        self._backfill = Backfill(
            pool,
            history,
            pairs,
            self._closer,
            metrics,
            boot_id=boot_id,
            on_progress=self._progress.loaded,
        )
        self._follow = Follow(
            pool,
            client,
            fetching,
            pairs,
            self._closer,
            corrections,
            metrics,
            boot_id=boot_id,
            grace_s=self._grace_s,
        )
        self._comparison = Comparison(pool, pairs, metrics, self._on_difference, boot_id=boot_id)

    async def run(self) -> None:
        """Feed the market until cancelled, or until the exchange or the database is out of reach (the caller starts again)."""
        async with one_error():
            await self._progress.say("starting", "the exchange's list of pairs is being read")
            await self._watch.begin()
            newest = await self._load_history()
            await self._progress.say("live")
            self._client.budget.reserve()
            assembly = Assembly(self._pairs.screened, newest, self._grace_s)
            streams = self._client.stream_klines(list(self._pairs.ids))
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._follow.run(assembly, streams))
                parts.create_task(self._backfill.run(assembly))
                parts.create_task(self._follow_universe(assembly, streams))
                parts.create_task(self._comparison.run())

    async def _load_history(self) -> int:
        """Load what is lacking up to the newest closed slot, or the last closed minute; returns the newest closed slot, in ms."""
        async with self._pool.connection() as connection:
            ledger = await slots.newest_closed(connection)
        if ledger is None:
            settled_ms = await self._client.settled_time()
            through_ms = settled_ms - settled_ms % MINUTE_MS
        else:
            through_ms = timeframes.epoch_ms(ledger)
        await self._backfill.load_all(through_ms)
        if ledger is None:
            await self._closer.begin(through_ms)
        return through_ms

    async def _follow_universe(self, assembly: Assembly, streams: KlineStreams) -> None:
        """Listings stream at once and wait for their history; what halts is not waited for from now on."""
        while True:
            came, gone = await self._watch.changed()
            for symbol in gone:
                assembly.drop(symbol)
                self._metrics.lost_pair(symbol)
            streams.change(add=came, remove=gone)
            if gone:
                self._follow.look_again()
            if came:
                self._backfill.wake()

    def _on_difference(self) -> None:
        self._closer.has_gaps = True
        self._backfill.wake()
