from __future__ import annotations

import asyncio

import psycopg
import pytest

from app.coordination.hints import Channel, Hints
from app.store.pool import make_pool


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=2, name="test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


def heard(connection):
    return [(n.channel, n.payload) for n in connection.notifies(timeout=0.2)]


async def test_many_changes_are_one_hint_per_channel(pool, connection):
    connection.execute("listen vyx_trader")
    connection.execute("listen vyx_feed")
    hints = Hints(pool)

    for _ in range(100):
        hints.send(Channel.TRADER, Channel.FEED)
    await hints.close()

    assert sorted(await asyncio.to_thread(heard, connection)) == [("vyx_feed", ""), ("vyx_trader", "")]


async def test_a_hint_after_a_hint_is_sent_too(pool, connection):
    connection.execute("listen vyx_preview")
    hints = Hints(pool)

    for _ in range(2):
        hints.send(Channel.PREVIEW)
        await hints.close()

    assert await asyncio.to_thread(heard, connection) == [("vyx_preview", ""), ("vyx_preview", "")]


async def test_a_hint_that_cannot_be_sent_disturbs_nobody(dsn, connection):
    async def unreachable(*_args, **_kwargs):
        raise psycopg.OperationalError("down")

    pool = make_pool(dsn, max_size=2, name="test")
    await pool.open(wait=True)
    pool.getconn = unreachable
    hints = Hints(pool)

    hints.send(Channel.FEED)
    await hints.close()

    await pool.close()
