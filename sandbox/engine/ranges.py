"""
Computing calls of operators over a stretch of bars: the one meaning of every operator on a panel.

Decided here: alignment of timeframes, anchored runs, what a gap inside a series does to a run. Not decided here: which
traders are due, and what is kept from one slot to the next (`sandbox.engine.screen`).

Rules that make a value a fact of its bar alone:

* A screen at instant T sees the bars with close_time <= T of each timeframe, and behind them the bar in progress where
  it is asked for (`sandbox.plan.axis`). A coarser series is seen, from a finer bar, as of its last bar closed at or before
  that bar's close; from a bar in progress, and from the instant itself, as of T.
* The run that gives a recursive function its value at a bar starts `lookback + warmup` bars before the first bar of
  the block (absolute bar number // BLOCK_BARS) that holds the bar. Warm-up is counted in bars that exist. A running
  total is one run at each instant, that of the newest bar's block, so that what looks back on it compares like with
  like; whatever depends on it is a fact of the instant (`Call.totals`).
* Only finite numbers reach a run. Where an input is NaN the output is NaN, and the run begins again behind it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, OperatorError, Ref
from sandbox.engine.candles.forming import FormingFrame
from sandbox.engine.candles.frame import Frame
from sandbox.engine.candles.panel import Panel
from sandbox.engine.runs import blocks, open_streams, run_rows, run_start, stream_of
from sandbox.interpreter.functions import EachRunner, each_values
from sandbox.plan import axis as axes
from sandbox.plan.operators.kind import (
    AcrossMarket,
    Array,
    Candles,
    Constant,
    Each,
    Pointwise,
    Run,
    Session,
    Shift,
    Window,
)


@dataclass(slots=True)
class Computation:
    """
    Values of calls on *panel* as seen at *instant_ms*, over as many bars as were asked for.

    `each` runs the functions of `each`; without it a call of one fails. It is called for `each_symbols` only (None: all),
    which must be all that anyone asks about. With `keep_streams`, the runs that reach the last closed bar are left open in
    `streams` (one handle for each symbol, None where the run has not begun), so that TA-Lib can carry them on by one bar.

    Spans are [start, end) positions on the call's axis (`NOW` has one, 0); a start below 0 asks for bars before the
    first one held, which are NaN (or false). What bars in progress were at another instant is another computation:
    values already computed stay valid when the panel is asked for that.
    """

    panel: Panel
    instant_ms: int
    keep_streams: bool = False
    each: EachRunner | None = None
    each_symbols: frozenset[str] | None = None
    starts: dict[Call, int] = field(default_factory=dict)
    computed: int = 0
    streams: dict[Call, list[Any]] = field(default_factory=dict)
    _ends: dict[str, int] = field(default_factory=dict)
    _values: dict[Call, tuple[Array, ...] | OperatorError] = field(default_factory=dict)

    def frame(self, axis: str) -> Frame:
        """The bars of an axis as of the instant; not of `NOW`."""
        if axes.is_forming(axis):
            return self.panel.forming(axes.timeframe_of(axis), self.instant_ms)
        return self.panel.frame(axis)

    def end(self, axis: str) -> int:
        """How many bars of the axis may be seen."""
        if axis not in self._ends:
            self._ends[axis] = 1 if axis == axes.NOW else self.frame(axis).bars_closed_at(self.instant_ms)
        return self._ends[axis]

    def is_settled(self, axis: str) -> bool:
        """Whether the last bar of the axis is closed, its values final."""
        if axis == axes.NOW:
            return False
        frame = self.frame(axis)
        return not (isinstance(frame, FormingFrame) and frame.in_progress)

    def present(self, axis: str, first: int) -> Array:
        """Which symbols have the bars [first, end) of the axis; at the instant itself, the minute that closes then."""
        if axis == axes.NOW:
            axis, first = "1m", self.end("1m") - 1
        return self.frame(axis).present[:, first : self.end(axis)]

    def want(self, call: Call, start: int) -> None:
        """Ask for the bars from *start* to the last closed one, before `run`."""
        self.starts[call] = min(start, self.starts.get(call, start))

    def want_seen(self, view: str, refs: Iterable[Ref], bars: int) -> None:
        """Ask for what is seen over the last *bars* bars of an axis."""
        first = self.end(view) - bars
        for ref in refs:
            if ref.call.axis is not None:
                self.want(ref.call, self.seen_from(view, first, ref.call.axis))

    def run(self) -> None:
        """Compute everything wanted and what that needs, each call once."""
        with np.errstate(all="ignore"):
            planned = self._planned()
            while planned:
                planned = self._round(planned)

    def _round(self, planned: Sequence[Call]) -> list[Call]:
        """
        Compute all calls not blocked by a user's function, then the functions that are ready, in fair-share order.

        Returns the calls still blocked.
        """
        functions: list[Call] = []
        later: list[Call] = []
        waited_for: set[Call] = set()
        for call in planned:
            if waited_for and any(ref.call in waited_for for ref in call.args):
                later.append(call)
            elif isinstance(call.operator.kind, Each) and self.each is not None:
                functions.append(call)
            else:
                self._values[call] = self._computed(call)
                self.computed += 1
                continue
            waited_for.add(call)
        if functions and self.each is not None:
            for call in self.each.in_turn(functions):
                self._values[call] = self._computed(call)
                self.computed += 1
        return later

    def _planned(self) -> list[Call]:
        """All calls needed, arguments first; on the way down each gets the earliest start anyone asks of it."""
        pending = set(self.starts)
        stack = list(pending)
        while stack:
            for ref in stack.pop().args:
                if ref.call not in pending:
                    pending.add(ref.call)
                    stack.append(ref.call)
        ordered = sorted(pending, key=lambda call: call.order)
        for call in reversed(ordered):
            if call.axis is None:
                continue
            behind = self._input_start(call)
            for ref in call.args:
                if ref.call.axis is not None:
                    self.want(ref.call, self.seen_from(call.axis, behind, ref.call.axis))
        return ordered

    def _input_start(self, call: Call) -> int:
        """The first input bar that a call needs for its own span."""
        assert call.axis is not None  # noqa: S101 - constants have no inputs
        operator, start = call.operator, self.starts[call]
        if not isinstance(operator.kind, Run | Session):
            return start - operator.kind.lookback(call.params)
        frame = self.frame(call.axis)
        newest = self.end(call.axis) - 1
        first = newest if operator.kind.total else max(0, min(start, newest))
        if not len(frame):
            return 0
        return run_start(frame, first, operator, call.params)

    def seen_from(self, fine: str, start: int, coarse: str) -> int:
        """The coarse bar seen from the fine bar *start*."""
        if fine == coarse:
            return start
        if fine == axes.NOW:
            return self.end(coarse) - 1
        frame = self.frame(fine)
        if not len(frame):
            return 0
        closes = int(frame.open_time[min(max(start, 0), len(frame) - 1)]) + frame.step_ms
        return self.frame(coarse).bars_closed_at(min(closes, self.instant_ms)) - 1

    def values(self, ref: Ref, start: int, axis: str) -> Array:
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
        if call.axis is None:
            return np.broadcast_to(array, (1, end - start))
        if call.axis == axis:
            return _columns(array, max(0, self.starts[call]), start, end)
        if axis == axes.NOW:
            return array[:, -1:] if array.shape[1] else _blank(array, 1)
        first = max(start, 0)
        frame, coarse = self.frame(axis), self.frame(call.axis)
        closes = np.minimum(frame.open_time[first:end] + frame.step_ms, self.instant_ms)
        column = np.searchsorted(coarse.open_time, closes - coarse.step_ms, side="right") - 1
        column -= max(0, self.starts[call])
        blank = _blank(array, 1)
        seen = np.concatenate([blank, array], axis=1)[:, np.maximum(column, -1) + 1]
        return seen if start >= 0 else np.concatenate([_blank(array, -start), seen], axis=1)

    def _computed(self, call: Call) -> tuple[Array, ...] | OperatorError:
        try:
            if isinstance(call.operator.kind, Candles):
                return (self._bars(call),)
            if call.axis is None:
                return (constant_value(call.refs[0]),)
            return self._by_kind(call, call.axis)
        except OperatorError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
            return OperatorError(f"{call.operator.name}: {error}")

    def _by_kind(self, call: Call, axis: str) -> tuple[Array, ...]:
        operator, start = call.operator, max(0, self.starts[call])
        kind = operator.kind
        if isinstance(kind, Pointwise):
            return kind.compute([self.values(ref, start, axis) for ref in call.args], call.params)
        if isinstance(kind, Shift):
            n = kind.lookback(call.params)
            shifted = self.values(call.args[0], start - n, axis)
            return (shifted[:, : shifted.shape[1] - n],)
        if isinstance(kind, Run | Session):
            return self._anchored(call, axis, start)
        first = start - kind.lookback(call.params)
        if isinstance(kind, Each):
            return (self._each(call, [self.values(ref, first, axis) for ref in call.args]),)
        args = [
            as_kind(self.values(ref, first, axis), operator.input_kind(at))
            for at, ref in enumerate(call.args)
        ]
        if not isinstance(kind, Window | AcrossMarket):
            raise TypeError(f"{operator.name} has no values over a range")
        if isinstance(kind, AcrossMarket):
            present = self.present(axis, first)
            args = [present, *(np.broadcast_to(arg, present.shape) for arg in args)]
        if not args[0].shape[1]:
            return tuple(
                np.empty((1, 0), dtype=bool if operator.returns == "bool" else float)
                for _ in operator.outputs
            )
        return kind.compute(args, call.params)

    def _each(self, call: Call, args: Sequence[Array]) -> Array:
        if self.each is None:
            raise OperatorError(
                "each() cannot be evaluated here: there is no interpreter to run its function"
            )
        names = self.panel.symbols
        asked = args[0]
        if self.each_symbols is not None and max(map(len, args)) == len(names):
            chosen = np.array([[name in self.each_symbols] for name in names])
            asked = np.logical_and(asked, chosen)
        return each_values(self.each, call.params, [asked, *args[1:]], names, call)

    def _bars(self, call: Call) -> Array:
        assert call.axis is not None  # noqa: S101 - bars have an axis
        values = self.frame(call.axis).field(str(call.params["field"]))
        values = values[:, max(0, self.starts[call]) : self.end(call.axis)]
        symbol = str(call.params["symbol"])
        if symbol:
            row = self.panel.index.get(symbol)
            if row is None:
                return np.full((1, values.shape[1]), np.nan)
            values = values[row : row + 1]
        # A frame with a bar in progress may be asked for another instant.
        return values.copy() if axes.is_forming(call.axis) else values

    def _anchored(self, call: Call, axis: str, start: int) -> tuple[Array, ...]:
        """Values from *start* on, block by block, each block by its own runs."""
        frame, end = self.frame(axis), self.end(axis)
        origin = max(0, self._input_start(call))
        inputs = [np.asarray(self.values(ref, origin, axis), dtype=np.float64) for ref in call.args]
        rows = max(len(values) for values in inputs)
        results = tuple(np.full((rows, end - start), np.nan) for _ in call.operator.outputs)
        for block, last in (
            [(start, end)] if call.operator.kind.total else blocks(frame, start, end, call.operator)
        ):
            if block == last:
                continue
            begin = max(0, run_start(frame, last - 1, call.operator, call.params))
            first = max(block, begin)
            pieces = [values[:, begin - origin : last - origin] for values in inputs]
            outputs = [result[:, first - start : last - start] for result in results]
            if not (self.keep_streams and last == end and stream_of(call)):
                run_rows(call, pieces, outputs)
                continue
            self.streams[call] = [None] * rows
            if self.is_settled(axis):
                run_rows(call, pieces, outputs, self.streams[call])
            else:
                run_rows(call, pieces, outputs)
                open_streams(call, [piece[:, :-1] for piece in pieces], self.streams[call])
        return results


def constant_value(ref: Ref) -> Array:
    """The value of a call that depends on no candle, shape (1, 1)."""
    call = ref.call
    kind = call.operator.kind
    if isinstance(kind, Constant):
        return np.array([[float(call.params["value"])]])
    if isinstance(kind, Shift):
        return constant_value(call.args[0])
    if not isinstance(kind, Pointwise):
        raise TypeError(f"{call.operator.name} of constants has no value")
    return kind.compute([constant_value(arg) for arg in call.args], call.params)[ref.out]


def _blank(like: Array, bars: int) -> Array:
    """Bars before the first one: false or NaN."""
    return np.full((len(like), bars), False if like.dtype == np.bool_ else np.nan, dtype=like.dtype)


def _columns(array: Array, held_from: int, start: int, end: int) -> Array:
    """Columns [start, end) of an array that holds [held_from, end), blank below 0."""
    if start >= 0:
        return array[:, start - held_from : end - held_from]
    return np.concatenate([_blank(array, -start), array[:, : end - held_from]], axis=1)


def as_kind(array: Array, kind: str) -> Array:
    """The array as an input of this kind takes it."""
    return array.astype(np.float64) if kind == "float" and array.dtype == np.bool_ else array
