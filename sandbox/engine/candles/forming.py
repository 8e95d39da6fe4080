"""
The forming bar: what a candle of a timeframe looks like at an instant before its close.

Decided here: it is rolled up from the 1m candles that have closed since its open, by the rule that makes closed candles
(minutes without a trade count for the close only). So it changes once a minute, and is again a function of closed
candles and the instant. When the bar closes, its own candle replaces it. It exists when at least one symbol has a
candle in it; a symbol without one reads flat at its previous close, as everywhere on an axis.

Example: at 10:07 the forming bar of 15m is made of the minutes 10:00 to 10:06.
"""

from typing import Any, Self

import numpy as np

from sandbox.engine.candles.frame import Frame


class FormingFrame(Frame):
    """
    The closed bars of a timeframe and the forming one, as of one instant at a time.

    `show` moves it to an instant, forwards or backwards; arrays read before then are no longer valid. It costs the bars
    closed since, and O(symbols x minutes of the bar). `is_forming`: whether the last bar is the forming one.
    """

    def __init__(self, timeframe: str) -> None:
        super().__init__(timeframe, 0)
        self.is_forming = False
        self._shown: tuple[int, ...] = ()
        self._source = -1
        self._closed_end = 0  # absolute end of the columns that are closed candles

    def bars_closed_at(self, instant_ms: int) -> int:  # noqa: ARG002 - it is shown as of the only instant it knows
        """How many bars the instant shown may see: all, the forming one included."""
        return len(self)

    def show(self, closed: Frame, minutes: Frame, instant_ms: int) -> Self:
        """Be what a screen at *instant_ms* sees of *closed*, with the forming bar made of *minutes* (1m)."""
        shown = (
            closed.epoch,
            closed.first,
            len(closed),
            minutes.epoch,
            minutes.first + len(minutes),
            instant_ms,
        )
        if shown == self._shown:
            return self
        if closed.epoch != self._source or len(self._present) != len(closed.present):
            self._source, self._closed_end = closed.epoch, closed.first
            self.first = closed.first
            self._resize(len(closed.present))
            self.epoch += 1
        self._follow(closed, closed.bars_closed_at(instant_ms))
        self._begin(minutes, instant_ms)
        self._shown = shown
        return self

    def _follow(self, closed: Frame, count: int) -> None:
        """Hold the first *count* bars of *closed* and nothing else."""
        end = closed.first + count
        valid = max(closed.first, min(self._closed_end, end))
        if valid - self.first > len(self) or valid <= self.first:
            self._low = self._high = 0
            self.first, valid = closed.first, closed.first
        else:
            self._high = self._low + valid - self.first
            self.drop_oldest(closed.first - self.first)
        missing = slice(valid - closed.first, count)
        more = count - missing.start
        self._reserve(more)
        place = slice(self._high, self._high + more)
        self._times[place] = closed.open_time[missing]
        self._present[:, place] = closed.present[:, missing]
        for name, values in self._fields.items():
            values[:, place] = closed.field(name)[:, missing]
        self._high += more
        self._closed_end = end

    def _begin(self, minutes: Frame, instant_ms: int) -> None:
        """Add the bar that holds *instant_ms*, if it has begun and any symbol has a candle in it."""
        open_ms = instant_ms // self.step_ms * self.step_ms
        first, end = int(np.searchsorted(minutes.open_time, open_ms)), minutes.bars_closed_at(instant_ms)
        present = minutes.present[:, first:end].any(axis=1)
        self.is_forming = bool(present.any())
        if self.is_forming:
            rows = np.flatnonzero(present)
            candle = _rolled_up(minutes, rows, first, end)
            self.extend(np.array([open_ms]), rows, np.zeros(len(rows), dtype=np.int64), candle)


def _rolled_up(minutes: Frame, rows: Any, first: int, end: int) -> list[Any]:
    """Open, high, low, close and volume of one bar over the minutes [first, end), for *rows*; each shape (rows,)."""
    opens, highs, lows, closes, volumes = (
        minutes.field(name)[rows, first:end] for name in ("open", "high", "low", "close", "volume")
    )
    traded = volumes > 0
    close = closes[:, -1]
    start = np.where(traded.any(axis=1), opens[np.arange(len(rows)), traded.argmax(axis=1)], close)
    high = np.maximum(np.where(traded, highs, -np.inf).max(axis=1), close)
    low = np.minimum(np.where(traded, lows, np.inf).min(axis=1), close)
    # One after the other: a minute that only other symbols have adds nothing, to the last bit.
    volume = np.add.accumulate(np.where(traded, volumes, 0.0), axis=1)[:, -1]
    return [start, high, low, close, volume]
