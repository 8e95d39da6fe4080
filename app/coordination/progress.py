"""
How far each long task of a process is: reported in the beat, read by health, and judged by the supervisor.

A task says when it takes a step, within which time the next one is due, and when it has nothing to do. Nothing here does I/O, and all
of it may be read from another thread (the beat's).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypedDict


class Report(TypedDict):
    """One task in ``vyx.machine_heartbeats.progress``; ``bound_s`` is None while nothing is due."""

    count: int
    idle_s: float
    bound_s: float | None


class Progress:
    """
    The steps of one task.

    Args:
        bound_s: Within which time a step follows the one before, unless the task says otherwise.
        clock: Monotonic seconds.
    """

    def __init__(self, bound_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound_s = bound_s
        self._clock = clock
        self._stepped_at = clock()
        self._bound: float | None = None
        self.count = 0

    def step(self, *, within_s: float | None = None) -> None:
        """One step is done; the next is due in *within_s*, by default the task's own bound."""
        self.count += 1
        self.expect(within_s=within_s)

    def expect(self, *, within_s: float | None = None) -> None:
        """Something is to be done from now on; it counts as no step."""
        self._stepped_at = self._clock()
        self._bound = self._bound_s if within_s is None else within_s

    def rest(self) -> None:
        """Nothing is to be done."""
        self._bound = None

    @property
    def is_expected(self) -> bool:
        return self._bound is not None

    @property
    def is_overdue(self) -> bool:
        bound = self._bound
        return bound is not None and self._clock() - self._stepped_at > bound

    def report(self) -> Report:
        return Report(
            count=self.count, idle_s=round(self._clock() - self._stepped_at, 1), bound_s=self._bound
        )


class Board:
    """The tasks of one process, by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Progress] = {}

    def add(self, name: str, *, bound_s: float) -> Progress:
        """A task's progress, made at the first call."""
        return self._tasks.setdefault(name, Progress(bound_s))

    def report(self) -> dict[str, Report]:
        """What the beat carries."""
        return {name: progress.report() for name, progress in tuple(self._tasks.items())}
