"""
Keeps a long task running: whatever way it ends, unasked, is a failure, and it starts again with backoff.

procrastinate's worker, for one, returns *without* an exception when the database goes away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from app.backoff import Backoff

log = structlog.get_logger(__name__)
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 3.0
HEALTHY_AFTER_S = 30.0  # a task that lived this long starts with the first backoff again


async def supervise(name: str, task: Callable[[], Awaitable[object]], stopping: asyncio.Event) -> None:
    """Run *task* again and again until *stopping* is set; each end in between is logged with its reason."""
    backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
    while not stopping.is_set():
        started = time.monotonic()
        reason = "returned"
        try:
            await task()
        except Exception as error:  # noqa: BLE001 the supervisor's purpose: report, wait, start again
            reason = f"{type(error).__name__}: {error}"
        if stopping.is_set():
            return
        if time.monotonic() - started > HEALTHY_AFTER_S:
            backoff.reset()
        wait_s = backoff.next_s()
        log.warning("task ended, starting it again", task=name, reason=reason, wait_s=round(wait_s, 2))
        try:
            async with asyncio.timeout(wait_s):
                await stopping.wait()
        except TimeoutError:
            continue
