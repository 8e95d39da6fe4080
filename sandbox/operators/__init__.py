"""
The operators a plan may use, in one registry: language, plan validation, evaluation and the reference read it.

Not decided here: how a filter's text names them (`sandbox.language`), which ones a plan may combine (`sandbox.plan`).
Adding an operator means adding it to one of the modules here, nothing else.
"""

from sandbox.operators.bands import band_operators
from sandbox.operators.each import each_operator
from sandbox.operators.market import market_operators
from sandbox.operators.model import Operator, Param, Params
from sandbox.operators.pivots import pivot_operators
from sandbox.operators.pointwise import FIELDS, TIMEFRAMES_S, pointwise_operators
from sandbox.operators.talib_functions import talib_operators
from sandbox.operators.volume import volume_operators
from sandbox.operators.windows import window_operators

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        *pointwise_operators(),
        *window_operators(),
        *market_operators(),
        *band_operators(),
        *volume_operators(),
        *pivot_operators(),
        *talib_operators(),
        each_operator(),
    )
}
"""Every operator by name; internal ones (`Operator.internal`) are what syntax such as `a + b` or `s[1]` turns into."""

__all__ = ["FIELDS", "OPERATORS", "TIMEFRAMES_S", "Operator", "Param", "Params"]
