"""
A view: the market as a screen sees it at one instant, and the values of calls computed for that instant.

Decided here: which bars of each axis are seen, and how timeframes are aligned. Not decided here: how a call is computed
(`sandbox.engine.kinds`), in which order (`sandbox.engine.ranges`).

A screen at instant T sees the bars with close_time <= T of each timeframe, and behind them the forming bar where it is
asked for (`sandbox.plan.axis`). A coarser series is seen, from a finer bar, as of its last bar closed at or before that
bar's close; from a forming bar, and from the instant itself, as of T.

Example: at 10:07 the 5m bar of 10:00-10:05 is the newest closed one. From it, a 1h series is seen as of the bar that
closed at 10:00.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, OperatorError, Ref, constant_value
from sandbox.engine.candles.forming import FormingFrame
from sandbox.engine.candles.frame import Frame
from sandbox.engine.candles.panel import Panel
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Array


@dataclass(slots=True)
class View:
    """
    What is seen of *panel* at *instant_ms*.

    `each` runs the functions of `each`; without it a call of one fails. It is called for `each_symbols` only (None: all),
    which must be all that anyone asks about. With `keep_streams`, the runs that reach the last closed bar are left open in
    `streams` (one handle for each symbol, None where the run has not begun), so that TA-Lib can continue them by one bar.

    Spans are [start, end) positions on the call's axis; an axis without bars has one position, 0. A start below 0
    asks for bars before the first one held, which are NaN (or false). What forming bars were at another instant is
    another view: values already computed stay valid when the panel is asked for that.
    """

    panel: Panel
    instant_ms: int
    keep_streams: bool = False
    each: EachRunner | None = None
    each_symbols: frozenset[str] | None = None
    starts: dict[Call, int] = field(default_factory=dict)
    streams: dict[Call, list[Any]] = field(default_factory=dict)
    _ends: dict[Axis, int] = field(default_factory=dict)
    _values: dict[Call, tuple[Array, ...] | OperatorError] = field(default_factory=dict)

    def frame(self, axis: Axis) -> Frame:
        """The bars of an axis that has bars, as of the instant."""
        if axis.forming:
            return self.panel.forming(axis.timeframe, self.instant_ms)
        return self.panel.frame(axis.timeframe)

    def end(self, axis: Axis) -> int:
        """How many bars of the axis may be seen; without bars, the one value."""
        if axis not in self._ends:
            self._ends[axis] = self.frame(axis).bars_closed_at(self.instant_ms) if axis.has_bars else 1
        return self._ends[axis]

    def newest(self, axis: Axis) -> tuple[Frame, int]:
        """The bars of an axis and the position of the newest one."""
        return self.frame(axis), self.end(axis) - 1

    def is_closed(self, axis: Axis) -> bool:
        """Whether the newest bar of the axis is closed, its values final; a constant's always are."""
        if not axis.has_bars:
            return axis is Axis.CONSTANT
        frame = self.frame(axis)
        return not (isinstance(frame, FormingFrame) and frame.is_forming)

    def present(self, axis: Axis, first: int) -> Array:
        """Which symbols have the bars [first, end) of the axis; at the instant itself, the minute that closes then."""
        if not axis.has_bars:
            axis = Axis("1m")
            first = self.end(axis) - 1
        return self.frame(axis).present[:, first : self.end(axis)]

    def want(self, call: Call, start: int) -> None:
        """Ask for the bars from *start* to the newest one, before anything is computed."""
        self.starts[call] = min(start, self.starts.get(call, start))

    def want_seen(self, axis: Axis, refs: Iterable[Ref], bars: int) -> None:
        """Ask for what is seen over the last *bars* bars of an axis."""
        first = self.end(axis) - bars
        for ref in refs:
            if ref.call.axis is not Axis.CONSTANT:
                self.want(ref.call, self.seen_from(axis, first, ref.call.axis))

    def want_args(self, call: Call, bars: int) -> None:
        """Ask for what the arguments of a call are over its last *bars* bars."""
        self.want_seen(call.axis, call.args, bars)

    def start(self, call: Call) -> int:
        """The first bar held of those that were asked for."""
        return max(0, self.starts[call])

    def seen_from(self, fine: Axis, start: int, coarse: Axis) -> int:
        """The coarse bar seen from the fine bar *start*."""
        if fine is coarse:
            return start
        if fine is Axis.NOW:
            return self.end(coarse) - 1
        frame = self.frame(fine)
        if not len(frame):
            return 0
        closes = int(frame.open_time[min(max(start, 0), len(frame) - 1)]) + frame.step_ms
        return self.frame(coarse).bars_closed_at(min(closes, self.instant_ms)) - 1

    def keep(self, call: Call, values: tuple[Array, ...] | OperatorError) -> None:
        """Have the values of a call from `start` on, or why there are none."""
        self._values[call] = values

    def values(self, ref: Ref, start: int, axis: Axis) -> Array:
        """
        The output over bars [start, last one] of *axis*, which is the call's own, a finer one, or `NOW`.

        Shape (symbols or 1, bars). Raises OperatorError when computing it failed.
        """
        call = ref.call
        stored = self._values[call]
        if isinstance(stored, OperatorError):
            raise stored
        array = stored[ref.out]
        end = self.end(axis)
        if call.axis is Axis.CONSTANT:
            return np.broadcast_to(array, (1, end - start))
        if call.axis is axis:
            return _columns(array, self.start(call), start, end)
        if axis is Axis.NOW:
            return array[:, -1:] if array.shape[1] else _blank(array, 1)
        first = max(start, 0)
        frame, coarse = self.frame(axis), self.frame(call.axis)
        closes = np.minimum(frame.open_time[first:end] + frame.step_ms, self.instant_ms)
        column = np.searchsorted(coarse.open_time, closes - coarse.step_ms, side="right") - 1
        column -= self.start(call)
        blank = _blank(array, 1)
        seen = np.concatenate([blank, array], axis=1)[:, np.maximum(column, -1) + 1]
        return seen if start >= 0 else np.concatenate([_blank(array, -start), seen], axis=1)

    def newest_value(self, ref: Ref) -> Array:
        """The output at the newest bar of its call's axis, shape (symbols or 1,). Raises as `values`."""
        axis = ref.call.axis
        if axis is Axis.CONSTANT:
            return constant_value(ref)[0]  # type: ignore[no-any-return]
        newest: Array = self.values(ref, self.end(axis) - 1, axis)[:, 0]
        return newest

    def inputs(self, call: Call, first: int) -> list[Array]:
        """What an operator is given from the bar *first* of its axis on: bools as numbers where it takes numbers."""
        axis, operator = call.axis, call.operator
        return [
            as_input(self.values(ref, first, axis), operator.input_kind(at))
            for at, ref in enumerate(call.args)
        ]


def as_input(array: Array, kind: str) -> Array:
    """The array as an input of this kind takes it."""
    return array.astype(np.float64) if kind == "float" and array.dtype == np.bool_ else array


def no_bars(call: Call) -> tuple[Array, ...]:
    """The values of a call over no bar at all."""
    dtype = bool if call.operator.returns == "bool" else float
    return tuple(np.empty((1, 0), dtype=dtype) for _ in call.operator.outputs)


def _blank(like: Array, bars: int) -> Array:
    """Bars before the first one: false or NaN."""
    return np.full((len(like), bars), False if like.dtype == np.bool_ else np.nan, dtype=like.dtype)


def _columns(array: Array, held_from: int, start: int, end: int) -> Array:
    """Columns [start, end) of an array that holds [held_from, end), blank below 0."""
    if start >= 0:
        return array[:, start - held_from : end - held_from]
    return np.concatenate([_blank(array, -start), array[:, : end - held_from]], axis=1)
