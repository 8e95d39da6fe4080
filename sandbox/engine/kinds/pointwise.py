"""Operators that look at one bar."""

from collections.abc import Hashable, Iterable

from sandbox.engine.calls import Call
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.rows import CHUNK_ROWS
from sandbox.engine.view import View
from sandbox.plan.operators import kind as plan_kinds
from sandbox.plan.operators.kind import Array


def over(call: Call, view: View) -> tuple[Array, ...]:
    """From the arguments at the same bars."""
    axis, start = call.axis, view.start(call)
    inputs = [view.values(ref, start, axis) for ref in call.args]
    return call.kind_as(plan_kinds.Pointwise).compute(inputs, call.params)


class Pointwise(CallGroup):
    """One pointwise operator with one set of parameters."""

    is_pointwise = True

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        return (
            call.operator.name,
            tuple(ref.call.is_bool for ref in call.args),
            tuple(call.params.values()),
        )

    def step(self, event: Event) -> Iterable[Call]:  # noqa: ARG002 - arguments are all it needs
        rows, first_call = self.shared.rows, self.calls[0]
        kind = first_call.kind_as(plan_kinds.Pointwise)
        out, args = self.out_rows(), [self.arg_rows(at) for at in range(len(first_call.args))]
        for first in range(0, len(out), CHUNK_ROWS):
            chunk = slice(first, first + CHUNK_ROWS)
            inputs = [
                rows.read(arg[chunk], is_bool=ref.call.is_bool)
                for ref, arg in zip(first_call.args, args, strict=True)
            ]
            (result,) = kind.compute(inputs, first_call.params)
            if first_call.is_bool:
                rows.bits[out[chunk]] = rows.packed(result)
            else:
                rows.floats[out[chunk]] = result
        return ()


class Logic(CallGroup):
    """and, or on packed conditions, 64 symbols at a time."""

    is_pointwise = True

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        return call.operator.name, len(call.args)

    def step(self, event: Event) -> Iterable[Call]:  # noqa: ARG002 - arguments are all it needs
        rows, join = self.shared.rows, self.calls[0].kind_as(plan_kinds.Logic).join
        result = rows.bits[self.arg_rows(0)]
        for at in range(1, len(self.calls[0].args)):
            join(result, rows.bits[self.arg_rows(at)], out=result)
        rows.bits[self.out_rows()] = result
        return ()
