"""
What the exchange does wrong, and what Vyx makes of it: the real client and ingest against the simulated exchange.

Its misbehaviours are the table in ``app/market/simulated/faults.py``. One pair's trouble is that pair's trouble.
"""

from __future__ import annotations

import asyncio

import pytest

from app.domain import timeframes
from app.market.client import OwnTime
from app.market.simulated import Faults, Impossible, Revised
from tests import world
from tests.market.feeding import (
    BARS,
    SYMBOLS,
    as_told,
    ledger,
    minutes_pass,
    missing_reasons,
    stored,
    waiting,
)
from tests.world import eventually

WAYS = ("high_below_low", "zero_price", "null_field", "off_grid")


@pytest.fixture
def clock(small_clock):
    return small_clock


@pytest.fixture
def exchange(small_exchange):
    return small_exchange


def refusals(connection):
    """(symbol, timeframe, open time, source) of candles set aside."""
    return connection.execute(
        "select s.symbol, r.timeframe::text, r.open_time, r.source from vyx.candle_refusals r"
        " join vyx.symbols s using (symbol_id) order by 1, 2, 3, 4"
    ).fetchall()


def holes(connection):
    """Ranges whose rows are not what they promise, by symbol and timeframe."""
    found = {}
    for timeframe, seconds in timeframes.TIMEFRAMES.items():
        rows = connection.execute(
            world.queries.load("candle_ranges")["compare_with_rows"],
            {"timeframe": timeframe, "seconds": seconds, "symbol_ids": list(range(1, 1_000))},
        )
        found |= {(row[0], timeframe): row[1:] for row in rows if row[1] != row[2]}
    return found


# -- one impossible candle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_one_impossible_row_of_history_is_set_aside_and_nothing_else_lacks(
    connection, feed, exchange, clock, way
):
    """
    The market begins; the bar is absent, with what came as a row, and asked for twice; the next slots are complete.
    """
    bad = world.at(-50)
    exchange.faults = Faults(impossible=(Impossible("ETHUSDT", way, open_ms=world.ms(bad)),))
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)

    assert ledger(connection) == dict.fromkeys(range(2), ("complete", 0))
    assert refusals(connection) == [("ETHUSDT", "1m", bad, "rest")]
    assert len(stored(connection, "1m", -119, 0)) == 3 * BARS - 1
    assert holes(connection) == {}


@pytest.mark.parametrize("way", WAYS)
async def test_an_impossible_candle_on_the_stream_is_asked_for_by_rest(
    connection, feed, exchange, clock, way
):
    """
    The slot closes complete with REST's candle; what the stream sent is a row, and no connection breaks for it.
    """
    bad = world.at(0)
    exchange.faults = Faults(impossible=(Impossible("ETHUSDT", way, open_ms=world.ms(bad), where="stream"),))
    async with feed.running():
        await minutes_pass(clock, connection, 1, 2)
        assert feed.metrics.stream_reconnects._value.get() == 0

    assert ledger(connection) == dict.fromkeys(range(3), ("complete", 0))
    assert refusals(connection) == [("ETHUSDT", "1m", bad, "stream")]
    assert stored(connection, "1m", 1, 2) == await as_told(exchange, "1m", 1, 2)


@pytest.mark.parametrize("way", WAYS)
async def test_a_candle_that_stays_impossible_closes_its_slot_without_its_pair(
    connection, feed, exchange, clock, way
):
    """
    Nobody else waits or lacks anything; the slot names the pair with the reason, and the next minute has it again.
    """
    bad = world.at(0)
    exchange.faults = Faults(impossible=(Impossible("ETHUSDT", way, open_ms=world.ms(bad)),))
    async with feed.running():
        await minutes_pass(clock, connection, 1, 5)

    assert ledger(connection) == {
        **dict.fromkeys(range(6), ("complete", 0)),
        1: ("complete", 1),
    }
    assert missing_reasons(connection, 1)["ETHUSDT"].startswith("its candle was refused: ")
    assert [row[3] for row in refusals(connection)] == ["rest", "stream"]
    assert [row[0] for row in stored(connection, "5m", 5, 5)] == sorted(SYMBOLS)
    assert holes(connection) == {}


# -- one pair that answers errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [{"pair_status": {"ETHUSDT": 503}}, {"unknown_pairs": ("ETHUSDT",)}])
async def test_a_pair_whose_history_cannot_be_had_waits_by_itself(connection, feed, exchange, clock, faults):
    """
    The others begin without it; it waits with the reason, and every slot says so.
    """
    exchange.faults = Faults().changed(faults)
    async with feed.running():
        await minutes_pass(clock, connection, 1, 2)

        assert ledger(connection) == dict.fromkeys(range(3), ("complete", 1))
        assert list(waiting(connection)) == ["ETHUSDT"]
        assert "waiting for history: " in missing_reasons(connection, 2)["ETHUSDT"]
        assert [row[0] for row in stored(connection, "1m", 1, 2)] == ["BNBUSDT"] * 2 + ["BTCUSDT"] * 2


