"""Ingest, from the simulated exchange to rows: what is complete has its candles, what is missing is on record, nothing stops it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from app.domain import timeframes
from app.errors import Fenced
from app.market.client import ExchangeClient
from app.market.ingest import Ingest
from app.market.metrics import MarketMetrics
from app.market.simulated import Faults, GeneratedSource, Hole, ManualClock, SimulatedExchange
from app.market.streams import StreamLimits
from app.store.pool import make_pool
from tests import world
from tests.world import eventually

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
HALF_MINUTE_MS = 30_000
HISTORY_BARS = {
    "8h": 90,
    "12h": 60,
    "1d": 30,
}  # the generated market is 30 days old; of all others, as many as asked for


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=6, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
def clock():
    """Market time, half a minute after the world began."""
    return ManualClock(world.ms(world.T0) + HALF_MINUTE_MS)


@pytest.fixture
async def exchange(clock):
    source = GeneratedSource(1, anchor_ms=clock.now_ms(), symbols_max=len(SYMBOLS))
    async with SimulatedExchange(source, clock) as exchange:
        yield exchange


class Feed:
    """One feeder of the market, as a machine would run it."""

    def __init__(self, pool, exchange, boot):
        self.pool, self.exchange, self.boot = pool, exchange, boot
        self.metrics = MarketMetrics(CollectorRegistry())
        self.woken = 0

    async def wake(self, _connection):
        self.woken += 1

    @asynccontextmanager
    async def running(self, connections=3):
        """The task of an ingest whose streams are up."""
        limits = StreamLimits(stagger_s=0.0, retry_wait_s=0.05)
        async with ExchangeClient(
            self.exchange.rest_url, self.exchange.stream_url, stream_limits=limits
        ) as client:
            ingest = Ingest(
                self.pool,
                client,
                self.metrics,
                boot_id=self.boot,
                speed=20,  # stragglers have a quarter of a second
                history_bars=120,
                symbols_max=100,
                min_quote_volume=0,
                wake=self.wake,
                on_progress=lambda _done, _total: None,
            )
            task = asyncio.create_task(ingest.run())
            try:
                await eventually(lambda: task.done() or self.exchange.streams.connection_count == connections)
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: self.exchange.streams.connection_count == 0)


@pytest.fixture
def feed(pool, exchange, connection):
    return Feed(pool, exchange, world.register(connection))


def ledger(connection):
    """State and number of missing symbols by slot number."""
    rows = connection.execute("select slot, state::text, symbols_missing from vyx.slots order by slot")
    return {int((slot - world.T0) / world.MINUTE): (state, missing) for slot, state, missing in rows}


def closed(connection, number):
    return lambda: number in ledger(connection)


async def minutes_pass(clock, connection, first, last):
    """Minute after minute, each when the one before has been stored."""
    for number in range(first, last + 1):
        clock.advance_to(world.ms(world.at(number)))
        await eventually(closed(connection, number))


def stored(connection, timeframe, first, last):
    """Bars of all symbols that close in slots first … last."""
    return connection.execute(
        "select s.symbol, extract(epoch from c.open_time)::bigint * 1000, c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trade_count"
        "  from vyx.candles c join vyx.symbols s using (symbol_id)"
        " where c.timeframe = %s and c.open_time + make_interval(secs => %s) between %s and %s order by 1, 2",
        (timeframe, timeframes.TIMEFRAMES[timeframe], world.at(first), world.at(last)),
    ).fetchall()


async def told(exchange, timeframe, first, last):
    """The same bars as the exchange tells them."""
    length_ms = timeframes.length_ms(timeframe)
    async with ExchangeClient(exchange.rest_url, exchange.stream_url) as client:
        rows = [
            tuple(row)
            for symbol in SYMBOLS
            for row in (
                await client.klines(symbol, timeframe, start_ms=world.ms(world.at(first)) - length_ms)
            ).rows()
            if row.open_time + length_ms <= world.ms(world.at(last))
        ]
    return sorted(rows)


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
        assert stored(connection, "1m", -119, 0) == await told(exchange, "1m", -119, 0)
        assert stored(connection, "1h", -600, 0) == await told(exchange, "1h", -600, 0)


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
        for ours, theirs in zip(found, await told(exchange, timeframe, 1, 15), strict=True):
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
        r[:6] for r in await told(exchange, "5m", 1, 5)
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
        r[:6] for r in await told(exchange, "5m", 1, 5)
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
