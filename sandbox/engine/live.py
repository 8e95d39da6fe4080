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

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.candles.panel import Panel
from sandbox.engine.clock import Clock
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.kinds.table import kind_of
from sandbox.engine.loading import Loading
from sandbox.engine.rows import Rows
from sandbox.engine.runs import begins_block
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Each

PREPARED_AT_ONCE = 8
"""Calls prepared between two looks at the time: a run over 400 symbols takes 1 to 4 ms."""


class LiveValues:
    """
    Newest values of calls over *panel*.

    `add` every new call (arguments first), `remove` those gone, `advance` to an instant, then read `rows`. New calls take
    long, so a caller may `prepare` them in pieces before the next `advance`. `failed` says
    which calls could not be computed.

    Row numbers hold for one `generation` only: when symbols join the panel, all rows are handed out again in another
    order. Whoever keeps something derived from row numbers keeps the generation with it.
    """

    def __init__(self, panel: Panel, each: EachRunner | None = None) -> None:
        self.panel = panel
        self.unknown: set[Call] = set()
        self.generation = 0
        self._calls: dict[Call, CallGroup] = {}
        self._loading = Loading(panel, each, self._calls)
        self.failed = self._loading.failed
        self._forget()

    @property
    def computed(self) -> int:
        """How many calls the last `advance` worked on."""
        return self._loading.computed

    @property
    def seconds(self) -> dict[str, float]:
        """What the last `advance` took, by operator; "recomputed" is what was computed from the candles."""
        return self._loading.seconds

    def _forget(self) -> None:
        """Begin with empty tables, and another generation of row numbers."""
        self.generation += 1
        self.rows = Rows(len(self.panel.symbols))
        self._shared = Shared(self.panel, self.rows, self.failed, self.unknown)
        self._clock = Clock(self.panel)
        self._groups: dict[Any, CallGroup] = {}
        self._fresh: dict[Call, CallGroup] = {}
        self._unprepared: deque[Call] = deque()
        self._on_functions: set[Call] = set()
        self._used: Counter[Axis] = Counter()
        self._on_totals: dict[Axis, dict[Call, None]] = {}

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
            if isinstance(call.operator.kind, Each) or any(r.call in self._on_functions for r in call.args):
                self._on_functions.add(call)
            if self._is_preparable(call):
                self._unprepared.append(call)
            if call.axis is not Axis.CONSTANT:
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
            self._on_functions.discard(call)
            if call.axis is not Axis.CONSTANT:
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
        self._loading.begin()
        self._follow_symbols()
        events = self._clock.events(instant_ms, +self._used)
        with np.errstate(all="ignore"):
            if events is None:
                self._recompute_all(instant_ms)
            else:
                for closes_ms, moving in events:
                    self._move(closes_ms, moving)
                if self._fresh:
                    self._move(instant_ms, frozenset())
        self._unprepared.clear()
        self._clock.set(instant_ms, +self._used)

    def _follow_symbols(self) -> None:
        """Make all tables again when symbols have joined the panel."""
        if self.rows.symbols != len(self.panel.symbols):
            calls = sorted(self._calls, key=lambda call: call.order)
            self._calls.clear()
            self._forget()
            self.add(calls)

    def _renew(self) -> None:
        """Treat all calls as new."""
        self.failed.clear()
        self._fresh = dict(self._calls)
        self._unprepared = deque(call for call in self._calls if self._is_preparable(call))

    def _is_preparable(self, call: Call) -> bool:
        return call not in self._on_functions and not self._calls[call].is_pointwise

    def prepare(self, instant_ms: int, seconds: float) -> int:
        """
        Compute new calls in advance for about *seconds* (at least a few), as of the instant that the other values are of.

        That is *instant_ms* when there was no `advance` yet, and when candles seen before have changed: then all calls are
        new. Returns how many calls are left to prepare; after 0 the next `advance` takes no longer than it would without
        new calls. Calls that need a function of `each` are left to it, because their time belongs to a slot.
        """
        at_ms = self._clock.at_ms
        self._follow_symbols()
        if at_ms is None or self._clock.events(instant_ms, +self._used) is None:
            at_ms = instant_ms
            self._renew()
        if not self._fresh:
            return 0
        self._clock.set(at_ms, +self._used)
        end = perf_counter() + seconds
        with np.errstate(all="ignore"):
            while self._unprepared:
                self._prepare_part(at_ms)
                if self._unprepared and perf_counter() >= end:
                    return len(self._unprepared)
            self._finish(at_ms)
        return 0

    def _prepare_part(self, at_ms: int) -> None:
        size = min(PREPARED_AT_ONCE, len(self._unprepared))
        part = [self._unprepared.popleft() for _ in range(size)]
        part = [call for call in part if call in self._fresh]
        self._loading.load_part(part, at_ms)
        for call in part:
            # One that shifts reads its argument's row, which may not be there yet.
            if not self._fresh[call].is_shifting:
                del self._fresh[call]

    def _finish(self, at_ms: int) -> None:
        """What is new needs only the newest values of its arguments, or is a shift that is loaded: all are there now."""
        event = self._loading.event(at_ms, frozenset(), frozenset())
        ready = {call: group for call, group in self._fresh.items() if call not in self._on_functions}
        if not self._is_even(event):
            return
        stepping = {group for group in ready.values() if group.is_pointwise}
        for group in sorted(stepping, key=lambda group: group.level):
            self._loading.step(group, event)
        for call in ready:
            del self._fresh[call]
        self._loading.fail_users()

    def _recompute_all(self, instant_ms: int) -> None:
        self._renew()
        event = self._loading.event(instant_ms, frozenset(), frozenset())
        stepping = self._stepping_fresh(event)
        self._loading.load([call for call, group in self._fresh.items() if group not in stepping], event)
        for group in sorted(stepping, key=lambda group: group.level):
            self._loading.step(group, event)
        self._fresh.clear()

    def _stepping_fresh(self, event: Event) -> set[CallGroup]:
        """Groups whose new calls need not be recomputed: the newest values of their arguments are enough."""
        if not self._is_even(event):
            return set()
        return {group for group in self._fresh.values() if group.is_pointwise}

    def _is_even(self, event: Event) -> bool:
        """Whether no bar of a coarser timeframe closed after the newest one of a finer timeframe did."""
        ends = {}
        for axis in +self._used:
            if not axis.is_provisional:
                frame, newest = event.view.newest(axis)
                ends[axis] = int(frame.open_time[newest]) + frame.step_ms if newest >= 0 else 0
        return all(
            ends[fine] >= max(ends[coarse] for coarse in ends if coarse.length_s >= fine.length_s)
            for fine in ends
        )

    def _by_level(self) -> list[CallGroup]:
        empty = [key for key, group in self._groups.items() if not group.calls]
        for key in empty:
            del self._groups[key]
        return sorted(self._groups.values(), key=lambda group: group.level)

    def _move(self, instant_ms: int, moving: frozenset[Axis]) -> None:
        """One event."""
        moved = self._clock.move(instant_ms, moving)
        event = self._loading.event(instant_ms, moved.moving, moved.opened)
        stepping = self._stepping_fresh(event)
        active = [group for group in self._by_level() if group.axis in event.moving or group in stepping]
        shifted = [group.shifted() for group in active if group.axis in event.opened]
        for is_bool, rows, values in filter(None, shifted):
            (self.rows.bits if is_bool else self.rows.floats)[rows] = values
        self._loading.load(self._restarting(active, stepping, event, moved.void), event)
        self._fresh.clear()
        for group in active:
            self._loading.step(group, event)
            self._loading.computed += len(group.calls)
        self._loading.fail_users()

    def _restarting(
        self,
        active: Sequence[CallGroup],
        stepping: Collection[CallGroup],
        event: Event,
        void: frozenset[Axis],
    ) -> list[Call]:
        """What must be recomputed in an event; *void* are axes whose former newest bar never closed."""
        calls = dict.fromkeys(call for group in active for call in group.restarts(event))
        calls |= dict.fromkeys(call for call in self.failed if call.axis in event.moving)
        calls |= dict.fromkeys(call for group in active if group.axis in void for call in group.calls)
        for call, group in self._fresh.items():
            if group.is_incremental or (call.axis not in event.moving and group not in stepping):
                calls[call] = None
        for axis in event.opened & self._on_totals.keys():
            # With a block, totals begin that are others also in the bars before.
            if begins_block(*event.view.newest(axis)):
                calls |= self._on_totals[axis]
        return list(calls)
