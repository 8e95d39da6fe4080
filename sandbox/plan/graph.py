"""
The nodes of a plan: what one may say, and which are equal.

Decided here: the checks of a single node (operator, arity, parameters, kinds, look back), and the canonical form of a
graph of them: equal meaning gets the same node, whichever way it was written. Not decided here: the document and
its limits as a whole (`sandbox.plan.document`), what follows from a graph (`sandbox.plan.derive`).

What depends on operator and parameters only is worked out once and remembered (`_facts`): a hundred thousand plans are
made of some ten thousand different nodes, and share their parameters in memory.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
import numpy as np

from sandbox.plan.axis import Axis
from sandbox.plan.operators import OPERATORS, Operator, Param
from sandbox.plan.operators.kind import Constant, Logic, Params, ParamValue, Pointwise, Shift

_REMEMBERED_MAX = 1 << 14
"""Different nodes remembered: some 10 MB, 64 MB if all were functions of `each`."""


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


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What operator, output and parameters alone say of a node.

    `params` are complete and checked; they are shared between nodes, so nobody may change them. `body` is what the
    node's digest begins with. `cost_ns` is the time of one bar's value for one symbol.
    """

    operator: Operator
    params: dict[str, ParamValue]
    body: bytes
    cost_ns: int
    _behind: dict[Axis, int] = field(default_factory=dict)

    def bars_behind(self, axis: Axis) -> int:
        """How many bars before the first one wanted the node must see of its inputs, on an axis with bars."""
        if axis not in self._behind:
            self._behind[axis] = self.operator.kind.behind(self.params, axis)
        return self._behind[axis]


def facts_of(index: int, op: str, out: int, params: Mapping[str, ParamValue]) -> Facts:
    """
    The facts of a node; *index* is named as the one at fault.

    Raises:
        PlanError: There is no such operator or output, or the parameters are not what it takes.
    """
    try:
        return _facts(op, out, *(part for item in params.items() for part in item))
    except PlanError as error:
        raise PlanError(error.message, index, error.code) from None


@lru_cache(maxsize=_REMEMBERED_MAX, typed=True)
def _facts(op: str, out: int, *names_and_values: ParamValue) -> Facts:
    operator = OPERATORS.get(op)
    if operator is None:
        raise PlanError(f"there is no operator {op!r}", None, "operator")
    if not 0 <= out < len(operator.outputs):
        raise PlanError(f"{op} has {len(operator.outputs)} outputs, there is no {out}", None, "arity")
    names: Iterator[ParamValue] = iter(names_and_values)
    params = _checked_params(dict(zip(map(str, names), names, strict=True)), operator)
    complete = [part for item in params.items() for part in item]
    if list(map(type, complete)) != list(map(type, names_and_values)) or complete != [*names_and_values]:
        return _facts(op, out, *complete)  # equal nodes share their parameters, however they were given
    body = msgspec.json.encode((op, params, out), order="deterministic")
    return Facts(operator, params, body, operator.cost_ns(params))


