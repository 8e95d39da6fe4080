"""
Where the simulated exchange's candles come from, and what a minute looks like before it is over.

A source is fixed: asked twice, it answers the same. It knows nothing of the clock.
"""

import math
from typing import Protocol

import numpy as np

from app.domain import timeframes
from app.market.candles import Candle, Candles


class Source(Protocol):
    """1m candles of some symbols from an instant on; instants in milliseconds since the epoch."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol that may have candles."""

    @property
    def first_ms(self) -> int:
        """Open time of the first minute."""

    @property
    def end_ms(self) -> int | None:
        """Close time of the last minute; None: without end."""

    def minutes(self, symbol: str, start_ms: int, end_ms: int) -> Candles:
        """Candles of *symbol* with start ≤ open time < end, in order; none for an unknown symbol."""

    def at(self, open_ms: int) -> Candles:
        """The candles of all symbols that opened at *open_ms*."""


class DumpSource:
    """Real candles, as `app.market.dumps.read_dumps` returns them."""

    def __init__(self, candles: Candles) -> None:
        if not len(candles):
            raise ValueError("a market needs at least one candle")
        self._rows = candles.in_order()
        self.symbols = candles.symbols
        self.first_ms = int(self._rows.open_time.min())
        self.end_ms: int | None = int(self._rows.open_time.max()) + timeframes.MINUTE_MS
        self._index = {name: i for i, name in enumerate(candles.symbols)}
        self._bounds = np.searchsorted(self._rows.symbol, np.arange(len(candles.symbols) + 1))
        self._by_time = np.argsort(self._rows.open_time, kind="stable")
        self._times = self._rows.open_time[self._by_time]

    def minutes(self, symbol: str, start_ms: int, end_ms: int) -> Candles:
        index = self._index.get(symbol)
        if index is None:
            return self._rows.take(slice(0, 0))
        first, last = self._bounds[index], self._bounds[index + 1]
        within = np.searchsorted(self._rows.open_time[first:last], [start_ms, end_ms])
        return self._rows.take(slice(first + within[0], first + within[1]))

    def around(self, at_ms: int) -> tuple[int | None, int | None]:
        """Close time of the newest candle that has closed by *at_ms*, and open time of the next one; None where there is none."""
        after = int(np.searchsorted(self._times, at_ms - timeframes.MINUTE_MS, side="right"))
        last = int(self._times[after - 1]) + timeframes.MINUTE_MS if after else None
        return last, int(self._times[after]) if after < len(self._times) else None

    def at(self, open_ms: int) -> Candles:
        first, last = np.searchsorted(self._times, [open_ms, open_ms + 1])
        return self._rows.take(self._by_time[first:last])


def unfinished(candle: Candle, passed: float) -> Candle:
    """
    What *candle* looks like when the share *passed* (0 … 1) of its minute is over.

    The price walks open → low → high → close in a rising candle and open → high → low → close in a falling one, a
    third of the minute each; volumes grow evenly. So a later look never contradicts an earlier one.
    """
    turns = (candle.low, candle.high) if candle.close >= candle.open else (candle.high, candle.low)
    path = (candle.open, *turns, candle.close)
    leg = min(int(passed * 3), 2)
    now = round(path[leg] + (path[leg + 1] - path[leg]) * (passed * 3 - leg), 8)
    seen = (*path[: leg + 1], now)
    return candle._replace(
        high=max(seen),
        low=min(seen),
        close=now,
        volume=round(candle.volume * passed, 8),
        quote_volume=round(candle.quote_volume * passed, 8),
        trades=math.floor(candle.trades * passed),
    )
