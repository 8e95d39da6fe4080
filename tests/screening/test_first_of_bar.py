"""A match on a bar in progress becomes one signal for its bar, marked, whoever screens and however often."""

from __future__ import annotations

import pytest

from app.screening.first_of_bar import FirstOfBar
from app.store.signals import Match
from tests import world

CLOSES = {
    "AAAUSDT": [99, 101, 103, 99, 98, 105, 106, 107, 108, 109, 110, 99],
    "BBBUSDT": [99, 98, 97, None, 101, 99, None, 99, 99, 101, 99, 99],
}
FIRST_OF_BARS = [("AAAUSDT", 2), ("BBBUSDT", 5), ("AAAUSDT", 6), ("BBBUSDT", 10), ("AAAUSDT", 11)]
"""The first minute above 100 of each 5m bar (0, 5], (5, 10], (10, 15]."""


@pytest.fixture
def user(connection):
    return world.add_user(connection)


@pytest.fixture
def market(connection):
    world.put_closes(connection, CLOSES, first=1)
    fives = {symbol: [closes[4], closes[9]] for symbol, closes in CLOSES.items()}
    world.put_closes(connection, fives, first=5, timeframe="5m", minutes=5)
    world.close_slots(connection, 0)


def above_100(**more):
    return world.above(100, timeframe="5m", op="forming", **more)


async def test_a_bar_in_progress_signals_each_symbol_once(connection, machine, market, user):
    trader = world.add_trader(connection, user, above_100())
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 13))

    assert await a.screen() == 12

    assert world.when(connection, trader) == FIRST_OF_BARS
    told = connection.execute("select distinct timeframe::text, forming, late from public.signals").fetchall()
    assert told == [("5m", True, False)]
    assert world.status(connection, trader).signal_count == len(FIRST_OF_BARS)


@pytest.mark.parametrize("at", [2, 3, 7, 10])
async def test_another_machine_that_goes_on_in_the_bar_does_not_repeat_it(
    connection, machine, market, user, at
):
    trader = world.add_trader(connection, user, above_100())
    a, b = await machine("a"), await machine("b")
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, at + 1))
    await a.screen()
    await b.screen()
    world.release(connection, a.boot_id)
    world.claim(connection, b.boot_id)
    world.close_slots(connection, *range(at + 1, 13))

    await b.screen()

    assert world.when(connection, trader) == FIRST_OF_BARS


async def test_a_cooldown_refused_match_signals_later_in_the_same_bar(connection, machine, market, user):
    """AAAUSDT at 2, then not before 8 (six minutes), in the bar that it matched from 6 on."""
    trader = world.add_trader(
        connection, user, above_100(), symbols=["AAAUSDT"], frequency={"cooldown_s": 360}
    )
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 13))

    await a.screen()

    assert world.when(connection, trader) == [("AAAUSDT", 2), ("AAAUSDT", 8)]


async def test_on_enter_passes_over_bars_that_follow_one_that_ended_true(connection, machine, market, user):
    """The bar (10, 15] of AAAUSDT follows a close of 109; of BBBUSDT (5, 10] follows 101."""
    trader = world.add_trader(connection, user, above_100(), frequency="on_enter")
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 13))

    await a.screen()

    assert world.when(connection, trader) == [("AAAUSDT", 2), ("BBBUSDT", 5), ("AAAUSDT", 6)]


def insert(connection, trader, slot, *, forming, timeframe="5m"):
    """By hand, as in Studio; whether it became a row."""
    rows = connection.execute(
        """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at, forming)
           select id, user_id, 'AAAUSDT', %s, %s, 1, '', 1, now(), %s from public.traders where id = %s
           on conflict do nothing returning id""",
        (timeframe, world.at(slot), forming, trader),
    )
    return len(rows.fetchall()) == 1


def test_the_table_keeps_the_first_signal_of_a_bar_in_progress(connection, user):
    """A bar holds the slot at its close, not the one at its open; other timeframes and closed bars are others."""
    world.close_slots(connection, 0)
    trader = world.add_trader(connection, user, above_100())

    assert [insert(connection, trader, slot, forming=True) for slot in (5, 6, 8, 10, 11)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert insert(connection, trader, 12, forming=True, timeframe="15m")
    assert insert(connection, trader, 13, forming=False)
    days = [insert(connection, trader, slot, forming=True, timeframe="1d") for slot in (14, 700, 24 * 60 + 1)]
    assert days == [True, False, True]


def match(symbol="A", *, forming=True, cooldown_s=None, epoch=1):
    return Match(world.uuid4(), epoch, symbol, "5m", 1.0, "{}", "", forming, cooldown_s)


def test_only_what_is_committed_and_in_the_same_bar_is_no_news():
    first = FirstOfBar()
    told = match()
    closed = match(forming=False)
    cooled = match(cooldown_s=60)
    assert first.news(world.at(6), [told, closed]) == [told, closed]
    first.remember(world.at(6), [told, closed, cooled])

    assert first.news(world.at(7), [told, closed, cooled]) == [closed, cooled]
    assert first.news(world.at(10), [told]) == []
    assert first.news(world.at(11), [told]) == [told]
    other_lease = Match(told.trader_id, 2, "A", "5m", 1.0, "{}", "", True, None)
    assert first.news(world.at(7), [other_lease]) == [other_lease]
    first.remember(world.at(11), [])
    assert first.news(world.at(7), [told]) == [told]
