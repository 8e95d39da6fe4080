"""
The clock of live values: which bars closed or opened since the instant they were brought to.

Time moves in events: instants at which at least one bar closes. In an event the bars that close then are the newest of
their timeframes. An axis with a forming bar moves in every event; its newest bar may be the same one, a minute older.

Example: from 10:59 to 11:01 there are two events. At 11:00 the bars of 1m, 5m, 15m, 30m and 1h close; at 11:01 one of 1m.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sandbox.engine.candles.panel import Panel
from sandbox.plan.axis import Axis
from sandbox.plan.timeframes import TIMEFRAMES

EVENTS_MAX = 16
"""More missed events than this are not walked through one by one: recomputing everything costs about as much."""


@dataclass(frozen=True, slots=True)
class _Newest:
    """Open time of the newest bar of an axis (-1: none), and whether that bar was forming."""

    open_ms: int
    is_forming: bool


_NO_BAR = _Newest(-1, is_forming=False)


@dataclass(frozen=True, slots=True)
class Moved:
    """
    What an event does to axes.

    `moving` have other newest values than before. That is not so where the newest bar is the closed one of before: 3m closes
    without a minute, so no bar of 5m is forming. `opened` are those of them whose newest bar is another one, `void` those
    whose former newest bar was forming and never closed: what was built on it is void.
    """

    moving: frozenset[Axis]
    opened: frozenset[Axis]
    void: frozenset[Axis]


class Clock:
    """Where the values of a set of axes are in time, `at_ms`; None before the first `set`."""

    def __init__(self, panel: Panel) -> None:
        self.at_ms: int | None = None
        self._panel = panel
        self._closed: dict[
            str, tuple[int, int]
        ] = {}  # of each timeframe: epoch, and absolute end of the bars seen
        self._newest: dict[Axis, _Newest] = {}  # of each axis with a forming bar

    def is_before(self, instant_ms: int) -> bool:
        """Whether *instant_ms* can be reached by going forwards."""
        return self.at_ms is None or instant_ms >= self.at_ms

    def set(self, instant_ms: int, used: Collection[Axis]) -> None:
        """Everything is as of *instant_ms* now; *used* are the axes that values live on."""
        self.at_ms = instant_ms
        for timeframe in TIMEFRAMES:
            frame = self._panel.frame(timeframe)
            self._closed[timeframe] = (frame.epoch, frame.first + frame.bars_closed_at(instant_ms))
        self._newest = {axis: self._newest_of(axis, instant_ms) for axis in used if axis.forming}

    def events(self, instant_ms: int, used: Collection[Axis]) -> list[tuple[int, frozenset[Axis]]] | None:
        """
        The instants since `at_ms` at which bars closed, each with the axes of *used* that move then.

        None when the way to *instant_ms* cannot be walked: too long, or bars seen before have changed.
        """
        if self.at_ms is None:
            return None
        each_minute = {axis for axis in used if axis.is_provisional}
        watched = {axis.timeframe for axis in used if axis.has_bars}
        moving: dict[int, set[Axis]] = {}
        for timeframe in watched | ({"1m"} if each_minute else set()):
            frame, closed = self._panel.frame(timeframe), Axis(timeframe)
            epoch, seen = self._closed[timeframe]
            start = seen - frame.first
            if epoch != frame.epoch or start < 0:
                return None
            for time in frame.open_time[start : frame.bars_closed_at(instant_ms)].tolist():
                moving.setdefault(time + frame.step_ms, set(each_minute)).add(closed)
            if len(moving) > EVENTS_MAX:
                return None
        return [(closes_ms, frozenset(moving[closes_ms])) for closes_ms in sorted(moving)]

    def move(self, instant_ms: int, moving: Collection[Axis]) -> Moved:
        """Bring the forming bars of *moving* to *instant_ms*; closed timeframes among them have a new bar."""
        newest = {axis: self._newest_of(axis, instant_ms) for axis in moving if axis.forming}
        before = {axis: self._newest.get(axis, _NO_BAR) for axis in newest}
        self._newest |= newest
        same = {axis for axis in newest if newest[axis] == before[axis] and not newest[axis].is_forming}
        opened = {axis for axis in newest if newest[axis].open_ms != before[axis].open_ms}
        void = {axis for axis in opened if before[axis].is_forming}
        opened |= {axis for axis in moving if not axis.is_provisional}
        return Moved(frozenset(moving) - same, frozenset(opened), frozenset(void))

    def _newest_of(self, axis: Axis, instant_ms: int) -> _Newest:
        frame = self._panel.forming(axis.timeframe, instant_ms)
        return _Newest(int(frame.open_time[-1]) if len(frame) else -1, frame.is_forming)