async def test_a_pair_whose_history_can_be_had_again_joins_with_all_of_it(
    connection, feed, exchange, clock, monkeypatch
):
    """
    It is screened from the next slot on; nothing of its history lacks, whole bars of it are as the exchange tells them.
    """
    monkeypatch.setattr("app.market.pairs.RETRY_FIRST_S", 0.05)
    exchange.faults = Faults(pair_status={"ETHUSDT": 503})
    async with feed.running():
        await minutes_pass(clock, connection, 1, 2)
        exchange.faults = Faults()
        await eventually(lambda: waiting(connection) == {})
        await minutes_pass(clock, connection, 3, 5)

    assert [ledger(connection)[n] for n in (2, 3, 5)] == [("complete", 1), ("complete", 0), ("complete", 0)]
    assert stored(connection, "1m", -100, 5) == await as_told(exchange, "1m", -100, 5)
    assert [r[:6] for r in stored(connection, "5m", -100, 5)] == [
        r[:6] for r in await as_told(exchange, "5m", -100, 5)
    ]
    assert holes(connection) == {}


async def test_a_pair_that_answers_errors_does_not_close_the_exchange_to_the_others(
    connection, feed, exchange, clock, monkeypatch
):
    """
    It is asked again and again; the breaker stays closed, and slots go on with REST where they need it.
    """
    monkeypatch.setattr("app.market.pairs.RETRY_FIRST_S", 0.01)
    exchange.faults = Faults(pair_status={"ETHUSDT": 503}, drop_close=("BTCUSDT",))
    async with feed.running():
        await eventually(lambda: feed.metrics.answers.labels("503")._value.get() > 15)
        await minutes_pass(clock, connection, 1, 2)

    assert ledger(connection) == dict.fromkeys(range(3), ("complete", 1))
    assert [row[0] for row in stored(connection, "1m", 1, 2)] == ["BNBUSDT"] * 2 + ["BTCUSDT"] * 2


async def test_a_live_candle_that_rest_cannot_give_is_filled_in_later(connection, feed, exchange, clock):
    """
    The slot closes without it, with the reason; when the pair answers again its candle is late, and bars around it are whole.
    """
    async with feed.running():
        exchange.faults = Faults(drop_close=("ETHUSDT",), pair_status={"ETHUSDT": 503})
        await minutes_pass(clock, connection, 1, 1)
        assert "503" in missing_reasons(connection, 1)["ETHUSDT"]
        exchange.faults = Faults()
        await minutes_pass(clock, connection, 2, 5)
        feed.ingest._backfill.wake()
        await eventually(lambda: len(stored(connection, "1m", 1, 1)) == 3)
        await eventually(lambda: holes(connection) == {} and len(stored(connection, "5m", 5, 5)) == 3)

    assert ledger(connection)[1] == ("complete", 1)
    assert [r[:6] for r in stored(connection, "5m", 5, 5)] == [
        r[:6] for r in await as_told(exchange, "5m", 5, 5)
    ]


# -- interruptions ---------------------------------------------------------------------------------------------------------


async def test_a_history_load_that_was_interrupted_leaves_no_hole(connection, feed, exchange, clock):
    """
    Minutes pass between two feeders of which the first was stopped while it loaded: everything is there, no slot lacks anything.
    """
    exchange.faults = Faults(delay_s=0.01)
    async with feed.started():
        await eventually(lambda: len(stored(connection, "1m", -119, 0)) > BARS)
    assert ledger(connection) == {}
    clock.advance_to(world.ms(world.at(6)) + 10_000)
    exchange.faults = Faults()

    async with feed.running():
        await minutes_pass(clock, connection, 7, 7)

    assert ledger(connection) == {6: ("complete", 0), 7: ("complete", 0)}
    assert stored(connection, "1m", -113, 7) == await as_told(exchange, "1m", -113, 7)
    assert holes(connection) == {}


async def test_stopping_while_history_loads_ends_silently(connection, feed, exchange, clock, caplog):
    """
    No request goes on, and no exception is left that nobody retrieved.
    """
    unretrieved = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unretrieved.append(context))
    exchange.faults = Faults(delay_s=0.02)
    async with feed.started() as task:
        await eventually(lambda: len(stored(connection, "1m", -119, 0)) > 0)
        before = asyncio.all_tasks()
        assert any(t.get_coro().__name__.startswith("_load") for t in before)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = {t for t in before if not t.done()}

    assert task.cancelled()
    assert not any(t.get_coro().__name__.startswith("_load") for t in left)
    assert unretrieved == []
    assert "never retrieved" not in caplog.text


