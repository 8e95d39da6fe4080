"""What a group of calls of one shape is, and the event in which it moves on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, OperatorError, Ref
from sandbox.engine.candles.frame import Frame, Ints
from sandbox.engine.candles.panel import Panel
from sandbox.engine.ranges import Computation, constant_value
from sandbox.engine.rows import Rows


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


@dataclass(slots=True)
class State:
    """
    What the groups of calls share: the tables, the calls that failed or have no value yet, the memory of window groups.

    `recompute` computes one call from the candles in the middle of an event.
    """

    panel: Panel
    rows: Rows
    failed: dict[Call, OperatorError]
    unknown: set[Call]
    recompute: Callable[[Call, "Event"], None]
    history_bytes: int = 0

    def load_row(self, ref: Ref, event: "Event") -> None:
        """Set a row to its newest value in the event's computation."""
        call = ref.call
        if call.axis is None:
            value = constant_value(ref)[0]
        else:
            start = event.computation.end(call.axis) - 1
            value = event.computation.values(ref, start, call.axis)[:, 0]
        self.rows.write(ref.row, value, is_bool=call.is_bool)


class CallGroup:
    """
    Calls of one shape and axis.

    `step` moves all of them on by one bar, leaving those in `Event.loaded` alone where that matters. A group that is
    `carried` needs to have been right at the bar before; the others need only their arguments.
    """

    carried = False

    def __init__(self, state: State, axis: str | None) -> None:
        self.state = state
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
                self.state.load_row(ref, event)

    def step(self, event: Event) -> None:
        raise NotImplementedError

    def restarts(self, event: Event) -> Iterable[Call]:  # noqa: ARG002 - most groups never restart
        """Calls that cannot be carried into this event and must be computed anew."""
        return ()

    def release(self, call: Call) -> None:
        """Give back what the call holds besides its rows."""
