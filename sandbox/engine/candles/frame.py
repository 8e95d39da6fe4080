"""
One timeframe's candles of all symbols as arrays.

Decided here: the axis rule. A frame's axis holds the bars that exist for at least one symbol, so an exchange-wide
outage leaves no column and the bar before is the previous bar that exists. A symbol that lacks one of them reads flat
at its previous close with volume 0, exactly the exchange's own no-trade candle, and is not `present` there; before its
first candle it is NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sandbox.plan.operators import FIELDS
from sandbox.plan.timeframes import TIMEFRAMES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_SPARE_BARS = 256
"""Room for new bars when a frame is (re)allocated: about four hours of 1m bars between two moves."""


class Frame:
    """
    The candles of one timeframe: fields of shape (symbols, bars), float64, oldest bar first, each symbol's row in one
    piece of memory.

    `epoch` changes when bars already seen changed (a correction, another load, another set of symbols); `first` is the
    absolute position of the oldest bar held: positions (first + index) stay true while bars are appended and trimmed.
    """

    def __init__(self, timeframe: str, symbols: int) -> None:
        self.timeframe = timeframe
        self.step_ms = TIMEFRAMES[timeframe] * 1000
        self.first = 0
        self.epoch = 0
        self._low = self._high = 0
        self._times: Ints = np.empty(0, dtype=np.int64)
        self._fields: dict[str, Floats] = {name: np.empty((symbols, 0)) for name in FIELDS}
        self._present: Bools = np.empty((symbols, 0), dtype=np.bool_)

    def __len__(self) -> int:
        return self._high - self._low

    @property
    def open_time(self) -> Ints:
        """Milliseconds since 1970, shape (bars,), strictly increasing."""
        return self._times[self._low : self._high]

    @property
    def present(self) -> Bools:
        """Where a symbol has its own candle, shape (symbols, bars)."""
        return self._present[:, self._low : self._high]

    def field(self, name: str) -> Floats:
        """One of open, high, low, close, volume; shape (symbols, bars)."""
        return self._fields[name][:, self._low : self._high]

    def bars_closed_at(self, instant_ms: int) -> int:
        """How many bars have close_time <= *instant_ms*: the bars a screen at that instant may see."""
        return int(np.searchsorted(self.open_time, instant_ms - self.step_ms, side="right"))

    def _reserve(self, bars: int) -> None:
        """Make room for *bars* more columns; amortised constant, since moves at least double or halve the need."""
        if self._high + bars <= len(self._times):
            return
        kept = len(self)
        capacity = max(len(self._times), kept + bars + max(_SPARE_BARS, kept))

        def moved(old: Any, shape: tuple[int, ...]) -> Any:
            new = np.empty(shape, dtype=old.dtype)
            new[..., :kept] = old[..., self._low : self._high]
            return new

        symbols = len(self._present)
        self._times = moved(self._times, (capacity,))
        self._present = moved(self._present, (symbols, capacity))
        self._fields = {name: moved(old, (symbols, capacity)) for name, old in self._fields.items()}
        self._low, self._high = 0, kept

    def _resize(self, symbols: int) -> None:
        """Hold nothing, with room for *symbols*."""
        self._low = self._high = 0
        self._times = np.empty(0, dtype=np.int64)
        self._present = np.empty((symbols, 0), dtype=np.bool_)
        self._fields = {name: np.empty((symbols, 0)) for name in FIELDS}

    def replace(self, times: Ints, symbol: Ints, column: Ints, values: Sequence[Floats]) -> None:
        """Hold exactly the bars *times*, with candles (symbol, column) and their five *values*."""
        self._resize(len(self._present))
        self.first = 0
        self.epoch += 1
        self.extend(times, symbol, column, values)

    def extend(self, times: Ints, symbol: Ints, column: Ints, values: Sequence[Floats]) -> None:
        """Add the newer bars *times*; *column* counts from the first of them."""
        self._reserve(len(times))
        start = self._high
        self._high += len(times)
        self._times[start : self._high] = times
        self._present[:, start : self._high] = False
        self._present[symbol, start + column] = True
        for name, raw in zip(FIELDS, values, strict=True):
            self._fields[name][symbol, start + column] = raw
        self._fill(start)

    def _fill(self, start: int) -> None:
        """Write the flat bars of symbols without their own candle, from column *start* on."""
        present = self._present[:, start : self._high]
        if present.all():
            return
        close = self._fields["close"][:, start : self._high]
        before = (
            self._fields["close"][:, start - 1 : start]
            if start > self._low
            else np.full((len(present), 1), np.nan)
        )
        known = np.hstack([before, close])
        last = np.maximum.accumulate(np.where(present, np.arange(1, present.shape[1] + 1), 0), axis=1)
        flat = np.take_along_axis(known, last, axis=1)
        missing = ~present
        for name in FIELDS[:4]:
            self._fields[name][:, start : self._high][missing] = flat[missing]
        self._fields["volume"][:, start : self._high][missing] = np.where(
            np.isnan(flat[missing]), np.nan, 0.0
        )

    def drop_oldest(self, bars: int) -> None:
        """Forget the *bars* oldest columns."""
        self._low += bars
        self.first += bars

    def rows(self) -> tuple[Ints, Ints, list[Floats]]:
        """The candles themselves, without flat bars: symbols, columns and the five fields."""
        symbol, column = np.nonzero(self.present)
        return symbol, column, [self.field(name)[symbol, column] for name in FIELDS]

    def add_symbols(self, count: int) -> None:
        """Rows of NaN for *count* new symbols."""
        bars = len(self._times)
        self._present = np.vstack([self._present, np.zeros((count, bars), dtype=np.bool_)])
        blank = np.full((count, bars), np.nan)
        self._fields = {name: np.vstack([old, blank]) for name, old in self._fields.items()}
        self.epoch += 1
