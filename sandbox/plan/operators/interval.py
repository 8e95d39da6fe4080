"""
Which values an operator can give at all, as intervals: what `sandbox.language.bounds` walks a plan with.

An interval is [low, high], both inclusive, of the values that are numbers; a missing value (NaN) lies in every interval.
Example: RSI lies in [0, 100], so `ta.rsi(c) > 200` is never true, and `ta.rsi(c) >= 0` is true wherever RSI has a value.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf

Interval = tuple[float, float]
Bounds = Callable[[Sequence[Interval], Mapping[str, int | float | str]], Interval]
"""`bounds(inputs, params)`: the interval of the outputs, from those of the inputs."""
Certain = Callable[[Interval, Interval], bool | None]
"""Whether a comparison holds for all values of two intervals (True), for none (False), or that depends (None)."""

ANYTHING: Interval = (-inf, inf)
SLACK = 1e-6
"""Rounding may carry an oscillator this far (relative) out of its range."""


def anything(_inputs: Sequence[Interval], _params: object) -> Interval:
    return ANYTHING


def within(low: float, high: float) -> Bounds:
    """A fixed range, whatever the inputs."""
    return lambda _inputs, _params: (low, high)


def of_first(inputs: Sequence[Interval], _params: object) -> Interval:
    """The result is one of the first input's values, or lies between two of them."""
    return inputs[0]


def hull(*intervals: Interval) -> Interval:
    """The smallest interval that holds all of them."""
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def certainly_less(a: Interval, b: Interval) -> bool | None:
    return True if _gap(a, b) < 0 else (False if _gap(b, a) <= 0 else None)


def certainly_at_most(a: Interval, b: Interval) -> bool | None:
    return True if _gap(a, b) <= 0 else (False if _gap(b, a) < 0 else None)


def certainly_equal(a: Interval, b: Interval) -> bool | None:
    return False if _gap(a, b) < 0 or _gap(b, a) < 0 else None


def certainly_unequal(a: Interval, b: Interval) -> bool | None:
    return True if _gap(a, b) < 0 or _gap(b, a) < 0 else None


def _gap(a: Interval, b: Interval) -> float:
    """How far the highest value of *a* reaches above the lowest of *b*; below 0 when all of *a* lies below *b*."""
    high, low = a[1], b[0]
    size = max((abs(x) for x in (high, low) if abs(x) != inf), default=0.0)
    return high - low + SLACK * size
