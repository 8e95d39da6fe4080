"""
From which bar on a node of a plan can have a value at all, given where the candles of each symbol begin.

Decided here: what counts as too little history, which `explain` and the table of examples tell apart from a value that is
missing for another reason (a division by zero, an event that never was, a function that gave None). The bars counted are the
fewest with which an operator answers; an exact value of a recursive one takes more (`Plan.need`). Nothing is computed here:
the answer follows from the operators' own lookbacks and the axes of the panel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sandbox.operators import OPERATORS
from sandbox.panel import Frame, Ints, Panel
from sandbox.plan import Node, Plan

NEVER = 1 << 40
"""The first bar of a symbol that has no candle, or that the panel does not have."""

_EITHER = {"or": 0, "where": 1}
"""Operators that answer when one of several inputs does, and how many inputs before those do not matter."""
_ALWAYS = frozenset({"not", "nz"})
"""Operators that answer when their input does not."""
_SEARCHES = frozenset({"barssince", "valuewhen"})
"""Operators that look back as far as there is something: their lookback is how far they may, not how far they must."""


@dataclass(frozen=True)
class Readiness:
    """
    `first[node]` is the first bar, as an index on the axis of the node's timeframe, at which it can have a value (a condition: can be
    true); int64 of shape (symbols of the panel,). NEVER where it cannot with these candles. A bound from below: before it there is
    certainly no value, from it on there may be. The exception is a share of the market, which is 0 while nobody has the history to
    meet its condition: it counts from the first symbol that has.
    """

    plan: Plan
    panel: Panel
    first: Sequence[Ints]

    def is_short(self, node: int, row: int, slot_ms: int) -> bool:
        """Whether the symbol *row* had too few bars by *slot_ms* for the node to have a value."""
        timeframe = self.plan.node_timeframes[node]
        if timeframe is None:
            return False
        return bool(self.first[node][row] >= self.panel.frame(timeframe).bars_closed_at(slot_ms))

    def origin(self, node: int, row: int, slot_ms: int) -> int:
        """Of a node that is short: the one below it, or itself, with which the shortage begins; its inputs have values."""
        while below := [arg for arg in self.plan.nodes[node].args if self.is_short(arg, row, slot_ms)]:
            node = below[0]
        return node

    def source(self, node: int, row: int) -> Node:
        """The candles that the node has to wait for longest: a leaf of the plan."""
        timeframes = self.plan.node_timeframes
        while waited := [arg for arg in self.plan.nodes[node].args if timeframes[arg] is not None]:
            node = max(waited, key=lambda arg: self._begins(arg, row))
        return self.plan.nodes[node]

    def _begins(self, node: int, row: int) -> int:
        frame = self.panel.frame(self.plan.node_timeframes[node] or self.plan.trigger)
        first = int(self.first[node][row])
        return int(frame.open_time[first]) + frame.step_ms if first < len(frame) else NEVER


def readiness(plan: Plan, panel: Panel) -> Readiness:
    """When each node of *plan* can first have a value on *panel*. Costs O(nodes x symbols)."""
    begins = {timeframe: _first_candles(panel.frame(timeframe)) for timeframe in plan.timeframes}
    first: list[Ints] = []
    for at, node in enumerate(plan.nodes):
        own = plan.node_timeframes[at]
        if own is None:
            first.append(np.zeros(len(panel.symbols), dtype=np.int64))
        elif node.op == "bars":
            first.append(_leaf(str(node.params["symbol"]), panel, begins[own]))
        else:
            seen = [_seen(panel, plan.node_timeframes[arg], own, first[arg]) for arg in node.args]
            first.append(_first(node, seen))
    return Readiness(plan, panel, first)


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


def _first(node: Node, inputs: Sequence[Ints]) -> Ints:
    operator = OPERATORS[node.op]
    if node.op in _ALWAYS:
        return np.zeros_like(inputs[0])
    if operator.form == "each":  # called where the condition holds; only its lists reach back
        lists = _behind(np.maximum.reduce(inputs[1:]), operator.lookback(node.params))
        return np.maximum(inputs[0], lists)
    either = _EITHER.get(node.op)
    ready: Ints = np.maximum.reduce(inputs) if either is None else np.minimum.reduce(inputs[either:])
    if node.op == "breadth":
        ready = np.full_like(ready, ready.min(initial=NEVER))
    return _behind(ready, 0 if node.op in _SEARCHES else operator.lookback(node.params))


def _behind(first: Ints, bars: int) -> Ints:
    return np.where(first >= NEVER, NEVER, first + bars)


def _seen(panel: Panel, timeframe: str | None, own: str, first: Ints) -> Ints:
    """Where, on the axis of *own*, the bar *first* of the same or a coarser timeframe is seen first."""
    if timeframe is None or timeframe == own:
        return first
    coarse, fine = panel.frame(timeframe), panel.frame(own)
    closes = np.append(coarse.open_time + coarse.step_ms, NEVER << 20)
    seen = np.searchsorted(fine.open_time + fine.step_ms, closes[np.minimum(first, len(coarse))])
    return np.where(first < len(coarse), seen, NEVER)
