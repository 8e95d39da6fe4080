"""
The plan: what a filter compiles to, a small canonical graph of known operators.

Decided here: the plan's format and limits, and its one canonical form (same meaning, same bytes, same hash). Every plan
is validated here wherever it comes from, so nothing downstream checks again. Not decided here: what a single node may
say (`sandbox.plan.graph`), what follows from the graph (`sandbox.plan.derive`), what operators do
(`sandbox.plan.operators`).

Canonical form: equal nodes are one node; `a > b` is `b < a`; operands of symmetric operators are sorted; nested
`and`/`or` are flattened; operators composed of others are replaced by them; defaults are written out; constants are
folded; nodes stand in the order in which a
depth-first walk from the condition, then from the shown values by name, finishes them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sandbox.plan.axis import Axis
from sandbox.plan.derive import Derived, derive
from sandbox.plan.graph import Graph, Node, PlanError
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import Each

__all__ = ["Node", "Plan", "PlanError", "build_plan", "build_plan_and_map", "load_plan"]
PLAN_VERSION = 3
"""2: min and max of the same two series are one node. 3: negations are inside the conditions, unknown ones stay unknown."""
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


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    nodes: list[Node]
    signal: int
    show: dict[str, int]


class Plan(msgspec.Struct, frozen=True):
    """
    A validated, canonical plan. Only version, nodes, signal and show are its content; the rest follows from them.

    `node_axes[i]` says on which bars it has values, `node_bools[i]` tells bool from float. `timeframes` are those whose bars it
    reads, `trigger` the finest of them, `forming` those whose forming bar it reads. It is due whenever a bar of
    `due_every` closes: the trigger's, or each minute where the trigger's forming bar is read. `need` is the number
    of bars of each timeframe that an exact answer takes (1m ones too, of which forming bars are made),
    `lookback_bars` the largest of them. `cost` is in bar steps per symbol.
    """

    version: int
    nodes: tuple[Node, ...]
    signal: int
    show: dict[str, int]
    node_axes: tuple[Axis, ...]
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
        """The plan as clients see it (`Trader.plan` of the contract)."""
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


class Term(msgspec.Struct, frozen=True):
    """
    A part of the signal or a shown value: its node in the plan, its line and text in the filter.

    Where the term is an `and` that the plan holds as conjuncts of a longer one, as `not (a or b)` is, `node` is the first
    of them and `also` are the others.
    """

    node: int
    line: int
    text: str
    also: tuple[int, ...] = ()

    @property
    def nodes(self) -> tuple[int, ...]:
        """All nodes that the term consists of: it is true where each of them is."""
        return (self.node, *self.also)


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
) -> tuple[Plan, list[tuple[int, ...]]]:
    """
    `build_plan`, and for each node given the plan's nodes that stand for it.

    That is one node of the same value, or several whose conjunction it is, where the plan holds it as a part of a longer
    `and`; none where the plan does not use it.
    """
    given = _checked_shape(nodes, signal, show)
    graph = Graph()
    canonical: list[int] = []
    for index, node in enumerate(given):
        canonical.append(graph.add_given(index, node, canonical))
    if not graph.bools[canonical[signal]]:
        raise PlanError("the condition is a number; compare it with something", signal, "kind")
    if graph.axes[canonical[signal]] is Axis.CONSTANT:
        raise PlanError("the condition is constant: it depends on no candle", signal, "constant")
    order = graph.order_from([canonical[signal], *(canonical[show[name]] for name in sorted(show))])
    position = {node: at for at, node in enumerate(order)}
    plan = _finish(
        graph, order, position[canonical[signal]], {n: position[canonical[show[n]]] for n in sorted(show)}
    )
    return plan, [graph.conjuncts_of(node, position) for node in canonical]


def load_plan(source: bytes | str | Mapping[str, Any]) -> Plan:
    """
    Read a plan back, trusting nothing: it is checked and everything is derived as in `build_plan`.

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


def _finish(graph: Graph, order: Sequence[int], signal: int, show: dict[str, int]) -> Plan:
    """Renumber the nodes used, derive what follows from them, and hold that to the limits."""
    position = {node: at for at, node in enumerate(order)}
    nodes = tuple(
        Node(n.op, tuple([position[arg] for arg in n.args]), n.params, n.out)
        for n in (graph.nodes[at] for at in order)
    )
    node_axes = tuple(graph.axes[at] for at in order)
    derived = derive(nodes, [graph.facts[at] for at in order], node_axes, signal, show.values())
    calls = sum(isinstance(OPERATORS[node.op].kind, Each) for node in nodes)
    _check_limits(derived, nodes=len(nodes), calls=calls)
    return Plan(
        version=PLAN_VERSION,
        nodes=nodes,
        signal=signal,
        show=show,
        node_axes=node_axes,
        node_bools=tuple(graph.bools[at] for at in order),
        trigger=derived.trigger,
        timeframes=derived.timeframes,
        forming=derived.forming,
        due_every=derived.due_every,
        operators=tuple(sorted({n.op for n in nodes if not OPERATORS[n.op].internal})),
        need=derived.need,
        lookback_bars=max(derived.need.values()),
        cost=derived.cost,
        calls_each=calls > 0,
    )


def _check_limits(derived: Derived, *, nodes: int, calls: int) -> None:
    for timeframe, bars in derived.need.items():
        if bars > LOOKBACK_BARS_MAX:
            raise PlanError(
                f"the plan needs {bars} bars of {timeframe}, at most {LOOKBACK_BARS_MAX} are kept",
                None,
                "lookback",
            )
    if calls > EACH_MAX:
        raise PlanError(f"the plan calls each() {calls} times, at most {EACH_MAX} are allowed", None, "calls")
    if nodes > NODES_MAX:
        raise PlanError(f"the plan takes {nodes} parts; at most {NODES_MAX} are allowed", None, "nodes")
    if derived.cost > COST_MAX:
        raise PlanError(
            f"the plan costs {derived.cost} bar steps per symbol, at most {COST_MAX} are allowed",
            None,
            "cost",
        )
