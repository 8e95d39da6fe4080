"""
The panel: closed candles of all symbols as arrays, one frame per timeframe.

Decided here: what candles a panel takes, and what becomes of a frame when one is put in place of another. Not decided
here: what a frame's axis holds (`sandbox.engine.candles.frame`), where candles come from and how many are kept (`trim` is the caller's).

A panel is not thread-safe: append and evaluate from one thread at a time.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sandbox.engine.candles.forming import FormingFrame
from sandbox.engine.candles.frame import Bools, Floats, Frame, Ints
from sandbox.plan.operators import FIELDS
from sandbox.plan.timeframes import TIMEFRAMES

__all__ = ["TIMEFRAMES", "Bools", "Floats", "Frame", "Ints", "Panel"]


class Panel:
    """Candles of *symbols* in every timeframe, read by the evaluator."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = list(symbols)
        self.index = {symbol: row for row, symbol in enumerate(self.symbols)}
        if len(self.index) != len(self.symbols):
            raise ValueError("a symbol is named twice")
        self._frames = {timeframe: Frame(timeframe, len(self.symbols)) for timeframe in TIMEFRAMES}
        self._forming: dict[str, FormingFrame] = {}

    def frame(self, timeframe: str) -> Frame:
        """The frame of a timeframe; empty until it is loaded."""
        return self._frames[timeframe]

    def forming(self, timeframe: str, instant_ms: int) -> FormingFrame:
        """The frame of a timeframe with the forming bar at *instant_ms*, valid until it is asked for another instant."""
        frame = self._forming.get(timeframe)
        if frame is None:
            frame = self._forming[timeframe] = FormingFrame(timeframe)
        return frame.show(self._frames[timeframe], self._frames["1m"], instant_ms)

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
