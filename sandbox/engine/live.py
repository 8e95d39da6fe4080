"""
Incremental evaluation: holds the newest value of every call and moves it forward one bar at a time.

Decided here: when a value moves on, and when it is recomputed from the candles. Not decided here: what a value *is*
(`sandbox.engine.ranges`; everything here gives the same bits), how values of one kind move on (`sandbox.engine.kinds`), which
bars closed (`sandbox.engine.clock`).

One event, an instant at which bars close, takes five steps:

1. Values of the bar before move: `s[1]` becomes what `s` is (`CallGroup.shifted`).
2. Calls that cannot move on are recomputed from the candles: new ones, the first bar of a block of 128 (recursive
   functions begin a new run), failed ones, operators without a faster way (`_restarting`).
3. Groups of calls of one shape move on, arguments before what uses them: level by level. A coarser value stays as it is,
   which is exactly "as of its last closed bar".
4. Calls that a group could not move on are recomputed.
5. What uses a failed call has failed.

An axis with a forming bar moves in every event. Until the bar closes (`View.is_closed`), values are computed on top of the
state behind the last closed bar and leave no trace in it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, OperatorError
from sandbox.engine.candles.panel import Panel
from sandbox.engine.clock import Clock
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.kinds.table import kind_of
from sandbox.engine.ranges import Computation
from sandbox.engine.rows import Rows
from sandbox.engine.runs import begins_block
from sandbox.interpreter.functions import EachRunner
from sandbox.plan import axis as axes
from sandbox.plan.timeframes import TIMEFRAMES

LOADED_AT_ONCE = 8192
"""Calls recomputed together: each keeps the results of 400 symbols in a bar or two, 3 to 6 kB."""


class LiveValues:
    """
    Newest values of calls over *panel*.

    `add` every new call (arguments first), `remove` those gone, `advance` to an instant, then read `rows`. `failed` says
    which calls could not be computed; `computed` counts calls worked on by the last `advance`, `seconds` its time by operator
    ("recomputed": from the candles).

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
        self._shared = Shared(self.panel, self.rows, self.failed, self.unknown)
        self._clock = Clock(self.panel)
        self._groups: dict[Any, CallGroup] = {}
        self._fresh: dict[Call, CallGroup] = {}
        self._used: Counter[str] = Counter()
        self._on_totals: dict[str, dict[Call, None]] = {}

    def add(self, calls: Iterable[Call]) -> None:
        """Take in calls that are new, and what they need; their values are there after the next `advance`."""
        for call in calls:
            if call in self._calls:
                continue
            self.add(ref.call for ref in call.args)
            for ref in call.refs:
                self.rows.add(ref)
            group = self._group_of(call)
            group.add(call)
            self._calls[call] = group
            self._fresh[call] = group
            if call.axis is not None:
                self._used[call.axis] += 1
            for axis in call.totals:
                self._on_totals.setdefault(axis, {})[call] = None

    def _group_of(self, call: Call) -> CallGroup:
        """The group that a new call belongs to; its arguments have theirs."""
        level = 1 + max((self._calls[ref.call].level for ref in call.args), default=0)
        for kind in kind_of(call).groups:
            shape = kind.shape(call, self._shared)
            if shape is not None:
                key = (level, call.axis, kind, shape)
                if key not in self._groups:
                    self._groups[key] = kind(self._shared, call.axis, level)
                return self._groups[key]
        raise TypeError(f"no group takes {call.operator.name}")

    def remove(self, calls: Iterable[Call]) -> None:
        """Let go of calls that nobody uses."""
        for call in calls:
            self._calls.pop(call).remove(call)
            self._fresh.pop(call, None)
            self.failed.pop(call, None)
            if call.axis is not None:
                self._used[call.axis] -= 1
            for axis in call.totals:
                del self._on_totals[axis][call]
            for ref in call.refs:
                self.rows.remove(ref)

    def can_advance(self, instant_ms: int) -> bool:
        """Whether *instant_ms* is not before the instant that the values are of."""
        return self._clock.is_before(instant_ms)

    def advance(self, instant_ms: int) -> None:
        """Bring every value to *instant_ms*: event by event where possible, else from the candles."""
        self.computed = 0
        self.seconds = {}
        if self.rows.symbols != len(self.panel.symbols):
            calls = sorted(self._calls, key=lambda call: call.order)
            self._calls.clear()
            self._forget()
            self.add(calls)
        events = self._clock.events(instant_ms, +self._used)
        with np.errstate(all="ignore"):
            if events is None:
                self._recompute_all(instant_ms)
            else:
                for closes_ms, moving in events:
                    self._move(closes_ms, moving)
                if self._fresh:
                    self._move(instant_ms, frozenset())
        self._clock.set(instant_ms, +self._used)

    def _recompute_all(self, instant_ms: int) -> None:
        self._fresh = dict(self._calls)
        self.failed.clear()
        event = self._event(instant_ms, frozenset(), frozenset())
        # Pointwise values need only the newest ones of their arguments, which are there once the others are.
        stepping = [group for group in self._by_level() if group.is_pointwise] if self._is_even(event) else []
        stepped = set(stepping)
        self._load([call for call, group in self._fresh.items() if group not in stepped], event)
        for group in stepping:
            self._step(group, event)
        self._fresh.clear()

    def _is_even(self, event: Event) -> bool:
        """Whether no bar of a coarser timeframe closed after the newest one of a finer timeframe did."""
        ends = {}
        for axis in +self._used:
            if not axes.is_provisional(axis):
                frame, newest = event.view.newest(axis)
                ends[axis] = int(frame.open_time[newest]) + frame.step_ms if newest >= 0 else 0
        return all(
            ends[fine] >= max(ends[coarse] for coarse in ends if TIMEFRAMES[coarse] >= TIMEFRAMES[fine])
            for fine in ends
        )

    def _event(self, instant_ms: int, moving: frozenset[str], opened: frozenset[str]) -> Event:
        view = Computation(self.panel, instant_ms, keep_streams=True, each=self.each)
        return Event(view, moving, opened)

    def _by_level(self) -> list[CallGroup]:
        empty = [key for key, group in self._groups.items() if not group.calls]
        for key in empty:
            del self._groups[key]
        return sorted(self._groups.values(), key=lambda group: group.level)

    def _move(self, instant_ms: int, moving: frozenset[str]) -> None:
        """One event."""
        opened, void = self._clock.open_bars(instant_ms, moving)
        event = self._event(instant_ms, moving, opened)
        active = [group for group in self._by_level() if group.axis in moving]
        shifted = [group.shifted() for group in active if group.axis in opened]
        for is_bool, rows, values in filter(None, shifted):
            (self.rows.bits if is_bool else self.rows.floats)[rows] = values
        self._load(self._restarting(active, event, void), event)
        self._fresh.clear()
        for group in active:
            self._step(group, event)
            self.computed += len(group.calls)
        if self.failed:
            self._fail_users()

    def _restarting(self, active: Sequence[CallGroup], event: Event, void: frozenset[str]) -> list[Call]:
        """What must be recomputed in an event; *void* are axes whose former newest bar never closed."""
        calls = dict.fromkeys(call for group in active for call in group.restarts(event))
        calls |= dict.fromkeys(call for call in self.failed if call.axis in event.moving)
        calls |= dict.fromkeys(call for group in active if group.axis in void for call in group.calls)
        for call, group in self._fresh.items():
            if group.is_incremental or call.axis not in event.moving:
                calls[call] = None
        for axis in event.opened & self._on_totals.keys():
            # With a block, totals begin that are others also in the bars before.
            if begins_block(*event.view.newest(axis)):
                calls |= self._on_totals[axis]
        return list(calls)

    def _step(self, group: CallGroup, event: Event) -> None:
        """What goes wrong in a group fails its calls, which are recomputed at their next bar, and nobody else's."""
        began = perf_counter()
        try:
            for call in group.step(event):
                self._load([call], event)
        except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
            failure = OperatorError(f"{group.name}: {error}")
            self.failed |= dict.fromkeys(group.calls, failure)
        self.seconds[group.name] = self.seconds.get(group.name, 0.0) + perf_counter() - began

    def _load(self, calls: Sequence[Call], event: Event) -> None:
        """Compute calls from the candles and set what is kept of them, some at a time to bound the memory."""
        began = perf_counter()
        event.recomputed.update(calls)
        # What shares arguments is computed together.
        calls = sorted(calls, key=lambda call: (call.axis or "", call.order))
        for first in range(0, len(calls), LOADED_AT_ONCE):
            self._load_part(calls[first : first + LOADED_AT_ONCE], event.view.instant_ms)
        if self.failed:
            self._fail_users()
        self.seconds["recomputed"] = self.seconds.get("recomputed", 0.0) + perf_counter() - began

    def _load_part(self, calls: Sequence[Call], instant_ms: int) -> None:
        view = Computation(self.panel, instant_ms, keep_streams=True, each=self.each)
        for call in calls:
            self._calls[call].want(call, view)
        view.run()
        self.computed += view.computed
        for call in calls:
            self.failed.pop(call, None)
            try:
                self._calls[call].load(call, view)
            except OperatorError as error:
                self.failed[call] = error
            except Exception as error:  # noqa: BLE001 - as in `_step`
                self.failed[call] = OperatorError(f"{call.operator.name}: {error}")

    def _fail_users(self) -> None:
        """Mark every dependant of a failed call as failed; it is recomputed from candles at its next bar."""
        for call in self._calls:  # arguments first
            if call not in self.failed:
                cause = next((ref.call for ref in call.args if ref.call in self.failed), None)
                if cause is not None:
                    self.failed[call] = self.failed[cause]
