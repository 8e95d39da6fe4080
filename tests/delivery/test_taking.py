"""
Taking what is due: which rows a claim reads, whose turn it is, and what two senders do at once.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from app.delivery import outbox
from app.delivery.rules.taking import Room
from app.store import queries
from tests.delivery.conftest import Screen
from tests.world import add_user, at

ROOM = Room(total=100, per_user=100, of_destinations={}, of_users={})


@pytest.fixture
def many(connection):
    """So many deliveries due at a destination."""

    def put(destination, user, count):
        connection.execute(
            """insert into vyx.deliveries (source_id, destination_id, user_id, trader_id, symbol, triggered_at, expires_at)
               select 1000000 + n, %s, %s, gen_random_uuid(), 'S', %s, now() + interval '1 day' from generate_series(1, %s) n""",
            (destination, user, at(1), count),
        )
        connection.execute("analyze vyx.deliveries")

    return put


async def test_what_waits_behind_one_destination_is_not_read_for_the_others(make, many, user, connection):
    made = [await make(name=f"d{n}") for n in range(5)]
    many(made[0].destination.id, user, 50_000)
    connection.execute(
        "update vyx.destination_queues set held_until = now() + interval '1 h' where destination_id = %s",
        (made[0].destination.id,),
    )
    for one in made[1:]:
        many(one.destination.id, user, 1)

    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(
            "explain (analyze, format json) " + queries.load("deliveries")["ready_destinations"],
            {"busy": [], "users_in_flight": "{}", "limit": 100, "count_max": 16, "now": None},
        )
        plan = json.dumps(cursor.fetchone()[0])

    read = [
        int(node["Actual Rows"] * node["Actual Loops"])
        for node in _nodes(json.loads(plan)[0]["Plan"])
        if node.get("Relation Name") == "deliveries"
    ]
    assert sum(read) < 100


def _nodes(node):
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


async def test_every_users_first_comes_before_anyones_second(make, many, user, connection, pool):
    for n in range(3):
        many((await make(name=f"d{n}")).destination.id, user, 1)
    other = add_user(connection)
    theirs = await make(owner=other)
    many(theirs.destination.id, other, 1)
    connection.execute(
        "update vyx.deliveries set next_attempt_at = now() + interval '1 s' where user_id = %s", (other,)
    )

    taken = await outbox.take(
        pool,
        Room(total=2, per_user=2, of_destinations={}, of_users={}),
        now=datetime.now(UTC) + timedelta(seconds=2),
    )

    assert {a.row.user_id for a in taken} == {user, other}


async def test_two_senders_never_take_the_same_delivery(make, screen, pool, connection):
    for n in range(4):
        await make(name=f"d{n}")
    screen.match(*[f"S{n}USDT" for n in range(20)])

    taken: list[tuple[int, object]] = []
    for _ in range(12):
        batches = await asyncio.gather(*(outbox.take(pool, ROOM) for _ in range(3)))
        taken += [(a.row.source_id, a.row.destination_id) for batch in batches for a in batch]

    assert len(taken) == len(set(taken)) == 80


async def test_a_rate_of_the_owner_spaces_messages_evenly(make, screen, pool, count):
    await make(rate={"messages": 6, "per_s": 60}, expires_after_s=3600)
    screen.match(*[f"S{n}USDT" for n in range(10)])
    now = datetime.now(UTC)

    sizes = [
        len(await outbox.take(pool, ROOM, now=now + timedelta(seconds=s), lease_s=3600))
        for s in (0, 5, 10, 15, 20, 21)
    ]

    assert sizes == [1, 0, 1, 0, 1, 0]


async def test_a_signal_of_another_user_is_never_delivered_to_mine(make, connection, screen, rows):
    other = add_user(connection)
    theirs = await make(owner=other)
    screen.match("BTCUSDT")

    assert rows(f"destination_id = '{theirs.destination.id}'") == []
    assert isinstance(screen, Screen)
