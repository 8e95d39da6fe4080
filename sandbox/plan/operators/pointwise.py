"""
Operators that look at one bar only: constants, candle fields, arithmetic, comparisons, boolean logic, choice.

Rules: a comparison with NaN is false (also `ne`); a result that is not finite is NaN, so x / 0 is NaN and never
"infinitely large"; a bool in arithmetic counts as 0 or 1. Every computation here is elementwise and gives the same
bits however many symbols and bars it is given at once.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from sandbox.plan.operators.kind import Array, Candles, Constant, Logic, Params, Pointwise
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


def _logic(function: Callable[..., Any]) -> Callable[[Sequence[Array], Params], tuple[Array, ...]]:
    return lambda args, _params: (function(*args),)


def _not_equal(left: Any, right: Any) -> Any:
    return (left < right) | (left > right)  # NumPy's != calls NaN different from everything


def _where(args: Sequence[Array], _params: Params) -> tuple[Array, ...]:
    condition, yes, no = args
    return (np.where(condition, yes, no),)


def _nz(args: Sequence[Array], params: Params) -> tuple[Array, ...]:
    (values,) = args
    return (np.where(np.isnan(values), float(params["replacement"]), values),)


def _minimum(left: Any, right: Any) -> Any:
    return np.where((left < right) | np.isnan(left), left, right)


def _maximum(left: Any, right: Any) -> Any:
    return np.where((left > right) | np.isnan(left), left, right)


_A, _B, _AB = ("a",), ("b",), ("a", "b")
_ARITHMETIC: tuple[tuple[str, tuple[str, ...], Callable[..., Any], str], ...] = (
    ("add", _AB, np.add, "a + b."),
    ("sub", _AB, np.subtract, "a - b."),
    ("mul", _AB, np.multiply, "a * b."),
    ("div", _AB, np.divide, "a / b; NaN where b is 0."),
    ("mod", _AB, np.mod, "a % b with the sign of b, as in Python; NaN where b is 0."),
    ("pow", _AB, _power, "a ** b; NaN where that is not a real finite number."),
    ("neg", _A, np.negative, "-a."),
    ("abs", _A, np.abs, "Distance from zero."),
    ("min", _AB, _minimum, "The smaller of two; NaN if either is."),
    ("max", _AB, _maximum, "The larger of two; NaN if either is."),
    ("sign", _A, np.sign, "-1, 0 or 1."),
    ("floor", _A, np.floor, "The whole number at or below."),
    ("ceil", _A, np.ceil, "The whole number at or above."),
)
_COMPARISONS: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("lt", np.less, "a < b"),
    ("le", np.less_equal, "a <= b"),
    ("gt", np.greater, "a > b"),
    ("ge", np.greater_equal, "a >= b"),
    ("eq", np.equal, "a == b"),
    ("ne", _not_equal, "a != b"),
)


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
        Candles(forming),
        internal=True,
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
            Pointwise(_arithmetic(function)),
            input_kinds=tuple("float" for _ in inputs),
            internal=True,
        )
        for name, inputs, function, doc in _ARITHMETIC
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
            Pointwise(_logic(function)),
            input_kinds=("float", "float"),
            internal=True,
        )
        for name, function, doc in _COMPARISONS
    ]
    return [*_leaves(), *arithmetic, *comparisons, *_logical()]


def _logical() -> list[Operator]:
    def variadic(name: str, join: Callable[..., Any], doc: str) -> Operator:
        return Operator(
            name,
            ("terms",),
            (),
            ("value",),
            "bool",
            "Logic",
            doc,
            Logic(lambda args, _params: (reduce(join, args),), join),
            input_kinds=("bool",),
            variadic=True,
            internal=True,
        )

    return [
        variadic("and", np.bitwise_and, "True where every term is."),
        variadic("or", np.bitwise_or, "True where any term is."),
        Operator(
            "not",
            _A,
            (),
            ("value",),
            "bool",
            "Logic",
            "True where a is false.",
            Logic(_logic(np.logical_not), None),
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
            "`yes` on the bars where the condition is true, else `no`.",
            Pointwise(_where),
            input_kinds=("bool", "any", "any"),
        ),
        Operator(
            "nz",
            ("series",),
            (Param("replacement", "float", 0.0),),
            ("value",),
            "float",
            "Series",
            "The series with a number in place of NaN.",
            Pointwise(_nz),
            input_kinds=("float",),
        ),
    ]
