"""
The protocol of a kind: how calls of one kind of operator are computed, over a range of bars and by one bar.

Both ways give the same bits, and the tests hold each operator to that.

* Over a range (`Kind.over`): from the values of the arguments in a view. Used for new calls, previews and audits.
* By one bar (`CallGroup.step`): the newest values of many calls of one shape lie in rows of two tables; a step moves all
  of them on with a few NumPy calls.

Example: 300 traders compare something with `ta.sma(m1.close, n)`, 40 different n. Over a range that is 40 calls, each one
TA-Lib run for each symbol. By step it is one group: one sum of shape (40, symbols) takes one bar in and one bar out.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, OperatorError
from sandbox.engine.candles.frame import Ints
from sandbox.engine.candles.panel import Panel
from sandbox.engine.rows import Rows
from sandbox.engine.view import View
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Array


@dataclass(slots=True)
class Event:
    """
    One instant at which bars close, or, while bars are forming, at which a minute closes.

    `moving` are the axes whose newest values change; `opened` those of them whose newest bar was not there at the event
    before. `recomputed` are the calls set from the candles in this event. `lists` keeps rows as lists of numbers, with
    whether all of them are finite.
    """

    view: View
    moving: frozenset[Axis]
    opened: frozenset[Axis]
    recomputed: set[Call] = field(default_factory=set)
    lists: dict[int, tuple[list[float], bool]] = field(default_factory=dict)


@dataclass(slots=True)
class Shared:
    """
    What all groups of calls share.

    `failed` says why a call has no value; `unknown` are conditions whose value one bar ago nobody has computed.
    `history_bytes` is the memory of window groups.
    """

    panel: Panel
    rows: Rows
    failed: dict[Call, OperatorError]
    unknown: set[Call]
    history_bytes: int = 0


class CallGroup:
    """
    Calls of one shape, axis and level, and how their newest values move on by one bar.

    The level of a call is one more than that of its highest argument: groups step in order of their levels.
    A group that `is_incremental` builds on its values at the bar before; the others need only their arguments. Of those,
    one that `is_pointwise` needs only the newest value of each. One that `is_shifting` has something to say in `shifted`.
    """

    is_incremental = False
    is_pointwise = False
    is_shifting = False

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:
        """What calls must have in common to be in one group; None when this class does not take the call."""
        raise NotImplementedError

    def __init__(self, shared: Shared, axis: Axis, level: int) -> None:
        self.shared = shared
        self.axis = axis
        self.level = level
        self.calls: list[Call] = []
        self._positions: dict[Call, int] = {}
        self._tables: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The operator, of a group that holds calls."""
        return self.calls[0].operator.name

    def add(self, call: Call) -> None:
        """Take a call; it has rows already, and so have its arguments."""
        self._positions[call] = len(self.calls)
        self.calls.append(call)
        self._tables = None

    def remove(self, call: Call) -> None:
        """Forget a call and all that is kept for it; the last one takes its place. Its rows are the caller's."""
        at, last = self._positions.pop(call), self.calls.pop()
        if last is not call:
            self.calls[at] = last
            self._positions[last] = at
        self._tables = None

    def want(self, call: Call, view: View) -> None:
        """Ask for what `load` needs."""
        if call.axis is not Axis.CONSTANT:
            view.want(call, view.end(call.axis) - 1)

    def load(self, call: Call, view: View) -> None:
        """
        Set the call's rows, and what is kept of it, from a view in which everything that it wanted is computed.

        Raises:
            OperatorError: The call, or one that it needs, has no value.
        """
        for ref in call.refs:
            self.shared.rows.set_newest(ref, view.newest_value(ref))

    def restarts(self, event: Event) -> Collection[Call]:  # noqa: ARG002 - most groups never restart
        """Calls that cannot move on into this event; the caller recomputes them before any group steps."""
        return ()

    def shifted(self) -> tuple[bool, Ints, Any] | None:
        """
        What moves before any group steps, because it is a value of the bar before: kind, rows, and their new values.

        Asked only when a bar opens on the axis.
        """
        return None

    def step(self, event: Event) -> Iterable[Call]:
        """
        Move all calls on by one bar, but for those in `Event.recomputed` where that matters.

        May assume that arguments have their newest values. An incremental group may assume besides that its calls were right
        at the event before, or are in `Event.recomputed`. Returns calls that it could not move on: the caller
        recomputes them before the next level steps. What it raises fails all its calls.
        """
        raise NotImplementedError

    def table(self, name: str, make: Callable[[], Any]) -> Any:
        """An array made from the calls, kept until they change."""
        if self._tables is None:
            self._tables = {}
        if name not in self._tables:
            self._tables[name] = make()
        return self._tables[name]

    def out_rows(self) -> Ints:
        """The row of each call's only output."""
        rows = self.shared.rows
        return self.table("out", lambda: np.array([rows.of(call.refs[0]) for call in self.calls]))  # type: ignore[no-any-return]

    def arg_rows(self, position: int) -> Ints:
        """The row of each call's argument at a position."""
        rows = self.shared.rows
        return self.table(  # type: ignore[no-any-return]
            f"arg{position}", lambda: np.array([rows.of(call.args[position]) for call in self.calls])
        )

    def stepping(self, event: Event) -> Any:
        """Indices of the calls that this event has not recomputed."""
        if not event.recomputed.isdisjoint(self._positions):
            return np.array(
                [at for at, call in enumerate(self.calls) if call not in event.recomputed], dtype=np.int64
            )
        return slice(None)


def lookback_before(call: Call, view: View) -> int:
    """The first input bar of most kinds: the lookback before the first bar wanted."""
    return view.starts[call] - call.lookback


@dataclass(frozen=True, slots=True)
class Kind:
    """
    How calls of one kind of operator are computed.

    `over(call, view)` gives an array of shape (symbols or 1, bars) for each output, over the bars from
    `View.start` to the newest one. It may assume that its arguments are computed from `first_input(call, view)` on, and
    raises OperatorError where there is no value. `groups` are the ways to move the newest value on by one bar, best
    first: the first class that takes the call keeps it.
    """

    over: Callable[[Call, View], tuple[Array, ...]]
    groups: tuple[type[CallGroup], ...]
    first_input: Callable[[Call, View], int] = lookback_before
