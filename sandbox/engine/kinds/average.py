"""Simple averages of candle fields."""

from collections.abc import Iterable

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.candles.frame import Floats
from sandbox.engine.kinds.kind import CallGroup, Event, State
from sandbox.engine.runs import begins_block, run_start


class Averages(CallGroup):
    """
    ta.sma of candle fields: TA-Lib's running sum, carried for all periods and symbols at once.

    TA-Lib adds the newest value, divides, and then subtracts the oldest; so does this, so the bits are the same.
    """

    carried = True

    def __init__(self, state: State, axis: str | None) -> None:
        super().__init__(state, axis)
        self._sums: Floats = np.zeros((0, state.rows.symbols))

    def add(self, call: Call) -> None:
        super().add(call)
        if len(self.calls) > len(self._sums):
            more = np.zeros((max(16, len(self._sums)), self.state.rows.symbols))
            self._sums = np.concatenate([self._sums, more])

    def remove(self, call: Call) -> None:
        self._sums[self._positions[call]] = self._sums[len(self.calls) - 1]
        super().remove(call)

    def restarts(self, event: Event) -> Iterable[Call]:
        if self.axis is None or self.axis not in event.turned:
            return ()
        frame, newest = event.frame(self.axis)
        return self.calls if begins_block(frame, newest) else ()

    def want(self, call: Call, event: Event) -> None:
        """Nothing: the sum is made here, TA-Lib's average does not tell it."""

    def load(self, call: Call, event: Event) -> None:
        frame, newest = event.frame(self.axis or "")
        period = int(call.params["timeperiod"])
        row, at = call.refs[0].row, self._positions[call]
        if newest < 0:
            self.state.rows.floats[row] = np.nan
            self._sums[at] = 0.0
            return
        begin = max(0, run_start(frame, newest, call.operator, call.params))
        values = frame.field(str(call.args[0].call.params["field"]))[:, begin : newest + 1]
        if np.isnan(values[:, 0]).any():  # symbols without a candle yet add nothing
            values = np.nan_to_num(values, nan=0.0)
        # What TA-Lib adds up, in its order: period - 1 values, then in turns one in and one out. NumPy adds row after
        # row when it sums over the first axis (the tests hold it to that).
        bars = np.ascontiguousarray(values.T)
        closed = bars if event.settled(self.axis) else bars[:-1]
        total = closed[: period - 1].sum(axis=0)
        for at_bar in range(period - 1, len(closed)):
            total += closed[at_bar]
            if at_bar == len(bars) - 1:
                self.state.rows.floats[row] = total / period
            total -= closed[at_bar - period + 1]
        if closed is not bars:
            self.state.rows.floats[row] = (total + bars[-1]) / period
        self._sums[at] = total
        if newest + 1 < period:
            self.state.rows.floats[row] = np.nan
        else:
            self.state.rows.floats[row, np.isnan(frame.field("close")[:, newest + 1 - period])] = np.nan

    def step(self, event: Event) -> None:
        stale = self.unloaded(event)
        frame, newest = event.frame(self.axis or "")
        periods = self.table("periods", lambda: np.array([int(c.params["timeperiod"]) for c in self.calls]))[
            stale
        ]
        if not len(periods):
            return
        values = frame.field(str(self.calls[0].args[0].call.params["field"]))
        oldest = values[:, np.maximum(newest - periods + 1, 0)].T
        oldest[newest - periods + 1 < 0] = np.nan
        young = np.isnan(oldest)
        oldest[young] = 0.0
        sums = self._sums[: len(self.calls)][stale] + np.nan_to_num(values[:, newest], nan=0.0)
        averages = sums / periods[:, None]
        averages[young] = np.nan
        self.state.rows.floats[self.out_rows()[stale]] = averages
        if event.settled(self.axis):
            self._sums[np.arange(len(self.calls))[stale]] = sums - oldest
