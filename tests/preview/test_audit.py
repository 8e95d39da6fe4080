"""`vyx audit` finds what is not in `signals` as it should be, and nothing else, whatever happened in the period."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from app import operations
from app.cli import cli
from app.coordination.hints import Hints
from app.metrics import WorkerMetrics
from app.screening.screener import Screener
from app.store.pool import make_pool
from sandbox.interpreter.functions import EachRunner
from tests import world

CLOSES = world.random_closes(4, 120)


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=6, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
async def machine(pool, connection):
    hints, each = Hints(pool), EachRunner()

    async def make(name="a"):
        screener = Screener(pool, hints, WorkerMetrics(CollectorRegistry()), lambda: True, None, each)
        boot = world.register(connection, name)
        row = world.call(
            connection, "select screened_through from vyx.machines where boot_id = %(b)s", b=boot
        )
        await screener.begin_boot(boot, row[0])
        return screener

    yield make
    each.close()
    await hints.close()


@pytest.fixture
def user(connection):
    return world.add_user(connection)


@pytest.fixture
def market(connection):
    connection.execute(
        "insert into vyx.markets (source, anchor_market_at, anchor_wall_at) values ('test', %s, now())",
        (world.at(60),),
    )
    world.put_closes(connection, CLOSES, first=-59)
    fives = {symbol: closes[4::5] for symbol, closes in CLOSES.items()}
    world.put_closes(connection, fives, first=-55, timeframe="5m", minutes=5)
    world.close_slots(connection, 0)


async def audit(dsn, trader, hours=1.0):
    (found,) = await operations.audit(dsn, trader, hours=hours)
    return found


def told(found):
    return [(d.symbol, int((d.triggered_at - world.T0) / world.MINUTE), d.only_in) for d in found.differ]


async def test_a_quiet_hour_differs_in_nothing_and_accounts_for_every_slot(
    dsn, connection, machine, market, user
):
    trader = world.add_trader(connection, user, world.above_average(7))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 61))
    await a.screen()

    found = await audit(dsn, trader)

    assert found.live == found.replayed == len(world.signals(connection)) > 20
    assert (found.differ, found.slots_expected, found.slots_accounted) == ([], 60, 60)


async def test_edits_moves_outages_frequencies_and_late_candles_are_honoured(
    dsn, connection, machine, market, user
):
    """
    Every version is replayed at its own slots, every slot with the candles it was screened with.
    """
    forming = world.above(100, timeframe="5m", op="forming", show=True)
    connection.execute(  # it comes late: slots 30 and 31 are screened without it
        "delete from vyx.candles c using vyx.symbols s where s.symbol = 'S2USDT' and c.symbol_id = s.symbol_id"
        " and c.timeframe = '1m' and c.open_time = %s",
        (world.at(29),),
    )
    plans = [world.above_average(7), world.above(100), world.above(100, timeframe="5m"), forming]
    traders = [
        world.add_trader(connection, user, plan, frequency=frequency)
        for plan in plans
        for frequency in ("every_bar", "on_enter", {"cooldown_s": 180})
    ]
    a, b = await machine("a"), await machine("b")
    world.claim(connection, a.boot_id, 6)
    world.claim(connection, b.boot_id, 6)
    for number in range(1, 61):
        world.close_slots(connection, number, state="outage" if number in (13, 14) else "complete")
        for screener in (a, b):
            if screener is a or number % 3 == 0 or number > 40:
                await screener.screen()
        if number % 8 == 0:
            world.change_plan(connection, traders[number % 12], plans[number % 4])
        if number % 10 == 0:
            edited = '{"cooldown_s": 240}' if number % 20 else '"on_enter"'
            connection.execute(
                "update public.traders set frequency = %s where id = %s", (edited, traders[number % 11])
            )
        if number == 21:
            connection.execute(
                "update public.traders set symbols = '{S1USDT,S2USDT}' where id = %s", (traders[0],)
            )
        if number == 31:
            world.put_closes(connection, {"S2USDT": [150.0]}, first=30)
            connection.execute(
                "insert into vyx.candle_corrections (symbol_id, timeframe, open_time, became, reason)"
                " select symbol_id, '1m', %s, '{}', 'late' from vyx.symbols where symbol = 'S2USDT'",
                (world.at(29),),
            )
        if number == 25:
            world.put_closes(connection, {"NEWUSDT": [101.0, 102.0, 103.0]}, first=24)
            connection.execute(
                "insert into vyx.candle_corrections (symbol_id, timeframe, open_time, became, reason)"
                " select symbol_id, '1m', %s + n * interval '1 min', '{}', 'late' from vyx.symbols, generate_series(0, 1) n"
                " where symbol = 'NEWUSDT'",
                (world.at(23),),
            )
        if number == 40:
            await a.drain()
            world.call(connection, world.MACHINES["leave"], boot_id=a.boot_id)
            a = await machine("c")
            world.claim(connection, a.boot_id)
    await b.screen()

    found = await operations.audit(dsn, None, hours=1)

    assert [told(one) for one in found] == [[]] * 12
    assert {(one.slots_expected, one.slots_accounted) for one in found} == {(60, 60)}
    assert sum(one.live for one in found) == len(world.signals(connection)) > 200


async def test_what_was_harmed_is_named(dsn, connection, machine, market, user):
    """
    A signal that is missing, one too many, and one of another price, which each side has its own.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 11))
    await a.screen()
    connection.execute(
        "delete from public.signals where symbol = 'S1USDT' and triggered_at = %s", (world.at(3),)
    )
    connection.execute(
        "update public.signals set price = 7 where symbol = 'S2USDT' and triggered_at = %s", (world.at(5),)
    )
    connection.execute(
        "update public.signals set symbol = 'XUSDT' where symbol = 'S3USDT' and triggered_at = %s",
        (world.at(6),),
    )

    found = await audit(dsn, trader)

    assert told(found) == [
        ("S1USDT", 3, "replayed"),
        ("S2USDT", 5, "live"),
        ("S2USDT", 5, "replayed"),
        ("S3USDT", 6, "replayed"),
        ("XUSDT", 6, "live"),
    ]


