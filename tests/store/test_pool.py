"""Every call to the database ends on this side, too."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from app.store.pool import NoAnswer, Path, answers, connect_direct, make_pool, patient, refusal_of
from tests import world


@pytest.fixture
def path():
    return Path()


@pytest.fixture
async def pool(dsn, path):
    pool = make_pool(dsn, max_size=2, name="vyx-test", path=path, answer_within_s=0.5)
    await pool.open(wait=True)
    yield pool
    await pool.close()


async def test_a_call_without_an_answer_ends_and_its_connection_is_closed(pool, path):
    """
    The server would go on for ever; whoever waits does not, and the pool makes another connection.
    """
    async with pool.connection() as connection:
        with pytest.raises(NoAnswer, match=r"no answer within 0\.5 s"):
            await connection.execute("select pg_sleep(60)")
        assert connection.closed

    assert path.is_silent()
    async with pool.connection() as connection:
        await connection.execute("select 1")
    assert not path.is_silent()


async def test_an_answer_that_keeps_coming_may_take_longer(pool):
    """
    The deadline begins anew with everything that arrives.
    """
    slow = "select pg_sleep(0.05), repeat('x', 20000) from generate_series(1, 20)"
    async with pool.connection() as connection:
        rows = await (await connection.execute(slow)).fetchall()

    assert len(rows) == 20


async def test_pruning_has_more_patience_and_gives_it_back(pool):
    """
    For one block only: the connection goes back to the pool as it was.
    """
    async with patient(pool, 10) as connection:
        await connection.execute("select pg_sleep(0.7)")

    for _ in range(2):
        async with pool.connection() as connection:
            with pytest.raises(NoAnswer):
                await connection.execute("select pg_sleep(60)")


async def test_a_cancelled_call_ends_its_statement_on_the_server_too(pool, connection):
    """
    And leaves a connection that can be used.
    """
    running = "select count(*) from pg_stat_activity where application_name = 'vyx-test' and state = 'active'"
    async with pool.connection() as pooled:
        call = asyncio.create_task(pooled.execute("select pg_sleep(0.45)"))
        await world.eventually(lambda: world.call(connection, running) == (1,))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert world.call(connection, running) == (0,)
        assert not pooled.closed


async def test_waiting_for_a_notification_is_no_missing_answer(dsn):
    """
    It has a bound of its own.
    """
    direct = await connect_direct(dsn, name="vyx-test", statement_timeout_s=0.1)
    try:
        await direct.execute("listen nothing")
        assert [n async for n in direct.notifies(timeout=1.5, stop_after=1)] == []
    finally:
        await direct.close()


async def test_a_server_that_refuses_has_answered(dsn, connection):
    """
    No free connection is another matter than a dead link: nothing is given back for it, and health says it.
    """
    connection.execute("create role crowded login connection limit 0")
    crowded = psycopg.conninfo.make_conninfo(dsn, user="crowded")

    assert await answers(crowded, within_s=5)
    assert "too many connections" in await refusal_of(crowded, within_s=5)

    assert await refusal_of(dsn, within_s=5) is None
    connection.execute("drop role crowded")
