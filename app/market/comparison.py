"""
Comparing rows with ranges, in the background: is every bar that is said to be known there?

A range that promises another number of bars than there are rows is forgotten, so that the exchange is asked again, and what was
found is on record in ``vyx.history_checks``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from app.domain import timeframes
from app.market.metrics import MarketMetrics
from app.market.pairs import Pairs
from app.store import candle_ranges, machines
from app.store.candle_ranges import Difference
from app.store.pool import Pool

log = structlog.get_logger(__name__)
FIRST_AFTER_S: Final = 60.0
EVERY_S: Final = 3_600.0
PAIRS_AT_ONCE: Final = 50  # of one timeframe in one statement: 300,000 bars at most, a second


class Comparison:
    """
    Args:
        on_difference: Called when bars have to be asked for again.
    """

    def __init__(
        self,
        pool: Pool,
        pairs: Pairs,
        metrics: MarketMetrics,
        on_difference: Callable[[], None],
        *,
        boot_id: int,
    ) -> None:
        self._pool = pool
        self._pairs = pairs
        self._metrics = metrics
        self._on_difference = on_difference
        self._boot_id = boot_id

    async def run(self) -> None:
        """Compare a minute after the start, and then every hour, for ever."""
        await asyncio.sleep(FIRST_AFTER_S)
        while True:
            await self.compare()
            await asyncio.sleep(EVERY_S)

    async def compare(self) -> list[Difference]:
        """Compare everything once; returns, records and mends what differs."""
        ranges = bars = 0
        found: list[Difference] = []
        ids = sorted(self._pairs.ids.values())
        for timeframe in timeframes.TIMEFRAMES:
            for some in (ids[i : i + PAIRS_AT_ONCE] for i in range(0, len(ids), PAIRS_AT_ONCE)):
                async with machines.fenced(self._pool, self._boot_id) as connection:
                    compared, promised, differences = await candle_ranges.compare(connection, timeframe, some)
                    await candle_ranges.forget(connection, timeframe, [d.symbol for d in differences])
                ranges, bars, found = ranges + compared, bars + promised, found + differences
        async with machines.fenced(self._pool, self._boot_id) as connection:
            await candle_ranges.put_check(connection, ranges=ranges, bars=bars, differences=found)
        self._metrics.ranges_wrong.inc(len(found))
        if found:
            first = found[0]
            log.error(
                "rows differ from what is known of them, asking the exchange again",
                ranges=len(found),
                symbol=first.symbol,
                timeframe=first.timeframe,
                promised=first.promised,
                stored=first.stored,
            )
            self._on_difference()
        return found
