"""Ingest, from the simulated exchange to rows: what is complete has its candles, what is missing is on record, nothing stops it."""

from __future__ import annotations

import pytest

from app.domain import timeframes
from app.errors import Fenced
from app.market.simulated import Faults, Hole
from tests import world
from tests.market.feeding import SYMBOLS, as_told, closed, ledger, minutes_pass, stored
from tests.world import eventually


@pytest.fixture
def clock(small_clock):
    return small_clock


@pytest.fixture
def exchange(small_exchange):
    return small_exchange


HISTORY_BARS = {
    "8h": 90,
    "12h": 60,
    "1d": 30,
}  # the generated market is 30 days old; of all others, as many as asked for


async def test_history_comes_first_and_with_it_the_first_slot(connection, feed, exchange):
    """
    Every timeframe has its bars before the ledger begins, and the ledger begins with the last closed minute.
    """
    async with feed.running():
        assert ledger(connection) == {0: ("complete", 0)}

        for timeframe in timeframes.TIMEFRAMES:
            bars = connection.execute(
                "select s.symbol, count(*) from vyx.candles c join vyx.symbols s using (symbol_id) where timeframe = %s group by 1 order by 1",
                (timeframe,),
            ).fetchall()
            assert bars == [(symbol, HISTORY_BARS.get(timeframe, 120)) for symbol in sorted(SYMBOLS)]
        assert stored(connection, "1m", -119, 0) == await as_told(exchange, "1m", -119, 0)
        assert stored(connection, "1h", -600, 0) == await as_told(exchange, "1h", -600, 0)


async def test_a_complete_slot_has_all_its_candles_and_roll_ups(connection, feed, exchange, clock):
    """
    Fifteen minutes live: every bar that closed is a row and equals what the exchange says; the tick was deferred with each slot.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 15)

    assert ledger(connection) == dict.fromkeys(range(16), ("complete", 0))
    for timeframe in ("1m", "3m", "5m", "15m"):
        found = stored(connection, timeframe, 1, 15)
        assert len(found) == len(SYMBOLS) * 15 // (timeframes.TIMEFRAMES[timeframe] // 60)
        for ours, theirs in zip(found, await as_told(exchange, timeframe, 1, 15), strict=True):
            assert ours[:6] == theirs[:6]
            assert ours[6:] == pytest.approx(theirs[6:], rel=1e-9)
    assert feed.woken == 16


async def test_an_outage_becomes_slots_with_a_reason_and_the_market_goes_on(
    connection, feed, exchange, clock
):
    """
    Minutes that nobody has are outages once a later one exists; what follows is complete, and the bar around them is made of what is there.
    """
    exchange.faults = Faults(hole=Hole(world.ms(world.at(2)), world.ms(world.at(4))))
    async with feed.running():
        await minutes_pass(clock, connection, 1, 2)
        clock.advance_to(world.ms(world.at(4)))
        await minutes_pass(clock, connection, 5, 6)

    assert ledger(connection) == {
        **dict.fromkeys((0, 1, 2, 5, 6), ("complete", 0)),
        3: ("outage", 3),
        4: ("outage", 3),
    }
    reasons = connection.execute("select distinct reason from vyx.slots where state = 'outage'").fetchall()
    assert reasons == [("the exchange has no candles",)]
    assert [r[:6] for r in stored(connection, "5m", 1, 5)] == [
        r[:6] for r in await as_told(exchange, "5m", 1, 5)
    ]


async def test_a_candle_the_stream_does_not_deliver_is_fetched(connection, feed, exchange, clock):
    """
    After the grace time REST is asked; the slot closes complete, with nothing missing.
    """
    exchange.faults = Faults(drop_close=("ETHUSDT",))
    async with feed.running():
        await minutes_pass(clock, connection, 1, 2)

    assert ledger(connection) == dict.fromkeys(range(3), ("complete", 0))
    assert len(stored(connection, "1m", 1, 2)) == 2 * len(SYMBOLS)


async def test_a_symbol_without_a_candle_is_on_record(connection, feed, exchange, clock):
    """
    The slot is complete for the others, and says who is missing.
    """
    exchange.faults = Faults(hole=Hole(world.ms(world.at(0)), world.ms(world.at(1)), ("ETHUSDT",)))
    async with feed.running():
        await minutes_pass(clock, connection, 1, 2)

    assert ledger(connection) == {0: ("complete", 0), 1: ("complete", 1), 2: ("complete", 0)}
    row = connection.execute("select missing, reason from vyx.slots where symbols_missing > 0").fetchall()
    assert row == [(["ETHUSDT"], "some symbols have no candle")]


async def test_a_candle_that_comes_after_its_slot_is_kept_as_a_correction(connection, feed, exchange, clock):
    """
    Stored for what comes later, recorded as late; the ledger does not change. A repeat of a stored candle is no correction.
    """
    exchange.faults = Faults(hole=Hole(world.ms(world.at(0)), world.ms(world.at(1)), ("ETHUSDT",)))
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
        exchange.faults = Faults()
        late = list(exchange.source.at(world.ms(world.at(0))).rows())
        exchange.streams._push_candles(late, clock.now_ms(), closed=True)
        await eventually(
            lambda: world.call(connection, "select count(*) from vyx.candle_corrections") == (1,)
        )

    correction = connection.execute(
        "select s.symbol, c.timeframe::text, c.open_time, c.was, (c.became ->> 'close')::float8 from vyx.candle_corrections c join vyx.symbols s using (symbol_id)"
    ).fetchall()
    close = next(row.close for row in late if row.symbol == "ETHUSDT")
    assert correction == [("ETHUSDT", "1m", world.at(0), None, close)]
    assert ledger(connection)[1] == ("complete", 1)


async def test_what_was_missed_while_nobody_fed_comes_by_rest(connection, feed, exchange, clock):
    """
    The next feeder goes on after the ledger: every minute in between is complete, none is an outage.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 2)
    clock.advance_to(world.ms(world.at(7)) + 10_000)

    async with feed.running():
        await eventually(closed(connection, 7))

    assert ledger(connection) == dict.fromkeys(range(8), ("complete", 0))
    assert len(stored(connection, "1m", 1, 7)) == 7 * len(SYMBOLS)
    assert [r[:6] for r in stored(connection, "5m", 1, 5)] == [
        r[:6] for r in await as_told(exchange, "5m", 1, 5)
    ]


