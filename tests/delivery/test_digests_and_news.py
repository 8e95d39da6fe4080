"""
Digests, quiet hours and what expired meanwhile; news of traders, outages and lags; sending again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from app.delivery import outbox
from app.delivery.rules.taking import Room
from app.store import deliveries
from tests.world import at, call, close_slots, eventually, fail, leases

ROOM = Room(total=100, per_user=100, of_destinations={}, of_users={})


async def test_sixty_alerts_of_one_close_are_one_message(make, make_sender, screen, receiver, rows, count):
    await make(digest={"per": "bar_close"})
    screen.match(*[f"S{n}USDT" for n in range(60)])

    async with make_sender():
        await eventually(lambda: rows("event = 'digest' and state = 'sent'"), within_s=30)

    (received,) = receiver.log
    assert received.json["type"] == "digest"
    assert received.json["data"]["count"] == 60
    assert count("event = 'signal' and state = 'digested' and digest_id is not null") == 60


async def test_a_digest_that_fails_is_sent_again_with_the_same_id(make, pool, screen, rows, connection):
    await make(digest={"every_s": 60})
    screen.match("BTCUSDT", "ETHUSDT")
    now = datetime.now(UTC)
    assert await outbox.take(pool, ROOM, now=now) == []
    (first,) = await outbox.take(pool, ROOM, now=now + timedelta(seconds=5))
    (second,) = await outbox.take(pool, ROOM, now=now + timedelta(seconds=40))

    assert first.row.source_id == second.row.source_id < 0
    assert [s.symbol for s in first.told] == [s.symbol for s in second.told] == ["BTCUSDT", "ETHUSDT"]


async def test_signals_that_come_within_the_span_wait_for_the_next_digest(make, pool, screen, count):
    await make(digest={"every_s": 600})
    now = datetime.now(UTC)
    screen.match("BTCUSDT")
    await outbox.take(pool, ROOM, now=now)
    assert len(await outbox.take(pool, ROOM, now=now + timedelta(seconds=5))) == 1
    screen.match("ETHUSDT", slot=2)

    assert await outbox.take(pool, ROOM, now=now + timedelta(seconds=10)) == []
    assert await outbox.take(pool, ROOM, now=now + timedelta(seconds=26)) == []
    taken = await outbox.take(pool, ROOM, now=now + timedelta(seconds=606))
    assert [s.symbol for a in taken if a.row.event == "digest" for s in a.told] != []


async def test_what_expired_in_quiet_hours_is_told_afterwards_and_never_sent(
    make, pool, screen, rows, connection
):
    made = await make(quiet_hours={"from": "00:00", "until": "23:59", "zone": "UTC"})
    screen.match("BTCUSDT")
    midday = datetime.now(UTC).replace(hour=12, minute=0)
    assert await outbox.take(pool, ROOM, now=midday + timedelta(days=1)) == []
    (queue,) = connection.execute("select held_until, hold_reason from vyx.destination_queues").fetchall()
    assert queue[1] == "quiet hours"
    await outbox.expire(pool, now=datetime.now(UTC) + timedelta(hours=1))
    assert [r.state for r in rows()] == ["expired"]

    connection.execute("update public.destinations set quiet_hours = null")
    connection.execute("update vyx.destination_queues set held_until = 'epoch'")
    screen.match("ETHUSDT", slot=2)
    taken = await outbox.take(pool, ROOM)

    assert {a.row.event for a in taken} == {"signal", "digest"}
    (digest,) = [a for a in taken if a.row.event == "digest"]
    assert [s.symbol for s in digest.told_late] == ["BTCUSDT"]
    assert digest.told == []
    assert [r.state for r in rows(f"destination_id = '{made.destination.id}' and symbol = 'BTCUSDT'")] == [
        "expired"
    ]


async def test_a_trader_that_fails_is_news_for_those_who_want_it(make, make_sender, screen, receiver, rows):
    await make(events=["error"], url=receiver.url + "/errors")
    await make(events=["signal"], url=receiver.url + "/signals")
    fail(screen.connection, screen.boot, leases(screen.connection, screen.boot), "division by zero at line 3")

    async with make_sender():
        await eventually(lambda: rows("event = 'error' and state = 'sent'"))

    (received,) = receiver.log
    assert received.path == "/hook/errors"
    assert received.json["type"] == "trader"
    assert received.json["data"]["reason"] == "division by zero at line 3"
    assert received.json["data"]["trader_name"] == "a trader"


async def test_a_trader_stopped_for_its_tier_is_one_message_and_one_stopped_by_its_owner_is_none(
    make, screen, connection, user, rows
):
    from tests.world import add_trader, stop

    await make(events=["quota", "recovered"])
    own = add_trader(connection, user)
    stop(connection, own)
    connection.execute(
        "select vyx.change_state_v1(%s, 'stopping', 'the free tier runs at most 0 traders')", (screen.trader,)
    )
    connection.execute(
        "select vyx.change_state_v1(%s, 'stopped', 'the free tier runs at most 0 traders')", (screen.trader,)
    )

    (row,) = rows()
    assert row.event == "quota"
    assert row.notice["reason"] == "the free tier runs at most 0 traders"


async def test_an_outage_of_the_market_is_one_message_per_user_and_one_when_it_is_over(
    make, pool, screen, connection, rows
):
    await make(events=["outage", "recovered"])
    connection.execute(
        "insert into vyx.markets (source, speed, anchor_market_at, anchor_wall_at) values ('simulated', 1, %s, now())",
        (at(10),),
    )
    close_slots(connection, 9, state="outage")

    async def look():
        async with pool.connection() as c:
            return await deliveries.queue_troubles(c)

    assert [await look(), await look()] == [1, 0]
    close_slots(connection, 10)
    for slot in (9, 10):
        connection.execute("update vyx.machines set screened_through = %s", (at(slot),))
    assert [await look(), await look()] == [1, 0]
    assert [r.event for r in rows()] == ["outage", "recovered"]
    assert rows()[0].notice["reason"] == "the exchange has no candles"


async def test_a_destination_that_fails_for_five_days_is_disabled_and_another_told(
    make, make_sender, screen, receiver, rows, connection
):
    receiver.reply(500)
    broken = await make()
    await make(name="other", events=["destination_disabled"], url=receiver.url)
    connection.execute(
        "update vyx.destination_queues set failures = 9, failing_since = now() - interval '6 days' where destination_id = %s",
        (broken.destination.id,),
    )
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("event = 'destination_disabled'"))

    (row,) = connection.execute(
        "select disabled_reason from public.destinations where not enabled"
    ).fetchall()
    assert row[0] == "every attempt of the last 5 days failed"


async def test_redriving_by_sql_sends_what_failed_between_two_instants(make, screen, connection, rows):
    await make()
    screen.match("BTCUSDT", "ETHUSDT")
    connection.execute("update vyx.deliveries set state = 'failed', attempts = 3")
    connection.execute(
        "update vyx.deliveries set queued_at = now() - interval '5 h' where symbol = 'BTCUSDT'"
    )
    before = rows()

    n = call(connection, "select public.redrive_deliveries(now() - interval '1 h', now() + interval '1 h')")[
        0
    ]

    assert n == 1
    states = {r.symbol: (r.state, r.attempts) for r in rows()}
    assert states == {"BTCUSDT": ("failed", 3), "ETHUSDT": ("pending", 0)}
    assert {r.source_id for r in rows()} == {r.source_id for r in before}


async def test_secrets_are_sealed_again_with_the_newest_key(make, pool, connection, destinations):
    from app.delivery.sealing import Sealer
    from tests.delivery.conftest import KEY

    newer = "another-key-that-is-long-enough-to-be-one"
    made = await make()
    rotating = Sealer([newer, KEY])

    assert await outbox.seal_again(pool, rotating) == (1, 0)
    assert await outbox.seal_again(pool, rotating) == (0, 0)
    key_id, sealed = connection.execute("select key_id, sealed from vyx.destination_secrets").fetchone()
    assert Sealer([newer]).open(made.destination.id, key_id, bytes(sealed)).keys == [made.secret]
    assert await outbox.seal_again(pool, Sealer(["a-third-key-that-opens-nothing-of-the-others"])) == (0, 1)
