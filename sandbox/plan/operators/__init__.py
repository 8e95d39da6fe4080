"""
The operators a plan may use, in one registry: language, plan validation, evaluation and the reference read it.

Not decided here: how a filter's text names them (`sandbox.language`), which ones a plan may combine (`sandbox.plan.document`).
Adding an operator means adding it to one of the modules here, nothing else.
"""

from sandbox.plan.operators.bands import band_operators
from sandbox.plan.operators.each import each_operator
from sandbox.plan.operators.kind import Params
from sandbox.plan.operators.market import market_operators
from sandbox.plan.operators.model import Operator, Param
from sandbox.plan.operators.pivots import pivot_operators
from sandbox.plan.operators.pointwise import FIELDS, pointwise_operators
from sandbox.plan.operators.talib_functions import talib_operators
from sandbox.plan.operators.volume import volume_operators
from sandbox.plan.operators.windows import window_operators

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

__all__ = ["FIELDS", "OPERATORS", "Operator", "Param", "Params"]