class Graph:
    """Hash-consed nodes while a plan is built; equal meaning gets the same index."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.facts: list[Facts] = []
        self.digests: list[bytes] = []
        self.axes: list[Axis] = []
        self.bools: list[bool] = []
        self._index: dict[bytes, int] = {}
        self._negations: dict[int, int] = {}

    def add_given(self, index: int, node: Node, canonical: Sequence[int]) -> int:
        """Check a node as it was given and add its canonical form."""
        for arg in node.args:
            if not 0 <= arg < index:
                raise PlanError(
                    f"{node.op} refers to node {arg}, which does not come before it", index, "order"
                )
        args = tuple(canonical[arg] for arg in node.args)
        return self.added(index, Node(node.op, args, node.params, node.out))

    def added(self, index: int, node: Node) -> int:
        """The canonical form of a node whose arguments are canonical; *index* is the given node it comes from or is part of."""
        facts = facts_of(index, node.op, node.out, node.params)
        operator, params = facts.operator, facts.params
        _check_arity(index, node, operator)
        for position, arg in enumerate(node.args):
            if operator.input_kind(position) == "bool" and not self.bools[arg]:
                raise PlanError(f"{node.op} takes conditions, not numbers", index, "kind")
        if operator.kind.needs_series and all(self.axes[arg] is Axis.CONSTANT for arg in node.args):
            raise PlanError(f"{node.op} of constants: it needs a series", index, "constant")
        if operator.kind.looks_back(params) and Axis.joined(self.axes[arg] for arg in node.args) is Axis.NOW:
            raise PlanError(
                f"{_name(operator)} needs history, and this series has none: it mixes a forming bar with bars of the "
                f"same or a finer timeframe",
                index,
                "forming",
            )
        other = operator.kind.rewritten(_Maker(self, index), node.op, node.args, params, node.out)
        checked = Node(node.op, node.args, params, node.out)
        return self._simplified(index, checked, facts) if other is None else other

    def negated(self, index: int, node: int) -> int:
        """
        The node that is true where the condition *node* is known to be false.

        It is made of the negations of the conditions below, smallest index first: without recursion, since a filter may
        nest conditions a thousand deep.
        """
        make, pending = _Maker(self, index), [node]
        below: set[int] = set()
        while pending:
            at = pending.pop()
            if at not in below and at not in self._negations:
                below.add(at)
                pending += [arg for arg in self.nodes[at].args if self.bools[arg]]
        for at in sorted(below):
            of, kind = self.nodes[at], self.facts[at].operator.kind
            self._negations[at] = kind.negation(make, of.op, of.args, of.params)
        return self._negations[node]

    def _simplified(self, index: int, node: Node, facts: Facts) -> int:
        """A node that its kind leaves as it is, in one order of inputs, without what it repeats, folded where constant."""
        op, args, nodes, kind = node.op, node.args, self.nodes, facts.operator.kind
        if isinstance(kind, Shift):
            return self._shifted(index, node, facts)
        if isinstance(kind, Logic):
            terms = {t for arg in args for t in (nodes[arg].args if nodes[arg].op == op else (arg,))}
            return terms.pop() if len(terms) == 1 else self._intern(Node(op, self._sorted(terms)), facts)
        if kind.is_symmetric:
            node = Node(op, self._sorted(args), node.params, node.out)
        folds = facts.operator.returns == "float" and all(self._is_constant(arg) for arg in args)
        if folds and isinstance(kind, Pointwise):
            return self._folded(index, node, kind)
        return self._intern(node, facts)

    def _is_constant(self, node: int) -> bool:
        return isinstance(self.facts[node].operator.kind, Constant)

    def _shifted(self, index: int, node: Node, facts: Facts) -> int:
        (series,), kind = node.args, facts.operator.kind
        n = kind.lookback(facts.params)
        if n == 0 or self._is_constant(series):
            return series
        inner = self.nodes[series]
        if inner.op == node.op:
            n += kind.lookback(inner.params)
            series = inner.args[0]
            most = int(facts.operator.params[0].high or 0)
            if n > most:
                raise PlanError(f"s[{n}] looks too far back: at most {most} bars", index, "lookback")
        shifted = Node(node.op, (series,), {facts.operator.params[0].name: n})
        return self._intern(shifted, facts_of(index, shifted.op, 0, shifted.params))

    def _folded(self, index: int, node: Node, kind: Pointwise) -> int:
        values = [np.array([[float(self.nodes[arg].params["value"])]]) for arg in node.args]
        (result,) = kind.compute(values, node.params)
        value = float(result[0, 0])
        if not math.isfinite(value):
            raise PlanError(f"{node.op} of these constants is not a finite number", index, "constant")
        folded = Node("const", (), {"value": value + 0.0})
        return self._intern(folded, facts_of(index, folded.op, 0, folded.params))

    def _sorted(self, args: Sequence[int] | set[int]) -> tuple[int, ...]:
        return tuple(sorted(args, key=self.digests.__getitem__))

    def _intern(self, node: Node, facts: Facts) -> int:
        digest = hashlib.sha256(facts.body + b"".join([self.digests[arg] for arg in node.args])).digest()
        if digest in self._index:
            return self._index[digest]
        self._index[digest] = len(self.nodes)
        self.nodes.append(Node(node.op, node.args, facts.params, node.out))
        self.facts.append(facts)
        self.digests.append(digest)
        self.axes.append(facts.operator.kind.axis(facts.params, [self.axes[arg] for arg in node.args]))
        self.bools.append(self._is_bool(node, facts.operator))
        return len(self.nodes) - 1

    def _is_bool(self, node: Node, operator: Operator) -> bool:
        if operator.returns != "same":
            return operator.returns == "bool"
        return all(self.bools[arg] for at, arg in enumerate(node.args) if operator.input_kind(at) == "any")

    def conjuncts_of(self, node: int, position: Mapping[int, int]) -> tuple[int, ...]:
        """The nodes of *position*, as they are numbered there, whose conjunction *node* is; none where one is not there."""
        if node in position:
            return (position[node],)
        kind, args = self.facts[node].operator.kind, self.nodes[node].args
        if isinstance(kind, Logic) and not kind.decisive and all(arg in position for arg in args):
            return tuple(sorted(position[arg] for arg in args))
        return ()

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


class _Maker:
    """Adds nodes for the given node *index*, which is the one at fault where they are refused."""

    __slots__ = ("graph", "index")

    def __init__(self, graph: Graph, index: int) -> None:
        self.graph = graph
        self.index = index

    def __call__(self, op: str, *args: int, out: int = 0, **params: ParamValue) -> int:
        return self.graph.added(self.index, Node(op, args, params, out))

    def node(self, op: str, args: Sequence[int], params: Params, out: int = 0) -> int:
        return self.graph.added(self.index, Node(op, tuple(args), dict(params), out))

    def negated(self, node: int) -> int:
        return self.graph.negated(self.index, node)

    def is_bool(self, node: int) -> bool:
        return self.graph.bools[node]


def _name(operator: Operator) -> str:
    return "s[n]" if isinstance(operator.kind, Shift) else operator.name


def _check_arity(index: int, node: Node, operator: Operator) -> None:
    expected = len(operator.inputs)
    if operator.variadic:
        if len(node.args) < expected:
            raise PlanError(f"{node.op} takes at least {expected} inputs", index, "arity")
    elif len(node.args) not in {expected, expected + operator.with_negation}:
        raise PlanError(f"{node.op} takes {expected} inputs, got {len(node.args)}", index, "arity")


def _checked_params(given: Mapping[str, ParamValue], operator: Operator) -> dict[str, ParamValue]:
    unknown = given.keys() - {param.name for param in operator.params}
    if unknown:
        raise PlanError(f"{operator.name} has no parameter {min(unknown)!r}", None, "params")
    params: dict[str, ParamValue] = {}
    for param in operator.params:
        value = given.get(param.name, param.default)
        if value is None:
            raise PlanError(f"{operator.name} needs {param.name}", None, "params")
        params[param.name] = _checked_value(operator.name, param, value)
    reason = operator.check(params)
    if reason is not None:
        raise PlanError(f"{operator.name}: {reason}", None, "params")
    return params


def _checked_value(operator: str, param: Param, value: ParamValue) -> ParamValue:
    """The value in the parameter's kind and range; -0.0 becomes 0.0 so that equal constants are one."""
    kinds = {"int": int, "float": (int, float), "str": str}[param.kind]
    if isinstance(value, bool) or not isinstance(value, kinds):  # type: ignore[arg-type]
        raise PlanError(f"{operator}: {param.name} must be {param.kind}, not {value!r:.40}", None, "params")
    if param.kind == "float":
        try:
            value = float(value) + 0.0
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise PlanError(f"{operator}: {param.name} must be a finite number", None, "constant")
    if param.choices and value not in param.choices:
        known = ", ".join(map(str, param.choices))
        raise PlanError(f"{operator}: {param.name} must be one of {known}, not {value!r:.40}", None, "params")
    if isinstance(value, int | float):
        low, high = param.low, param.high
        if (low is not None and value < low) or (high is not None and value > high):
            raise PlanError(
                f"{operator}: {param.name} must be {low} to {high}, not {value!r:.40}", None, "params"
            )
    return value
