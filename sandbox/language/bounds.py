"""
Which conditions of a plan are decided before any candle is seen.

Interval arithmetic over the plan: prices and volumes are not negative, bounded oscillators stay in their range
(TA-Lib's definitions). Only certain answers are given; missing values make a comparison false, so "always true"
means: whenever there is a value.
"""

from collections.abc import Callable, Sequence
from math import inf

from sandbox.plan.document import Node, Plan

Interval = tuple[float, float]
_ANY: Interval = (-inf, inf)
_RANGES: dict[str, Interval] = {
    **dict.fromkeys(
        ("ta.rsi", "ta.mfi", "ta.adx", "ta.adxr", "ta.dx", "ta.plus_di", "ta.minus_di"), (0.0, 100.0)
    ),
    **dict.fromkeys(
        ("ta.stoch", "ta.stochf", "ta.stochrsi", "ta.aroon", "ta.ultosc", "percentrank"), (0.0, 100.0)
    ),
    "ta.willr": (-100.0, 0.0),
    "ta.aroonosc": (-100.0, 100.0),
    "ta.cmo": (-100.0, 100.0),
    "ta.bop": (-1.0, 1.0),
    "ta.correl": (-1.0, 1.0),
    "rank": (1.0, inf),
    "breadth": (0.0, 1.0),
    "bars": (0.0, inf),
    "forming": (0.0, inf),
    "barssince": (0.0, inf),
    "abs": (0.0, inf),
    "sign": (-1.0, 1.0),
    **dict.fromkeys(("ta.atr", "ta.natr", "ta.trange", "ta.stddev", "ta.var"), (0.0, inf)),
}
_KEEPS_RANGE = frozenset({
    "shift", "highest", "lowest", "ta.sma", "ta.wma", "ta.trima", "ta.max", "ta.min", "pivot_high", "pivot_low",
})  # fmt: skip
"""Functions whose result lies within the range of their first input."""
_SLACK = 1e-6
"""Rounding may carry an oscillator this far (relative) out of its range."""


def certain_truth(plan: Plan) -> list[bool | None]:
    """For each node of *plan*: true or false when that is certain, else None (always None for numbers)."""
    ranges: list[Interval] = []
    truth: list[bool | None] = []
    for node in plan.nodes:
        ranges.append(_interval(node, ranges))
        truth.append(_decided(node, ranges, truth))
    return truth


def _interval(node: Node, ranges: Sequence[Interval]) -> Interval:
    args = [ranges[arg] for arg in node.args]
    if node.op == "const":
        value = float(node.params["value"])
        return value, value
    if node.op in _ARITHMETIC:
        return _ARITHMETIC[node.op](*args)
    if node.op in _KEEPS_RANGE:
        return args[0]
    return _RANGES.get(node.op, _ANY)


def _product(a: Interval, b: Interval) -> Interval:
    if a[0] < 0 or b[0] < 0:
        return _ANY
    return a[0] * b[0], inf if inf in (a[1], b[1]) else a[1] * b[1]


def _quotient(a: Interval, b: Interval) -> Interval:
    return (0.0, a[1] / b[0]) if a[0] >= 0 and b[0] > 0 else _ANY


_ARITHMETIC: dict[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "neg": lambda a: (-a[1], -a[0]),
    "mul": _product,
    "div": _quotient,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
}


def _decided(node: Node, ranges: Sequence[Interval], truth: Sequence[bool | None]) -> bool | None:
    if node.op in {"lt", "le", "eq", "ne"}:
        return _compared(node, ranges)
    known = [truth[arg] for arg in node.args]
    match node.op:
        case "not":
            return None if known[0] is None else not known[0]
        case "and":
            return False if False in known else (True if None not in known else None)
        case "or":
            return True if True in known else (False if None not in known else None)
        case "shift":
            return known[0]
    return None


def _compared(node: Node, ranges: Sequence[Interval]) -> bool | None:
    left, right = node.args
    if left == right:
        return {"lt": False, "ne": False, "le": True, "eq": True}[node.op]
    (low, high), (other_low, other_high) = ranges[left], ranges[right]
    below = high - other_low + _SLACK * _size(high, other_low)
    above = other_high - low + _SLACK * _size(other_high, low)
    if node.op == "le":
        return True if below <= 0 else (False if above < 0 else None)
    if node.op == "lt":
        return True if below < 0 else (False if above <= 0 else None)
    return (node.op == "ne") if below < 0 or above < 0 else None


def _size(a: float, b: float) -> float:
    return max((abs(x) for x in (a, b) if abs(x) != inf), default=0.0)
