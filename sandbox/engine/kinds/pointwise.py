"""Operators that look at one bar."""

from sandbox.engine.kinds.kind import CallGroup, Event
from sandbox.engine.rows import CHUNK_ROWS
from sandbox.plan.operators import kind as plan_kinds


class Pointwise(CallGroup):
    """One pointwise operator with one set of parameters."""

    def step(self, event: Event) -> None:  # noqa: ARG002 - arguments are all it needs
        rows, operator, params = self.state.rows, self.calls[0].operator, self.calls[0].params
        out, args = self.out_rows(), [self.arg_rows(at) for at in range(len(self.calls[0].args))]
        refs = self.calls[0].args
        if not isinstance(operator.kind, plan_kinds.Pointwise):
            raise TypeError(f"{operator.name} does not look at one bar only")
        for first in range(0, len(out), CHUNK_ROWS):
            chunk = slice(first, first + CHUNK_ROWS)
            values = [rows.read(ref, arg[chunk]) for ref, arg in zip(refs, args, strict=True)]
            (result,) = operator.kind.compute(values, params)
            if self.calls[0].is_bool:
                rows.bits[out[chunk]] = rows.packed(result)
            else:
                rows.floats[out[chunk]] = result


class Logic(CallGroup):
    """and, or on packed conditions."""

    def step(self, event: Event) -> None:  # noqa: ARG002 - arguments are all it needs
        rows, kind = self.state.rows, self.calls[0].operator.kind
        result = rows.bits[self.arg_rows(0)]
        if not isinstance(kind, plan_kinds.Logic):
            raise TypeError(f"{self.calls[0].operator.name} is no logic")
        for at in range(1, len(self.calls[0].args)):
            kind.join(result, rows.bits[self.arg_rows(at)], out=result)
        rows.bits[self.out_rows()] = result
