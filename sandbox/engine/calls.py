"""
Calls: one operator applied to outputs of other calls, shared by all plans that hold the same node.

Decided here: which nodes are one call, and which calls an operator is taken apart into. Not decided here: the values of
a call (`sandbox.engine.ranges`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sandbox.plan import axis as axes
from sandbox.plan.document import Plan
from sandbox.plan.graph import Node, leaf_axis
from sandbox.plan.operators import OPERATORS, Operator, Params
from sandbox.plan.operators.kind import Candles

BEFORE = replace(OPERATORS["shift"], name="before")
"""`shift` by one bar of the trigger timeframe, whatever the series' own: what `on_enter` compares with."""


@dataclass(slots=True, eq=False)
class Call:
    """
    One operator applied to outputs of other calls: what equal nodes of all plans share.

    `axis` is what `sandbox.plan.axis` says, None for a constant. `totals` are the axes of the running totals it depends on.
    `order` grows with every call made, so that arguments have a smaller one. `uses` counts the plan nodes and calls that
    need it; `refs` are its outputs. `place` belongs to whoever keeps values from slot to slot.
    """

    order: int
    operator: Operator
    params: Params
    args: tuple["Ref", ...]
    axis: str | None
    is_bool: bool
    key: object
    refs: tuple["Ref", ...] = ()
    totals: frozenset[str] = frozenset()
    uses: int = 0
    place: Any = None


@dataclass(slots=True, eq=False)
class Ref:
    """One output of a call. `row` belongs to whoever keeps values from slot to slot."""

    call: Call
    out: int
    row: int = -1


class Calls:
    """
    Hash-consed calls of any number of plans.

    A call lives while a plan node or another call uses it. Some TA-Lib functions are made of others, bit for bit, and
    are taken apart here, so that Bollinger bands of any width share one average and one deviation:

    * BBANDS with a simple average is SMA +- width * STDDEV;
    * MAX and MIN are `highest` and `lowest`, and WILLR is built on them, where the inputs are candle fields (which have
      no gaps, where a run would begin again and a window would not).
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
            ref = self._ref(node, tuple(refs[arg] for arg in node.args))
            ref.call.uses += 1
            refs.append(ref)
        return tuple(refs)

    def add_before(self, ref: Ref, timeframe: str) -> Ref:
        """The value of *ref* one bar of *timeframe* before, as one use of its call."""
        call = self._call(BEFORE, (ref,), {"n": 1}, axis=timeframe)
        call.uses += 1
        return call.refs[0]

    def _ref(self, node: Node, args: tuple[Ref, ...]) -> Ref:
        period = node.params.get("timeperiod")
        if node.op == "ta.bbands" and node.params["matype"] == 0:
            return self._band(args, node)
        if args and all(is_own_field(ref.call) for ref in args) and len({ref.call.axis for ref in args}) == 1:
            if node.op in {"ta.max", "ta.min"}:
                return self._made_of("highest" if node.op == "ta.max" else "lowest", args, period=period)
            if node.op == "ta.willr":
                return self._williams(args, period)
        return self._call(OPERATORS[node.op], args, node.params).refs[node.out]

    def _made_of(self, op: str, args: tuple[Ref, ...], **params: Any) -> Ref:
        return self._call(OPERATORS[op], args, params).refs[0]

    def _band(self, args: tuple[Ref, ...], node: Node) -> Ref:
        period = node.params["timeperiod"]
        middle = self._made_of("ta.sma", args, timeperiod=period)
        if node.out == 1:
            return middle
        deviation = self._made_of("ta.stddev", args, timeperiod=period, nbdev=1.0)
        width = self._made_of("const", (), value=node.params["nbdevup" if node.out == 0 else "nbdevdn"])
        distance = self._made_of("mul", (width, deviation))
        return self._made_of("add" if node.out == 0 else "sub", (middle, distance))

    def _williams(self, args: tuple[Ref, ...], period: Any) -> Ref:
        high, low, close = args
        top, bottom = (
            self._made_of("highest", (high,), period=period),
            self._made_of("lowest", (low,), period=period),
        )
        below, height = self._made_of("sub", (top, close)), self._made_of("sub", (top, bottom))
        scale, zero = self._made_of("const", (), value=-100.0), self._made_of("const", (), value=0.0)
        value = self._made_of("mul", (self._made_of("div", (below, height)), scale))
        return self._made_of("where", (self._made_of("eq", (top, bottom)), zero, value))

    def _call(
        self, operator: Operator, args: tuple[Ref, ...], params: Params, *, axis: str | None = None
    ) -> Call:
        key = (
            operator.name,
            axis,
            *(id(ref) for ref in args),
            *params.values(),
        )  # a live Ref keeps its id
        call = self._calls.get(key)
        if call is None:
            if isinstance(operator.kind, Candles):
                axis = leaf_axis(operator.name, params)
            own = axis or axes.joined(ref.call.axis for ref in args)
            value_bools = [
                ref.call.is_bool for at, ref in enumerate(args) if operator.input_kind(at) == "any"
            ]
            is_bool = all(value_bools) if operator.returns == "same" else operator.returns == "bool"
            call = Call(self._made, operator, params, args, own, is_bool, key)
            call.totals = _totals(call)
            call.refs = tuple(Ref(call, out) for out in range(len(operator.outputs)))
            for ref in args:
                ref.call.uses += 1
            self._made += 1
            self._calls[key] = call
        return call

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


def _totals(call: Call) -> frozenset[str]:
    below = frozenset[str]().union(*(ref.call.totals for ref in call.args))
    return below | {call.axis} if call.operator.kind.total and call.axis is not None else below


def is_own_field(call: Call) -> bool:
    """Whether a call is a candle field of the symbol being screened."""
    return isinstance(call.operator.kind, Candles) and not call.params["symbol"]


class OperatorError(Exception):
    """An operator raised while it computed; the message names it."""
