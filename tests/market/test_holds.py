"""Refusals and bans are obeyed to the second, by whoever feeds next: rows, not memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from app.market import errors
from app.market.addresses import host_of, own_address
from app.market.client import ExchangeClient
from app.market.feeder import Feeder
from app.market.holds import StoredHolds
from app.market.metrics import MarketMetrics
from app.market.simulated import Faults
from app.settings import read_settings
from tests import world
from tests.market.feeding import ledger, minutes_pass
from tests.world import eventually

HOST, HERE, ELSEWHERE = "api.example", "10.0.0.1", "10.0.0.2"


@pytest.fixture
def holds(pool):
    return StoredHolds(pool, HOST, HERE)


@pytest.fixture
def as_binance(small_exchange, small_clock, connection, dsn, tmp_path):
    """Settings of a production process whose Binance is the simulated exchange."""
    connection.execute(
        "insert into vyx.markets (source, speed, anchor_market_at) values ('binance', 1, %s)",
        (world.at(1_000_000),),
    )
    environment = {
        "DATABASE_URL": dsn,
        "VYX_MARKET": "binance",
        "VYX_EXCHANGE_REST_URL": small_exchange.rest_url,
        "VYX_EXCHANGE_STREAM_URL": small_exchange.stream_url,
        "VYX_DATA_DIR": str(tmp_path),
    }
    return replace(read_settings(environment=environment), history_bars=100)


class Machine:
    """A feeder as a worker has it."""

    def __init__(self, settings, pool, connection, name="a"):
        self.boot = world.register(connection, name)
        self.metrics = MarketMetrics(CollectorRegistry())
        self.handed_over = asyncio.Event()
        self.feeder = Feeder(
            settings, pool, self.metrics, wake=self.wake, on_unusable=print, on_held=self.handed_over.set
        )

    async def wake(self, _connection):
        return

    async def __aenter__(self):
        self.task = asyncio.create_task(self.feeder.run(self.boot))
        return self

    async def __aexit__(self, *_):
        await self.feeder.close()
        await asyncio.wait_for(self.task, 10)


def hold_of(connection):
    return connection.execute(
        "select status, held_until > clock_timestamp(), held_s from vyx.exchange_holds where held_until is not null"
    ).fetchall()


def progress(connection):
    return connection.execute("select stage, reason from vyx.market_progress").fetchone()


async def test_a_repeated_refusal_holds_twice_as_long_and_an_answer_ends_it(holds, connection):
    """
    In force the longest counts; over and refused again, the time doubles; after an answer a refusal is a first one.
    """
    assert await holds.hold(418, 100, "banned") == pytest.approx(100, abs=1)
    assert await holds.hold(418, 30, "banned") == pytest.approx(100, abs=1)
    connection.execute("update vyx.exchange_holds set held_until = now() - interval '1 s'")

    assert await holds.hold(418, 30, "banned") == pytest.approx(200, abs=1)

    await holds.answered()
    assert await holds.hold(418, 30, "banned") == pytest.approx(30, abs=1)


async def test_a_new_process_obeys_the_hold_and_then_probes_once(pool, holds, connection, small_exchange):
    """
    Not one request before its end; then one, whatever many are waiting.
    """
    await holds.hold(418, 7_200, "HTTP 418 on klines")
    async with ExchangeClient(small_exchange.rest_url, small_exchange.stream_url) as client:
        await StoredHolds(pool, HOST, HERE).begin(client.breaker, client.budget)
        with pytest.raises(errors.BreakerOpen) as refused:
            await client.ping()
        assert refused.value.retry_after_s == pytest.approx(7_200, abs=5)
        assert small_exchange.request_count == 0

    connection.execute("update vyx.exchange_holds set held_until = now() - interval '1 s'")
    small_exchange.faults = Faults(delay_s=0.05, status=418, retry_after=60)
    async with ExchangeClient(small_exchange.rest_url, small_exchange.stream_url) as client:
        await StoredHolds(pool, HOST, HERE).begin(client.breaker, client.budget)
        asked = await asyncio.gather(*(client.ping() for _ in range(20)), return_exceptions=True)

    assert small_exchange.request_count == 1
    assert all(isinstance(answer, errors.ExchangeError) for answer in asked)


async def test_used_weight_outlives_its_process(pool, holds, small_exchange):
    """
    The next feeder of this address goes on counting in the same minute.
    """
    async with ExchangeClient(small_exchange.rest_url, small_exchange.stream_url) as client:
        await client.budget.spend(3_000)
        minute = client.budget.minute
        keeping = asyncio.create_task(holds.keep_weight(client.budget))
        try:
            while (found := await holds.find()) is None:
                await asyncio.sleep(0.05)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    async with ExchangeClient(small_exchange.rest_url, small_exchange.stream_url) as other:
        await StoredHolds(pool, HOST, HERE).begin(other.breaker, other.budget)
        if other.budget.minute == minute:
            assert other.budget.used == 3_000

    assert (found.weight_minute, found.weight_used) == (minute, 3_000)
    assert found.held_until is None


@pytest.mark.parametrize(("status", "retry_after"), [(451, None), (418, 7_200), (403, None)])
async def test_a_refused_machine_asks_once_and_says_why_it_waits(
    as_binance, pool, connection, small_exchange, status, retry_after
):
    """
    Restarts included: one request in all. Progress names the status, and no slot closes.
    """
    small_exchange.faults = Faults(status=status, retry_after=retry_after)
    for name in ("a", "b", "c"):
        async with Machine(as_binance, pool, connection, name):
            await eventually(lambda: (progress(connection) or ("", ""))[0] == "held")

    assert small_exchange.request_count == 1
    assert [row[:2] for row in hold_of(connection)] == [(status, True)]
    assert str(status) in progress(connection)[1]
    assert ledger(connection) == {}


async def test_a_machine_that_is_held_lets_one_at_another_address_feed(
    as_binance, pool, connection, small_exchange
):
    """
    Its feeding ends without another request as soon as a live machine could ask; a machine held alike is none.
    """
    host, address = host_of(as_binance.exchange_rest_url), own_address(as_binance.exchange_rest_url)
    await StoredHolds(pool, host, address).hold(418, 7_200, "banned")
    other = world.register(connection, "b")
    async with Machine(as_binance, pool, connection) as machine:
        await eventually(lambda: (progress(connection) or ("", ""))[0] == "held")
        assert not machine.handed_over.is_set()

        connection.execute("insert into vyx.machine_addresses values (%s, %s)", (other, ELSEWHERE))
        await asyncio.wait_for(machine.handed_over.wait(), 10)
        await asyncio.wait_for(asyncio.shield(machine.task), 10)

    await StoredHolds(pool, host, ELSEWHERE).hold(418, 7_200, "banned")
    assert not await StoredHolds(pool, host, address).other_may_ask()
    assert small_exchange.request_count == 0


async def test_a_ban_in_the_middle_of_the_day_does_not_stop_the_streams(
    connection, feed, small_exchange, small_clock
):
    """
    What streams deliver closes its slots; what only REST could give is missing with the reason.
    """
    async with feed.running():
        await minutes_pass(small_clock, connection, 1, 1)
        small_exchange.faults = Faults(status=418, retry_after=7_200, drop_close=("ETHUSDT",))
        await minutes_pass(small_clock, connection, 2, 3)

    assert ledger(connection) == {
        0: ("complete", 0),
        1: ("complete", 0),
        2: ("complete", 1),
        3: ("complete", 1),
    }


async def test_a_429_in_the_middle_of_history_slows_history_only(
    connection, feed, small_exchange, small_clock
):
    """
    The load waits as long as it was told and goes on; nothing lacks, and it asks more slowly.
    """
    small_exchange.faults = Faults(delay_s=0.01)
    async with feed.started():
        await eventually(lambda: world.call(connection, "select count(*) from vyx.candles")[0] > 0)
        small_exchange.faults = Faults(status=429, status_count=1, retry_after=1)
        await eventually(lambda: small_exchange.streams.connection_count == 3)
        await minutes_pass(small_clock, connection, 1, 1)

    assert ledger(connection) == dict.fromkeys(range(2), ("complete", 0))
    assert feed.metrics.answers.labels("429")._value.get() == 1
