"""
The plan: what a filter compiles to, a small canonical graph of known operators.

Decided here: the plan's format and limits, its one canonical form (same meaning, same bytes, same hash), and what
follows from the graph alone: timeframes, trigger, how much history it needs, cost. Every plan is validated here
wherever it comes from, so nothing downstream checks again. Not decided here: what operators do (`sandbox.operators`).

Canonical form: equal nodes are one node; `a > b` is `b < a`; operands of symmetric operators are sorted; nested
`and`/`or` are flattened; operators composed of others are replaced by them; defaults are written out; constants are
folded; nodes stand in the order in which a
depth-first walk from the condition, then from the shown values by name, finishes them.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from sandbox import axes
from sandbox.operators import OPERATORS, TIMEFRAMES_S, Operator, Param
from sandbox.operators.model import BLOCK_BARS, Params, ParamValue

PLAN_VERSION = 1
PLAN_BYTES_MAX = 1 << 20
NODES_MAX = 2000
SHOW_MAX = 32
NAME_CHARS_MAX = 64
LOOKBACK_BARS_MAX = 5000
"""Most bars of one timeframe a plan may need: 600 symbols x 5000 bars x 41 bytes is 123 MB."""
COST_MAX = 250_000
"""Bar steps for one symbol when nothing is cached: about 0.2 s for 400 symbols at 2 ns a step."""
EACH_MAX = 4
"""Calls of `each`: with 250 ms for each of them (`sandbox.each`) a trader takes a second of a slot at most."""
ALIGN_SLACK_BARS = 4
"""Extra coarse bars behind a finer series: coarse bars that an outage left with few fine bars inside."""

_SYMMETRIC = frozenset({"add", "mul", "eq", "ne"})
_MIRRORED = {"gt": "lt", "ge": "le"}


class PlanError(ValueError):
    """
    A plan is refused. `node` is the index of the offending node as given (None: the plan as a whole).

    `code` is one of format, operator, arity, params, kind, order, constant, forming, or a limit: size, shown, nodes,
    calls, cost, lookback.
    """

    def __init__(self, message: str, node: int | None, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.code = code


class Node(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One use of an operator: `args` are indices of earlier nodes, `out` selects one of several outputs."""

    op: str
    args: tuple[int, ...] = ()
    params: dict[str, ParamValue] = {}
    out: int = 0


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
    graph = _Graph()
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


