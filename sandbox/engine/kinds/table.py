"""
The table of kinds: for each kind of operator, how its calls are computed over a range and by step.

A kind of plan (`sandbox.plan.operators.kind`) that is not listed is computed as the nearest one that it is derived from.
To add one: a module beside this one with `over` and a `CallGroup`, and a line here.
"""

from sandbox.engine.calls import Before, Call
from sandbox.engine.kinds import across, each, leaf, pointwise, run, shift, window
from sandbox.engine.kinds.across import AcrossMarket
from sandbox.engine.kinds.average import Averages
from sandbox.engine.kinds.crossing import Crossings
from sandbox.engine.kinds.kind import Kind
from sandbox.engine.kinds.leaf import CandleFields
from sandbox.engine.kinds.pointwise import Logic, Pointwise
from sandbox.engine.kinds.recomputed import Recomputed
from sandbox.engine.kinds.run import Runs
from sandbox.engine.kinds.shift import PreviousConditions, Shifts
from sandbox.engine.kinds.window import Extremes, Windows
from sandbox.plan.operators import kind as plan

KINDS: dict[type[plan.Kind], Kind] = {
    plan.Constant: Kind(leaf.constant_over, (Recomputed,)),
    plan.Candles: Kind(leaf.over, (CandleFields,)),
    plan.Pointwise: Kind(pointwise.over, (Pointwise,)),
    plan.Logic: Kind(pointwise.over, (Logic,)),
    plan.Shift: Kind(shift.over, (CandleFields, Shifts, Windows, Recomputed)),
    Before: Kind(shift.over, (PreviousConditions,)),
    plan.Window: Kind(window.over, (Windows, Recomputed)),
    plan.Change: Kind(window.over, (CandleFields, Windows, Recomputed)),
    plan.Crossing: Kind(window.over, (Crossings,)),
    plan.Extreme: Kind(window.over, (Extremes, Windows, Recomputed)),
    plan.Run: Kind(run.over, (Runs, Recomputed), run.first_input),
    plan.Average: Kind(run.over, (Averages, Runs, Recomputed), run.first_input),
    plan.Session: Kind(run.over, (Recomputed,), run.first_input),
    plan.AcrossMarket: Kind(across.over, (AcrossMarket,)),
    plan.Each: Kind(each.over, (Recomputed,)),
}


def kind_of(call: Call) -> Kind:
    """How a call is computed."""
    own = type(call.operator.kind)
    return KINDS.get(own) or next(KINDS[known] for known in own.__mro__ if known in KINDS)
