"""
Calls: one operator applied to outputs of other calls, shared by all plans that hold the same node.

Decided here: which nodes are one call. 10,000 traders of `bench/screening.py` hold 161,655 nodes, which are 42,329 calls.
Not decided here: which operators are computed as others (`sandbox.engine.lowering`), the values of a call
(`sandbox.engine.ranges`, `sandbox.engine.live`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from sandbox.engine.lowering import rule_for
from sandbox.plan.axis import Axis
from sandbox.plan.document import Plan
from sandbox.plan.graph import Node
from sandbox.plan.operators import OPERATORS, Operator, Params
from sandbox.plan.operators.kind import Array, Candles, Constant, Kind, Pointwise, Shift

SomeKind = TypeVar("SomeKind", bound=Kind)


class OperatorError(Exception):
    """An operator raised while it computed; the message names it."""


@dataclass(frozen=True, eq=False)
class Before(Shift):
    """`shift` by one bar of the trigger timeframe, whatever the series' own: what `on_enter` compares with."""


BEFORE = replace(OPERATORS["shift"], name="before", kind=Before())


@dataclass(slots=True, eq=False)
class Call:
    """
    One operator applied to outputs of other calls: what equal nodes of all plans share.

    `axis` is what `sandbox.plan.axis` says. `totals` are the axes of the running totals it depends on.
    `order` grows with every call made, so that arguments have a smaller one. `uses` counts the plan nodes and calls that
    need it; `refs` are its outputs.
    """

    order: int
    operator: Operator
    params: Params
    args: tuple["Ref", ...]
    axis: Axis
    is_bool: bool
    key: object
    refs: tuple["Ref", ...] = ()
    totals: frozenset[Axis] = frozenset()
    uses: int = 0

    @property
    def lookback(self) -> int:
        """How many bars before the current one a value needs; of a run, without its warm-up."""
        return self.operator.kind.lookback(self.params)

    def kind_as(self, kind: type[SomeKind]) -> SomeKind:
        """
        The operator's kind.

        Raises:
            TypeError: It is another one.
        """
        own = self.operator.kind
        if not isinstance(own, kind):
            raise TypeError(f"{self.operator.name} is no {kind.__name__}")
        return own


@dataclass(slots=True, eq=False)
class Ref:
    """One output of a call."""

    call: Call
    out: int


class Calls:
    """
    Hash-consed calls of any number of plans.

    A call lives while a plan node or another call uses it.
    """

    def __init__(self) -> None:
        self._calls: dict[object, Call] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, plan: Plan) -> tuple[Ref, ...]:
        """The references of a plan's nodes; each node counts as one use of its call."""
        refs: list[Ref] = []
        for node in plan.nodes:
            ref = self._lowered(node, tuple(refs[arg] for arg in node.args))
            ref.call.uses += 1
            refs.append(ref)
        return tuple(refs)

    def add_before(self, ref: Ref, timeframe: str) -> Ref:
        """The value of *ref* one bar of *timeframe* before, as one use of its call."""
        call = self._call(BEFORE, (ref,), {"n": 1}, axis=Axis(timeframe))
        call.uses += 1
        return call.refs[0]

    def drop(self, refs: Iterable[Ref]) -> list[Call]:
        """Undo `add`; the calls that nobody uses any more are forgotten and returned, users before what they used."""
        gone = []
        pending = list(refs)
        while pending:
            call = pending.pop().call
            call.uses -= 1
            if not call.uses:
                del self._calls[call.key]
                gone.append(call)
                pending.extend(call.args)
        return gone

    def _lowered(self, node: Node, args: tuple[Ref, ...]) -> Ref:
        rule = rule_for(node, fields=reads_own_fields(args))
        if rule is None:
            return self._call(OPERATORS[node.op], args, node.params).refs[node.out]
        ref: Ref = rule.made(self._made_of, args, node)
        return ref

    def _made_of(self, operator: str, *args: Ref, **params: Any) -> Ref:
        return self._call(OPERATORS[operator], args, params).refs[0]

    def _call(
        self, operator: Operator, args: tuple[Ref, ...], params: Params, *, axis: Axis | None = None
    ) -> Call:
        # A live Ref keeps its id.
        key = (operator.name, axis, *(id(ref) for ref in args), *params.values())
        call = self._calls.get(key)
        if call is None:
            if axis is None:
                axis = operator.kind.axis(params, [ref.call.axis for ref in args])
            value_bools = [
                ref.call.is_bool for at, ref in enumerate(args) if operator.input_kind(at) == "any"
            ]
            is_bool = all(value_bools) if operator.returns == "same" else operator.returns == "bool"
            call = Call(self._made, operator, params, args, axis, is_bool, key)
            call.totals = _totals(call)
            call.refs = tuple(Ref(call, out) for out in range(len(operator.outputs)))
            for ref in args:
                ref.call.uses += 1
            self._made += 1
            self._calls[key] = call
        return call


def _totals(call: Call) -> frozenset[Axis]:
    below = frozenset[Axis]().union(*(ref.call.totals for ref in call.args))
    return below | {call.axis} if call.operator.kind.total else below


def is_own_field(call: Call) -> bool:
    """Whether a call is a candle field of the symbol being screened."""
    return isinstance(call.operator.kind, Candles) and not call.params["symbol"]


def reads_own_fields(args: tuple[Ref, ...]) -> bool:
    """Whether there are arguments, and all are fields of the screened symbol's candles, on one axis."""
    return (
        bool(args)
        and all(is_own_field(ref.call) for ref in args)
        and len({ref.call.axis for ref in args}) == 1
    )


def constant_value(ref: Ref) -> Array:
    """The value of a call that depends on no candle, shape (1, 1)."""
    call = ref.call
    kind = call.operator.kind
    if isinstance(kind, Constant):
        return np.array([[float(call.params["value"])]])
    if isinstance(kind, Shift):
        return constant_value(call.args[0])
    inputs = [constant_value(arg) for arg in call.args]
    return call.kind_as(Pointwise).compute(inputs, call.params)[ref.out]
