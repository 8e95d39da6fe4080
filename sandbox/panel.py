"""
The panel: closed candles of all symbols as arrays, one frame per timeframe.

Decided here: the axis rule. A frame's axis holds the bars that exist for at least one symbol, so an exchange-wide
outage leaves no column and the bar before is the previous bar that exists. A symbol that lacks one of them reads flat
at its previous close with volume 0, exactly the exchange's own no-trade candle, and is not `present` there; before its
first candle it is NaN. Not decided here: where candles come from and how many are kept (`trim` is the caller's).

A panel is not thread-safe: append and evaluate from one thread at a time.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sandbox.operators import FIELDS, TIMEFRAMES_S

TIMEFRAMES = TIMEFRAMES_S
"""Seconds of each timeframe, finest first; bars begin at whole multiples since 1970-01-01 UTC."""

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

    def replace(self, times: Ints, symbol: Ints, column: Ints, values: Sequence[Floats]) -> None:
        """Hold exactly the bars *times*, with candles (symbol, column) and their five *values*."""
        symbols = len(self._present)
        self._low = self._high = 0
        self._times = np.empty(0, dtype=np.int64)
        self._present = np.empty((symbols, 0), dtype=np.bool_)
        self._fields = {name: np.empty((symbols, 0)) for name in FIELDS}
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


class Panel:
    """Candles of *symbols* in every timeframe, read by the evaluator."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = list(symbols)
        self.index = {symbol: row for row, symbol in enumerate(self.symbols)}
        if len(self.index) != len(self.symbols):
            raise ValueError("a symbol is named twice")
        self._frames = {timeframe: Frame(timeframe, len(self.symbols)) for timeframe in TIMEFRAMES}

    def frame(self, timeframe: str) -> Frame:
        """The frame of a timeframe; empty until it is loaded."""
        return self._frames[timeframe]

    def add_symbols(self, symbols: Iterable[str]) -> None:
        """Make room for symbols listed since; those already known are left alone."""
        new = [symbol for symbol in dict.fromkeys(symbols) if symbol not in self.index]
        if not new:
            return
        for symbol in new:
            self.index[symbol] = len(self.symbols)
            self.symbols.append(symbol)
        for frame in self._frames.values():
            frame.add_symbols(len(new))

    def load(self, timeframe: str, symbol: Any, open_time: Any, *fields: Any) -> None:
        """
        Replace a frame by these closed candles, in any order.

        Args:
            timeframe: One of TIMEFRAMES.
            symbol: Row of each candle in `symbols`, shape (n,).
            open_time: Milliseconds since 1970, whole multiples of the timeframe, shape (n,).
            *fields: open, high, low, close, volume; each shape (n,), float64, finite.

        Raises:
            ValueError: Columns of different length, an unknown row, a time off the grid, a number that is not finite,
                or two candles for one bar.
        """
        rows, times, values = self._columns(timeframe, symbol, open_time, fields)
        axis, column = np.unique(times, return_inverse=True)
        _refuse_doubles(rows, column, len(axis))
        self._frames[timeframe].replace(axis, rows, column, values)

    def append(self, timeframe: str, symbol: Any, open_time: Any, *fields: Any) -> None:
        """
        Add candles (columns as in `load`). Bars newer than the axis extend it; others are treated as `correct`.
        """
        rows, times, values = self._columns(timeframe, symbol, open_time, fields)
        frame = self._frames[timeframe]
        newest = int(frame.open_time[-1]) if len(frame) else -1
        fresh = times > newest
        if not fresh.all():
            self._merge(frame, rows[~fresh], times[~fresh], [v[~fresh] for v in values])
            rows, times, values = rows[fresh], times[fresh], [v[fresh] for v in values]
        if len(times):
            axis, column = np.unique(times, return_inverse=True)
            _refuse_doubles(rows, column, len(axis))
            frame.extend(axis, rows, column, values)

    def correct(self, timeframe: str, symbol: Any, open_time: Any, *fields: Any) -> None:
        """
        Put these candles (columns as in `load`) in place of what the panel holds for their bars.

        A bar that did not exist is inserted; one older than everything held is ignored, being trimmed already. Flat
        bars behind a changed close follow it. Values computed before are no longer valid: `Frame.epoch` changes.
        """
        rows, times, values = self._columns(timeframe, symbol, open_time, fields)
        self._merge(self._frames[timeframe], rows, times, values)

    def trim(self, timeframe: str, keep_bars: int) -> None:
        """Forget all but the newest *keep_bars* bars of a timeframe."""
        frame = self._frames[timeframe]
        frame.drop_oldest(max(0, len(frame) - keep_bars))

    def _columns(
        self, timeframe: str, symbol: Any, open_time: Any, fields: Sequence[Any]
    ) -> tuple[Ints, Ints, list[Floats]]:
        rows = np.asarray(symbol, dtype=np.int64)
        times = np.asarray(open_time, dtype=np.int64)
        values = [np.asarray(field, dtype=np.float64) for field in fields]
        if len(values) != len(FIELDS) or any(column.shape != rows.shape for column in (times, *values)):
            raise ValueError(f"candles need equally long columns: symbol, open_time, {', '.join(FIELDS)}")
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self.symbols)):
            raise ValueError("a candle names a symbol that the panel does not have")
        if (times % (TIMEFRAMES[timeframe] * 1000)).any():
            raise ValueError(f"a candle does not begin at a whole {timeframe}")
        if not all(np.isfinite(column).all() for column in values):
            raise ValueError("a candle holds a number that is not finite")
        return rows, times, values

    def _merge(self, frame: Frame, rows: Ints, times: Ints, values: Sequence[Floats]) -> None:
        """Rebuild the frame with these candles over what it holds; rare, so simple: O(all candles)."""
        first, oldest = frame.first, int(frame.open_time[0]) if len(frame) else -1
        kept = times >= oldest
        old_rows, old_column, old_values = frame.rows()
        rows = np.concatenate([old_rows, rows[kept]])
        times = np.concatenate([frame.open_time[old_column], times[kept]])
        merged = [np.concatenate([old, new[kept]]) for old, new in zip(old_values, values, strict=True)]
        axis, column = np.unique(times, return_inverse=True)
        _, last = np.unique(
            (rows * len(axis) + column)[::-1], return_index=True
        )  # the newest row of each bar wins
        chosen = len(rows) - 1 - last
        carried = _carried(frame)
        frame.replace(axis, rows[chosen], column[chosen], [m[chosen] for m in merged])
        _carry(frame, carried)
        frame.first = first


def _carried(frame: Frame) -> Floats:
    """The close that each symbol's first held bar continues (NaN: none), which trimming would otherwise lose."""
    if not len(frame):
        return np.empty(0)
    return np.where(frame.present[:, 0], np.nan, frame.field("close")[:, 0])


def _carry(frame: Frame, close: Floats) -> None:
    """Let flat bars at the start of the frame continue closes from before it."""
    for row in np.flatnonzero(~np.isnan(close)):
        own = np.flatnonzero(frame.present[row])
        until = int(own[0]) if len(own) else len(frame)
        for name in FIELDS[:4]:
            frame.field(name)[row, :until] = close[row]
        frame.field("volume")[row, :until] = 0.0


def _refuse_doubles(rows: Ints, column: Ints, bars: int) -> None:
    places = rows * bars + column
    if len(np.unique(places)) != len(places):
        raise ValueError("two candles for one symbol and bar")
