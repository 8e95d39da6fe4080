"""Crossings of two series."""

from typing import Any

import numpy as np

from sandbox.engine.calls import Call, Ref
from sandbox.engine.kinds.kind import CallGroup, Event, State
from sandbox.engine.rows import CHUNK_ROWS
from sandbox.plan.operators.kind import Crossing


class Crossings(CallGroup):
    """crossover or crossunder: the relation at the bar before stands in a row of its own."""

    carried = True

    def __init__(self, state: State, axis: str | None) -> None:
        super().__init__(state, axis)
        self._before: dict[Call, int] = {}

    def add(self, call: Call) -> None:
        super().add(call)
        self._before[call] = self.state.rows.take(is_bool=True)

    def release(self, call: Call) -> None:
        self.state.rows.release(self._before.pop(call), is_bool=True)

    def want(self, call: Call, event: Event) -> None:
        super().want(call, event)
        event.want_args(call, 1)

    def load(self, call: Call, event: Event) -> None:
        super().load(call, event)
        axis = call.axis or ""
        start = event.computation.end(axis) - (1 if event.settled(axis) else 2)
        left, right = (event.computation.values(ref, start, axis)[:, 0] for ref in call.args)
        self.state.rows.write(self._before[call], self._before_holds(left, right), is_bool=True)

    def _read(self, ref: Ref, rows: Any) -> Any:
        return self.state.rows.read(ref, rows)

    @property
    def _kind(self) -> Crossing:
        kind = self.calls[0].operator.kind
        if not isinstance(kind, Crossing):
            raise TypeError(f"{self.calls[0].operator.name} is no crossing")
        return kind

    def _before_holds(self, left: Any, right: Any) -> Any:
        return self._kind.before(left, right)

    def step(self, event: Event) -> None:
        rows = self.state.rows
        stale = self.unloaded(event)
        out = self.out_rows()[stale]
        before = self.table("before", lambda: np.array([self._before[call] for call in self.calls]))[stale]
        kind, settled = self._kind, event.settled(self.axis)
        for first in range(0, len(out), CHUNK_ROWS):
            chunk = slice(first, first + CHUNK_ROWS)
            refs = self.calls[0].args
            left, right = (self._read(ref, self.arg_rows(at)[stale][chunk]) for at, ref in enumerate(refs))
            now = rows.packed(kind.now(left, right))
            rows.bits[out[chunk]] = kind.join(now, rows.bits[before[chunk]])
            if settled:
                rows.bits[before[chunk]] = rows.packed(self._before_holds(left, right))
