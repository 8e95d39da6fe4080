"""
History: what is not known of each pair is asked for until it is whole, whatever interrupts it.

Decided here: which bars a pair must have (the newest so many of every timeframe), what is asked for (what ``candle_ranges`` lacks),
and what an answer proves: every bar asked for is known afterwards, a row or absent. A pair whose candles cannot be had waits with a
reason and a backoff of its own. Not decided here: when a pair is screened (`app.market.backfill`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from app.domain import timeframes
from app.market import errors
from app.market.candles import Candles
from app.market.closing import ROWS_AT_ONCE
from app.market.corrections import Corrections
from app.market.fetching import Fetched, Fetching, PairTrouble
from app.market.metrics import MarketMetrics
from app.market.pairs import Pairs
from app.store import candle_ranges, candle_refusals, machines
from app.store import candles as candle_store
from app.store.candle_ranges import Span
from app.store.candle_refusals import Refusal
from app.store.pool import Pool

log = structlog.get_logger(__name__)
HOLD_S_MAX: Final = 120.0  # a longer hold ends the feeding: another machine may take over
HOLD_S_MIN: Final = 0.2


@dataclass(frozen=True, slots=True)
class Piece:
    """Bars of one timeframe with first ≤ open time < until, in ms, that are not known; *is_gap*: older ones are."""

    timeframe: str
    first: int
    until: int
    is_gap: bool = False


class History:
    """
    Args:
        bars: How many of each timeframe a pair must have.
    """

    def __init__(
        self,
        pool: Pool,
        fetching: Fetching,
        pairs: Pairs,
        corrections: Corrections,
        metrics: MarketMetrics,
        *,
        boot_id: int,
        bars: int,
    ) -> None:
        self._pool = pool
        self._fetching = fetching
        self._pairs = pairs
        self._corrections = corrections
        self._metrics = metrics
        self._boot_id = boot_id
        self._bars = bars

    async def lacking(self, symbols: Sequence[str], through_ms: int) -> dict[str, list[Piece]]:
        """What is not known of each pair's bars that closed by *through_ms*; pairs that lack nothing are left out."""
        ids = {self._pairs.ids[symbol]: symbol for symbol in symbols if symbol in self._pairs.ids}
        async with self._pool.connection() as connection:
            known = await candle_ranges.read(connection, ids)
        lacking: dict[str, list[Piece]] = {}
        for symbol_id, symbol in ids.items():
            pieces = [
                piece
                for timeframe in timeframes.TIMEFRAMES
                for piece in self._pieces(timeframe, through_ms, known.get((symbol_id, timeframe), []))
            ]
            if pieces:
                lacking[symbol] = pieces
        return lacking

    def _pieces(self, timeframe: str, through_ms: int, known: Sequence[tuple[int, int]]) -> Iterator[Piece]:
        for first, until in _without(self._wanted(timeframe, through_ms), known):
            yield Piece(timeframe, first, until, is_gap=bool(known) and known[0][0] < first)

    def _wanted(self, timeframe: str, through_ms: int) -> tuple[int, int]:
        length_ms = timeframes.length_ms(timeframe)
        until = through_ms - through_ms % length_ms
        return max(until - self._bars * length_ms, 0), until

    async def fill(self, symbol: str, piece: Piece, through_ms: int, *, background: bool) -> None:
        """
        Ask for a piece and store it; while the exchange is held for less than two minutes, wait.

        What fills a gap of a screened pair is late: it has been passed over already. Bars older than all that is known are not.

        Raises:
            PairTrouble: It is this pair's trouble.
            ExchangeError: The exchange is out of reach, or held for longer.
        """
        while True:
            try:
                fetched = await self._fetching.fetch(
                    symbol, piece.timeframe, piece.first, piece.until, background=background
                )
            except (errors.BreakerOpen, errors.RateLimited) as error:
                if error.retry_after_s > HOLD_S_MAX:
                    raise
                await asyncio.sleep(max(HOLD_S_MIN, error.retry_after_s))
                continue
            await self._store(symbol, piece, fetched, through_ms)
            return

    async def _store(self, symbol: str, piece: Piece, fetched: Fetched, through_ms: int) -> None:
        symbol_id = self._pairs.ids.get(symbol)
        if symbol_id is None:  # halted meanwhile
            return
        length_ms = timeframes.length_ms(piece.timeframe)
        if piece.until > self._fetching.settled_ms:
            raise PairTrouble("its newest bars had not ended by the exchange's clock and ours")
        for first in range(piece.first, piece.until, ROWS_AT_ONCE * length_ms):
            until = min(first + ROWS_AT_ONCE * length_ms, piece.until)
            inside = (fetched.candles.open_time >= first) & (fetched.candles.open_time < until)
            batch = fetched.candles.take(inside)
            spans = [Span(symbol_id, first, until), *_absent(symbol_id, batch, first, until)]
            async with machines.fenced(self._pool, self._boot_id) as connection:
                if symbol in self._pairs.waiting or not piece.is_gap:
                    await candle_store.copy(connection, piece.timeframe, self._pairs.rows(batch))
                    await candle_ranges.know(connection, piece.timeframe, spans)
                else:
                    await self._corrections.store(connection, piece.timeframe, batch, spans, through_ms)
                await candle_refusals.put(connection, piece.timeframe, self.refusals(fetched))
        self._metrics.refused("rest", len(fetched.refused))

    def refusals(self, fetched: Fetched) -> list[Refusal]:
        """What was refused twice, as rows."""
        return [
            Refusal(self._pairs.ids[row.symbol], timeframes.instant(row.open_time), "rest", row.what, row.raw)
            for row in fetched.refused
            if row.symbol in self._pairs.ids
        ]


def _without(wanted: tuple[int, int], known: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of *wanted* no piece of *known* (in order) covers; spans are [from, until)."""
    at, end = wanted
    for first, until in known:
        if until <= at:
            continue
        if first >= end:
            break
        if first > at:
            yield at, first
        at = max(at, until)
    if at < end:
        yield at, end


def _absent(symbol_id: int, batch: Candles, first: int, until: int) -> list[Span]:
    """The bars between *first* and *until* that *batch* lacks, neighbours as one span."""
    length_ms = timeframes.length_ms(batch.timeframe)
    grid = np.arange(first, until, length_ms, dtype=np.int64)
    missing: NDArray[np.int64] = np.setdiff1d(grid, batch.open_time)
    if not len(missing):
        return []
    breaks = np.flatnonzero(np.diff(missing) > length_ms)
    starts = missing[np.concatenate([[0], breaks + 1])]
    ends = missing[np.concatenate([breaks, [len(missing) - 1]])] + length_ms
    return [Span(symbol_id, int(a), int(b), is_absent=True) for a, b in zip(starts, ends, strict=True)]
