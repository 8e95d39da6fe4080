"""A long task ends only when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from app.coordination import supervisor
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
