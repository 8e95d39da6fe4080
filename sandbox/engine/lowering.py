"""
Lowering: which operators are computed as others, so that more calls are shared.

Some TA-Lib functions are made of others, bit for bit. `RULES` lists them; each rule is one function. Bollinger bands of
widths 2.0 and 2.5 over the same 20 bars become one average and one deviation, and 4 multiplications and additions.

Not decided here: which calls are equal (`sandbox.engine.calls`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sandbox.plan.graph import Node
from sandbox.plan.operators import Params

Value = TypeVar("Value")
"""What a call's output is to whoever lowers: the rules only pass it on."""
Make = Callable[..., Any]
"""`make(operator, *inputs, **params)`: the first output of one more call."""


def _always(_params: Params) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """
    `operator` is computed by `made(make, inputs, node)`, which gives the output that the node asks for.

    It holds where `when(params)` does. With `fields_only` all inputs must be fields of the screened symbol's own candles, on one
    axis: these have no gaps, where TA-Lib's run would begin again and a window would not.
    """

    operator: str
    made: Callable[[Make, Sequence[Any], Node], Any]
    when: Callable[[Params], bool] = _always
    fields_only: bool = False


def _is_simple_average(params: Params) -> bool:
    return params["matype"] == 0


def _bands(make: Make, inputs: Sequence[Value], node: Node) -> Value:
    """BBANDS with a simple average: SMA +- width * STDDEV."""
    period = node.params["timeperiod"]
    middle: Value = make("ta.sma", *inputs, timeperiod=period)
    if node.out == 1:
        return middle
    deviation = make("ta.stddev", *inputs, timeperiod=period, nbdev=1.0)
    width = make("const", value=node.params["nbdevup" if node.out == 0 else "nbdevdn"])
    band: Value = make("add" if node.out == 0 else "sub", middle, make("mul", width, deviation))
    return band


def _highest(make: Make, inputs: Sequence[Value], node: Node) -> Value:
    """MAX is `highest`."""
    highest: Value = make("highest", *inputs, period=node.params["timeperiod"])
    return highest


def _lowest(make: Make, inputs: Sequence[Value], node: Node) -> Value:
    """MIN is `lowest`."""
    lowest: Value = make("lowest", *inputs, period=node.params["timeperiod"])
    return lowest


def _williams(make: Make, inputs: Sequence[Value], node: Node) -> Value:
    """WILLR: (highest high - close) / (highest high - lowest low) * -100; 0 where both extremes are equal."""
    high, low, close = inputs
    top = make("highest", high, period=node.params["timeperiod"])
    bottom = make("lowest", low, period=node.params["timeperiod"])
    below, height = make("sub", top, close), make("sub", top, bottom)
    scale, zero = make("const", value=-100.0), make("const", value=0.0)
    value = make("mul", make("div", below, height), scale)
    williams: Value = make("where", make("eq", top, bottom), zero, value)
    return williams


RULES = (
    Rule("ta.bbands", _bands, when=_is_simple_average),
    Rule("ta.max", _highest, fields_only=True),
    Rule("ta.min", _lowest, fields_only=True),
    Rule("ta.willr", _williams, fields_only=True),
)
"""Tried in this order; the first that holds is taken."""
_RULES_OF = {
    operator: [r for r in RULES if r.operator == operator] for operator in {r.operator for r in RULES}
}


def rule_for(node: Node, *, fields: bool) -> Rule | None:
    """The rule by which a node is lowered; *fields* says whether its inputs are what `Rule.fields_only` asks for."""
    for rule in _RULES_OF.get(node.op, ()):
        if (fields or not rule.fields_only) and rule.when(node.params):
            return rule
    return None
