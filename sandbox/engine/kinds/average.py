"""Simple averages of candle fields by step (over a range: `run`)."""

from collections.abc import Collection, Hashable, Iterable

import numpy as np

from sandbox.engine.calls import Call, is_own_field
from sandbox.engine.candles.frame import Floats
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.runs import begins_block, run_start
from sandbox.engine.view import View
from sandbox.plan.axis import Axis


class Averages(CallGroup):
    """
    ta.sma of candle fields: TA-Lib's running sum, kept for all periods and symbols at once.

    TA-Lib adds the newest value, divides, and then subtracts the oldest; so does this, so the bits are the same.
    """

    is_incremental = True

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        source = call.args[0].call
        return (source.params["field"],) if is_own_field(source) else None

    def __init__(self, shared: Shared, axis: Axis, level: int) -> None:
        super().__init__(shared, axis, level)
        self._sums: Floats = np.zeros((0, shared.rows.symbols))

    def add(self, call: Call) -> None:
        super().add(call)
        if len(self.calls) > len(self._sums):
            more = np.zeros((max(16, len(self._sums)), self.shared.rows.symbols))
            self._sums = np.concatenate([self._sums, more])

    def remove(self, call: Call) -> None:
        self._sums[self._positions[call]] = self._sums[len(self.calls) - 1]
        super().remove(call)

    def restarts(self, event: Event) -> Collection[Call]:
        if self.axis not in event.opened:
            return ()
        return self.calls if begins_block(*event.view.newest(self.axis)) else ()

    def want(self, call: Call, view: View) -> None:
        """Nothing: `load` makes the sum itself, because TA-Lib's average does not give it."""

    def load(self, call: Call, view: View) -> None:
        axis, rows = self.axis, self.shared.rows
        frame, newest = view.newest(axis)
        period, at = _period(call), self._positions[call]
        row = rows.of(call.refs[0])
        if newest < 0:
            rows.floats[row] = np.nan
            self._sums[at] = 0.0
            return
        begin = max(0, run_start(frame, newest, call.operator, call.params))
        values = frame.field(str(call.args[0].call.params["field"]))[:, begin : newest + 1]
        if np.isnan(values[:, 0]).any():  # symbols without a candle yet add nothing
            values = np.nan_to_num(values, nan=0.0)
        # TA-Lib sums in this order: period - 1 values, then by turns one in and one out. NumPy adds row after row when
        # it sums over the first axis (the tests hold it to that).
        bars = np.ascontiguousarray(values.T)
        closed = bars if view.is_closed(axis) else bars[:-1]
        total = closed[: period - 1].sum(axis=0)
        for at_bar in range(period - 1, len(closed)):
            total += closed[at_bar]
            if at_bar == len(bars) - 1:
                rows.floats[row] = total / period
            total -= closed[at_bar - period + 1]
        if closed is not bars:
            rows.floats[row] = (total + bars[-1]) / period
        self._sums[at] = total
        if newest + 1 < period:
            rows.floats[row] = np.nan
        else:
            rows.floats[row, np.isnan(frame.field("close")[:, newest + 1 - period])] = np.nan

    def step(self, event: Event) -> Iterable[Call]:
        stepping = self.stepping(event)
        frame, newest = event.view.newest(self.axis)
        periods = self.table("periods", lambda: np.array([_period(call) for call in self.calls]))[stepping]
        if not len(periods):
            return ()
        values = frame.field(str(self.calls[0].args[0].call.params["field"]))
        oldest = values[:, np.maximum(newest - periods + 1, 0)].T
        oldest[newest - periods + 1 < 0] = np.nan
        young = np.isnan(oldest)
        oldest[young] = 0.0
        sums = self._sums[: len(self.calls)][stepping] + np.nan_to_num(values[:, newest], nan=0.0)
        averages = sums / periods[:, None]
        averages[young] = np.nan
        self.shared.rows.floats[self.out_rows()[stepping]] = averages
        if event.view.is_closed(self.axis):
            self._sums[np.arange(len(self.calls))[stepping]] = sums - oldest
        return ()


def _period(call: Call) -> int:
    return 1 + call.lookback
