"""Operators that look at the last bars."""

from typing import Any

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.kinds.kind import CallGroup, Event, State
from sandbox.engine.ranges import as_kind
from sandbox.plan.operators.kind import Extreme, Shift, Window


class Extremes(CallGroup):
    """highest / lowest of one candle field: one running extreme over the longest period serves every period."""

    def step(self, event: Event) -> None:
        frame, newest = event.frame(self.axis or "")
        source = self.calls[0].args[0].call
        periods = self.table("periods", lambda: np.array([int(call.params["period"]) for call in self.calls]))
        longest = int(periods.max())
        values = frame.field(str(source.params["field"]))[:, max(0, newest + 1 - longest) : newest + 1]
        extreme = _extreme(self.calls[0])
        running = np.full((len(values), longest), np.nan)
        running[:, : values.shape[1]] = extreme.accumulate(values[:, ::-1], axis=1)
        self.state.rows.floats[self.out_rows()] = running.T[periods - 1]


class Windows(CallGroup):
    """Window operators over computed series, whose last values are kept for them."""

    carried = True

    def __init__(self, state: State, axis: str | None) -> None:
        super().__init__(state, axis)
        self._past: dict[Call, list[Any]] = {}
        self._filled: dict[Call, int] = {}

    def release(self, call: Call) -> None:
        self._past.pop(call, None)
        self._filled.pop(call, None)
        self.state.history_bytes -= history_bytes(call, self.state.rows.symbols)

    def want(self, call: Call, event: Event) -> None:
        event.want_args(call, call.operator.kind.lookback(call.params))

    def load(self, call: Call, event: Event) -> None:
        axis, lookback = call.axis or "", call.operator.kind.lookback(call.params)
        start = event.computation.end(axis) - 1 - lookback
        past = []
        for ref in call.args:
            kept = np.zeros(
                (self.state.rows.symbols, _kept_bars(call)), dtype=bool if ref.call.is_bool else float
            )
            kept[:, : lookback + 1] = event.computation.values(ref, start, axis)
            past.append(kept)
        self._past[call], self._filled[call] = past, lookback + event.settled(axis)
        self._compute(call, lookback + 1)

    def step(self, event: Event) -> None:
        rows, settled = self.state.rows, event.settled(self.axis)
        for call in self.calls:
            if call in event.loaded:
                continue
            past, filled, lookback = (
                self._past[call],
                self._filled[call],
                call.operator.kind.lookback(call.params),
            )
            if filled == past[0].shape[1]:
                for kept in past:
                    kept[:, :lookback] = kept[:, filled - lookback :]
                filled = lookback
            for kept, ref in zip(past, call.args, strict=True):
                kept[:, filled] = rows.read(ref, [ref.row])[0]
            self._filled[call] = filled + settled
            self._compute(call, filled + 1)

    def _compute(self, call: Call, end: int) -> None:
        """The value over the window that ends with the column before *end*."""
        operator = call.operator
        first = end - 1 - operator.kind.lookback(call.params)
        args = [
            as_kind(kept[:, first:end], operator.input_kind(at)) for at, kept in enumerate(self._past[call])
        ]
        if isinstance(operator.kind, Shift):
            result: Any = args[0]
        elif isinstance(operator.kind, Window):
            (result,) = operator.kind.compute(args, call.params)
        else:
            raise TypeError(f"{operator.name} does not look at a window")
        self.state.rows.write(call.refs[0].row, result[:, 0], is_bool=call.is_bool)


def _extreme(call: Call) -> Any:
    kind = call.operator.kind
    if not isinstance(kind, Extreme):
        raise TypeError(f"{call.operator.name} is no extreme of a window")
    return kind.extreme


def _kept_bars(call: Call) -> int:
    """Room for a window and as much again, so that values are moved rarely."""
    return 2 * call.operator.kind.lookback(call.params) + 16


def history_bytes(call: Call, symbols: int) -> int:
    return sum(symbols * _kept_bars(call) * (1 if ref.call.is_bool else 8) for ref in call.args)
