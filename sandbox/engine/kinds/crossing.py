"""Crossings of two series by step (over a range: `window`)."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.rows import CHUNK_ROWS
from sandbox.engine.view import View
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Crossing


class Crossings(CallGroup):
    """crossover or crossunder: the relation at the bar before is kept in a row of its own."""

    is_incremental = True

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        return call.operator.name, tuple(ref.call.is_bool for ref in call.args)

    def __init__(self, shared: Shared, axis: Axis, level: int) -> None:
        super().__init__(shared, axis, level)
        self._before: dict[Call, int] = {}

    def add(self, call: Call) -> None:
        super().add(call)
        self._before[call] = self.shared.rows.take(is_bool=True)

    def remove(self, call: Call) -> None:
        super().remove(call)
        self.shared.rows.release(self._before.pop(call), is_bool=True)

    def want(self, call: Call, view: View) -> None:
        super().want(call, view)
        view.want_args(call, bars=2)

    def load(self, call: Call, view: View) -> None:
        super().load(call, view)
        axis = call.axis
        start = view.end(axis) - (1 if view.is_closed(axis) else 2)
        left, right = (view.values(ref, start, axis)[:, 0] for ref in call.args)
        held = call.kind_as(Crossing).before(left, right)
        self.shared.rows.write(self._before[call], held, is_bool=True)

    def _read(self, position: int, chosen: Any) -> Any:
        ref = self.calls[0].args[position]
        return self.shared.rows.read(self.arg_rows(position)[chosen], is_bool=ref.call.is_bool)

    def step(self, event: Event) -> Iterable[Call]:
        rows, kind = self.shared.rows, self.calls[0].kind_as(Crossing)
        before = self.table("before", lambda: np.array([self._before[call] for call in self.calls]))
        at, is_closed = np.arange(len(self.calls))[self.stepping(event)], event.view.is_closed(self.axis)
        for first in range(0, len(at), CHUNK_ROWS):
            chunk = at[first : first + CHUNK_ROWS]
            left, right = self._read(0, chunk), self._read(1, chunk)
            now = rows.packed(kind.now(left, right))
            rows.bits[self.out_rows()[chunk]] = kind.join(now, rows.bits[before[chunk]])
            if is_closed:
                rows.bits[before[chunk]] = rows.packed(kind.before(left, right))
        return ()
