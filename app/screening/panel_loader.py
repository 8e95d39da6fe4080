"""
The candle panel of one machine, kept equal to the table of candles.

Loaded with one query per timeframe, and only the timeframes and depth that plans on this machine need;
extended with one query per slot. Candles are read back from Postgres rather than taken from the exchange, so
that every machine screens the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import structlog

from app import history
from app.domain import timeframes
from app.store import candles, symbols
from app.store.candles import LastCandle, Rows
from app.store.pool import Pool
from sandbox.engine.candles.panel import Panel
from sandbox.plan.timeframes import TIMEFRAMES

log = structlog.get_logger(__name__)
PRICES = ("open", "high", "low", "close", "volume")
SLACK_BARS = 64  # loaded beyond what is needed, so that a slightly deeper plan does not reload the frame
TRIM_EVERY_BARS = 256  # how far a frame may outgrow its need before its oldest bars are dropped


class PanelLoader:
    """
    Args:
        pool: Connections for the reads.

    Attributes:
        panel: What the evaluator sees.
        through: The newest slot whose bars are in every loaded frame; None before the first load.
        corrections: The newest correction of a candle that the panel may hold.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._row_of = np.zeros(0, dtype=np.int64)  # symbol_id → row; -1: not known
        self._loaded: set[str] = set()
        self.corrections = 0
        self._complete: set[str] = set()  # frames that hold every bar there is, however short
        self.panel = Panel([])
        self.through: datetime | None = None

    async def ensure(self, needed: Mapping[str, int], slot: datetime, *, through: datetime) -> None:
        """
        Make every timeframe of *needed* hold so many bars that close at or before *slot*, or all there are.

        Frames already deep enough are left alone. The first load reaches to *through*, where the machine
        stands; a trader that catches up is screened at an earlier *slot* of the same panel.
        """
        if self.through is None:
            self.through = through
        for timeframe, bars in needed.items():
            if not self.is_deep_enough(timeframe, bars, slot):
                await self._load(timeframe, bars, slot)

    async def extend(self, slot: datetime) -> None:
        """
        Append the bars that closed at *slot* to every loaded frame; after a correction, let all be read
        again.
        """
        if self.through is not None and slot <= self.through:
            return
        closing = [name for name in timeframes.closing_at(timeframes.epoch_ms(slot)) if name in self._loaded]
        async with self._pool.connection() as connection:
            corrections = await candles.newest_correction(connection)
            # rare: what is held may differ from the rows now, so it is read again
            if corrections != self.corrections:
                self.corrections = corrections
                self.forget()
                closing = []
            bars: dict[str, Rows] = {}
            for timeframe in closing:
                open_time = slot - timedelta(seconds=TIMEFRAMES[timeframe])
                bars[timeframe] = await candles.read(connection, timeframe, open_time, open_time)
                await self._know(bars[timeframe])
        for timeframe, rows in bars.items():  # only now: a slot that an error interrupts is appended once
            self._append(timeframe, rows)
        self.through = slot

    def trim(self, needed: Mapping[str, int]) -> None:
        """Drop the oldest bars of frames that have outgrown *needed*; frames nobody needs are emptied."""
        for timeframe in list(self._loaded):
            keep = needed.get(timeframe, 0) + SLACK_BARS
            if timeframe not in needed:
                self._unload(timeframe)
            elif len(self.panel.frame(timeframe)) > keep + TRIM_EVERY_BARS:
                self.panel.trim(timeframe, keep)
                self._complete.discard(timeframe)

    def forget(self) -> None:
        """Read everything anew when it is next needed."""
        for timeframe in list(self._loaded):
            self._unload(timeframe)
        self.through = None

    def _unload(self, timeframe: str) -> None:
        self.panel.load(timeframe, *[np.empty(0)] * 7)
        self._loaded.discard(timeframe)
        self._complete.discard(timeframe)

    def is_deep_enough(self, timeframe: str, bars: int, slot: datetime) -> bool:
        """Whether so many bars that close by *slot* are held, or all there are."""
        if timeframe not in self._loaded:
            return False
        return (
            timeframe in self._complete
            or self.panel.frame(timeframe).bars_closed_at(int(slot.timestamp() * 1000)) >= bars
        )

    async def _load(self, timeframe: str, bars: int, slot: datetime) -> None:
        asked = bars + SLACK_BARS
        last = (self.through or slot) - timedelta(seconds=TIMEFRAMES[timeframe])
        async with self._pool.connection() as connection:
            first, found = await history.reach(connection, timeframe, slot, asked)
            rows = await candles.read(connection, timeframe, first, last)
            before = _rows(await candles.list_last_before(connection, timeframe, first, None))
        rows = {name: np.concatenate([before[name], rows[name]]) for name in rows}
        await self._know(rows)
        self.panel.load(timeframe, self._row_of[rows["symbol_id"]], rows["open_time"], *_prices(rows))
        # candles from before the first bar only say at which close a symbol without that bar is flat
        held = self.panel.frame(timeframe).open_time
        self.panel.trim(timeframe, int((held >= timeframes.epoch_ms(first)).sum()))
        self._loaded.add(timeframe)
        if found < asked:
            self._complete.add(timeframe)

    async def _know(self, rows: Rows) -> None:
        """Give every symbol of *rows* a row in the panel, which alone decides which row that is."""
        newest = int(rows["symbol_id"].max(initial=-1))
        if newest < len(self._row_of) and not (self._row_of[rows["symbol_id"]] < 0).any():
            return
        async with self._pool.connection() as connection:
            universe = await symbols.list_universe(connection)
        self.panel.add_symbols(pair.symbol for pair in universe)
        self._row_of = np.full(max(pair.symbol_id for pair in universe) + 1, -1, dtype=np.int64)
        self._row_of[[pair.symbol_id for pair in universe]] = [self.panel.index[p.symbol] for p in universe]

    def _append(self, timeframe: str, rows: Rows) -> None:
        if len(rows["symbol_id"]):
            self.panel.append(timeframe, self._row_of[rows["symbol_id"]], rows["open_time"], *_prices(rows))


def _rows(found: Sequence[LastCandle]) -> Rows:
    """As `candles.read` gives them."""
    prices = np.array([last.prices() for last in found]).reshape(len(found), len(PRICES)).T
    return {
        **dict(zip(PRICES, prices, strict=True)),
        "symbol_id": np.array([last.symbol_id for last in found], dtype=np.int64),
        "open_time": np.array([timeframes.epoch_ms(last.open_time) for last in found], dtype=np.int64),
    }


def _prices(rows: Rows) -> tuple[candles.Column, ...]:
    return tuple(rows[name] for name in PRICES)
