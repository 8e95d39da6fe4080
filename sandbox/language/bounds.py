"""
Which conditions of a plan are decided before any candle is seen.

Interval arithmetic over the plan: each operator says in which interval its values lie (`Operator.bounds`) and which
conditions that decides (`Kind.decided`). Only certain answers are given. A missing value makes a condition unknown, so
"always true" means: whenever there is a value.

Example: RSI lies in 0 to 100, so `ta.rsi(c) > 200` can never be true and the filter is refused.
"""

from sandbox.plan.document import Plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.interval import Interval


def certain_truth(plan: Plan) -> list[bool | None]:
    """For each node of *plan*: true or false when that is certain, else None (always None for numbers)."""
    ranges: list[Interval] = []
    truth: list[bool | None] = []
    for node in plan.nodes:
        operator = OPERATORS[node.op]
        intervals = [ranges[arg] for arg in node.args]
        truths = [truth[arg] for arg in node.args]
        ranges.append(operator.bounds(intervals, node.params))
        truth.append(operator.kind.decided(intervals, truths, same=len(set(node.args)) == 1))
    return truth
