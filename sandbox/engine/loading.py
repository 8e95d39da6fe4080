"""
Loading: setting the newest values of calls, and what their groups keep, from the candles.

Decided here: how much is computed together, and what becomes of a call that has no value. Not decided here: which calls are
loaded and when (`sandbox.engine.live`).
"""

from collections.abc import Mapping, Sequence
from time import perf_counter

from sandbox.engine.calls import Call, OperatorError
from sandbox.engine.candles.panel import Panel
from sandbox.engine.kinds.kind import CallGroup, Event
from sandbox.engine.ranges import Computation
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis

LOADED_AT_ONCE = 8192
"""Calls computed together: each keeps the results of 400 symbols in a bar or two, 3 to 6 kB."""


class Loading:
    """
    Loads calls of *groups*, the group of each call, arguments before what uses them.

    `failed` says which calls have no value, and why. `computed` counts calls computed, `seconds` is the time that groups took
    by operator, "recomputed" that of loading.
    """

    def __init__(self, panel: Panel, each: EachRunner | None, groups: Mapping[Call, CallGroup]) -> None:
        self.failed: dict[Call, OperatorError] = {}
        self.computed = 0
        self.seconds: dict[str, float] = {}
        self._panel = panel
        self._each = each
        self._groups = groups

    def begin(self) -> None:
        """Count from nothing."""
        self.computed = 0
        self.seconds = {}

    def event(self, instant_ms: int, moving: frozenset[Axis], opened: frozenset[Axis]) -> Event:
        """An event, and what is seen at it."""
        return Event(self._view(instant_ms), moving, opened)

    def _view(self, instant_ms: int) -> Computation:
        return Computation(self._panel, instant_ms, keep_streams=True, each=self._each)

    def load(self, calls: Sequence[Call], event: Event) -> None:
        """Load calls as of an event, some at a time to bound the memory."""
        began = perf_counter()
        event.recomputed.update(calls)
        # What shares arguments is computed together.
        calls = sorted(calls, key=lambda call: (str(call.axis), call.order))
        for first in range(0, len(calls), LOADED_AT_ONCE):
            self.load_part(calls[first : first + LOADED_AT_ONCE], event.view.instant_ms)
        self.fail_users()
        self.seconds["recomputed"] = self.seconds.get("recomputed", 0.0) + perf_counter() - began

    def load_part(self, calls: Sequence[Call], instant_ms: int) -> None:
        """Load calls together; what uses one that fails is not marked yet (`fail_users`)."""
        view = self._view(instant_ms)
        for call in calls:
            self._groups[call].want(call, view)
        view.run()
        self.computed += view.computed
        for call in calls:
            self.failed.pop(call, None)
            try:
                self._groups[call].load(call, view)
            except OperatorError as error:
                self.failed[call] = error
            except Exception as error:  # noqa: BLE001 - as in `step`
                self.failed[call] = OperatorError(f"{call.operator.name}: {error}")

    def step(self, group: CallGroup, event: Event) -> None:
        """What goes wrong in a group fails its calls, which are recomputed at their next bar, and nobody else's."""
        began = perf_counter()
        try:
            for call in group.step(event):
                self.load([call], event)
        except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
            failure = OperatorError(f"{group.name}: {error}")
            self.failed |= dict.fromkeys(group.calls, failure)
        self.seconds[group.name] = self.seconds.get(group.name, 0.0) + perf_counter() - began

    def fail_users(self) -> None:
        """Mark every dependant of a failed call as failed; it is recomputed from candles at its next bar."""
        if not self.failed:
            return
        for call in self._groups:  # arguments first
            if call not in self.failed:
                cause = next((ref.call for ref in call.args if ref.call in self.failed), None)
                if cause is not None:
                    self.failed[call] = self.failed[cause]
