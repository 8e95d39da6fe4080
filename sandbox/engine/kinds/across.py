"""Operators that look across the symbols at one bar."""

from collections.abc import Hashable, Iterable

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.view import View, as_input, no_bars
from sandbox.plan.operators import kind as plan_kinds
from sandbox.plan.operators.kind import Array


def over(call: Call, view: View) -> tuple[Array, ...]:
    """From the arguments of all symbols at the same bars, and which symbols have these bars."""
    start = view.start(call)
    inputs = view.inputs(call, start)
    present = view.present(call.axis, start)
    if not present.shape[1]:
        return no_bars(call)
    shaped = [present, *(np.broadcast_to(values, present.shape) for values in inputs)]
    return call.kind_as(plan_kinds.AcrossMarket).compute(shaped, call.params)


class AcrossMarket(CallGroup):
    """One operator that looks across the symbols: its calls are computed side by side, as bars would be."""

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        return call.operator.name, tuple(ref.call.is_bool for ref in call.args)

    def step(self, event: Event) -> Iterable[Call]:
        rows, first = self.shared.rows, self.calls[0]
        inputs = [
            as_input(rows.read(self.arg_rows(at), is_bool=ref.call.is_bool), first.operator.input_kind(at)).T
            for at, ref in enumerate(first.args)
        ]
        axis = self.axis
        present = event.view.present(axis, event.view.end(axis) - 1)
        shaped = [np.broadcast_to(present, inputs[0].shape), *inputs]
        (result,) = first.kind_as(plan_kinds.AcrossMarket).compute(shaped, first.params)
        rows.floats[self.out_rows()] = result.T
        return ()
