"""
Incremental evaluation: holds the newest value of every call and moves it forward one bar at a time.

Decided here: what is kept and how it moves on by one bar. What a value *is* is decided in `sandbox.engine.ranges`; everything
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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from sandbox.engine.calls import BEFORE, Call, OperatorError, is_own_field
from sandbox.engine.candles.panel import Panel
from sandbox.engine.kinds.across import AcrossMarket
from sandbox.engine.kinds.average import Averages
from sandbox.engine.kinds.crossing import Crossings
from sandbox.engine.kinds.kind import CallGroup, Event, State
from sandbox.engine.kinds.leaf import CandleFields
from sandbox.engine.kinds.pointwise import Logic, Pointwise
from sandbox.engine.kinds.recomputed import Recomputed
from sandbox.engine.kinds.run import Runs
from sandbox.engine.kinds.shift import PreviousConditions, Shifts
from sandbox.engine.kinds.window import Extremes, Windows, history_bytes
from sandbox.engine.ranges import Computation
from sandbox.engine.rows import Rows
from sandbox.engine.runs import begins_block
from sandbox.interpreter.functions import EachRunner
from sandbox.plan import axis as axes
from sandbox.plan.operators import kind as kinds
from sandbox.plan.timeframes import TIMEFRAMES

CATCH_UP_EVENTS_MAX = 16
"""More missed events than this are not walked through one by one: computing anew costs about as much."""
DELAY_BARS_MAX = 16
"""Longest `s[n]` of a computed series kept as a chain of rows; a longer one is computed anew at each bar."""
LOADED_AT_ONCE = 8192
"""Calls computed anew together: each keeps the results of 400 symbols in a bar or two, 3 to 6 kB."""
HISTORY_BYTES_MAX = 256 << 20
"""Memory for the past of computed series that window operators look at; beyond it they are computed anew."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """Open time of an axis's newest bar, and whether that was in progress."""

    newest_ms: int
    in_progress: bool


class LiveValues:
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
        self._calls: dict[Call, CallGroup] = {}
        self._forget()

    def _forget(self) -> None:
        """Begin with empty tables, and another generation of row numbers."""
        self.generation += 1
        self.rows = Rows(len(self.panel.symbols))
        self._state = State(self.panel, self.rows, self.failed, self.unknown, self._recompute)
        self._groups: dict[Any, tuple[int, CallGroup]] = {}
        self._fresh: dict[Call, CallGroup] = {}
        self._used: Counter[str] = Counter()
        self._on_totals: dict[str, dict[Call, None]] = {}
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
                self._groups[key] = (call.place, kind(self._state, call.axis))
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

    def _by_level(self) -> list[CallGroup]:
        empty = [key for key, (_, group) in self._groups.items() if not group.calls]
        for key in empty:
            del self._groups[key]
        return [group for _, group in sorted(self._groups.values(), key=lambda pair: pair[0])]

    def _move(self, instant_ms: int, moving: frozenset[str]) -> None:
        """One event: old values into delays, what cannot be carried anew, then every moving group in order."""
        turns = {axis: self._turn(axis, instant_ms) for axis in moving if axes.is_forming(axis)}
        # Without a minute in it there is no bar in progress: nothing of such an axis is newer than at the event before.
        moving -= {axis for axis, turn in turns.items() if not turn.in_progress and turn == self._stood(axis)}
        begun = {axis for axis, turn in turns.items() if turn.newest_ms != self._stood(axis).newest_ms}
        turned = frozenset(begun | {axis for axis in moving if axis in TIMEFRAMES})
        event = self._event(instant_ms, moving, turned)
        groups = self._by_level()
        active = [group for group in groups if group.axis in moving]
        moved = [
            group.moved() for group in active if isinstance(group, Shifts) and group.axis in event.turned
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
            if begins_block(*event.frame(axis)):  # its totals are others from here on, also in the past
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

    def _step(self, group: CallGroup, event: Event) -> None:
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
        """Mark every dependant of a failed call as failed; it is recomputed from candles at its next bar."""
        for call in self._calls:  # arguments first
            if call not in self.failed:
                cause = next((ref.call for ref in call.args if ref.call in self.failed), None)
                if cause is not None:
                    self.failed[call] = self.failed[cause]

    def _recompute(self, call: Call, event: Event) -> None:
        """Compute one call in the middle of an event."""
        self._load([call], event)

    def _shape(self, call: Call) -> tuple[Any, type[CallGroup]]:  # noqa: C901, PLR0911 - one decision table, read downwards
        """What calls must have in common to stand in one group, and its kind."""
        operator, name, plan_kind = call.operator, call.operator.name, call.operator.kind
        own = bool(call.args) and all(is_own_field(ref.call) for ref in call.args)
        if isinstance(plan_kind, kinds.Candles) or (
            own and operator is not BEFORE and isinstance(plan_kind, kinds.Shift | kinds.Change)
        ):
            return None, CandleFields
        if isinstance(plan_kind, kinds.Logic):
            return (name, len(call.args)), Logic
        bools = tuple(ref.call.is_bool for ref in call.args)
        if isinstance(plan_kind, kinds.Pointwise):
            return (name, bools, tuple(call.params.values())), Pointwise
        if isinstance(plan_kind, kinds.AcrossMarket):
            return (name, bools), AcrossMarket
        if isinstance(plan_kind, kinds.Crossing):
            return (name, bools), Crossings
        if operator is BEFORE:
            return None, PreviousConditions
        if isinstance(plan_kind, kinds.Shift) and plan_kind.lookback(call.params) <= DELAY_BARS_MAX:
            return call.is_bool, Shifts
        if own and isinstance(plan_kind, kinds.Extreme):
            return (name, call.args[0].call.params["field"]), Extremes
        if own and isinstance(plan_kind, kinds.Average):
            return call.args[0].call.params["field"], Averages
        if isinstance(plan_kind, kinds.Window | kinds.Shift):
            more = history_bytes(call, self.rows.symbols)
            if self._state.history_bytes + more <= HISTORY_BYTES_MAX:
                self._state.history_bytes += more
                return name, Windows
        if isinstance(plan_kind, kinds.Run) and plan_kind.stream is not None and not any(bools):
            return name, Runs
        return name, Recomputed
