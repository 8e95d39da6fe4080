"""Operators that look across the symbols at one bar."""

import numpy as np

from sandbox.engine.kinds.kind import CallGroup, Event
from sandbox.engine.ranges import as_kind
from sandbox.plan.operators.kind import AcrossMarket as MarketKind


class AcrossMarket(CallGroup):
    """One operator that looks across the symbols: its calls are computed side by side, as bars would be."""

    def step(self, event: Event) -> None:
        rows, operator = self.state.rows, self.calls[0].operator
        refs = self.calls[0].args
        values = [
            as_kind(rows.read(ref, self.arg_rows(at)), operator.input_kind(at)).T
            for at, ref in enumerate(refs)
        ]
        axis = self.axis or ""
        present = event.computation.present(axis, event.computation.end(axis) - 1)
        if not isinstance(operator.kind, MarketKind):
            raise TypeError(f"{operator.name} does not look across the market")
        (result,) = operator.kind.compute(
            [np.broadcast_to(present, values[0].shape), *values], self.calls[0].params
        )
        rows.floats[self.out_rows()] = result.T
