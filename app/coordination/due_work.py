"""
Due work: one task that runs whenever somebody wakes it, and once more when it was woken meanwhile.

Jobs, notifications and the ledger all wake the same work, so nothing depends on which of them comes. Who asked for a run is kept,
because a slot that no job woke is a bypass to be counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog

from app.errors import Fenced, NotTrusted

log = structlog.get_logger(__name__)


class Cause(StrEnum):
    """Who wakes work: a procrastinate job, a notification, or what the ledger says is due."""

    JOB = "job"
    HINT = "hint"
    LEDGER = "ledger"


class DueWork:
    """
    Args:
        name: For the log.
        work: One run; losing the leases, or the trust in them, is the keeper's business and ends only the run.
    """

    def __init__(self, name: str, work: Callable[[frozenset[Cause]], Awaitable[object]]) -> None:
        self._name = name
        self._work = work
        self._causes: set[Cause] = set()
        self._woken = asyncio.Event()
        self._run_ended = asyncio.Event()
        self._is_closed = False

    def wake(self, cause: Cause) -> None:
        """Let it run; at once, or after the run in progress."""
        self._causes.add(cause)
        self._woken.set()

    async def wake_and_wait(self, cause: Cause) -> None:
        """Let it run and return when a run that began after this call has ended, well or not; at once when it is closed."""
        self.wake(cause)
        if not self._is_closed:
            await self._run_ended.wait()

    def close(self) -> None:
        """Let nobody wait for a run any more: there will be none."""
        self._is_closed = True
        self._run_ended.set()

    async def run(self) -> None:
        """Run whenever woken, until cancelled; what the work raises is for the supervisor."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            causes, self._causes = frozenset(self._causes), set()
            ended, self._run_ended = self._run_ended, asyncio.Event()
            try:
                await self._work(causes)
            except (Fenced, NotTrusted) as reason:
                log.info("left for later", work=self._name, reason=str(reason))
            finally:
                ended.set()
