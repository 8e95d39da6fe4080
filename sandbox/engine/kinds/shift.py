"""Values of computed series some bars ago."""

from typing import Any

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.candles.frame import Ints
from sandbox.engine.kinds.kind import CallGroup, Event, State


class Shifts(CallGroup):
    """
    s[n] of computed series: a chain of rows, each the value one bar before the next one's.

    Moved on before everything else, when the rows still hold the bar before.
    """

    carried = True

    def __init__(self, state: State, axis: str | None) -> None:
        super().__init__(state, axis)
        self._chains: dict[Call, list[int]] = {}

    def add(self, call: Call) -> None:
        super().add(call)
        between = [self.state.rows.take(is_bool=call.is_bool) for _ in range(int(call.params["n"]) - 1)]
        self._chains[call] = [call.args[0].row, *between, call.refs[0].row]

    def release(self, call: Call) -> None:
        for row in self._chains.pop(call)[1:-1]:
            self.state.rows.release(row, is_bool=call.is_bool)

    def want(self, call: Call, event: Event) -> None:
        event.want_args(call, int(call.params["n"]))

    def load(self, call: Call, event: Event) -> None:
        n, axis = int(call.params["n"]), call.axis or ""
        start = event.computation.end(axis) - 1 - n
        values = event.computation.values(call.args[0], start, axis)
        for ago, row in enumerate(self._chains[call][1:], start=1):
            self.state.rows.write(row, values[:, n - ago], is_bool=call.is_bool)

    def moved(self) -> tuple[bool, Ints, Any]:
        """Kind, rows, and their values at the coming bar."""
        chains = self._chains.values()
        to = self.table("to", lambda: np.array([row for chain in chains for row in chain[1:]]))
        source = self.table("from", lambda: np.array([row for chain in chains for row in chain[:-1]]))
        is_bool = self.calls[0].is_bool
        return is_bool, to, (self.state.rows.bits if is_bool else self.state.rows.floats)[source]

    def step(self, event: Event) -> None:
        """Nothing: `LiveValues` moved the rows at the beginning of the event."""


class PreviousConditions(Shifts):
    """
    Conditions one trigger bar ago, for `on_enter`.

    A new one is not computed: few traders match, so those that do are screened anew once (`State.unknown`).
    """

    def want(self, call: Call, event: Event) -> None:
        """Nothing."""

    def load(self, call: Call, event: Event) -> None:  # noqa: ARG002 - nothing is loaded
        """Clear the row: what it holds from before (a correction, another trader's row) would hide a match."""
        for row in self._chains[call][1:]:
            self.state.rows.write(row, values=False, is_bool=True)
        self.state.unknown.add(call)

    def release(self, call: Call) -> None:
        super().release(call)
        self.state.unknown.discard(call)

    def step(self, event: Event) -> None:
        if self.state.unknown:
            self.state.unknown.difference_update(call for call in self.calls if call not in event.loaded)