async def test_rows_that_vanish_are_noticed_and_fetched_again(connection, feed, exchange, clock):
    """
    The comparison of rows with ranges says what it found, and the exchange is asked again.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
        connection.execute(
            "delete from vyx.candles where timeframe = '1m' and open_time between %s and %s"
            " and symbol_id = (select symbol_id from vyx.symbols where symbol = 'ETHUSDT')",
            (world.at(-30), world.at(-20)),
        )
        expected = await as_told(exchange, "1m", -100, 1)
        found = await feed.ingest._comparison.compare()
        await eventually(lambda: stored(connection, "1m", -100, 1) == expected)

    assert [(d.symbol, d.timeframe, d.promised - d.stored) for d in found] == [("ETHUSDT", "1m", 11)]
    checks = connection.execute("select wrong from vyx.history_checks").fetchall()
    assert [wrong[0]["symbol"] for (wrong,) in checks] == ["ETHUSDT"]


async def test_a_pair_that_started_and_lacks_a_minute_is_counted(connection, feed, exchange, clock):
    """
    A range with a gap is never called whole: the slot names the pair that waits.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
    connection.execute(
        "update vyx.candle_ranges set known = known - tstzmultirange(tstzrange(%s, %s))"
        " where timeframe = '1m' and symbol_id = (select symbol_id from vyx.symbols where symbol = 'ETHUSDT')",
        (world.at(-10), world.at(-5)),
    )
    exchange.faults = Faults(pair_status={"ETHUSDT": 500})

    async with feed.running():
        await minutes_pass(clock, connection, 2, 2)

    assert ledger(connection)[2] == ("complete", 1)
    assert "waiting for history" in missing_reasons(connection, 2)["ETHUSDT"]


# -- clocks and corrections ------------------------------------------------------------------------------------------------


async def test_a_clock_that_runs_ahead_closes_no_unfinished_minute(connection, feed, exchange, clock):
    """
    The exchange's clock is 90 s ahead and a close never comes: REST's unfinished row is not taken, the true one is, later.
    """
    feed.client_options = {"own_time": lambda: _own_time(clock), "margin_s": 1.0}
    async with feed.running():
        await minutes_pass(clock, connection, 1, 1)
        exchange.faults = Faults(skew_s=90.0, drop_close=("ETHUSDT",))
        await minutes_pass(clock, connection, 2, 2)
        assert [row[0] for row in stored(connection, "1m", 2, 2)] == ["BNBUSDT", "BTCUSDT"]
        assert "had not ended" in missing_reasons(connection, 2)["ETHUSDT"]
        clock.advance_to(world.ms(world.at(2)) + 20_000)
        feed.ingest._backfill.wake()
        await eventually(lambda: len(stored(connection, "1m", 2, 2)) == 3)

    exchange.faults = Faults()
    assert stored(connection, "1m", 2, 2) == await as_told(exchange, "1m", 2, 2)


async def _own_time(clock):
    return OwnTime(clock.now_ms())


async def test_a_candle_told_differently_later_is_a_correction_up_to_every_roll_up(
    connection, feed, exchange, clock
):
    """
    The stream sends another copy of a closed minute: it, the 3m and the 5m bar change, each on record with what it was.
    """
    async with feed.running():
        await minutes_pass(clock, connection, 1, 5)
        exchange.faults = Faults(revised=(Revised("ETHUSDT", world.ms(world.at(1)), 2.0),))
        exchange.streams._push_candles(
            exchange.faults.existing(exchange.source.at(world.ms(world.at(1)))).rows(),
            clock.now_ms(),
            closed=True,
        )
        await eventually(lambda: len(corrections(connection)) == 3)

    changed = corrections(connection)
    assert [(symbol, timeframe) for symbol, timeframe, *_ in changed] == [
        ("ETHUSDT", "1m"),
        ("ETHUSDT", "3m"),
        ("ETHUSDT", "5m"),
    ]
    assert all(was["high"] < became["high"] for *_, was, became in changed)
    for timeframe in ("1m", "3m", "5m"):
        assert [r[:6] for r in stored(connection, timeframe, 1, 5)] == [
            r[:6] for r in await as_told(exchange, timeframe, 1, 5)
        ]
    assert holes(connection) == {}


def corrections(connection):
    return connection.execute(
        "select s.symbol, c.timeframe::text, c.was, c.became from vyx.candle_corrections c join vyx.symbols s using (symbol_id)"
        " order by c.timeframe"
    ).fetchall()
