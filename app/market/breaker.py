"""
The breaker: stop asking an exchange that fails or has told us to wait, and find out with one request when it is back.

    closed ── 5 failures in a row ──> open ── 60 s, or what Retry-After said ──> half_open ── the one probe answers ──> closed
                                       ^                                            │
                                       └──────────────── the probe fails ───────────┘

Why our own: with 50 callers waiting at half-open, purgatory, aiobreaker and circuitbreaker let all 50 through.
Rules for this file: no I/O, no waiting, an injected monotonic clock. A caller that is refused gets the time to wait.
"""

import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from app.market import errors

State = Literal["closed", "half_open", "open"]

FAILURES_TO_OPEN: Final = 5
OPEN_S: Final = 60.0


class Permit(NamedTuple):
    """Leave to ask once. Its outcome counts only while the breaker has not changed state since."""

    generation: int


class Breaker:
    """
    Args:
        failures_to_open: Failures in a row that open it.
        open_s: How long it stays open.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        failures_to_open: int = FAILURES_TO_OPEN,
        open_s: float = OPEN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_to_open = failures_to_open
        self._open_s = open_s
        self._clock = clock
        self._open_until: float | None = None  # None: closed
        self._reason = ""
        self._failures = 0
        self._probing = False
        self._generation = 0

    @property
    def state(self) -> State:
        """``half_open`` is open with its time passed: the next `acquire` gets the probe."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    @property
    def generation(self) -> int:
        """Rises with every change of state; a permit of an earlier one counts no more."""
        return self._generation

    @property
    def open_for_s(self) -> float:
        """Seconds until it is no longer open; 0 when closed or half-open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def check(self) -> None:
        """
        Raise what `acquire` would raise now, without taking the probe.

        Raises:
            BreakerOpen: It is open, or half-open with its probe out.
        """
        if self.state == "open" or (self.state == "half_open" and self._probing):
            raise errors.BreakerOpen(self._reason, retry_after_s=self.open_for_s)

    def acquire(self) -> Permit:
        """
        Leave to ask once; `succeed`, `fail` or `forget` must follow with the permit.

        Raises:
            BreakerOpen: It is open, or half-open and another caller has the one probe.
        """
        self.check()
        self._probing = self.state == "half_open"
        return Permit(self._generation)

    def succeed(self, permit: Permit) -> bool:
        """The exchange answered: close, and forget earlier failures; False when that was before it refused."""
        if permit.generation != self._generation:
            return False
        self._failures = 0
        if self._open_until is not None:
            self._change(None)
        return True

    def fail(self, permit: Permit, reason: str) -> None:
        """The exchange did not answer: open when this was the probe or the last failure allowed."""
        if permit.generation != self._generation:
            return
        self._failures += 1
        if self._probing or self._failures >= self._failures_to_open:
            self.hold(self._open_s, reason)

    def forget(self, permit: Permit) -> None:
        """The request was given up without learning anything (cancelled): the probe is free again."""
        if permit.generation == self._generation:
            self._probing = False

    def hold(self, seconds: float, reason: str) -> None:
        """Open for *seconds* from now, as Retry-After says; 0 leaves one probe. Never shortens a hold already longer."""
        until = self._clock() + seconds
        if self._open_until is not None and until <= self._open_until:
            return
        self._reason = reason
        self._change(until)

    def _change(self, open_until: float | None) -> None:
        self._open_until = open_until
        self._failures = 0
        self._probing = False
        self._generation += 1