async def test_slots_that_no_machine_accounted_for_are_counted(dsn, connection, machine, market, user):
    """
    A trader that was stopped is not expected to be screened; one that waits for a machine is.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 11))
    await a.screen()
    world.bury(connection, a.boot_id)
    world.close_slots(connection, *range(11, 16))

    found = await audit(dsn, trader)

    assert (found.slots_expected, found.slots_accounted) == (15, 10)
    assert found.differ == []


def test_the_command_prints_a_sentence_and_leaves_with_1_when_a_signal_differs(
    dsn, connection, market, user, monkeypatch
):
    from typer.testing import CliRunner

    monkeypatch.setenv("DATABASE_URL", dsn)
    trader = world.add_trader(connection, user, world.above(0))

    async def screened():
        pool = make_pool(dsn, max_size=3, name="vyx-test")
        await pool.open(wait=True)
        hints, each = Hints(pool), EachRunner()
        screener = Screener(pool, hints, WorkerMetrics(CollectorRegistry()), lambda: True, None, each)
        boot = world.register(connection)
        await screener.begin_boot(boot, world.at(0))
        world.claim(connection, boot)
        world.close_slots(connection, 1, 2)
        await screener.screen()
        await hints.close()
        await pool.close()
        each.close()

    asyncio.run(screened())
    right = CliRunner().invoke(cli, ["audit", "--hours", "1"])
    assert (right.exit_code, right.stdout) == (
        0,
        f"{trader}: 8 live, 8 replayed, 0 differ, 2 of 2 slots accounted for\n",
    )
    connection.execute(
        "delete from public.signals where symbol = 'S1USDT' and triggered_at = %s", (world.at(2),)
    )

    wrong = CliRunner().invoke(cli, ["audit", "--trader", str(trader), "--hours", "1"])

    assert (wrong.exit_code, wrong.stdout) == (
        1,
        (
            f"{trader}: 7 live, 8 replayed, 1 differ, 2 of 2 slots accounted for\n"
            "  S1USDT at 2024-07-01T00:02:00Z: only replayed\n"
        ),
    )


async def test_slots_with_a_digest_differ_in_nothing(dsn, connection, machine, market, user):
    """A trader with a cooldown floods: what was only counted neither is a signal nor holds a later one back."""
    connection.execute("update public.tiers set signals_per_day = 30")
    traders = [
        world.add_trader(connection, user, world.above(0), frequency=frequency)
        for frequency in ("every_bar", {"cooldown_s": 120})
    ]
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 61))
    await a.screen()

    for trader in traders:
        found = await audit(dsn, trader)
        assert told(found) == []
        assert 0 < found.live == found.replayed <= 33
        assert found.slots_accounted == 60


async def test_what_was_pruned_is_not_audited(dsn, connection, machine, market, user):
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 61))
    await a.screen()
    connection.execute("delete from public.signals where triggered_at < %s", (world.at(20),))
    assert told(await audit(dsn, trader))

    connection.execute(
        "insert into vyx.prunings (kind, pruned_before) values ('signals', %s)", (world.at(20),)
    )

    found = await audit(dsn, trader)
    assert told(found) == []
    assert found.since == world.at(20)
