"""
Standing values: the current value of every call of every trader, carried from one slot to the next.

Decided here: what is kept and how it moves on by one bar. What a value *is* is decided in `sandbox.compute`; everything
here must give the same bits, and whatever cannot be carried on is computed there anew: new calls, the first bar of a
block (recursive functions begin a new run), series with gaps, operators without a faster way.

Calls of the same shape stand together in a group, their values in rows of two tables (float64 of shape (rows, symbols);
conditions packed 64 symbols to a word), so that a slot costs a few NumPy calls for each shape, not for each trader.

Time moves in events: instants at which at least one bar closes. In an event the bars closing then are the newest of
their timeframes, and the values of these timeframes move on, arguments first; a coarser value stands as it is, which is
exactly "as of its last closed bar".

Values on an axis with a bar in progress move in every event. What is carried for them is the state behind the last
closed bar: until the bar in progress closes (`Event.settled`), its values are looked at on top of that state and leave
no trace in it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sandbox import axes
from sandbox.compute import (
    BEFORE,
    Call,
    Computation,
    OperatorError,
    Ref,
    as_kind,
    carried_run,
    constant_value,
    is_own_field,
    run_start,
)
from sandbox.each import EachRunner
from sandbox.frame import TIMEFRAMES, Bools, Floats, Frame, Ints
from sandbox.operators.model import BLOCK_BARS, Array
from sandbox.panel import Panel

CATCH_UP_EVENTS_MAX = 16
"""More missed events than this are not walked through one by one: computing anew costs about as much."""
DELAY_BARS_MAX = 16
"""Longest `s[n]` of a computed series kept as a chain of rows; a longer one is computed anew at each bar."""
CHUNK_ROWS = 256
"""Rows computed at once: 256 x 400 symbols x 8 bytes fits the second-level cache."""
LOADED_AT_ONCE = 8192
"""Calls computed anew together: each keeps the results of 400 symbols in a bar or two, 3 to 6 kB."""
HISTORY_BYTES_MAX = 256 << 20
"""Memory for the past of computed series that window operators look at; beyond it they are computed anew."""

Words = npt.NDArray[np.uint64]


class Rows:
    """The two tables of current values."""

    def __init__(self, symbols: int) -> None:
        self.symbols = symbols
        self.bytes = (symbols + 7) // 8
        words = (symbols + 63) // 64
        self.floats: Floats = np.full((64, symbols), np.nan)
        self.bits: Words = np.zeros((64, words), dtype=np.uint64)
        self._free: dict[bool, list[int]] = {False: list(range(63, -1, -1)), True: list(range(63, -1, -1))}
        self.every = self.packed(np.ones((1, symbols), dtype=np.bool_))[0]

    def take(self, *, is_bool: bool) -> int:
        """A free row."""
        free = self._free[is_bool]
        if not free:
            table = self.bits if is_bool else self.floats
            more = max(64, len(table) // 2)
            free.extend(range(len(table) + more - 1, len(table) - 1, -1))
            if is_bool:
                self.bits = np.concatenate([self.bits, np.zeros((more, self.bits.shape[1]), dtype=np.uint64)])
            else:
                self.floats = np.concatenate([self.floats, np.full((more, self.symbols), np.nan)])
        return free.pop()

    def release(self, row: int, *, is_bool: bool) -> None:
        """Give a row back."""
        self._free[is_bool].append(row)

    def packed(self, values: Any) -> Words:
        """Conditions of shape (n, symbols) as words."""
        words = np.zeros((len(values), (self.symbols + 63) // 64), dtype=np.uint64)
        words.view(np.uint8)[:, : self.bytes] = np.packbits(values, axis=1, bitorder="little")
        return words

    def unpacked(self, words: Words) -> Bools:
        """The reverse of `packed`."""
        octets = np.ascontiguousarray(words).view(np.uint8)
        return np.unpackbits(octets, axis=1, count=self.symbols, bitorder="little").view(np.bool_)

    def read(self, ref: Ref, rows: Any) -> Array:
        """Values of *rows* (of *ref*'s kind), shape (n, symbols)."""
        return self.unpacked(self.bits[rows]) if ref.call.is_bool else self.floats[rows]

    def write(self, row: int, values: Any, *, is_bool: bool) -> None:
        """Set one row from values of shape (symbols,) or (1,)."""
        if is_bool:
            self.bits[row] = self.packed(np.broadcast_to(values, (1, self.symbols)))[0]
        else:
            self.floats[row] = values


@dataclass(slots=True)
class Event:
    """
    One instant at which bars close.

    `moving` are the axes whose values change; `turned` those of them whose newest bar was not there at the event before;
    `loaded` the calls set anew.
    """

    computation: Computation
    moving: frozenset[str]
    turned: frozenset[str]
    loaded: set[Call] = field(default_factory=set)
    lists: dict[int, tuple[list[float], bool]] = field(default_factory=dict)

    def frame(self, axis: str) -> tuple[Frame, int]:
        """A frame and the position of its newest bar."""
        return self.computation.frame(axis), self.computation.end(axis) - 1

    def settled(self, axis: str | None) -> bool:
        """Whether the newest bar of the axis is closed."""
        return axis is None or self.computation.is_settled(axis)

    def want_args(self, call: Call, ago: int) -> None:
        """Ask for a call's arguments over its last bars, from *ago* bars before the newest on."""
        axis = call.axis or ""
        start = self.computation.end(axis) - 1 - ago
        for ref in call.args:
            if ref.call.axis is not None:
                self.computation.want(ref.call, self.computation.seen_from(axis, start, ref.call.axis))


class Group:
    """
    Calls of one shape and axis.

    `step` moves all of them on by one bar, leaving those in `Event.loaded` alone where that matters. A group that is
    `carried` needs to have been right at the bar before; the others need only their arguments.
    """

    carried = False

    def __init__(self, standing: "Standing", axis: str | None) -> None:
        self.standing = standing
        self.axis = axis
        self.calls: list[Call] = []
        self._positions: dict[Call, int] = {}
        self._tables: dict[str, Any] | None = None

    def add(self, call: Call) -> None:
        self._positions[call] = len(self.calls)
        self.calls.append(call)
        self._tables = None

    def remove(self, call: Call) -> None:
        """Forget a call; the last one takes its place."""
        at, last = self._positions.pop(call), self.calls.pop()
        if last is not call:
            self.calls[at] = last
            self._positions[last] = at
        self._tables = None

    def table(self, name: str, make: Callable[[], Any]) -> Any:
        """An array made from the calls, kept until they change."""
        if self._tables is None:
            self._tables = {}
        if name not in self._tables:
            self._tables[name] = make()
        return self._tables[name]

    def out_rows(self) -> Ints:
        return self.table("out", lambda: np.array([call.refs[0].row for call in self.calls]))  # type: ignore[no-any-return]

    def arg_rows(self, position: int) -> Ints:
        return self.table(  # type: ignore[no-any-return]
            f"arg{position}", lambda: np.array([call.args[position].row for call in self.calls])
        )

    def unloaded(self, event: Event) -> Any:
        """Indices of the calls that this event has not set anew."""
        if not event.loaded.isdisjoint(self._positions):
            return np.array(
                [at for at, call in enumerate(self.calls) if call not in event.loaded], dtype=np.int64
            )
        return slice(None)

    def want(self, call: Call, event: Event) -> None:
        """Ask for what `load` needs."""
        if call.axis is not None:
            event.computation.want(call, event.computation.end(call.axis) - 1)

    def load(self, call: Call, event: Event) -> None:
        """Set the call's rows from the event's computation."""
        for ref in call.refs:
            if ref.row >= 0:
                self.standing.load_row(ref, event)

    def step(self, event: Event) -> None:
        raise NotImplementedError

    def restarts(self, event: Event) -> Iterable[Call]:  # noqa: ARG002 - most groups never restart
        """Calls that cannot be carried into this event and must be computed anew."""
        return ()

    def release(self, call: Call) -> None:
        """Give back what the call holds besides its rows."""


class Anew(Group):
    """Calls without a faster way: computed at each bar."""

    def restarts(self, event: Event) -> Iterable[Call]:
        return self.calls if self.axis in event.moving else ()

    def step(self, event: Event) -> None:
        """Nothing: `restarts` had them computed."""


class Fields(Group):
    """Candle fields, their values some bars ago, and their changes: columns of the panel."""

    def step(self, event: Event) -> None:
        rows = self.standing.rows
        for call in self.calls:
            frame, newest = event.frame(call.axis or "")
            if call.operator.form == "bars":
                rows.floats[call.refs[0].row] = _column(frame, call, newest, self.standing.panel)
                continue
            source = call.args[0].call
            ago = int(call.params["n" if call.operator.form == "shift" else "period"])
            value = _column(frame, source, newest - ago, self.standing.panel)
            if call.operator.name == "change":
                value = _column(frame, source, newest, self.standing.panel) - value
            rows.floats[call.refs[0].row] = value


def _column(frame: Frame, call: Call, position: int, panel: Panel) -> Any:
    if position < 0:
        return np.nan
    values = frame.field(str(call.params["field"]))[:, position]
    symbol = str(call.params["symbol"])
    if not symbol:
        return values
    return values[panel.index[symbol]] if symbol in panel.index else np.nan


class Extremes(Group):
    """highest / lowest of one candle field: one running extreme over the longest period serves every period."""

    def step(self, event: Event) -> None:
        frame, newest = event.frame(self.axis or "")
        source = self.calls[0].args[0].call
        periods = self.table("periods", lambda: np.array([int(call.params["period"]) for call in self.calls]))
        longest = int(periods.max())
        values = frame.field(str(source.params["field"]))[:, max(0, newest + 1 - longest) : newest + 1]
        extreme = np.maximum if self.calls[0].operator.name == "highest" else np.minimum
        running = np.full((len(values), longest), np.nan)
        running[:, : values.shape[1]] = extreme.accumulate(values[:, ::-1], axis=1)
        self.standing.rows.floats[self.out_rows()] = running.T[periods - 1]


class Pointwise(Group):
    """One pointwise operator with one set of parameters."""

    def step(self, event: Event) -> None:  # noqa: ARG002 - arguments are all it needs
        rows, operator, params = self.standing.rows, self.calls[0].operator, self.calls[0].params
        out, args = self.out_rows(), [self.arg_rows(at) for at in range(len(self.calls[0].args))]
        refs = self.calls[0].args
        assert operator.compute is not None  # noqa: S101 - pointwise operators are computed
        for first in range(0, len(out), CHUNK_ROWS):
            chunk = slice(first, first + CHUNK_ROWS)
            values = [rows.read(ref, arg[chunk]) for ref, arg in zip(refs, args, strict=True)]
            (result,) = operator.compute(values, params)
            if self.calls[0].is_bool:
                rows.bits[out[chunk]] = rows.packed(result)
            else:
                rows.floats[out[chunk]] = result


class Across(Group):
    """One operator that looks across the symbols: its calls are computed side by side, as bars would be."""

    def step(self, event: Event) -> None:
        rows, operator = self.standing.rows, self.calls[0].operator
        refs = self.calls[0].args
        values = [
            as_kind(rows.read(ref, self.arg_rows(at)), operator.input_kind(at)).T
            for at, ref in enumerate(refs)
        ]
        axis = self.axis or ""
        present = event.computation.present(axis, event.computation.end(axis) - 1)
        assert operator.compute is not None  # noqa: S101 - operators of this form are computed
        (result,) = operator.compute(
            [np.broadcast_to(present, values[0].shape), *values], self.calls[0].params
        )
        rows.floats[self.out_rows()] = result.T


class Logic(Group):
    """and, or, not on packed conditions."""

    def step(self, event: Event) -> None:  # noqa: ARG002 - arguments are all it needs
        rows, name = self.standing.rows, self.calls[0].operator.name
        result = rows.bits[self.arg_rows(0)]
        if name == "not":
            result = ~result & rows.every
        for at in range(1, len(self.calls[0].args)):
            join = np.bitwise_and if name == "and" else np.bitwise_or
            join(result, rows.bits[self.arg_rows(at)], out=result)
        rows.bits[self.out_rows()] = result


class Crossings(Group):
    """crossover or crossunder: the relation at the bar before stands in a row of its own."""

    carried = True

    def __init__(self, standing: "Standing", axis: str | None) -> None:
        super().__init__(standing, axis)
        self._before: dict[Call, int] = {}

    def add(self, call: Call) -> None:
        super().add(call)
        self._before[call] = self.standing.rows.take(is_bool=True)

    def release(self, call: Call) -> None:
        self.standing.rows.release(self._before.pop(call), is_bool=True)

    def want(self, call: Call, event: Event) -> None:
        super().want(call, event)
        event.want_args(call, 1)

    def load(self, call: Call, event: Event) -> None:
        super().load(call, event)
        axis = call.axis or ""
        start = event.computation.end(axis) - (1 if event.settled(axis) else 2)
        left, right = (event.computation.values(ref, start, axis)[:, 0] for ref in call.args)
        self.standing.rows.write(self._before[call], self._before_holds(left, right), is_bool=True)

    def _read(self, ref: Ref, rows: Any) -> Any:
        return self.standing.rows.read(ref, rows)

    def _before_holds(self, left: Any, right: Any) -> Any:
        return left <= right if self.calls[0].operator.name == "crossover" else left >= right

    def step(self, event: Event) -> None:
        rows = self.standing.rows
        stale = self.unloaded(event)
        out = self.out_rows()[stale]
        before = self.table("before", lambda: np.array([self._before[call] for call in self.calls]))[stale]
        over, settled = self.calls[0].operator.name == "crossover", event.settled(self.axis)
        for first in range(0, len(out), CHUNK_ROWS):
            chunk = slice(first, first + CHUNK_ROWS)
            refs = self.calls[0].args
            left, right = (self._read(ref, self.arg_rows(at)[stale][chunk]) for at, ref in enumerate(refs))
            now = rows.packed(left > right if over else left < right)
            rows.bits[out[chunk]] = now & rows.bits[before[chunk]]
            if settled:
                rows.bits[before[chunk]] = rows.packed(self._before_holds(left, right))


class Delays(Group):
    """
    s[n] of computed series: a chain of rows, each the value one bar before the next one's.

    Moved on before everything else, when the rows still hold the bar before.
    """

    carried = True

    def __init__(self, standing: "Standing", axis: str | None) -> None:
        super().__init__(standing, axis)
        self._chains: dict[Call, list[int]] = {}

    def add(self, call: Call) -> None:
        super().add(call)
        between = [self.standing.rows.take(is_bool=call.is_bool) for _ in range(int(call.params["n"]) - 1)]
        self._chains[call] = [call.args[0].row, *between, call.refs[0].row]

    def release(self, call: Call) -> None:
        for row in self._chains.pop(call)[1:-1]:
            self.standing.rows.release(row, is_bool=call.is_bool)

    def want(self, call: Call, event: Event) -> None:
        event.want_args(call, int(call.params["n"]))

    def load(self, call: Call, event: Event) -> None:
        n, axis = int(call.params["n"]), call.axis or ""
        start = event.computation.end(axis) - 1 - n
        values = event.computation.values(call.args[0], start, axis)
        for ago, row in enumerate(self._chains[call][1:], start=1):
            self.standing.rows.write(row, values[:, n - ago], is_bool=call.is_bool)

    def moved(self) -> tuple[bool, Ints, Any]:
        """Kind, rows, and their values at the coming bar."""
        chains = self._chains.values()
        to = self.table("to", lambda: np.array([row for chain in chains for row in chain[1:]]))
        source = self.table("from", lambda: np.array([row for chain in chains for row in chain[:-1]]))
        is_bool = self.calls[0].is_bool
        return is_bool, to, (self.standing.rows.bits if is_bool else self.standing.rows.floats)[source]

    def step(self, event: Event) -> None:
        """Nothing: `Standing` moved the rows at the beginning of the event."""


class Befores(Delays):
    """
    Conditions one trigger bar ago, for `on_enter`.

    A new one is not computed: few traders match, so those that do are screened anew once (`Standing.unknown`).
    """

    def want(self, call: Call, event: Event) -> None:
        """Nothing."""

    def load(self, call: Call, event: Event) -> None:  # noqa: ARG002 - nothing is loaded
        """The row says "was not true": what it holds from before (a correction, another trader) would hide a match."""
        for row in self._chains[call][1:]:
            self.standing.rows.write(row, False, is_bool=True)
        self.standing.unknown.add(call)

    def release(self, call: Call) -> None:
        super().release(call)
        self.standing.unknown.discard(call)

    def step(self, event: Event) -> None:
        if self.standing.unknown:
            self.standing.unknown.difference_update(call for call in self.calls if call not in event.loaded)


class Windows(Group):
    """Window operators over computed series, whose last values are kept for them."""

    carried = True

    def __init__(self, standing: "Standing", axis: str | None) -> None:
        super().__init__(standing, axis)
        self._past: dict[Call, list[Any]] = {}
        self._filled: dict[Call, int] = {}

    def release(self, call: Call) -> None:
        self._past.pop(call, None)
        self._filled.pop(call, None)
        self.standing.history_bytes -= _history_bytes(call, self.standing.rows.symbols)

    def want(self, call: Call, event: Event) -> None:
        event.want_args(call, call.operator.lookback(call.params))

    def load(self, call: Call, event: Event) -> None:
        axis, lookback = call.axis or "", call.operator.lookback(call.params)
        start = event.computation.end(axis) - 1 - lookback
        past = []
        for ref in call.args:
            kept = np.zeros(
                (self.standing.rows.symbols, _kept_bars(call)), dtype=bool if ref.call.is_bool else float
            )
            kept[:, : lookback + 1] = event.computation.values(ref, start, axis)
            past.append(kept)
        self._past[call], self._filled[call] = past, lookback + event.settled(axis)
        self._compute(call, lookback + 1)

    def step(self, event: Event) -> None:
        rows, settled = self.standing.rows, event.settled(self.axis)
        for call in self.calls:
            if call in event.loaded:
                continue
            past, filled, lookback = self._past[call], self._filled[call], call.operator.lookback(call.params)
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
        first = end - 1 - operator.lookback(call.params)
        args = [
            as_kind(kept[:, first:end], operator.input_kind(at)) for at, kept in enumerate(self._past[call])
        ]
        if operator.form == "shift":
            result: Any = args[0]
        else:
            assert operator.compute is not None  # noqa: S101 - window operators are computed
            (result,) = operator.compute(args, call.params)
        self.standing.rows.write(call.refs[0].row, result[:, 0], is_bool=call.is_bool)


def _kept_bars(call: Call) -> int:
    """Room for a window and as much again, so that values are moved rarely."""
    return 2 * call.operator.lookback(call.params) + 16


def _history_bytes(call: Call, symbols: int) -> int:
    return sum(symbols * _kept_bars(call) * (1 if ref.call.is_bool else 8) for ref in call.args)


class Averages(Group):
    """
    ta.sma of candle fields: TA-Lib's running sum, carried for all periods and symbols at once.

    TA-Lib adds the newest value, divides, and then subtracts the oldest; so does this, so the bits are the same.
    """

    carried = True

    def __init__(self, standing: "Standing", axis: str | None) -> None:
        super().__init__(standing, axis)
        self._sums: Floats = np.zeros((0, standing.rows.symbols))

    def add(self, call: Call) -> None:
        super().add(call)
        if len(self.calls) > len(self._sums):
            more = np.zeros((max(16, len(self._sums)), self.standing.rows.symbols))
            self._sums = np.concatenate([self._sums, more])

    def remove(self, call: Call) -> None:
        self._sums[self._positions[call]] = self._sums[len(self.calls) - 1]
        super().remove(call)

    def restarts(self, event: Event) -> Iterable[Call]:
        if self.axis is None or self.axis not in event.turned:
            return ()
        frame, newest = event.frame(self.axis)
        return self.calls if _begins_block(frame, newest) else ()

    def want(self, call: Call, event: Event) -> None:
        """Nothing: the sum is made here, TA-Lib's average does not tell it."""

    def load(self, call: Call, event: Event) -> None:
        frame, newest = event.frame(self.axis or "")
        period = int(call.params["timeperiod"])
        row, at = call.refs[0].row, self._positions[call]
        if newest < 0:
            self.standing.rows.floats[row] = np.nan
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
                self.standing.rows.floats[row] = total / period
            total -= closed[at_bar - period + 1]
        if closed is not bars:
            self.standing.rows.floats[row] = (total + bars[-1]) / period
        self._sums[at] = total
        if newest + 1 < period:
            self.standing.rows.floats[row] = np.nan
        else:
            self.standing.rows.floats[row, np.isnan(frame.field("close")[:, newest + 1 - period])] = np.nan

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
        self.standing.rows.floats[self.out_rows()[stale]] = averages
        if event.settled(self.axis):
            self._sums[np.arange(len(self.calls))[stale]] = sums - oldest


def _begins_block(frame: Frame, newest: int) -> bool:
    length_ms = BLOCK_BARS * frame.step_ms
    times = frame.open_time
    return newest < 1 or int(times[newest]) // length_ms != int(times[newest - 1]) // length_ms


class Streams(Group):
    """TA-Lib functions carried on by TA-Lib's own streaming handles, one for each symbol."""

    carried = True

    def __init__(self, standing: "Standing", axis: str | None) -> None:
        super().__init__(standing, axis)
        self._handles: dict[Call, list[Any]] = {}

    def release(self, call: Call) -> None:
        self._handles.pop(call, None)

    def restarts(self, event: Event) -> Iterable[Call]:
        if self.axis is None or self.axis not in event.moving:
            return ()
        frame, newest = event.frame(self.axis)
        turned = self.axis in event.turned
        return [
            call
            for call in self.calls
            if call not in self._handles or (turned and _begins_block(frame, newest))
        ]

    def load(self, call: Call, event: Event) -> None:
        super().load(call, event)
        handles = event.computation.streams.get(call)
        if handles is None:
            self._handles.pop(call, None)
        else:
            self._handles[call] = handles

    def step(self, event: Event) -> None:
        for call in self.calls:
            if call in event.loaded:
                continue
            try:
                self._carry(call, event)
            except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
                self.standing.failed[call] = OperatorError(f"{call.operator.name}: {error}")
                self._handles.pop(call, None)

    def _carry(self, call: Call, event: Event) -> None:
        handles = self._handles[call]
        inputs = [self._list(ref, event) for ref in call.args]
        stream = call.operator.stream
        update = stream.update if event.settled(call.axis) else stream.peek
        if len(handles) == 1:
            inputs = [(values[:1], finite) for values, finite in inputs]
        if all(finite for _, finite in inputs) and None not in handles:
            outputs: Any = list(map(update, handles, *(values for values, _ in inputs)))
        else:
            outputs = self._with_gaps(call, handles, [values for values, _ in inputs], event)
            if outputs is None:
                return
        table = np.array(outputs, dtype=np.float64)
        table = table[None] if table.ndim == 1 else table.T
        table[np.isinf(table)] = np.nan
        for ref in call.refs:
            if ref.row >= 0:
                self.standing.rows.floats[ref.row] = table[ref.out]

    def _list(self, ref: Ref, event: Event) -> tuple[list[float], bool]:
        kept = event.lists.get(ref.row)
        if kept is None:
            values = self.standing.rows.floats[ref.row]
            kept = event.lists[ref.row] = (values.tolist(), bool(np.isfinite(values).all()))
        return kept

    def _with_gaps(self, call: Call, handles: list[Any], inputs: Sequence[list[float]], event: Event) -> Any:
        """Where symbols are too young, or a series has a gap: row by row. None when all was computed anew."""
        nothing = (np.nan,) * len(call.operator.outputs)
        blank: Any = nothing if len(nothing) > 1 else np.nan
        plain = all(is_own_field(ref.call) and ref.call.axis == call.axis for ref in call.args)
        settled = event.settled(call.axis)
        stream = call.operator.stream
        update = stream.update if settled else stream.peek
        outputs = []
        for row, handle in enumerate(handles):
            values = [column[row] for column in inputs]
            finite = all(-np.inf < value < np.inf for value in values)
            if handle is not None and finite:
                outputs.append(update(handle, *values))
            elif not finite:
                if settled:
                    handles[row] = None
                outputs.append(blank)
            elif plain:
                value = self._young(call, row, handles, event)
                outputs.append(blank if value is None else value)
            else:
                self.standing.compute_anew(call, event)
                return None
        return outputs

    @staticmethod
    def _young(call: Call, row: int, handles: list[Any], event: Event) -> Any:
        """A symbol whose run has not begun: try to begin it with the candles there are."""
        frame, newest = event.frame(call.axis or "")
        begin = max(0, run_start(frame, newest, call.operator, call.params))
        rows = [frame.field(str(ref.call.params["field"]))[row, begin : newest + 1] for ref in call.args]
        first = int(np.argmax(np.isfinite(rows[0])))
        if newest + 1 - begin - first <= call.operator.lookback(call.params):
            return None
        handle, outputs = carried_run(call, [values[first:] for values in rows])
        if event.settled(call.axis):
            handles[row] = handle
        last = tuple(float(output[-1]) for output in outputs)
        return last if len(last) > 1 else last[0]


@dataclass(frozen=True, slots=True)
class _Turn:
    """Open time of an axis's newest bar, and whether that was in progress."""

    newest_ms: int
    in_progress: bool


class Standing:
    """
    Current values of calls over *panel*.

    `add` every new call (arguments first), `remove` those gone, `advance` to an instant, then read rows. `failed` tells
    which calls could not be computed; `computed` counts calls worked on by the last `advance`.

    Row numbers hold for one `generation` only: when symbols join the panel, all rows are handed out again in another
    order. Whoever keeps something derived from row numbers keeps the generation with it.
    """

    def __init__(self, panel: Panel, each: EachRunner | None = None) -> None:
        self.panel = panel
        self.each = each
        self.failed: dict[Call, OperatorError] = {}
        self.unknown: set[Call] = set()
        self.computed = 0
        self.seconds: dict[str, float] = {}
        self.generation = 0
        self._calls: dict[Call, Group] = {}
        self._forget()

    def _forget(self) -> None:
        """Begin with empty tables, and another generation of row numbers."""
        self.generation += 1
        self.rows = Rows(len(self.panel.symbols))
        self._groups: dict[Any, tuple[int, Group]] = {}
        self._fresh: dict[Call, Group] = {}
        self._used: Counter[str] = Counter()
        self._on_totals: dict[str, dict[Call, None]] = {}
        self.history_bytes = 0
        self._at_ms: int | None = None
        self._newest: dict[str, tuple[int, int]] = {}
        self._turns: dict[str, _Turn] = {}

    def add(self, calls: Iterable[Call]) -> None:
        """Let calls stand that are new, and what they need."""
        for call in calls:
            if call in self._calls:
                continue
            self.add(ref.call for ref in call.args)
            for ref in call.refs:
                ref.row = self.rows.take(is_bool=call.is_bool)
            call.place = 1 + max(
                (ref.call.place for ref in call.args), default=0
            )  # its level: above its arguments
            key, kind = self._shape(call)
            key = (call.place, call.axis, kind, key)
            if key not in self._groups:
                self._groups[key] = (call.place, kind(self, call.axis))
            group = self._groups[key][1]
            group.add(call)
            self._calls[call] = group
            self._fresh[call] = group
            if call.axis is not None:
                self._used[call.axis] += 1
            for axis in call.totals:
                self._on_totals.setdefault(axis, {})[call] = None

    def remove(self, calls: Iterable[Call]) -> None:
        """Let go of calls that nobody uses."""
        for call in calls:
            group = self._calls.pop(call)
            group.remove(call)
            group.release(call)
            self._fresh.pop(call, None)
            self.failed.pop(call, None)
            if call.axis is not None:
                self._used[call.axis] -= 1
            for axis in call.totals:
                del self._on_totals[axis][call]
            for ref in call.refs:
                self.rows.release(ref.row, is_bool=call.is_bool)
                ref.row = -1

    def can_advance(self, instant_ms: int) -> bool:
        """Whether *instant_ms* is not before the instant the values stand at."""
        return self._at_ms is None or instant_ms >= self._at_ms

    def advance(self, instant_ms: int) -> None:
        """Bring every value to *instant_ms*: step by step where possible, else anew."""
        self.computed = 0
        self.seconds = {}
        if self.rows.symbols != len(self.panel.symbols):
            calls = list(self._calls)
            self._calls.clear()
            self._forget()
            self.add(sorted(calls, key=lambda call: call.order))
        events = self._events(instant_ms)
        with np.errstate(all="ignore"):
            if events is None:
                self._begin(instant_ms)
            else:
                for closes_ms, moving in events:
                    self._move(closes_ms, moving)
                if self._fresh:
                    self._move(instant_ms, frozenset())
        self._at_ms = instant_ms
        for timeframe in TIMEFRAMES:
            frame = self.panel.frame(timeframe)
            self._newest[timeframe] = (frame.epoch, frame.first + frame.bars_closed_at(instant_ms))
        self._turns = {axis: self._turn(axis, instant_ms) for axis in +self._used if axes.is_forming(axis)}

    def _turn(self, axis: str, instant_ms: int) -> "_Turn":
        """Where an axis with a bar in progress stands."""
        frame = self.panel.forming(axes.timeframe_of(axis), instant_ms)
        newest_ms = int(frame.open_time[-1]) if len(frame) else -1
        return _Turn(newest_ms, in_progress=frame.in_progress)

    def _events(self, instant_ms: int) -> list[tuple[int, frozenset[str]]] | None:
        """Instants since the last one at which bars closed; None when the way there cannot be walked."""
        if self._at_ms is None:
            return None
        closing: dict[int, set[str]] = {}
        provisional = {axis for axis in +self._used if axes.is_provisional(axis)}
        watched = {axes.timeframe_of(axis) for axis in +self._used if axis != axes.NOW}
        for timeframe in watched | ({"1m"} if provisional else set()):
            frame = self.panel.frame(timeframe)
            epoch, seen = self._newest[timeframe]
            start = seen - frame.first
            if epoch != frame.epoch or start < 0:
                return None
            for time in frame.open_time[start : frame.bars_closed_at(instant_ms)].tolist():
                closing.setdefault(time + frame.step_ms, set(provisional)).add(timeframe)
            if len(closing) > CATCH_UP_EVENTS_MAX:
                return None
        return [(closes_ms, frozenset(closing[closes_ms])) for closes_ms in sorted(closing)]

    def _begin(self, instant_ms: int) -> None:
        """Compute everything anew as of *instant_ms*."""
        self._fresh = dict(self._calls)
        self.failed.clear()
        event = self._event(instant_ms, frozenset(), frozenset())
        ends = {axis: self._closes(axis, event) for axis in +self._used if not axes.is_provisional(axis)}
        # Stacked pointwise steps read arguments as of now: right when no coarse bar closed after the finest one did.
        stacked = all(
            ends[fine] >= max(ends[coarse] for coarse in ends if TIMEFRAMES[coarse] >= TIMEFRAMES[fine])
            for fine in ends
        )
        later = (Pointwise, Logic) if stacked else ()
        self._load([call for call, group in self._fresh.items() if not isinstance(group, later)], event)
        if stacked:
            for group in self._by_level():
                if isinstance(group, Pointwise | Logic):
                    self._step(group, event)
        self._fresh.clear()

    def _event(self, instant_ms: int, moving: frozenset[str], turned: frozenset[str]) -> Event:
        return Event(Computation(self.panel, instant_ms, keep_streams=True, each=self.each), moving, turned)

    @staticmethod
    def _closes(axis: str, event: Event) -> int:
        frame, newest = event.frame(axis)
        return int(frame.open_time[newest]) + frame.step_ms if newest >= 0 else 0

    def _by_level(self) -> list[Group]:
        empty = [key for key, (_, group) in self._groups.items() if not group.calls]
        for key in empty:
            del self._groups[key]
        return [group for _, group in sorted(self._groups.values(), key=lambda pair: pair[0])]

    def _move(self, instant_ms: int, moving: frozenset[str]) -> None:
        """One event: old values into delays, what cannot be carried anew, then every moving group in order."""
        turns = {axis: self._turn(axis, instant_ms) for axis in moving if axes.is_forming(axis)}
        begun = {axis for axis, turn in turns.items() if turn.newest_ms != self._stood(axis).newest_ms}
        turned = frozenset(begun | {axis for axis in moving if axis in TIMEFRAMES})
        event = self._event(instant_ms, moving, turned)
        groups = self._by_level()
        active = [group for group in groups if group.axis in moving]
        moved = [
            group.moved() for group in active if isinstance(group, Delays) and group.axis in event.turned
        ]
        for is_bool, to, values in moved:
            (self.rows.bits if is_bool else self.rows.floats)[to] = values
        anew = dict.fromkeys(call for group in active for call in group.restarts(event))
        anew |= dict.fromkeys(call for call in self.failed if call.axis in moving)
        # A bar that was in progress and never closed: what was carried up to it is void.
        lost = {axis for axis in begun if self._stood(axis).in_progress}
        anew |= dict.fromkeys(call for group in active if group.axis in lost for call in group.calls)
        for call, group in self._fresh.items():
            if group.carried or call.axis not in moving:
                anew[call] = None
        for axis in turned & self._on_totals.keys():
            if _begins_block(*event.frame(axis)):  # its totals are others from here on, also in the past
                anew |= self._on_totals[axis]
        self._load(list(anew), event)
        self._fresh.clear()
        for group in active:
            began = perf_counter()
            self._step(group, event)
            name = group.calls[0].operator.name
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - began
            self.computed += len(group.calls)
        if self.failed:
            self._fail_users()
        self._turns |= turns

    def _step(self, group: Group, event: Event) -> None:
        """What goes wrong in a group fails its calls, which are computed anew at their next bar, and nobody else's."""
        try:
            group.step(event)
        except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
            failure = OperatorError(f"{group.calls[0].operator.name}: {error}")
            self.failed |= dict.fromkeys(group.calls, failure)

    def _stood(self, axis: str) -> "_Turn":
        return self._turns.get(axis, _Turn(-1, in_progress=False))

    def _load(self, calls: Sequence[Call], event: Event) -> None:
        """Compute calls from the candles and set what is kept of them, some at a time to bound the memory."""
        began = perf_counter()
        event.loaded.update(calls)
        # What shares arguments is computed together.
        calls = sorted(calls, key=lambda call: (call.axis or "", call.order))
        for first in range(0, len(calls), LOADED_AT_ONCE):
            part = self._event(event.computation.instant_ms, event.moving, event.turned)
            chunk = calls[first : first + LOADED_AT_ONCE]
            for call in chunk:
                self._calls[call].want(call, part)
            part.computation.run()
            self.computed += part.computation.computed
            for call in chunk:
                self.failed.pop(call, None)
                try:
                    self._calls[call].load(call, part)
                except OperatorError as error:
                    self.failed[call] = error
                except Exception as error:  # noqa: BLE001 - as in `_step`
                    self.failed[call] = OperatorError(f"{call.operator.name}: {error}")
        if self.failed:
            self._fail_users()
        self.seconds["anew"] = self.seconds.get("anew", 0.0) + perf_counter() - began

    def _fail_users(self) -> None:
        """What uses a failed call has failed too: at its next bar it is not carried on, but computed anew."""
        for call in self._calls:  # arguments first
            if call not in self.failed:
                cause = next((ref.call for ref in call.args if ref.call in self.failed), None)
                if cause is not None:
                    self.failed[call] = self.failed[cause]

    def compute_anew(self, call: Call, event: Event) -> None:
        """Compute one call in the middle of an event."""
        self._load([call], event)

    def load_row(self, ref: Ref, event: Event) -> None:
        """Set a row to its newest value in the event's computation."""
        call = ref.call
        if call.axis is None:
            value = constant_value(ref)[0]
        else:
            start = event.computation.end(call.axis) - 1
            value = event.computation.values(ref, start, call.axis)[:, 0]
        self.rows.write(ref.row, value, is_bool=call.is_bool)

    def _shape(self, call: Call) -> tuple[Any, type[Group]]:  # noqa: C901, PLR0911 - one decision table, read downwards
        """What calls must have in common to stand in one group, and its kind."""
        operator, name = call.operator, call.operator.name
        own = bool(call.args) and all(is_own_field(ref.call) for ref in call.args)
        lookback = operator.lookback(call.params)
        if operator.form == "bars" or (own and name in {"shift", "change"}):
            return None, Fields
        if name in {"and", "or", "not"}:
            return (name, len(call.args)), Logic
        kinds = tuple(ref.call.is_bool for ref in call.args)
        if operator.form == "pointwise":
            return (name, kinds, tuple(call.params.values())), Pointwise
        if operator.form == "market":
            return (name, kinds), Across
        if name in {"crossover", "crossunder"}:
            return (name, kinds), Crossings
        if name == "shift" and lookback <= DELAY_BARS_MAX:
            return call.is_bool, Delays
        if operator is BEFORE:
            return None, Befores
        if own and name in {"highest", "lowest"}:
            return (name, call.args[0].call.params["field"]), Extremes
        if own and name == "ta.sma":
            return call.args[0].call.params["field"], Averages
        if operator.form in {"window", "shift"}:
            more = _history_bytes(call, self.rows.symbols)
            if self.history_bytes + more <= HISTORY_BYTES_MAX:
                self.history_bytes += more
                return name, Windows
        if operator.stream is not None and not any(kinds):
            return name, Streams
        return name, Anew