class _Graph:
    """Hash-consed nodes while a plan is built; equal meaning gets the same index."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.digests: list[bytes] = []
        self.axes: list[str | None] = []
        self.bools: list[bool] = []
        self._index: dict[bytes, int] = {}

    def add_given(self, index: int, node: Node, canonical: Sequence[int]) -> int:
        """Check a node as it was given and add its canonical form."""
        for arg in node.args:
            if not 0 <= arg < index:
                raise PlanError(
                    f"{node.op} refers to node {arg}, which does not come before it", index, "order"
                )
        args = tuple(canonical[arg] for arg in node.args)
        return self._added(index, Node(node.op, args, node.params, node.out))

    def _added(self, index: int, node: Node) -> int:
        """The canonical form of a node whose arguments are canonical; *index* is the given node it comes from."""
        operator = OPERATORS.get(node.op)
        if operator is None:
            raise PlanError(f"there is no operator {node.op!r}", index, "operator")
        _check_arity(index, node, operator)
        params = _checked_params(index, node.params, operator)
        for position, arg in enumerate(node.args):
            if operator.input_kind(position) == "bool" and not self.bools[arg]:
                raise PlanError(f"{node.op} takes conditions, not numbers", index, "kind")
        if (
            operator.form not in {"const", "bars", "pointwise"}
            and node.args
            and all(self.axes[arg] is None for arg in node.args)
            and node.op != "shift"
        ):
            raise PlanError(f"{node.op} of constants: it needs a series", index, "constant")
        if _looks_back(operator, params) and axes.joined(self.axes[arg] for arg in node.args) == axes.NOW:
            raise PlanError(
                f"what a bar in progress mixed with bars that are not coarser was before is not known, and "
                f"{_name(operator)} looks back on it",
                index,
                "forming",
            )
        if operator.expand is not None:

            def make(op: str, *args: int, out: int = 0, **given: ParamValue) -> int:
                return self._added(index, Node(op, args, given, out))

            return operator.expand(make, node.args, params)[node.out]
        return self._simplified(index, Node(node.op, node.args, params, node.out), operator)

    def _simplified(self, index: int, node: Node, operator: Operator) -> int:
        op, args, nodes = node.op, node.args, self.nodes
        if op == "forming" and not axes.is_forming(leaf_axis(op, node.params)):
            node = Node("bars", (), node.params)
        if op in _MIRRORED:
            return self._intern(Node(_MIRRORED[op], args[::-1]))
        if op == "shift":
            return self._shifted(index, args[0], int(node.params["n"]))
        if op == "not" and nodes[args[0]].op == "not":
            return nodes[args[0]].args[0]
        if op in {"and", "or"}:
            terms = {t for arg in args for t in (nodes[arg].args if nodes[arg].op == op else (arg,))}
            return terms.pop() if len(terms) == 1 else self._intern(Node(op, self._sorted(terms)))
        if op in _SYMMETRIC:
            node = Node(op, self._sorted(args))
        folds = operator.form == "pointwise" and operator.kind == "float"
        if folds and all(nodes[arg].op == "const" for arg in args):
            return self._folded(index, node, operator)
        return self._intern(node)

    def _shifted(self, index: int, series: int, n: int) -> int:
        inner = self.nodes[series]
        if n == 0 or inner.op == "const":
            return series
        if inner.op == "shift":
            n += int(inner.params["n"])
            series = inner.args[0]
            if n > (OPERATORS["shift"].params[0].high or 0):
                raise PlanError(f"[{n}] looks too far back", index, "lookback")
        return self._intern(Node("shift", (series,), {"n": n}))

    def _folded(self, index: int, node: Node, operator: Operator) -> int:
        values = [np.array([[float(self.nodes[arg].params["value"])]]) for arg in node.args]
        assert operator.compute is not None  # noqa: S101 - pointwise operators are computed
        (result,) = operator.compute(values, node.params)
        value = float(result[0, 0])
        if not math.isfinite(value):
            raise PlanError(f"{node.op} of these constants is not a finite number", index, "constant")
        return self._intern(Node("const", (), {"value": value + 0.0}))

    def _sorted(self, args: Sequence[int] | set[int]) -> tuple[int, ...]:
        return tuple(sorted(args, key=self.digests.__getitem__))

    def _intern(self, node: Node) -> int:
        body = msgspec.json.encode((node.op, node.params, node.out), order="deterministic")
        digest = hashlib.sha256(body + b"".join(self.digests[arg] for arg in node.args)).digest()
        if digest in self._index:
            return self._index[digest]
        self._index[digest] = len(self.nodes)
        self.nodes.append(node)
        self.digests.append(digest)
        self.axes.append(self._axis(node))
        self.bools.append(self._is_bool(node))
        return len(self.nodes) - 1

    def _axis(self, node: Node) -> str | None:
        if OPERATORS[node.op].form == "bars":
            return leaf_axis(node.op, node.params)
        return axes.joined(self.axes[arg] for arg in node.args)

    def _is_bool(self, node: Node) -> bool:
        operator = OPERATORS[node.op]
        if operator.kind != "same":
            return operator.kind == "bool"
        return all(self.bools[arg] for at, arg in enumerate(node.args) if operator.input_kind(at) == "any")

    def order_from(self, roots: Sequence[int]) -> list[int]:
        """Nodes reachable from *roots*, each after its arguments, in depth-first finishing order."""
        order: list[int] = []
        done: set[int] = set()
        for root in roots:
            stack = [(root, False)]
            while stack:
                node, finished = stack.pop()
                if finished:
                    order.append(node)
                elif node not in done:
                    done.add(node)
                    stack.append((node, True))
                    stack.extend((arg, False) for arg in reversed(self.nodes[node].args) if arg not in done)
        return order


def leaf_axis(op: str, params: Params) -> str:
    """The axis of a candle field: of the closed bars, or of those and the one in progress."""
    timeframe = str(params["timeframe"])
    return axes.forming_axis(timeframe) if op == "forming" else timeframe


def _looks_back(operator: Operator, params: Params) -> bool:
    if operator.form in {"run", "session"}:
        return True
    return operator.form != "composed" and operator.lookback(params) > 0


def _name(operator: Operator) -> str:
    return "s[n]" if operator.name == "shift" else operator.name


def _check_arity(index: int, node: Node, operator: Operator) -> None:
    expected = len(operator.inputs)
    if operator.variadic:
        if len(node.args) < expected:
            raise PlanError(f"{node.op} takes at least {expected} inputs", index, "arity")
    elif len(node.args) != expected:
        raise PlanError(f"{node.op} takes {expected} inputs, got {len(node.args)}", index, "arity")
    if not 0 <= node.out < len(operator.outputs):
        raise PlanError(
            f"{node.op} has {len(operator.outputs)} outputs, there is no {node.out}", index, "arity"
        )


def _checked_params(index: int, given: Mapping[str, ParamValue], operator: Operator) -> dict[str, ParamValue]:
    unknown = given.keys() - {param.name for param in operator.params}
    if unknown:
        raise PlanError(f"{operator.name} has no parameter {min(unknown)!r}", index, "params")
    params: dict[str, ParamValue] = {}
    for param in operator.params:
        value = given.get(param.name, param.default)
        if value is None:
            raise PlanError(f"{operator.name} needs {param.name}", index, "params")
        params[param.name] = _checked_value(index, operator.name, param, value)
    reason = operator.check(params)
    if reason is not None:
        raise PlanError(f"{operator.name}: {reason}", index, "params")
    return params


def _checked_value(index: int, operator: str, param: Param, value: ParamValue) -> ParamValue:
    """The value in the parameter's kind and range; -0.0 becomes 0.0 so that equal constants are one."""
    kinds = {"int": int, "float": (int, float), "str": str}[param.kind]
    if isinstance(value, bool) or not isinstance(value, kinds):  # type: ignore[arg-type]
        raise PlanError(f"{operator}: {param.name} must be {param.kind}, not {value!r:.40}", index, "params")
    if param.kind == "float":
        try:
            value = float(value) + 0.0
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise PlanError(f"{operator}: {param.name} must be a finite number", index, "constant")
    if param.choices and value not in param.choices:
        known = ", ".join(map(str, param.choices))
        raise PlanError(
            f"{operator}: {param.name} must be one of {known}, not {value!r:.40}", index, "params"
        )
    if isinstance(value, int | float):
        low, high = param.low, param.high
        if (low is not None and value < low) or (high is not None and value > high):
            raise PlanError(
                f"{operator}: {param.name} must be {low} to {high}, not {value!r:.40}", index, "params"
            )
    return value


