"""
Candles of bars that have been screened: late ones, and copies that differ from what was stored.

Each is stored and recorded with what it was, and every roll-up that contains it is made again, in one fenced transaction. Panels see
a correction with their next slot. Nothing is screened again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from app.domain import timeframes
from app.market.candles import Candle, Candles
from app.market.closing import ROLL_UP_FROM
from app.market.metrics import MarketMetrics
from app.market.pairs import Pairs
from app.store import candle_ranges, machines
from app.store import candles as candle_store
from app.store.candle_ranges import Span
from app.store.candles import Bar
from app.store.pool import Connection, Pool

log = structlog.get_logger(__name__)


class Corrections:
    """Writes on behalf of *boot_id*; a buried machine is refused."""

    def __init__(self, pool: Pool, pairs: Pairs, metrics: MarketMetrics, *, boot_id: int) -> None:
        self._pool = pool
        self._pairs = pairs
        self._metrics = metrics
        self._boot_id = boot_id

    async def take(self, candles: Sequence[Candle], through_ms: int) -> int:
        """Store 1m candles that came after their slots closed, *through_ms* being the newest closed one; how many were news."""
        newest = {(candle.symbol, candle.open_time): candle for candle in candles}
        batch = Candles.from_rows(newest.values())
        spans = [
            Span(self._pairs.ids[symbol], open_ms, open_ms + timeframes.MINUTE_MS)
            for symbol, open_ms in newest
            if symbol in self._pairs.ids
        ]
        async with machines.fenced(self._pool, self._boot_id) as connection:
            changed = await self.store(connection, "1m", batch, spans, through_ms)
        if changed:
            log.warning(
                "candles came or changed after their slot had closed",
                candles=changed,
                first=candles[0].symbol,
            )
        return changed

    async def store(
        self,
        connection: Connection,
        timeframe: str,
        batch: Candles,
        spans: Sequence[Span],
        through_ms: int,
    ) -> int:
        """The same for candles of any timeframe and what is known with them, inside the caller's fenced transaction."""
        changed = await candle_store.correct(connection, timeframe, self._pairs.rows(batch))
        await candle_ranges.know(connection, timeframe, spans)
        if changed:
            self._metrics.candles_late.inc(len(changed))
            await rebuild(connection, timeframe, changed, timeframes.instant(through_ms))
        return len(changed)


async def rebuild(connection: Connection, timeframe: str, changed: Sequence[Bar], through: datetime) -> None:
    """Make every roll-up again that contains a changed bar and had closed by *through*."""
    news: dict[str, list[Bar]] = {timeframe: list(changed)}
    for coarser, source in ROLL_UP_FROM.items():
        if bars := news.get(source):
            news[coarser] = await candle_store.rebuild_roll_ups(
                connection, coarser, source, timeframes.TIMEFRAMES[coarser], bars, through
            )
