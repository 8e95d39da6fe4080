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
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import numpy as np

from sandbox.plan import axis as axes
from sandbox.plan.operators import OPERATORS, Operator, Param
from sandbox.plan.operators.kind import (
    BLOCK_BARS,
    AcrossMarket,
    Candles,
    Composed,
    Each,
    Params,
    ParamValue,
    Pointwise,
    Run,
    Session,
    Window,
)
from sandbox.plan.timeframes import TIMEFRAMES

_SYMMETRIC = frozenset({"add", "mul", "min", "max", "eq", "ne"})
_MIRRORED = {"gt": "lt", "ge": "le"}
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
    node's digest begins with. `steps` is the work for one bar, `behind` how many bars before the first one wanted the
    node must see of its inputs (of a session, besides those since midnight).
    """

    operator: Operator
    params: dict[str, ParamValue]
    body: bytes
    steps: int
    behind: int

    def bars_behind(self, axis: str) -> int:
        """`behind` on an axis."""
        if isinstance(self.operator.kind, Session):
            return TIMEFRAMES["1d"] // axes.length_s(axis) - 1 + self.behind
        return self.behind


def facts_of(index: int, op: str, out: int, params: Mapping[str, ParamValue]) -> Facts:
    """
    The facts of a node; *index* is told as the one at fault.

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
    body = msgspec.json.encode((op, params, out), order="deterministic")
    return Facts(operator, params, body, operator.steps(params), _behind(operator, params))


def _behind(operator: Operator, params: Params) -> int:
    kind = operator.kind
    if isinstance(kind, Run):
        return BLOCK_BARS - 1 + kind.lookback(params) + kind.warmup(params)
    return kind.lookback(params)


class Graph:
    """Hash-consed nodes while a plan is built; equal meaning gets the same index."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.facts: list[Facts] = []
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
        facts = facts_of(index, node.op, node.out, node.params)
        operator, params = facts.operator, facts.params
        _check_arity(index, node, operator)
        for position, arg in enumerate(node.args):
            if operator.input_kind(position) == "bool" and not self.bools[arg]:
                raise PlanError(f"{node.op} takes conditions, not numbers", index, "kind")
        if isinstance(operator.kind, Window | Run | Session | AcrossMarket | Composed | Each) and all(
            self.axes[arg] is None for arg in node.args
        ):
            raise PlanError(f"{node.op} of constants: it needs a series", index, "constant")
        if _looks_back(facts) and axes.joined(self.axes[arg] for arg in node.args) == axes.NOW:
            raise PlanError(
                f"what a bar in progress mixed with bars that are not coarser was before is not known, and "
                f"{_name(operator)} looks back on it",
                index,
                "forming",
            )
        if isinstance(operator.kind, Composed):

            def make(op: str, *args: int, out: int = 0, **given: ParamValue) -> int:
                return self._added(index, Node(op, args, given, out))

            return operator.kind.expand(make, node.args, params)[node.out]
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
        kind = operator.kind
        folds = operator.returns == "float" and all(nodes[arg].op == "const" for arg in args)
        if folds and isinstance(kind, Pointwise):
            return self._folded(index, node, kind)
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

    def _folded(self, index: int, node: Node, kind: Pointwise) -> int:
        values = [np.array([[float(self.nodes[arg].params["value"])]]) for arg in node.args]
        (result,) = kind.compute(values, node.params)
        value = float(result[0, 0])
        if not math.isfinite(value):
            raise PlanError(f"{node.op} of these constants is not a finite number", index, "constant")
        return self._intern(Node("const", (), {"value": value + 0.0}))

    def _sorted(self, args: Sequence[int] | set[int]) -> tuple[int, ...]:
        return tuple(sorted(args, key=self.digests.__getitem__))

    def _intern(self, node: Node) -> int:
        facts = facts_of(len(self.nodes), node.op, node.out, node.params)
        digest = hashlib.sha256(facts.body + b"".join([self.digests[arg] for arg in node.args])).digest()
        if digest in self._index:
            return self._index[digest]
        self._index[digest] = len(self.nodes)
        self.nodes.append(Node(node.op, node.args, facts.params, node.out))
        self.facts.append(facts)
        self.digests.append(digest)
        self.axes.append(self._axis(node))
        self.bools.append(self._is_bool(node))
        return len(self.nodes) - 1

    def _axis(self, node: Node) -> str | None:
        if isinstance(OPERATORS[node.op].kind, Candles):
            return leaf_axis(node.op, node.params)
        return axes.joined(self.axes[arg] for arg in node.args)

    def _is_bool(self, node: Node) -> bool:
        operator = OPERATORS[node.op]
        if operator.returns != "same":
            return operator.returns == "bool"
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


def _looks_back(facts: Facts) -> bool:
    if isinstance(facts.operator.kind, Run | Session):
        return True
    return not isinstance(facts.operator.kind, Composed) and facts.behind > 0


def _name(operator: Operator) -> str:
    return "s[n]" if operator.name == "shift" else operator.name


def _check_arity(index: int, node: Node, operator: Operator) -> None:
    expected = len(operator.inputs)
    if operator.variadic:
        if len(node.args) < expected:
            raise PlanError(f"{node.op} takes at least {expected} inputs", index, "arity")
    elif len(node.args) != expected:
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