def bars_behind(node: Node, operator: Operator, axis: str) -> int:
    """How many bars before the first one wanted a node must see of its inputs, on its own axis."""
    params: Params = node.params
    if operator.form == "run":
        return BLOCK_BARS - 1 + operator.lookback(params) + operator.warmup(params)
    if operator.form == "session":
        return TIMEFRAMES_S["1d"] // axes.length_s(axis) - 1 + operator.lookback(params)
    return operator.lookback(params)


def coarser_bars(bars: int, fine: str, coarse: str) -> int:
    """How many bars before the current one of *coarse* can be seen from *bars* before the current one of *fine*."""
    if fine == coarse or axes.NOW in {fine, coarse}:
        return bars
    return -(-bars * axes.length_s(fine) // axes.length_s(coarse)) + ALIGN_SLACK_BARS


def reach_of(nodes: Sequence[Node], node_axes: Sequence[str | None], wanted: Mapping[int, int]) -> list[int]:
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
        operator = OPERATORS[nodes[index].op]
        # A running total is one run, begun as many bars before the newest one however far one looks back on it.
        behind = (0 if operator.total else reach[index]) + bars_behind(nodes[index], operator, own)
        for arg in nodes[index].args:
            of = node_axes[arg]
            reach[arg] = max(reach[arg], 0 if of is None else coarser_bars(behind, own, of))
    return reach


def _node_cost(node: Node, operator: Operator, axis: str, bars: int) -> int:
    """Bar steps for *bars* values; what `each` is given beside the current bar is read, not computed."""
    behind = bars_behind(node, operator, axis)
    if operator.form == "each":
        return bars * operator.steps(node.params) + behind
    return (bars + behind) * operator.steps(node.params)


def _finish(graph: _Graph, order: Sequence[int], signal: int, show: dict[str, int]) -> Plan:
    """Renumber the nodes used and derive what follows from them."""
    position = {node: at for at, node in enumerate(order)}
    nodes = tuple(
        Node(n.op, tuple(position[arg] for arg in n.args), dict(sorted(n.params.items())), n.out)
        for n in (graph.nodes[at] for at in order)
    )
    node_axes = tuple(graph.axes[at] for at in order)
    read = [axis for axis in node_axes if axis is not None and axis != axes.NOW]
    timeframes = _finest_first(axes.timeframe_of(axis) for axis in read)
    forming = _finest_first(axes.timeframe_of(axis) for axis in read if axes.is_forming(axis))
    # The bar before counts too: on_enter compares with it.
    wanted = dict.fromkeys(show.values(), 0) | {signal: 0 if forming else 1}
    reach = reach_of(
        nodes,
        node_axes,
        {
            node: coarser_bars(bars, timeframes[0], node_axes[node] or timeframes[0])
            for node, bars in wanted.items()
        },
    )
    need: dict[str, int] = {}
    cost = 0
    for index, node in enumerate(nodes):
        axis = node_axes[index]
        if axis is None:
            continue
        operator, bars = OPERATORS[node.op], reach[index] + 1
        if operator.form == "bars":
            timeframe = axes.timeframe_of(axis)
            need[timeframe] = max(need.get(timeframe, 0), bars)
        cost += _node_cost(node, operator, axis, bars)
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
    return tuple(sorted(set(timeframes), key=TIMEFRAMES_S.__getitem__))


def _need_bars_in_progress(need: dict[str, int], trigger: str, forming: Sequence[str]) -> None:
    """
    Add what bars in progress are made of, and all that it takes to see everything as it was when the trigger's bar
    before closed (`on_enter`).
    """
    minutes = max(TIMEFRAMES_S[timeframe] // TIMEFRAMES_S["1m"] for timeframe in forming)
    need["1m"] = max(need.get("1m", 0), minutes)
    for timeframe in need:
        need[timeframe] += coarser_bars(1, trigger, timeframe) if timeframe != trigger else 1
