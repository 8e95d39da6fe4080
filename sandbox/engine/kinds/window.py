"""Operators that look at the last bars."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, is_own_field
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.view import View, as_input, no_bars
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Array, Extreme, Shift, Window

HISTORY_BYTES_MAX = 256 << 20
"""Memory for the history of computed series that window operators look at; beyond it they are recomputed."""


def over(call: Call, view: View) -> tuple[Array, ...]:
    """From the arguments over the same bars and the lookback before them."""
    inputs = view.inputs(call, view.start(call) - call.lookback)
    return call.kind_as(Window).compute(inputs, call.params) if inputs[0].shape[1] else no_bars(call)


class Extremes(CallGroup):
    """highest / lowest of one candle field: one running extreme over the longest period serves every period."""

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        source = call.args[0].call
        return (call.operator.name, source.params["field"]) if is_own_field(source) else None

    def step(self, event: Event) -> Iterable[Call]:
        frame, newest = event.view.newest(self.axis)
        periods = self.table("periods", lambda: np.array([1 + call.lookback for call in self.calls]))
        longest = int(periods.max())
        field = str(self.calls[0].args[0].call.params["field"])
        values = frame.field(field)[:, max(0, newest + 1 - longest) : newest + 1]
        extreme = self.calls[0].kind_as(Extreme).extreme
        running = np.full((len(values), longest), np.nan)
        running[:, : values.shape[1]] = extreme.accumulate(values[:, ::-1], axis=1)
        self.shared.rows.floats[self.out_rows()] = running.T[periods - 1]
        return ()


class Windows(CallGroup):
    """
    Window operators over computed series, whose last values are kept for them.

    Kept are a window and room for as much again, so that values are moved rarely.
    """

    is_incremental = True

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:
        more = _history_bytes(call, shared)
        return call.operator.name if shared.history_bytes + more <= HISTORY_BYTES_MAX else None

    def __init__(self, shared: Shared, axis: Axis, level: int) -> None:
        super().__init__(shared, axis, level)
        self._history: dict[Call, list[Any]] = {}
        self._filled: dict[Call, int] = {}

    def add(self, call: Call) -> None:
        super().add(call)
        self.shared.history_bytes += _history_bytes(call, self.shared)

    def remove(self, call: Call) -> None:
        super().remove(call)
        self._history.pop(call, None)
        self._filled.pop(call, None)
        self.shared.history_bytes -= _history_bytes(call, self.shared)

    def want(self, call: Call, view: View) -> None:
        view.want_args(call, bars=call.lookback + 1)

    def load(self, call: Call, view: View) -> None:
        axis, lookback = call.axis, call.lookback
        start = view.end(axis) - 1 - lookback
        history = []
        for ref in call.args:
            dtype = bool if ref.call.is_bool else float
            kept = np.zeros((self.shared.rows.symbols, _kept_bars(call)), dtype=dtype)
            kept[:, : lookback + 1] = view.values(ref, start, axis)
            history.append(kept)
        self._history[call], self._filled[call] = history, lookback + view.is_closed(axis)
        self._compute(call, lookback + 1)

    def step(self, event: Event) -> Iterable[Call]:
        rows, is_closed = self.shared.rows, event.view.is_closed(self.axis)
        for call in self.calls:
            if call in event.recomputed:
                continue
            history, filled, lookback = self._history[call], self._filled[call], call.lookback
            if filled == history[0].shape[1]:
                for kept in history:
                    kept[:, :lookback] = kept[:, filled - lookback :]
                filled = lookback
            for kept, ref in zip(history, call.args, strict=True):
                kept[:, filled] = rows.newest(ref)
            self._filled[call] = filled + is_closed
            self._compute(call, filled + 1)
        return ()

    def _compute(self, call: Call, end: int) -> None:
        """The value over the window that ends with the column before *end*."""
        first = end - 1 - call.lookback
        inputs = [
            as_input(kept[:, first:end], call.operator.input_kind(at))
            for at, kept in enumerate(self._history[call])
        ]
        result: Any = inputs[0]
        if not isinstance(call.operator.kind, Shift):
            (result,) = call.kind_as(Window).compute(inputs, call.params)
        self.shared.rows.set_newest(call.refs[0], result[:, 0])


def _kept_bars(call: Call) -> int:
    return 2 * call.lookback + 16


def _history_bytes(call: Call, shared: Shared) -> int:
    return sum(shared.rows.symbols * _kept_bars(call) * (1 if ref.call.is_bool else 8) for ref in call.args)
