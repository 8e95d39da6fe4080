"""One feeder of the market over the simulated exchange: what tests of ingest and of every misbehaviour of the exchange share."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from app.domain import timeframes
from app.market.client import ExchangeClient
from app.market.ingest import Ingest
from app.market.metrics import MarketMetrics
from app.market.streams import StreamLimits
from tests import world
from tests.world import eventually

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
HALF_MINUTE_MS = 30_000
BARS = 120


class Feed:
    """One feeder of the market, as a machine would run it."""

    def __init__(self, pool, exchange, boot):
        self.pool, self.exchange, self.boot = pool, exchange, boot
        self.metrics = MarketMetrics(CollectorRegistry())
        self.woken = 0
        self.options = {}
        self.client_options = {}
        self.ingest = None

    async def wake(self, _connection):
        self.woken += 1

    @asynccontextmanager
    async def client(self):
        """The real client, talking to the simulated exchange."""
        limits = StreamLimits(stagger_s=0.0, retry_wait_s=0.05, overlap_s=0.01)
        options = {
            "stream_limits": limits,
            "retry_wait_s": 0.001,
            "on_answer": self.metrics.answered,
            **self.client_options,
        }
        async with ExchangeClient(self.exchange.rest_url, self.exchange.stream_url, **options) as client:
            yield client

    @asynccontextmanager
    async def started(self):
        """The task of an ingest, however far it has come."""
        async with self.client() as client:
            options = {
                "speed": 20,  # stragglers have a quarter of a second
                "history_bars": BARS,
                "symbols_max": 100,
                "min_quote_volume": 0,
                "on_progress": lambda _done, _total: None,
                **self.options,
            }
            self.ingest = Ingest(
                self.pool, client, self.metrics, boot_id=self.boot, wake=self.wake, **options
            )
            task = asyncio.create_task(self.ingest.run())
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: self.exchange.streams.connection_count == 0)

    @asynccontextmanager
    async def running(self, connections=3):
        """The task of an ingest whose streams are up."""
        async with self.started() as task:
            await eventually(lambda: task.done() or self.exchange.streams.connection_count == connections)
            yield task


def ledger(connection):
    """State and number of missing symbols by slot number."""
    rows = connection.execute("select slot, state::text, symbols_missing from vyx.slots order by slot")
    return {int((slot - world.T0) / world.MINUTE): (state, missing) for slot, state, missing in rows}


def closed(connection, number):
    return lambda: number in ledger(connection)


def missing_reasons(connection, number):
    """Why symbols have no candle in a slot, by name."""
    return world.call(
        connection, "select missing_reasons from vyx.slots where slot = %(slot)s", slot=world.at(number)
    )[0]


def waiting(connection):
    """What trading pairs without whole history wait for."""
    rows = connection.execute(
        "select symbol, waits_for from vyx.symbols where trading and not screened order by 1"
    )
    return dict(rows.fetchall())


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


async def as_told(exchange, timeframe, first, last):
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
