"""
What follows from a plan's graph alone: timeframes, trigger, how much history it needs, cost.

Decided here: how far back each node is read and what that costs. Not decided here: how much of it is allowed
(`sandbox.plan.document`).

Example: `signal(h1.close >= highest(h1.high, 20))` triggers on 1h and needs 21 bars: 20 for the highest, and the bar
before, which `on_enter` compares with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sandbox.plan.axis import Axis
from sandbox.plan.graph import Facts, Node
from sandbox.plan.operators.kind import STEP_NS, Candles
from sandbox.plan.timeframes import TIMEFRAMES

ALIGN_SLACK_BARS = 4
"""Extra coarse bars behind a finer series: coarse bars of which an outage left few fine bars."""


@dataclass(frozen=True, slots=True)
class Derived:
    """What a plan's nodes imply; the fields are those of `sandbox.plan.document.Plan`."""

    trigger: str
    timeframes: tuple[str, ...]
    forming: tuple[str, ...]
    due_every: str
    need: dict[str, int]
    cost: int


def derive(
    nodes: Sequence[Node],
    facts: Sequence[Facts],
    node_axes: Sequence[Axis],
    signal: int,
    shown: Iterable[int],
) -> Derived:
    """
    Work out everything that follows from the nodes, which are in topological order.

    *facts* and *node_axes* belong to *nodes* one by one; *signal* and *shown* are indices of nodes. Checks no limit.
    """
    read = [axis for axis in node_axes if axis.has_bars]
    timeframes = _finest_first(axis.timeframe for axis in read)
    forming = _finest_first(axis.timeframe for axis in read if axis.forming)
    trigger = timeframes[0]
    # The bar before counts too: on_enter compares with it.
    wanted = dict.fromkeys(shown, 0) | {signal: 0 if forming else 1}
    seen = {node: coarser_bars(bars, Axis(trigger), node_axes[node]) for node, bars in wanted.items()}
    reach = _reach_of(nodes, facts, node_axes, seen)
    need = _need_of(facts, node_axes, reach)
    if forming:
        _need_forming_bars(need, trigger, forming)
    return Derived(
        trigger=trigger,
        timeframes=timeframes,
        forming=forming,
        due_every="1m" if trigger in forming else trigger,
        need={timeframe: need[timeframe] for timeframe in _finest_first(need)},
        cost=_cost_of(facts, node_axes, reach),
    )


def coarser_bars(bars: int, fine: Axis, coarse: Axis) -> int:
    """
    How many bars before the current one of *coarse* can be seen from *bars* before the current one of *fine*.

    As many, where one of them has no bars.
    """
    if fine is coarse or not (fine.has_bars and coarse.has_bars):
        return bars
    return -(-bars * fine.length_s // coarse.length_s) + ALIGN_SLACK_BARS


def _reach_of(
    nodes: Sequence[Node], facts: Sequence[Facts], node_axes: Sequence[Axis], wanted: Mapping[int, int]
) -> list[int]:
    """
    For each node how many bars before its current one are read, when *wanted* (node -> bars before) is asked for.

    -1 for a node nobody reads. *nodes* are in topological order.
    """
    reach = [-1] * len(nodes)
    for node, bars in wanted.items():
        reach[node] = max(reach[node], bars)
    for index in range(len(nodes) - 1, -1, -1):
        own = node_axes[index]
        if reach[index] < 0 or own is Axis.CONSTANT:
            continue
        # A running total needs the same history however far back it is read: it is one run ending at the newest bar.
        looked_at = 0 if facts[index].operator.kind.total else reach[index]
        behind = looked_at + facts[index].bars_behind(own)
        for arg in nodes[index].args:
            of = node_axes[arg]
            reach[arg] = max(reach[arg], 0 if of is Axis.CONSTANT else coarser_bars(behind, own, of))
    return reach


def _need_of(facts: Sequence[Facts], node_axes: Sequence[Axis], reach: Sequence[int]) -> dict[str, int]:
    """How many bars of each timeframe the candle fields read, the current one among them."""
    need: dict[str, int] = {}
    for node, axis, reached in zip(facts, node_axes, reach, strict=True):
        if isinstance(node.operator.kind, Candles):
            timeframe = axis.timeframe
            need[timeframe] = max(need.get(timeframe, 0), reached + 1)
    return need


def _need_forming_bars(need: dict[str, int], trigger: str, forming: Sequence[str]) -> None:
    """
    Add the 1m candles that forming bars are made of, and one trigger bar more of each timeframe.

    `on_enter` computes the condition as of the close of the trigger's previous bar.
    """
    minutes = max(TIMEFRAMES[timeframe] // TIMEFRAMES["1m"] for timeframe in forming)
    need["1m"] = max(need.get("1m", 0), minutes)
    for timeframe in need:
        need[timeframe] += coarser_bars(1, Axis(trigger), Axis(timeframe))


def _cost_of(facts: Sequence[Facts], node_axes: Sequence[Axis], reach: Sequence[int]) -> int:
    """Bar steps for one symbol when nothing is cached: nanoseconds by STEP_NS."""
    costs = (
        node.operator.kind.total_ns(reached + 1, node.bars_behind(axis), node.cost_ns)
        for node, axis, reached in zip(facts, node_axes, reach, strict=True)
        if axis is not Axis.CONSTANT
    )
    return sum(costs) // STEP_NS


def _finest_first(timeframes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(timeframes), key=TIMEFRAMES.__getitem__))
