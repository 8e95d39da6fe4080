"""
The plan: what a filter compiles to, a small canonical graph of known operators.

Decided here: the plan's format and limits, its one canonical form (same meaning, same bytes, same hash), and what
follows from the graph alone: timeframes, trigger, how much history it needs, cost. Every plan is validated here
wherever it comes from, so nothing downstream checks again. Not decided here: what a single node may say
(`sandbox.plan.graph`), what operators do (`sandbox.plan.operators`).

Canonical form: equal nodes are one node; `a > b` is `b < a`; operands of symmetric operators are sorted; nested
`and`/`or` are flattened; operators composed of others are replaced by them; defaults are written out; constants are
folded; nodes stand in the order in which a
depth-first walk from the condition, then from the shown values by name, finishes them.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sandbox.plan import axis as axes
from sandbox.plan.graph import Facts, Graph, Node, PlanError
from sandbox.plan.operators import OPERATORS
from sandbox.plan.timeframes import TIMEFRAMES

__all__ = ["Node", "Plan", "PlanError", "build_plan", "build_plan_and_map", "load_plan"]

PLAN_VERSION = 2
"""2: min and max of the same two series are one node."""
PLAN_BYTES_MAX = 1 << 20
NODES_MAX = 2000
SHOW_MAX = 32
NAME_CHARS_MAX = 64
LOOKBACK_BARS_MAX = 5000
"""Most bars of one timeframe a plan may need: 600 symbols x 5000 bars x 41 bytes is 123 MB."""
COST_MAX = 250_000
"""Bar steps for one symbol when nothing is cached: about 0.2 s for 400 symbols at 2 ns a step."""
EACH_MAX = 4
"""Calls of `each`: with 250 ms for each of them (`sandbox.interpreter.functions`) a trader takes a second of a slot at most."""
ALIGN_SLACK_BARS = 4
"""Extra coarse bars behind a finer series: coarse bars that an outage left with few fine bars inside."""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    nodes: list[Node]
    signal: int
    show: dict[str, int]


class Plan(msgspec.Struct, frozen=True):
    """
    A validated, canonical plan. Only version, nodes, signal and show are its content; the rest follows from them.

    `node_axes[i]` is None for constants, `node_bools[i]` tells bool from float. `timeframes` are those whose bars it
    reads, `trigger` the finest of them, `forming` those whose bar in progress it reads. It is due whenever a bar of
    `due_every` closes: the trigger's, or each minute where the trigger's is read while in progress. `need` is the number
    of bars of each timeframe that an exact answer takes (1m ones too, of which bars in progress are made),
    `lookback_bars` the largest of them. `cost` is in bar steps per symbol.
    """

    version: int
    nodes: tuple[Node, ...]
    signal: int
    show: dict[str, int]
    node_axes: tuple[str | None, ...]
    node_bools: tuple[bool, ...]
    trigger: str
    timeframes: tuple[str, ...]
    forming: tuple[str, ...]
    due_every: str
    operators: tuple[str, ...]
    need: dict[str, int]
    lookback_bars: int
    cost: int
    calls_each: bool

    def encode(self) -> bytes:
        """The canonical JSON: equal plans give equal bytes."""
        document = _Document(self.version, list(self.nodes), self.signal, self.show)
        return msgspec.json.encode(document, order="deterministic")

    @property
    def hash(self) -> str:
        """SHA-256 of `encode()`, hexadecimal."""
        return hashlib.sha256(self.encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """What is told about a plan outside (`Trader.plan` of the contract)."""
        return {
            "trigger": self.trigger,
            "timeframes": list(self.timeframes),
            "forming": list(self.forming),
            "due_every": self.due_every,
            "operators": list(self.operators),
            "lookback_bars": self.lookback_bars,
            "cost": self.cost,
            "calls_each": self.calls_each,
        }


def build_plan(nodes: Sequence[Node | Mapping[str, Any]], signal: int, show: Mapping[str, int]) -> Plan:
    """
    Validate and canonicalise a graph.

    Args:
        nodes: Nodes (or their JSON objects); each refers only to earlier ones.
        signal: Index of the condition, a bool node that depends on candles.
        show: Values to report with a match, by name.

    Raises:
        PlanError: Why the graph is not a plan, and which node is at fault.
    """
    return build_plan_and_map(nodes, signal, show)[0]


def build_plan_and_map(
    nodes: Sequence[Node | Mapping[str, Any]], signal: int, show: Mapping[str, int]
) -> tuple[Plan, list[int | None]]:
    """`build_plan`, and for each node given the plan's node of the same value (None: not used by the plan)."""
    given = _checked_shape(nodes, signal, show)
    graph = Graph()
    canonical: list[int] = []
    for index, node in enumerate(given):
        canonical.append(graph.add_given(index, node, canonical))
    if not graph.bools[canonical[signal]]:
        raise PlanError("the condition is a number; compare it with something", signal, "kind")
    if graph.axes[canonical[signal]] is None:
        raise PlanError("the condition is constant: it depends on no candle", signal, "constant")
    order = graph.order_from([canonical[signal], *(canonical[show[name]] for name in sorted(show))])
    position = {node: at for at, node in enumerate(order)}
    plan = _finish(
        graph, order, position[canonical[signal]], {n: position[canonical[show[n]]] for n in sorted(show)}
    )
    return plan, [position.get(node) for node in canonical]


