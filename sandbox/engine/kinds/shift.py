"""Values of computed series some bars ago."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.candles.frame import Ints
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.view import View
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Array

CHAIN_BARS_MAX = 16
"""Longest `s[n]` kept as a chain of rows; a longer one is a window."""


def over(call: Call, view: View) -> tuple[Array, ...]:
    """The argument, that many bars earlier."""
    n = call.lookback
    shifted = view.values(call.args[0], view.start(call) - n, call.axis)
    return (shifted[:, : shifted.shape[1] - n],)


class Shifts(CallGroup):
    """
    s[n] of computed series: a chain of rows, each the value one bar before the next one's.

    They move before any group steps, while rows still hold the bar before. Example: s[2] is the chain s, x, s[2]; when a
    bar opens, x becomes what s is, and s[2] what x was.
    """

    is_incremental = True
    is_shifting = True

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        return (call.is_bool,) if call.lookback <= CHAIN_BARS_MAX else None

    def __init__(self, shared: Shared, axis: Axis, level: int) -> None:
        super().__init__(shared, axis, level)
        self._chains: dict[Call, list[int]] = {}

    def add(self, call: Call) -> None:
        super().add(call)
        rows = self.shared.rows
        between = [rows.take(is_bool=call.is_bool) for _ in range(call.lookback - 1)]
        self._chains[call] = [rows.of(call.args[0]), *between, rows.of(call.refs[0])]

    def remove(self, call: Call) -> None:
        super().remove(call)
        for row in self._chains.pop(call)[1:-1]:
            self.shared.rows.release(row, is_bool=call.is_bool)

    def want(self, call: Call, view: View) -> None:
        view.want_args(call, bars=call.lookback + 1)

    def load(self, call: Call, view: View) -> None:
        n, axis = call.lookback, call.axis
        values = view.values(call.args[0], view.end(axis) - 1 - n, axis)
        for ago, row in enumerate(self._chains[call][1:], start=1):
            self.shared.rows.write(row, values[:, n - ago], is_bool=call.is_bool)

    def shifted(self) -> tuple[bool, Ints, Any] | None:
        chains = self._chains.values()
        to = self.table("to", lambda: np.array([row for chain in chains for row in chain[1:]]))
        source = self.table("from", lambda: np.array([row for chain in chains for row in chain[:-1]]))
        is_bool, rows = self.calls[0].is_bool, self.shared.rows
        return is_bool, to, (rows.bits if is_bool else rows.floats)[source]

    def step(self, event: Event) -> Iterable[Call]:  # noqa: ARG002 - `shifted` moved them
        return ()


class PreviousConditions(Shifts):
    """
    Conditions one trigger bar ago, for `on_enter`.

    A new one is not computed: few traders match, so those that do are screened from scratch once (`Shared.unknown`).
    """

    def want(self, call: Call, view: View) -> None:
        """Nothing."""

    def load(self, call: Call, view: View) -> None:  # noqa: ARG002 - nothing is loaded
        """Clear the row: what it holds from before (a correction, another trader's row) would hide a match."""
        for row in self._chains[call][1:]:
            self.shared.rows.write(row, values=False, is_bool=True)
        self.shared.unknown.add(call)

    def remove(self, call: Call) -> None:
        super().remove(call)
        self.shared.unknown.discard(call)

    def step(self, event: Event) -> Iterable[Call]:
        if self.shared.unknown:
            known = [call for call in self.calls if call not in event.recomputed]
            self.shared.unknown.difference_update(known)
        return ()
