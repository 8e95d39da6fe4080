"""
From a signal's row to a receiver and back to a receipt.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from tests.world import eventually


async def test_a_signal_arrives_signed_and_leaves_a_receipt(make, make_sender, screen, receiver, rows):
    made = await make()
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("state = 'sent'"))

    (row,) = rows()
    (received,) = receiver.log
    body = Webhook(made.secret).verify(received.body, received.headers)
    assert received.id == f"msg_{row.source_id}_{made.destination.id}"
    assert body["type"] == "signal"
    assert body["data"]["symbol"] == "BTCUSDT"
    assert body["data"]["values"] == {"rsi": 20.5}
    assert body["data"]["trader_name"] == "a trader"
    assert body["data"]["url"].startswith("https://vyx.test/#/traders/")
    assert (row.status, row.answer, row.attempts) == (200, "thanks", 1)
    assert row.queued_at <= row.sent_at <= row.answered_at


async def test_every_attempt_of_a_delivery_has_the_same_id_and_body(
    make, make_sender, screen, receiver, rows
):
    await make(expires_after_s=600)
    answers = iter([500, 503, 200])
    receiver.answer = lambda _: web.Response(status=next(answers), headers={"retry-after": "0"})
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("state = 'sent'"), within_s=30)

    assert len(receiver.log) == 3
    assert len({r.id for r in receiver.log}) == 1
    assert len({r.body for r in receiver.log}) == 1
    assert rows()[0].attempts == 3


async def test_a_signal_goes_to_each_destination_that_wants_it_and_to_no_other(
    make, destinations, make_sender, screen, receiver, count
):
    wanted = await make(name="all")
    await make(name="errors", events=["error"])
    disabled = await make(name="disabled")
    await destinations.change(screen.user, disabled.destination.id, {}, enabled=False, rotate=False)
    screen.match("BTCUSDT", "ETHUSDT")

    assert count("true") == 2
    assert count(f"destination_id = '{wanted.destination.id}'") == 2


async def test_a_signal_screened_twice_is_delivered_once(make, make_sender, screen, receiver, rows):
    await make()
    screen.match("BTCUSDT")
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("state = 'sent'"))

    assert len(rows()) == 1
    assert len(receiver.log) == 1


async def test_what_is_too_late_is_never_sent(make, make_sender, screen, receiver, rows, connection):
    await make()
    screen.match("BTCUSDT")
    connection.execute("update vyx.deliveries set expires_at = now() - interval '1 s'")

    async with make_sender():
        await eventually(lambda: rows("state = 'expired'"))

    assert receiver.log == []


async def test_a_signal_expires_one_bar_of_its_timeframe_after_it(make, screen, rows):
    await make()
    screen.match("BTCUSDT", timeframe="15m")

    (row,) = rows()
    assert row.expires_at - row.queued_at == pytest.approx(timedelta(minutes=15), abs=timedelta(seconds=1))


async def test_a_lease_that_ended_is_taken_by_another_sender_and_the_late_receipt_is_refused(
    make, pool, screen, rows
):
    from app.delivery import outbox
    from app.delivery.rules.taking import Room
    from app.store.deliveries import Receipt

    room = Room(total=10, per_user=10, of_destinations={}, of_users={})
    await make(expires_after_s=3600)
    screen.match("BTCUSDT")
    (first,) = await outbox.take(pool, room)
    assert await outbox.take(pool, room) == []

    later = datetime.now(UTC) + timedelta(seconds=31)
    (second,) = await outbox.take(pool, room, now=later)

    def receipt(attempt, state):
        return Receipt(
            source_id=attempt.row.source_id,
            destination_id=attempt.row.destination_id,
            token=attempt.token,
            state=state,
            delay_s=0,
            status=200,
            answer="",
            took_s=0,
            ago_s=0,
        )

    assert second.row.attempts == 2
    assert await outbox.record(pool, [receipt(first, "failed")], [], {}) == []
    assert [e.state for e in await outbox.record(pool, [receipt(second, "sent")], [], {})] == ["sent"]


async def test_410_ends_the_delivery_disables_the_destination_and_tells_another(
    make, make_sender, screen, receiver, rows, connection
):
    gone = await make(url=receiver.url + "/gone")
    other = await make(url=receiver.url + "/other", events=["destination_disabled"])
    receiver.answer = lambda r: web.Response(status=410 if r.path.endswith("gone") else 200, text="gone")
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows(f"destination_id = '{other.destination.id}' and state = 'sent'"))

    assert [r.state for r in rows(f"destination_id = '{gone.destination.id}'")] == ["failed"]
    enabled, reason = connection.execute(
        "select enabled, disabled_reason from public.destinations where id = %s", (gone.destination.id,)
    ).fetchone()
    assert not enabled
    assert "410" in reason
    told = receiver.log[-1].json
    assert told["type"] == "destination"
    assert told["data"]["destination_name"] == "d"


async def test_a_redirect_is_a_failure_and_is_not_followed(make, make_sender, screen, receiver, rows):
    await make(url=receiver.url + "/from")
    receiver.reply(302, location=receiver.url + "/to")
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("status = 302"))

    assert {r.path for r in receiver.log} == {"/hook/from"}
    assert rows()[0].answer.startswith("redirects are not followed")


async def test_retry_after_holds_the_destination_not_its_neighbour(make, make_sender, screen, receiver, rows):
    slow = await make(url=receiver.url + "/slow")
    quick = await make(url=receiver.url + "/quick")
    receiver.answer = lambda r: web.Response(
        status=429 if r.path.endswith("slow") else 200, headers={"retry-after": "40"}
    )
    screen.match("AUSDT", "BUSDT", "CUSDT")

    async with make_sender():
        await eventually(
            lambda: len(rows(f"destination_id = '{quick.destination.id}' and state = 'sent'")) == 3
        )
        await eventually(lambda: rows(f"destination_id = '{slow.destination.id}' and status = 429"))

    waiting = rows(f"destination_id = '{slow.destination.id}'")
    assert {r.state for r in waiting} == {"pending"}
    assert max(r.next_attempt_at for r in waiting) > datetime.now(UTC) + timedelta(seconds=30)


async def test_a_test_goes_past_every_hold_and_returns_the_receivers_own_answer(
    make, destinations, make_sender, user, receiver, connection
):
    made = await make()
    connection.execute(
        "update vyx.destination_queues set held_until = '2100-01-01', hold_reason = 'failing', failures = 3, failing_since = now()"
    )
    receiver.reply(418, "a teapot")

    async with make_sender():
        delivery = await destinations.test(user, made.destination.id)

    assert (delivery.state, delivery.status, delivery.answer) == ("failed", 418, "a teapot")
    assert receiver.log[0].json["type"] == "test"
    assert receiver.log[0].json["data"]["test"] is True


async def test_rotation_signs_with_both_secrets(
    make, destinations, make_sender, screen, user, receiver, rows
):
    made = await make()
    rotated = await destinations.change(user, made.destination.id, {}, enabled=None, rotate=True)
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("state = 'sent'"))

    (received,) = receiver.log
    assert rotated.secret != made.secret
    for secret in (made.secret, rotated.secret):
        assert Webhook(secret).verify(received.body, received.headers)["type"] == "signal"


async def test_an_ed25519_signature_is_checked_with_the_public_key(make, make_sender, screen, receiver, rows):
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    made = await make(signature="ed25519")
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("state = 'sent'"))

    (received,) = receiver.log
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(made.public_key.removeprefix("whpk_")))
    version, signature = received.headers["webhook-signature"].split(",")
    content = f"{received.id}.{received.headers['webhook-timestamp']}.".encode() + received.body
    assert version == "v1a"
    key.verify(base64.b64decode(signature), content)


async def test_a_private_address_is_refused_without_a_connection(
    make, pool, screen, receiver, rows, connection
):
    """The setting opened the loopback when the destination was made, and does not any more."""
    from prometheus_client import CollectorRegistry

    from app.delivery.sealing import Sealer
    from app.delivery.sender import Sender
    from app.delivery.transport import Transport
    from app.metrics import DeliveryMetrics
    from tests.delivery.conftest import KEY, PUBLIC_URL, NoChannels

    await make(url=receiver.url)
    await make(url=receiver.url.replace("127.0.0.1", "localhost"))
    screen.match("BTCUSDT")
    transport = Transport()
    sender = Sender(
        pool,
        transport=transport,
        third_party=NoChannels(),
        sealer=Sealer([KEY]),
        public_url=PUBLIC_URL,
        metrics=DeliveryMetrics(CollectorRegistry()),
    )
    running = asyncio.create_task(sender.run())
    await eventually(lambda: len(rows("state = 'failed'")) == 2)
    sender.stop()
    await running
    await transport.close()

    assert receiver.log == []
    assert all(r.answer.startswith("refused: ") for r in rows())


async def test_a_receiver_that_closes_without_an_answer_is_asked_again(
    make, make_sender, screen, receiver, rows
):
    await make()
    first = True

    async def answer(_):
        nonlocal first
        if first:
            first = False
            raise asyncio.CancelledError
        return web.Response(text="ok")

    receiver.answer = answer
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("state = 'sent'"), within_s=20)

    assert len(receiver.log) == 2
    assert len({json.dumps(r.json) for r in receiver.log}) == 1


async def test_one_user_with_thousands_of_messages_delays_nobody(
    make, make_sender, screen, receiver, connection, rows
):
    """The other user's message is among the first that are taken."""
    from tests.delivery.conftest import Screen
    from tests.world import add_user, without_triggers

    for n in range(20):
        await make(name=f"d{n}", url=f"{receiver.url}/many")
    screen.match(*[f"S{n}USDT" for n in range(100)])
    other = add_user(connection)
    await make(owner=other, url=f"{receiver.url}/other")
    with without_triggers(connection):
        connection.execute("update vyx.machines set state = 'dead', ended_at = now()")
        connection.execute("update public.trader_state set owner = null")
        connection.execute("delete from public.trader_state where user_id = %s", (screen.user,))
    Screen(connection, other).match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: len(receiver.log) >= 300)

    assert "/hook/other" in [r.path for r in receiver.log[:200]]
