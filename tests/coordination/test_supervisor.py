"""A long task ends only when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from app.coordination import supervisor
from app.coordination.progress import Progress
from app.coordination.supervisor import supervise


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.0)
    monkeypatch.setattr(supervisor, "BACKOFF_MAX_S", 0.0)


@pytest.mark.parametrize("ending", [None, ValueError("broken"), ConnectionError("gone")])
async def test_a_task_that_ends_unasked_is_started_again(ending):
    """
    Returning counts as failing: procrastinate's worker returns when the database goes away.
    """
    stopping, starts = asyncio.Event(), []

    async def task():
        starts.append(len(starts))
        if len(starts) == 5:
            stopping.set()
        if ending is not None:
            raise ending

    await supervise("a task", task, stopping)

    assert starts == [0, 1, 2, 3, 4]


async def test_a_task_that_was_told_to_stop_is_not_started_again():
    """
    Not even once.
    """
    stopping, starts = asyncio.Event(), []
    stopping.set()

    async def task():
        starts.append(1)

    await supervise("a task", task, stopping)

    assert starts == []


async def test_the_wait_before_a_new_start_ends_when_told_to_stop(monkeypatch):
    """
    A drain does not wait for a backoff.
    """
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 1000.0)
    monkeypatch.setattr(supervisor, "BACKOFF_MAX_S", 1000.0)
    stopping, ended = asyncio.Event(), asyncio.Event()

    async def task():
        ended.set()

    supervising = asyncio.create_task(supervise("a task", task, stopping))
    await ended.wait()
    stopping.set()

    async with asyncio.timeout(5):
        await supervising


async def test_a_cancelled_supervisor_takes_its_task_along():
    """
    Cancellation is no failure to be mended.
    """
    running, cancelled = asyncio.Event(), []

    async def task():
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    supervising = asyncio.create_task(supervise("a task", task, asyncio.Event()))
    await running.wait()
    supervising.cancel()

    with pytest.raises(asyncio.CancelledError):
        await supervising
    assert cancelled == [1]


class Clock:
    """Monotonic seconds that pass when told to."""

    now = 0.0

    def __call__(self):
        return self.now


async def test_a_task_without_progress_in_its_bound_is_started_again_and_then_hopeless(monkeypatch):
    """
    Whatever it waits for: once it is given another chance, the second time in a row nothing helps.
    """
    monkeypatch.setattr(supervisor, "LOOK_EVERY_S", 0)
    clock, stopping, starts = Clock(), asyncio.Event(), []
    progress = Progress(10, clock)

    async def task():
        starts.append(clock.now)
        progress.expect()
        clock.now += 11
        await asyncio.Event().wait()

    await supervise("a task", task, stopping, progress=progress, on_hopeless=lambda _name: stopping.set())

    assert len(starts) == 2


async def test_a_step_between_two_stalls_makes_them_two_first_ones(monkeypatch):
    """
    It got further each time.
    """
    monkeypatch.setattr(supervisor, "LOOK_EVERY_S", 0)
    clock, stopping, starts, hopeless = Clock(), asyncio.Event(), [], []
    progress = Progress(10, clock)

    async def task():
        starts.append(clock.now)
        if len(starts) == 4:
            stopping.set()
            return
        progress.step()
        clock.now += 11
        await asyncio.Event().wait()

    await supervise("a task", task, stopping, progress=progress, on_hopeless=hopeless.append)

    assert len(starts) == 4
    assert hopeless == []


async def test_a_task_that_rests_is_not_judged(monkeypatch):
    """
    Nothing to do is no stall, however long it lasts.
    """
    monkeypatch.setattr(supervisor, "LOOK_EVERY_S", 0)
    clock, stopping, starts = Clock(), asyncio.Event(), []
    progress = Progress(10, clock)

    async def task():
        starts.append(clock.now)
        progress.step()
        progress.rest()
        clock.now += 1000
        for _ in range(20):
            await asyncio.sleep(0)
        stopping.set()

    await supervise("a task", task, stopping, progress=progress)

    assert len(starts) == 1