async def test_connections_that_break_lose_nothing(connection, feed, exchange, clock):
    """
    The stream comes back by itself, and what closed meanwhile is asked for.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
        exchange.streams.cut_all()
        await eventually(lambda: exchange.streams.connection_count == 0)
        clock.advance_to(world.ms(world.at(2)) + 10_000)
        await eventually(closed(connection, 2))
        await minutes_pass(clock, connection, 3, 3)

    assert ledger(connection) == dict.fromkeys(range(4), ("complete", 0))


async def test_a_buried_machine_feeds_nothing(connection, feed, clock):
    """
    Its transaction is refused: no candle, no slot; another machine's ingest goes on from the ledger.
    """
    async with feed.running() as task:
        await minutes_pass(clock, connection, 1, 1)
        world.bury(connection, feed.boot)
        clock.advance_to(world.ms(world.at(2)))
        await eventually(task.done)

        with pytest.raises(Fenced):
            task.result()

    assert list(ledger(connection)) == [0, 1]
    assert stored(connection, "1m", 2, 2) == []


async def test_a_pair_that_is_no_longer_listed_is_not_waited_for(connection, feed, exchange, clock):
    """
    The next start of a feeder leaves it out; its history stays.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
    exchange.faults = Faults(symbol_status={"BNBUSDT": "BREAK"})

    async with feed.running(connections=2):
        await minutes_pass(clock, connection, 2, 2)

    assert ledger(connection)[2] == ("complete", 0)
    assert [row[0] for row in stored(connection, "1m", 2, 2)] == ["BTCUSDT", "ETHUSDT"]
    trading = connection.execute("select symbol from vyx.symbols where not trading").fetchall()
    assert trading == [("BNBUSDT",)]
