"""Calls without a faster way."""

from collections.abc import Iterable

from sandbox.engine.calls import Call
from sandbox.engine.kinds.kind import CallGroup, Event


class Recomputed(CallGroup):
    """Calls without a faster way: computed at each bar."""

    def restarts(self, event: Event) -> Iterable[Call]:
        return self.calls if self.axis in event.moving else ()

    def step(self, event: Event) -> None:
        """Nothing: `restarts` had them computed."""
