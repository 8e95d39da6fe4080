"""A trader that matches more than its tier keeps goes on being screened, stores a summary per slot, and its owner hears of it once a day."""

from __future__ import annotations

import pytest

from app.delivery.rules import messages
from app.domain.audit import digest_differences
from app.screening.first_of_bar import FirstOfBar
from app.screening.standing_audit import StandingAudit
from tests import world

CLOSES = {f"S{i}USDT": [100.0] * 60 for i in range(3)}


@pytest.fixture
def user(connection):
    connection.execute("update public.tiers set signals_per_day = 6 where tier = 'elite'")
    return world.add_user(connection)


@pytest.fixture
def market(connection):
    world.put_closes(connection, CLOSES, first=-19)
    world.close_slots(connection, 0)


def digests(connection, trader):
    """(slot number, matches, pairs) of the trader's digests."""
    rows = connection.execute(
        "select slot, matches, symbols from public.signal_digests where trader_id = %s order by slot",
        (trader,),
    ).fetchall()
    return [(int((slot - world.T0) / world.MINUTE), matches, symbols) for slot, matches, symbols in rows]


def flood_events(connection, trader):
    return connection.execute(
        "select from_state = to_state, reason from public.trader_events where trader_id = %s and reason like 'flooding:%%' order by id",
        (trader,),
    ).fetchall()


async def screen(connection, machine, *numbers):
    for number in numbers:
        world.close_slots(connection, number)
        await machine.screen()


async def test_once_a_days_signals_are_stored_each_slot_has_one_row(connection, machine, market, user):
    trader = world.add_trader(connection, user)
    a = await machine()
    world.claim(connection, a.boot_id)

    await screen(connection, a, 1, 2, 3, 4)

    assert {slot for _, slot in world.when(connection, trader)} == {1, 2}
    assert digests(connection, trader) == [(slot, 3, sorted(CLOSES)) for slot in (3, 4)]
    row = world.status(connection, trader)
    assert (row.signal_count, row.signals_that_day, row.flooding_since) == (6, 6, world.at(3))
    assert row.through == world.at(4)
    assert a._metrics.signals_digested._value.get() == 6


async def test_its_owner_is_told_once_a_day_in_the_feed_and_where_signals_are_sent(
    connection, machine, market, user
):
    connection.execute(
        "insert into public.destinations (user_id, name, kind, hint, events) values (%s, 'd', 'webhook', 'h', '{quota}')",
        (user,),
    )
    trader = world.add_trader(connection, user)
    a = await machine()
    world.claim(connection, a.boot_id)

    await screen(connection, a, 1, 2, 3, 4, 5)

    ((is_same_state, reason),) = flood_events(connection, trader)
    assert is_same_state
    assert "6 signals today" in reason
    ((event, notice),) = connection.execute("select event, notice from vyx.deliveries").fetchall()
    assert event == "quota"
    title, text = messages._notice_text(event, notice)
    assert title == "a trader has its signals of the day"
    assert text.startswith("It is screened as before; it has stored 6 signals today")


async def test_other_traders_store_their_signals_as_before(connection, machine, market, user):
    calm = world.add_trader(connection, user, symbols=["S1USDT"])
    world.add_trader(connection, user)
    a = await machine()
    world.claim(connection, a.boot_id)

    await screen(connection, a, 1, 2, 3, 4)

    assert world.when(connection, calm) == [("S1USDT", slot) for slot in (1, 2, 3, 4)]
    assert digests(connection, calm) == []


async def test_the_next_day_begins_with_signals_again(connection, machine, user):
    world.put_closes(connection, CLOSES, first=1420)
    connection.execute("select vyx.keep_signal_partition(%s)", (world.at(1436),))
    world.close_slots(connection, 1436)
    trader = world.add_trader(connection, user)
    a = await machine()
    world.claim(connection, a.boot_id)

    await screen(connection, a, *range(1437, 1444))

    assert [slot for slot, _, _ in digests(connection, trader)] == [1439, 1440, 1443]
    assert {slot for _, slot in world.when(connection, trader)} == {1437, 1438, 1441, 1442}
    assert len(flood_events(connection, trader)) == 2


async def test_a_slot_has_signals_or_a_digest_whoever_screens_it_twice(connection, machine, market, user):
    trader = world.add_trader(connection, user)
    a = await machine()
    world.claim(connection, a.boot_id)
    await screen(connection, a, 1, 2, 3)
    world.speak_for(connection, a.boot_id)
    for slot, limit in ((world.at(1), 6), (world.at(2), 6), (world.at(3), 1000)):
        connection.execute("update public.tiers set signals_per_day = %s", (limit,))
        connection.execute(
            "update vyx.machines set screened_through = %s where boot_id = %s",
            (slot - world.MINUTE, a.boot_id),
        )
        await a.begin_boot(a.boot_id, slot - world.MINUTE)
        await a.screen()

    assert {slot for _, slot in world.when(connection, trader)} == {1, 2}
    assert [slot for slot, _, _ in digests(connection, trader)] == [3]


async def test_a_bar_whose_match_was_only_counted_may_still_signal(
    connection, machine, market, user, monkeypatch
):
    """What a digest counted is no signal: the machine must not remember it as one."""
    remembered = []
    monkeypatch.setattr(
        FirstOfBar, "remember", lambda _, slot, matches: remembered.append(len(list(matches)))
    )
    world.add_trader(connection, user)
    a = await machine()
    world.claim(connection, a.boot_id)

    await screen(connection, a, 1, 2, 3)

    assert remembered == [3, 3, 0]


async def test_the_standing_audit_holds_a_digest_to_its_count_and_pairs(
    pool, connection, machine, market, user
):
    world.add_trader(connection, user)
    a = await machine()
    audit = StandingAudit(pool, a, a._metrics, a.evaluation.evaluator._each, clock=lambda: 0.0)
    a._on_screened = audit.note
    world.claim(connection, a.boot_id)
    for number in range(1, 5):
        await screen(connection, a, number)
        assert await audit.audit() == 1
    assert connection.execute("select count(*) from vyx.incidents").fetchone() == (0,)

    await screen(connection, a, 5)
    connection.execute("update public.signal_digests set matches = 4 where slot = %s", (world.at(5),))
    await audit.audit()
    assert connection.execute("select kind from vyx.incidents").fetchall() == [("audit mismatch",)]


@pytest.mark.parametrize(
    ("count", "first", "replayed", "found"),
    [
        (2, ["A", "B"], ["B", "A"], []),
        (3, ["A", "B"], ["A", "B", "C"], []),
        (2, ["A", "B"], ["A", "B", "C"], [("C", "replayed")]),
        (3, ["A", "B"], ["A", "B"], [("B", "live")]),
        (2, ["A", "B"], ["A", "C"], [("B", "live"), ("C", "replayed")]),
        (1, ["A"], [], [("A", "live")]),
    ],
)
def test_a_digest_differs_by_the_pairs_that_show_it(count, first, replayed, found):
    differ = digest_differences(count, first, world.T0, replayed)
    assert [(d.symbol, d.only_in) for d in differ] == found
