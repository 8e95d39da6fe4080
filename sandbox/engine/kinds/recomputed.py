"""Calls without a faster way."""

from collections.abc import Collection, Hashable, Iterable

from sandbox.engine.calls import Call
from sandbox.engine.kinds.kind import CallGroup, Event, Shared


class Recomputed(CallGroup):
    """Calls without a faster way: computed from the candles at each bar."""

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        return call.operator.name

    def restarts(self, event: Event) -> Collection[Call]:
        return self.calls if self.axis in event.moving else ()

    def step(self, event: Event) -> Iterable[Call]:  # noqa: ARG002 - `restarts` had them recomputed
        return ()
