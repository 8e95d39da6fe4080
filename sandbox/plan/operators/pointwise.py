"""
Operators that look at one bar only: constants, candle fields, arithmetic, comparisons, boolean logic, choice.

Rules: a comparison with NaN is false (also `ne`); a result that is not finite is NaN, so x / 0 is NaN and never
"infinitely large"; a bool in arithmetic counts as 0 or 1. Every computation here is elementwise and gives the same
bits however many symbols and bars it is given at once.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from math import inf
from typing import Any

import numpy as np

from sandbox.plan.operators.interval import (
    ANYTHING,
    Bounds,
    Certain,
    Interval,
    anything,
    certainly_at_most,
    certainly_equal,
    certainly_less,
    certainly_unequal,
    hull,
    within,
)
from sandbox.plan.operators.kind import (
    Array,
    Candles,
    Choice,
    Comparison,
    Composed,
    Constant,
    Fill,
    Logic,
    Make,
    Params,
    Pointwise,
)
from sandbox.plan.operators.model import Operator, Param
from sandbox.plan.timeframes import TIMEFRAMES

FIELDS = ("open", "high", "low", "close", "volume")


def finite(values: Any) -> Any:
    """*values* with NaN in place of infinities (in place when an array is given)."""
    bad = ~np.isfinite(values)
    if bad.any():
        values[bad] = np.nan
    return values


def _power(base: Array, exponent: Array) -> Array:
    # Contiguous and of one shape: NumPy may use another pow for broadcast operands, one last bit apart.
    shape = np.broadcast_shapes(base.shape, exponent.shape)
    left, right = (
        np.ascontiguousarray(np.broadcast_to(x, shape), dtype=np.float64) for x in (base, exponent)
    )
    unknown = np.isnan(left) | np.isnan(right)  # C's pow calls NaN ** 0 one
    return np.where(unknown, np.nan, np.power(left, right))


def _arithmetic(function: Callable[..., Any]) -> Callable[[Sequence[Array], Params], tuple[Array, ...]]:
    def compute(args: Sequence[Array], _params: Params) -> tuple[Array, ...]:
        with np.errstate(all="ignore"):
            return (finite(function(*[np.asarray(x, dtype=np.float64) for x in args])),)

    return compute


def _elementwise(function: Callable[..., Any]) -> Callable[[Sequence[Array], Params], tuple[Array, ...]]:
    return lambda args, _params: (function(*args),)


def _not(make: Make, inputs: Sequence[int], _params: Params) -> tuple[int, ...]:
    return (make.negated(inputs[0]),)


def _not_equal(left: Any, right: Any) -> Any:
    return (left < right) | (left > right)  # NumPy's != calls NaN different from everything


def _where(args: Sequence[Array], _params: Params) -> tuple[Array, ...]:
    condition, yes, no, *denied = args
    known_no = no if not denied else np.where(denied[0], no, np.nan)
    return (np.where(condition, yes, known_no),)


def _nz(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
    (values,) = args
    return (np.where(np.isnan(values), float(params["replacement"]), values),)


def _minimum(left: Any, right: Any) -> Any:
    return np.where((left < right) | np.isnan(left), left, right)


def _maximum(left: Any, right: Any) -> Any:
    return np.where((left > right) | np.isnan(left), left, right)


def _sum(inputs: Sequence[Interval], _params: object) -> Interval:
    (a_low, a_high), (b_low, b_high) = inputs
    return a_low + b_low, a_high + b_high


def _difference(inputs: Sequence[Interval], _params: object) -> Interval:
    (a_low, a_high), (b_low, b_high) = inputs
    return a_low - b_high, a_high - b_low


def _product(inputs: Sequence[Interval], _params: object) -> Interval:
    a, b = inputs
    if a[0] < 0 or b[0] < 0:
        return ANYTHING
    return a[0] * b[0], inf if inf in (a[1], b[1]) else a[1] * b[1]


def _quotient(inputs: Sequence[Interval], _params: object) -> Interval:
    a, b = inputs
    return (0.0, a[1] / b[0]) if a[0] >= 0 and b[0] > 0 else ANYTHING


def _negative(inputs: Sequence[Interval], _params: object) -> Interval:
    return -inputs[0][1], -inputs[0][0]


def _smaller(inputs: Sequence[Interval], _params: object) -> Interval:
    a, b = inputs
    return min(a[0], b[0]), min(a[1], b[1])


def _larger(inputs: Sequence[Interval], _params: object) -> Interval:
    a, b = inputs
    return max(a[0], b[0]), max(a[1], b[1])


def _chosen(inputs: Sequence[Interval], _params: object) -> Interval:
    return hull(*inputs[1:3])


def _constant(_inputs: Sequence[Interval], params: Params) -> Interval:
    value = float(params["value"])
    return value, value


_A, _AB = ("a",), ("a", "b")
_ARITHMETIC: tuple[tuple[str, tuple[str, ...], Callable[..., Any], bool, Bounds, str], ...] = (
    ("add", _AB, np.add, True, _sum, "a + b."),
    ("sub", _AB, np.subtract, False, _difference, "a - b."),
    ("mul", _AB, np.multiply, True, _product, "a * b."),
    ("div", _AB, np.divide, False, _quotient, "a / b; NaN where b is 0."),
    ("mod", _AB, np.mod, False, anything, "a % b with the sign of b, as in Python; NaN where b is 0."),
    ("pow", _AB, _power, False, anything, "a ** b; NaN where that is not a real finite number."),
    ("neg", _A, np.negative, False, _negative, "-a."),
    ("abs", _A, np.abs, False, within(0.0, inf), "Distance from zero."),
    ("min", _AB, _minimum, True, _smaller, "The smaller of two; NaN if either is."),
    ("max", _AB, _maximum, True, _larger, "The larger of two; NaN if either is."),
    ("sign", _A, np.sign, False, within(-1.0, 1.0), "-1, 0 or 1."),
    ("floor", _A, np.floor, False, anything, "The whole number at or below."),
    ("ceil", _A, np.ceil, False, anything, "The whole number at or above."),
)
"""Name, inputs, function, whether the inputs may be exchanged, bounds, text."""


def _comparison(function: Callable[..., Any], opposite: str, certain: Certain, **rest: Any) -> Comparison:
    return Comparison(_elementwise(function), opposite=opposite, certain=certain, **rest)


def _compared() -> tuple[tuple[str, Comparison, str], ...]:
    return (
        ("lt", _comparison(np.less, "ge", certainly_less, of_itself=False), "a < b"),
        ("le", _comparison(np.less_equal, "gt", certainly_at_most, of_itself=True), "a <= b"),
        ("gt", _comparison(np.greater, "le", _swapped(certainly_less), of_itself=False, mirror="lt"), "a > b"),
        ("ge", _comparison(np.greater_equal, "lt", _swapped(certainly_at_most), of_itself=True, mirror="le"), "a >= b"),
        ("eq", _comparison(np.equal, "ne", certainly_equal, of_itself=True, is_symmetric=True), "a == b"),
        ("ne", _comparison(_not_equal, "eq", certainly_unequal, of_itself=False, is_symmetric=True), "a != b"),
    )  # fmt: skip


def _swapped(certain: Certain) -> Certain:
    return lambda a, b: certain(b, a)


def _candle_field(name: str, doc: str, *, forming: bool) -> Operator:
    return Operator(
        name,
        (),
        (
            Param("timeframe", "str", choices=tuple(TIMEFRAMES)),
            Param("field", "str", choices=FIELDS),
            Param(
                "symbol", "str", default="", doc="Empty: the symbol being screened; else one fixed symbol."
            ),
        ),
        ("value",),
        "float",
        "Leaves",
        doc,
        Candles(forming, "bars"),
        internal=True,
        bounds=within(0.0, inf),
    )


def _leaves() -> list[Operator]:
    return [
        Operator(
            "const",
            (),
            (Param("value", "float"),),
            ("value",),
            "float",
            "Leaves",
            "A number, the same on every bar.",
            Constant(),
            internal=True,
            bounds=_constant,
        ),
        _candle_field(
            "bars",
            "A field of the closed candles of a timeframe. A bar that only this symbol lacks reads flat at its previous"
            " close with volume 0; before its first candle NaN.",
            forming=False,
        ),
        _candle_field(
            "forming",
            "The same with the bar in progress as the last one, made of its closed 1m candles; of 1m itself, `bars`.",
            forming=True,
        ),
    ]


def pointwise_operators() -> list[Operator]:
    """Leaves, arithmetic, comparisons and logic."""
    arithmetic = [
        Operator(
            name,
            inputs,
            (),
            ("value",),
            "float",
            "Arithmetic",
            doc,
            Pointwise(_arithmetic(function), is_symmetric),
            input_kinds=tuple("float" for _ in inputs),
            internal=True,
            bounds=bounds,
        )
        for name, inputs, function, is_symmetric, bounds, doc in _ARITHMETIC
    ]
    comparisons = [
        Operator(
            name,
            _AB,
            (),
            ("value",),
            "bool",
            "Comparisons",
            f"{doc}; false when either is NaN.",
            kind,
            input_kinds=("float", "float"),
            internal=True,
        )
        for name, kind, doc in _compared()
    ]
    return [*_leaves(), *arithmetic, *comparisons, *_logical()]


def _logical() -> list[Operator]:
    def variadic(name: str, join: Callable[..., Any], doc: str, *, decisive: bool, opposite: str) -> Operator:
        return Operator(
            name,
            ("terms",),
            (),
            ("value",),
            "bool",
            "Logic",
            doc,
            Logic(
                lambda args, _params: (reduce(join, args),), join=join, decisive=decisive, opposite=opposite
            ),
            input_kinds=("bool",),
            variadic=True,
            internal=True,
        )

    return [
        variadic("and", np.bitwise_and, "True where every term is.", decisive=False, opposite="or"),
        variadic("or", np.bitwise_or, "True where any term is.", decisive=True, opposite="and"),
        Operator(
            "not",
            _A,
            (),
            ("value",),
            "bool",
            "Logic",
            "True where a is known to be false.",
            Composed(_not, needs_series=False),
            input_kinds=("bool",),
            internal=True,
        ),
        Operator(
            "where",
            ("condition", "yes", "no"),
            (),
            ("value",),
            "same",
            "Series",
            "`yes` on the bars where the condition is true, `no` where it is false; no value where it is unknown.",
            Choice(_where),
            input_kinds=("bool", "any", "any"),
            bounds=_chosen,
            with_negation=True,
        ),
        Operator(
            "nz",
            ("series",),
            (Param("replacement", "float", 0.0),),
            ("value",),
            "float",
            "Series",
            "The series with a number in place of NaN.",
            Fill(_nz),
            input_kinds=("float",),
        ),
    ]
