"""
From which bar on a node of a plan can have a value at all, given where the candles of each symbol begin.

Decided here: what counts as too little history. `explain` and the table of examples distinguish it from a value that is
missing for another reason (a division by zero, an event that never was, a function that gave None). The bars counted are the
fewest with which an operator answers; an exact value of a recursive one takes more (`Plan.need`). No value is computed
here: the answer follows from the operators' own lookbacks and the axes of the panel.

Example: `ta.sma(h1.close, 200)` of a pair listed 5 hours ago is short: its first bar with a value is 199 bars after the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sandbox.engine.candles.frame import Frame
from sandbox.engine.candles.panel import Ints, Panel
from sandbox.engine.view import View
from sandbox.plan.axis import Axis
from sandbox.plan.document import Node, Plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import NEVER, Candles

_NO_TIME = 1 << 60
"""When such a bar closes."""


@dataclass(frozen=True)
class Readiness:
    """
    `first[node]` is the first bar, as a position on the node's axis, at which it can have a value (a condition: can be true); int64 of
    shape (symbols of the panel,). NEVER where it cannot with these candles. A bound from below: before it there is certainly no
    value, from it on there may be.
    """

    plan: Plan
    seen: View
    first: Sequence[Ints]

    @property
    def instant_ms(self) -> int:
        """The instant as of which forming bars are seen, and history is short or not."""
        return self.seen.instant_ms

    def is_short(self, node: int, row: int) -> bool:
        """Whether the symbol *row* has too few bars by the instant for the node to have a value."""
        axis = self.plan.node_axes[node]
        return axis is not Axis.CONSTANT and bool(self.first[node][row] >= self.seen.end(axis))

    def has_bar(self, axis: Axis, row: int) -> bool:
        """Whether the symbol has a candle of its own in the newest bar of the axis."""
        end = self.seen.end(axis)
        return end > 0 and bool(self.seen.present(axis, end - 1)[row, -1])

    def origin(self, node: int, row: int) -> int:
        """Of a node that is short: the one below it, or itself, with which the shortage begins; its inputs have values."""
        while below := [arg for arg in self.plan.nodes[node].args if self.is_short(arg, row)]:
            node = below[0]
        return node

    def source(self, node: int, row: int) -> Node:
        """The candles that the node has to wait for longest: a leaf of the plan."""
        node_axes = self.plan.node_axes
        while waited := [arg for arg in self.plan.nodes[node].args if node_axes[arg] is not Axis.CONSTANT]:
            node = max(waited, key=lambda arg: self._begins(arg, row))
        return self.plan.nodes[node]

    def _begins(self, node: int, row: int) -> int:
        axis, first = self.plan.node_axes[node], int(self.first[node][row])
        closes = _closes(self.seen, axis)
        return int(closes[first]) if first < len(closes) else _NO_TIME


def readiness(plan: Plan, panel: Panel, instant_ms: int) -> Readiness:
    """When each node of *plan* can first have a value on *panel*, as seen at *instant_ms*. Costs O(nodes x symbols)."""
    seen = View(panel, instant_ms)
    first: list[Ints] = []
    for at, node in enumerate(plan.nodes):
        own = plan.node_axes[at]
        if own is Axis.CONSTANT:
            first.append(np.zeros(len(panel.symbols), dtype=np.int64))
        elif isinstance(OPERATORS[node.op].kind, Candles):
            first.append(_leaf(str(node.params["symbol"]), panel, _first_candles(seen.frame(own))))
        else:
            inputs = [_seen_from(seen, own, plan.node_axes[arg], first[arg]) for arg in node.args]
            first.append(OPERATORS[node.op].kind.first_bar(inputs, node.params))
    return Readiness(plan, seen, first)


def _first_candles(frame: Frame) -> Ints:
    present = frame.present
    if not len(frame):
        return np.full(len(present), NEVER, dtype=np.int64)
    return np.where(present.any(axis=1), present.argmax(axis=1), NEVER)


def _leaf(symbol: str, panel: Panel, begins: Ints) -> Ints:
    if not symbol:
        return begins
    row = panel.index.get(symbol)
    return np.full(len(begins), NEVER if row is None else begins[row], dtype=np.int64)


def _closes(seen: View, axis: Axis) -> Ints:
    """When each bar of an axis is seen first; a forming bar, and a value without bars, at the instant."""
    if not axis.has_bars:
        return np.array([seen.instant_ms])
    frame = seen.frame(axis)
    closes = frame.open_time + frame.step_ms
    return np.minimum(closes, seen.instant_ms) if axis.forming else closes


def _seen_from(seen: View, own: Axis, axis: Axis, first: Ints) -> Ints:
    """Where, on the axis *own*, the position *first* of a series of the same or a coarser axis is seen first."""
    if axis is Axis.CONSTANT or axis is own:
        return first
    coarse = np.append(_closes(seen, axis), _NO_TIME)
    at = coarse[np.minimum(first, len(coarse) - 1)]
    return np.where(at < _NO_TIME, np.searchsorted(_closes(seen, own), at), NEVER)
