"""
At most so many calls in ANY window: also in one that begins in the middle of two.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.store.rate_limits import Limit, allow_call, calls_left

T0 = datetime(2024, 5, 1, 12, tzinfo=UTC)
LIMIT = Limit("test", 10, timedelta(seconds=60))


@pytest.fixture
async def database(dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection


async def test_the_eleventh_call_of_a_minute_is_refused_until_the_first_is_a_minute_old(database):
    user = uuid.uuid4()
    for second in range(10):
        assert (await allow_call(database, user, LIMIT, now=T0 + timedelta(seconds=second))).allowed

    refused = await allow_call(database, user, LIMIT, now=T0 + timedelta(seconds=20))
    later = await allow_call(database, user, LIMIT, now=T0 + timedelta(seconds=60))

    assert not refused.allowed
    assert refused.remaining == 0
    assert refused.retry_after == timedelta(seconds=40)
    assert later.allowed


async def test_a_refused_call_is_not_counted(database):
    user = uuid.uuid4()
    for _ in range(30):
        await allow_call(database, user, LIMIT, now=T0)

    left = await calls_left(database, user, LIMIT, now=T0 + timedelta(seconds=61))

    assert left.remaining == 10


async def test_kinds_and_users_are_counted_apart(database):
    user = uuid.uuid4()
    for _ in range(10):
        await allow_call(database, user, LIMIT, now=T0)

    assert (await allow_call(database, uuid.uuid4(), LIMIT, now=T0)).allowed
    assert (await allow_call(database, user, Limit("other", 10, LIMIT.window), now=T0)).allowed


async def test_looking_counts_nothing(database):
    user = uuid.uuid4()
    await allow_call(database, user, LIMIT, now=T0)

    for _ in range(3):
        left = await calls_left(database, user, LIMIT, now=T0 + timedelta(seconds=10))

    assert left.remaining == 9
    assert left.reset_after == timedelta(seconds=50)


async def test_no_window_of_any_placement_holds_more_than_the_limit(database):
    """Random calls, five in three seconds at most: every window of three seconds is checked."""
    limit = Limit("window", 5, timedelta(seconds=3))
    import asyncio

    loop = asyncio.get_running_loop()

    async def run(steps):
        user, now, allowed = uuid.uuid4(), T0, []
        for milliseconds in steps:
            now += timedelta(milliseconds=milliseconds)
            verdict = await allow_call(database, user, limit, now=now)
            if verdict.allowed:
                allowed.append(now)
            else:
                assert verdict.retry_after > timedelta(0)
                recent = [a for a in allowed if a > now - limit.window]
                assert len(recent) == 5, "refused although there was room"
        for i, begin in enumerate(allowed):
            assert sum(begin <= other < begin + limit.window for other in allowed[i:]) <= 5

    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.integers(0, 1500), min_size=10, max_size=40))
    def any_steps(steps):
        asyncio.run_coroutine_threadsafe(run(steps), loop).result(30)

    await asyncio.to_thread(any_steps)
