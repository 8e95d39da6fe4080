"""Work that jobs, notifications and the ledger wake: one run at a time, none lost."""

from __future__ import annotations

import asyncio

import pytest

from app.coordination.due_work import Cause, DueWork
from app.errors import Fenced


@pytest.fixture
async def started():
    """A function work -> DueWork that runs."""
    tasks = []

    def start(work):
        due = DueWork("a work", work)
        tasks.append(asyncio.create_task(due.run()))
        return due

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_wakes_it_during_a_run_gets_a_run_of_its_own(started):
    """
    The run in progress may have looked before there was something to see.
    """
    may_end, runs = asyncio.Event(), []

    async def work(causes):
        runs.append(causes)
        await may_end.wait()

    due = started(work)
    due.wake(Cause.HINT)
    while not runs:
        await asyncio.sleep(0)
    waiting = [asyncio.create_task(due.wake_and_wait(Cause.JOB)) for _ in range(3)]
    await asyncio.sleep(0)

    may_end.set()
    await asyncio.gather(*waiting)

    assert runs == [{Cause.HINT}, {Cause.JOB}]


async def test_losing_the_leases_ends_only_the_run(started):
    """
    Whoever waited goes on, and the next one runs.
    """
    runs = []

    async def work(causes):
        runs.append(causes)
        raise Fenced("boot 1 is dead")

    due = started(work)
    await due.wake_and_wait(Cause.JOB)
    await due.wake_and_wait(Cause.LEDGER)

    assert runs == [{Cause.JOB}, {Cause.LEDGER}]


async def test_nobody_waits_for_work_that_is_closed():
    """
    A job of a process that leaves would hold up its end.
    """
    due = DueWork("a work", lambda _causes: asyncio.sleep(0))
    waiting = asyncio.create_task(due.wake_and_wait(Cause.JOB))
    await asyncio.sleep(0)

    due.close()
    await waiting
    await due.wake_and_wait(Cause.JOB)
