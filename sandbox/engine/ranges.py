"""
Values of calls over a stretch of bars, from the candles alone: the one meaning of every operator on a panel.

Decided here: which bars of which calls are needed, and in which order they are computed. Not decided here: what is seen
at an instant (`sandbox.engine.view`), how a call of one kind is computed (`sandbox.engine.kinds`), which traders are due,
and what is kept from one slot to the next (`sandbox.engine.screen`).

Rules that make a value a fact of its bar alone:

* The run that gives a recursive function its value at a bar starts `lookback + warmup` bars before the first bar of
  the block (absolute bar number // BLOCK_BARS) that holds the bar. Warm-up is counted in bars that exist. A running
  total is one run at each instant, that of the newest bar's block, so that what looks back on it compares like with
  like; whatever depends on it is a fact of the instant (`Call.totals`).
* Only finite numbers reach a run. Where an input is NaN the output is NaN, and the run begins again behind it.

Example: `ta.ema(m1.close, 20)` at bar 1000, in block 7 (bars 896 to 1023): its run starts 19 + 207 bars before bar 896.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sandbox.engine.calls import Call, OperatorError, constant_value
from sandbox.engine.kinds.table import kind_of
from sandbox.engine.view import View
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Array, Each


@dataclass(slots=True)
class Computation(View):
    """
    A view whose values are computed: `want` what is needed, `run`, then read `values`.

    `computed` counts the calls computed.
    """

    computed: int = 0

    def run(self) -> None:
        """Compute everything wanted and what that needs, each call once."""
        with np.errstate(all="ignore"):
            planned = self._planned()
            while planned:
                planned = self._round(planned)

    def _round(self, planned: Sequence[Call]) -> list[Call]:
        """
        Compute all calls not blocked by a user's function, then the functions that are ready, in fair-share order.

        Returns the calls still blocked.
        """
        functions: list[Call] = []
        blocked: list[Call] = []
        waited_for: set[Call] = set()
        for call in planned:
            if waited_for and any(ref.call in waited_for for ref in call.args):
                blocked.append(call)
            elif isinstance(call.operator.kind, Each) and self.each is not None:
                functions.append(call)
            else:
                self._compute(call)
                continue
            waited_for.add(call)
        if functions and self.each is not None:
            for call in self.each.in_turn(functions):
                self._compute(call)
        return blocked

    def _planned(self) -> list[Call]:
        """All calls needed, arguments first; on the way down each gets the earliest start anyone asks of it."""
        pending = set(self.starts)
        stack = list(pending)
        while stack:
            for ref in stack.pop().args:
                if ref.call not in pending:
                    pending.add(ref.call)
                    stack.append(ref.call)
        ordered = sorted(pending, key=lambda call: call.order)
        for call in reversed(ordered):
            if call.axis is Axis.CONSTANT or not call.args:
                continue
            first = kind_of(call).first_input(call, self)
            for ref in call.args:
                if ref.call.axis is not Axis.CONSTANT:
                    self.want(ref.call, self.seen_from(call.axis, first, ref.call.axis))
        return ordered

    def _compute(self, call: Call) -> None:
        self.keep(call, self._computed(call))
        self.computed += 1

    def _computed(self, call: Call) -> tuple[Array, ...] | OperatorError:
        try:
            if call.axis is Axis.CONSTANT:
                return (constant_value(call.refs[0]),)
            return kind_of(call).over(call, self)
        except OperatorError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
            return OperatorError(f"{call.operator.name}: {error}")