def load_plan(source: bytes | str | Mapping[str, Any]) -> Plan:
    """
    Read a plan back, trusting nothing: the same checks as `build_plan`, derived facts computed anew.

    Raises:
        PlanError: Not a plan of this version, or one that `build_plan` refuses.
    """
    try:
        if isinstance(source, bytes | str):
            if len(source) > PLAN_BYTES_MAX:
                raise PlanError(f"a plan has at most {PLAN_BYTES_MAX} bytes", None, "size")
            document = msgspec.json.decode(source, type=_Document)
        else:
            document = msgspec.convert(source, type=_Document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PlanError(f"not a plan: {error}", None, "format") from error
    if document.version != PLAN_VERSION:
        raise PlanError(f"plan version {document.version} is not {PLAN_VERSION}", None, "format")
    return build_plan(document.nodes, document.signal, document.show)


def _checked_shape(
    nodes: Sequence[Node | Mapping[str, Any]], signal: int, show: Mapping[str, int]
) -> list[Node]:
    if len(nodes) > NODES_MAX:
        raise PlanError(f"the plan has {len(nodes)} parts; at most {NODES_MAX} are allowed", None, "nodes")
    if len(show) > SHOW_MAX:
        raise PlanError(f"at most {SHOW_MAX} values can be shown", None, "shown")
    for name in show:
        if not name.isidentifier() or len(name) > NAME_CHARS_MAX:
            raise PlanError(f"{name[:NAME_CHARS_MAX]!r} is no name for a shown value", None, "format")
    for index in (signal, *show.values()):
        if not 0 <= index < len(nodes):
            raise PlanError(f"there is no node {index}", None, "order")
    try:
        return [node if isinstance(node, Node) else msgspec.convert(node, Node) for node in nodes]
    except msgspec.ValidationError as error:
        raise PlanError(f"not a node: {error}", None, "format") from error


def coarser_bars(bars: int, fine: str, coarse: str) -> int:
    """How many bars before the current one of *coarse* can be seen from *bars* before the current one of *fine*."""
    if fine == coarse or axes.NOW in {fine, coarse}:
        return bars
    return -(-bars * axes.length_s(fine) // axes.length_s(coarse)) + ALIGN_SLACK_BARS


def _reach_of(
    nodes: Sequence[Node], facts: Sequence[Facts], node_axes: Sequence[str | None], wanted: Mapping[int, int]
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
        if reach[index] < 0 or own is None:
            continue
        # A running total is one run, begun as many bars before the newest one however far one looks back on it.
        looked_at = 0 if facts[index].operator.total else reach[index]
        behind = looked_at + facts[index].bars_behind(own)
        for arg in nodes[index].args:
            of = node_axes[arg]
            reach[arg] = max(reach[arg], 0 if of is None else coarser_bars(behind, own, of))
    return reach


def _node_cost(facts: Facts, axis: str, bars: int) -> int:
    """Bar steps for *bars* values; what `each` is given beside the current bar is read, not computed."""
    behind = facts.bars_behind(axis)
    if facts.operator.form == "each":
        return bars * facts.steps + behind
    return (bars + behind) * facts.steps


def _finish(graph: Graph, order: Sequence[int], signal: int, show: dict[str, int]) -> Plan:
    """Renumber the nodes used and derive what follows from them."""
    position = {node: at for at, node in enumerate(order)}
    nodes = tuple(
        Node(n.op, tuple([position[arg] for arg in n.args]), n.params, n.out)
        for n in (graph.nodes[at] for at in order)
    )
    facts = [graph.facts[at] for at in order]
    node_axes = tuple(graph.axes[at] for at in order)
    read = [axis for axis in node_axes if axis is not None and axis != axes.NOW]
    timeframes = _finest_first(axes.timeframe_of(axis) for axis in read)
    forming = _finest_first(axes.timeframe_of(axis) for axis in read if axes.is_forming(axis))
    # The bar before counts too: on_enter compares with it.
    wanted = dict.fromkeys(show.values(), 0) | {signal: 0 if forming else 1}
    reach = _reach_of(
        nodes,
        facts,
        node_axes,
        {
            node: coarser_bars(bars, timeframes[0], node_axes[node] or timeframes[0])
            for node, bars in wanted.items()
        },
    )
    need: dict[str, int] = {}
    cost = 0
    for node_facts, axis, reached in zip(facts, node_axes, reach, strict=True):
        if axis is None:
            continue
        if node_facts.operator.form == "bars":
            timeframe = axes.timeframe_of(axis)
            need[timeframe] = max(need.get(timeframe, 0), reached + 1)
        cost += _node_cost(node_facts, axis, reached + 1)
    if forming:
        _need_bars_in_progress(need, timeframes[0], forming)
    for timeframe, bars in need.items():
        if bars > LOOKBACK_BARS_MAX:
            raise PlanError(
                f"the plan needs {bars} bars of {timeframe}, at most {LOOKBACK_BARS_MAX} are kept",
                None,
                "lookback",
            )
    calls = sum(node.op == "each" for node in nodes)
    if calls > EACH_MAX:
        raise PlanError(f"the plan calls each() {calls} times, at most {EACH_MAX} are allowed", None, "calls")
    if len(nodes) > NODES_MAX:
        raise PlanError(f"the plan takes {len(nodes)} parts; at most {NODES_MAX} are allowed", None, "nodes")
    if cost > COST_MAX:
        raise PlanError(
            f"the plan costs {cost} bar steps per symbol, at most {COST_MAX} are allowed", None, "cost"
        )
    return Plan(
        version=PLAN_VERSION,
        nodes=nodes,
        signal=signal,
        show=show,
        node_axes=node_axes,
        node_bools=tuple(graph.bools[at] for at in order),
        trigger=timeframes[0],
        timeframes=timeframes,
        forming=forming,
        due_every="1m" if timeframes[0] in forming else timeframes[0],
        operators=tuple(sorted({n.op for n in nodes if not OPERATORS[n.op].internal})),
        need={timeframe: need[timeframe] for timeframe in _finest_first(need)},
        lookback_bars=max(need.values()),
        cost=cost,
        calls_each=calls > 0,
    )


def _finest_first(timeframes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(timeframes), key=TIMEFRAMES.__getitem__))


def _need_bars_in_progress(need: dict[str, int], trigger: str, forming: Sequence[str]) -> None:
    """
    Add what bars in progress are made of, and all that it takes to see everything as it was when the trigger's bar
    before closed (`on_enter`).
    """
    minutes = max(TIMEFRAMES[timeframe] // TIMEFRAMES["1m"] for timeframe in forming)
    need["1m"] = max(need.get("1m", 0), minutes)
    for timeframe in need:
        need[timeframe] += coarser_bars(1, trigger, timeframe) if timeframe != trigger else 1
