"""
Keeps a long task running, by one rule for all: whatever way it ends unasked is a failure, and so is no progress in its own bound.

Either way it starts again with backoff. When it makes no progress in the bound twice in a row, restarting does not help: it is
hopeless, and the process gives back what it holds. procrastinate's worker, for one, returns *without* an exception when the database
goes away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from app.backoff import Backoff
from app.coordination.progress import Progress

log = structlog.get_logger(__name__)
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 3.0
HEALTHY_AFTER_S = 30.0  # a task that lived this long starts with the first backoff again
LOOK_EVERY_S = 0.25
END_WITHIN_S = 2.0  # a task that does not even end is left behind


async def supervise(
    name: str,
    task: Callable[[], Awaitable[object]],
    stopping: asyncio.Event,
    *,
    progress: Progress | None = None,
    on_hopeless: Callable[[str], None] = lambda _name: None,
) -> None:
    """
    Run *task* again and again until *stopping* is set; each end in between is logged with its reason.

    Args:
        name: For the log.
        task: Makes one life of the task.
        stopping: Set when the task shall end.
        progress: The steps that *task* takes; None: only its end is judged.
        on_hopeless: Called with *name* when a restarted task made no step either.
    """
    backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
    stalled_at: int | None = None
    while not stopping.is_set():
        started = time.monotonic()
        reason = await _run(task, progress)
        if stopping.is_set():
            return
        if progress is not None and reason is None:
            reason = f"no progress after {progress.count} steps"
            if stalled_at == progress.count:
                log.error("no progress after a restart either", task=name)
                on_hopeless(name)
            stalled_at = progress.count
            progress.rest()  # what is due says so when it begins again
        if time.monotonic() - started > HEALTHY_AFTER_S:
            backoff.reset()
        wait_s = backoff.next_s()
        log.warning("task ended, starting it again", task=name, reason=reason, wait_s=round(wait_s, 2))
        try:
            async with asyncio.timeout(wait_s):
                await stopping.wait()
        except TimeoutError:
            continue


async def _run(task: Callable[[], Awaitable[object]], progress: Progress | None) -> str | None:
    """Run once; how it ended, or None when it was ended for want of progress."""
    running = asyncio.ensure_future(task())
    try:
        while not (await asyncio.wait({running}, timeout=None if progress is None else LOOK_EVERY_S))[0]:
            if progress is not None and progress.is_overdue:
                running.cancel()
                await asyncio.wait({running}, timeout=END_WITHIN_S)
                return None
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        raise
    if running.cancelled():
        return "cancelled"
    error = running.exception()
    return "returned" if error is None else f"{type(error).__name__}: {error}"
