"""The universe lives: listings, halts, returns and delistings while minutes are live, through the real client."""

from __future__ import annotations

import pytest

from app.market.simulated import Faults
from tests import world
from tests.market.feeding import as_told, ledger, minutes_pass, missing_reasons, stored, waiting
from tests.market.test_misbehaviour import holes
from tests.world import eventually


@pytest.fixture
def clock(small_clock):
    return small_clock


@pytest.fixture
def exchange(small_exchange):
    return small_exchange


@pytest.fixture
def feed(feed):
    feed.options = {"universe_refresh_s": 0.1}
    return feed


def pair(connection, symbol):
    """trading, screened, whether halted_at is set, reason."""
    return connection.execute(
        "select trading, screened, halted_at is not null, reason from vyx.symbols where symbol = %s",
        (symbol,),
    ).fetchone()


async def test_a_listing_streams_loads_its_history_and_is_screened(connection, feed, exchange, clock):
    """
    Nothing is restarted: the next slot has its candle, its history is whole, and panels are told to look.
    """
    exchange.faults = Faults(unlisted=("BNBUSDT",))
    async with feed.running(connections=2):
        await minutes_pass(clock, connection, 1, 2)
        before = world.call(connection, world.CANDLES["newest_correction"])[0]
        exchange.faults = Faults()
        await eventually(lambda: pair(connection, "BNBUSDT") == (True, True, False, None))
        await eventually(lambda: exchange.streams.connection_count == 3)
        await minutes_pass(clock, connection, 3, 5)

        assert world.call(connection, world.CANDLES["newest_correction"])[0] > before
    assert ledger(connection) == dict.fromkeys(range(6), ("complete", 0))
    assert stored(connection, "1m", -100, 5) == await as_told(exchange, "1m", -100, 5)
    assert [r[:6] for r in stored(connection, "5m", 5, 5)] == [
        r[:6] for r in await as_told(exchange, "5m", 5, 5)
    ]
    assert holes(connection) == {}


async def test_a_halted_pair_is_not_waited_for_from_that_moment(connection, feed, exchange, clock):
    """
    The slot that waited for it closes at once; it is not missing, and its row says why it is not screened.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
        exchange.faults = Faults(symbol_status={"BNBUSDT": "BREAK"})
        clock.advance_to(world.ms(world.at(2)))
        await eventually(lambda: ledger(connection).get(2) == ("complete", 0))
        await minutes_pass(clock, connection, 3, 4)

    assert pair(connection, "BNBUSDT") == (False, False, True, "status BREAK")
    assert ledger(connection) == dict.fromkeys(range(5), ("complete", 0))
    assert [row[0] for row in stored(connection, "1m", 3, 3)] == ["BTCUSDT", "ETHUSDT"]


async def test_a_pair_that_trades_again_comes_back_with_what_it_missed(connection, feed, exchange, clock):
    """
    The minutes of its halt are asked for like any history; from the next slot on it is waited for.
    """
    async with feed.running():
        exchange.faults = Faults(symbol_status={"BNBUSDT": "HALT"})
        await eventually(lambda: not pair(connection, "BNBUSDT")[0])
        await minutes_pass(clock, connection, 1, 3)
        exchange.faults = Faults()
        await eventually(lambda: pair(connection, "BNBUSDT") == (True, True, False, None))
        await minutes_pass(clock, connection, 4, 5)

    assert ledger(connection)[5] == ("complete", 0)
    assert stored(connection, "1m", -100, 5) == await as_told(exchange, "1m", -100, 5)
    assert holes(connection) == {}


async def test_a_delisted_pair_leaves_and_a_renamed_one_is_two(connection, feed, exchange, clock):
    """
    The old name breaks, the new one is listed: each has a row of its own, and only one trades.
    """
    exchange.faults = Faults(unlisted=("BNBUSDT",))
    async with feed.running(connections=2):
        await minutes_pass(clock, connection, 1, 1)
        exchange.faults = Faults(unlisted=("ETHUSDT",))
        await eventually(lambda: pair(connection, "BNBUSDT") == (True, True, False, None))
        await minutes_pass(clock, connection, 2, 2)

    assert pair(connection, "ETHUSDT") == (False, False, True, "no longer listed")
    assert [row[0] for row in stored(connection, "1m", 2, 2)] == ["BNBUSDT", "BTCUSDT"]


async def test_an_unknown_pair_has_the_list_read_at_once(connection, feed, exchange, clock):
    """
    -1121 for a live candle: the pair is gone from the list, long before the next look was due.
    """
    feed.options = {"universe_refresh_s": 3_600}
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
        exchange.faults = Faults(unlisted=("BNBUSDT",))
        await minutes_pass(clock, connection, 2, 2)
        await eventually(lambda: pair(connection, "BNBUSDT")[0] is False)
        await minutes_pass(clock, connection, 3, 3)

    assert ledger(connection)[3] == ("complete", 0)


async def test_a_listing_whose_history_cannot_be_had_delays_nobody(connection, feed, exchange, clock):
    """
    It is expected and missing, with the reason, until it can be had.
    """
    exchange.faults = Faults(unlisted=("BNBUSDT",))
    async with feed.running(connections=2):
        await minutes_pass(clock, connection, 1, 1)
        exchange.faults = Faults(pair_status={"BNBUSDT": 503})
        await eventually(lambda: "503" in waiting(connection).get("BNBUSDT", ""))
        await minutes_pass(clock, connection, 2, 2)

    assert ledger(connection)[2] == ("complete", 1)
    assert "waiting for history" in missing_reasons(connection, 2)["BNBUSDT"]


async def test_listings_and_halts_lose_nobody_elses_candle(connection, feed, exchange, clock):
    """
    Connections are replaced the new one first: over 12 minutes with a change in each, no candle had to be asked for.
    """
    async with feed.running():
        for minute in range(1, 13):
            changed = {"BNBUSDT": "BREAK"} if minute % 2 else {}
            exchange.faults = Faults(symbol_status=changed)
            await eventually(lambda changed=changed: pair(connection, "BNBUSDT")[1] == (not changed))
            await minutes_pass(clock, connection, minute, minute)

    assert set(ledger(connection).values()) == {("complete", 0)}
    assert feed.metrics.repairs._value.get() == 0
    assert feed.metrics.stream_reconnects._value.get() == 0
    assert holes(connection) == {}
