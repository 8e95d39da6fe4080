"""Late and corrected candles reach what was built on them, and what they would have changed is reported."""

from __future__ import annotations

import numpy as np
import pytest

from app.revisions import Revisions
from app.store import candles
from app.store.pool import make_pool
from tests import world


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=2, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
def trader(connection):
    """Screened at slots 1 … 3 for closes above 10, with a signal of AAAUSDT at slot 2."""
    connection.execute(  # market time: the trader was saved an hour before the world begins
        "insert into vyx.markets (source, anchor_market_at, anchor_wall_at) values ('simulated', %s, now() + interval '1 hour')",
        (world.T0,),
    )
    user = world.add_user(connection)
    trader = world.add_trader(connection, user, world.above(10))
    world.put_closes(connection, {"AAAUSDT": [5, 11, 5], "BBBUSDT": [5, 5, 5]}, first=1)
    world.close_slots(connection, 1, 2, 3)
    with world.without_triggers(connection):
        connection.execute(
            "insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through) values (%s, 1, 1, 'a', %s, %s)",
            (trader, world.at(0), world.at(3)),
        )
    connection.execute(
        "insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)"
        " values (%s, %s, 'AAAUSDT', '1m', %s, 11, 'h', 1, now())",
        (trader, user, world.at(2)),
    )
    return trader


async def correct(pool, connection, symbol, slot, close):
    """The exchange tells another candle of a slot that has been screened."""
    ids = world.put_symbols(connection, symbol)
    rows = {name: np.array([float(close)]) for name in ("open", "high", "low", "close", "volume")}
    rows |= {"symbol_id": np.array([ids[symbol]]), "open_time": np.array([world.ms(world.at(slot - 1))])}
    async with pool.connection() as client:
        assert len(await candles.correct(client, "1m", rows)) == 1


def reported(connection):
    return connection.execute(
        "select symbol, triggered_at, kind from public.signal_revisions order by symbol, triggered_at"
    ).fetchall()


async def test_a_signal_that_corrected_candles_would_not_give_is_reported_missing(pool, connection, trader):
    """
    The signal stays; once reported it is not reported again.
    """
    await correct(pool, connection, "AAAUSDT", 2, 9)

    assert await Revisions(pool).report() == 1
    assert await Revisions(pool).report() == 0

    assert reported(connection) == [("AAAUSDT", world.at(2), "missing")]
    assert world.when(connection, trader) == [("AAAUSDT", 2)]


async def test_a_signal_that_a_corrected_candle_would_give_is_reported_new(pool, connection, trader):
    """
    No second signal is sent: the slot has been screened.
    """
    await correct(pool, connection, "BBBUSDT", 3, 12)

    await Revisions(pool).report()

    assert reported(connection) == [("BBBUSDT", world.at(3), "new")]
    assert world.when(connection, trader) == [("AAAUSDT", 2)]


async def test_a_correction_that_changes_no_match_is_not_reported(pool, connection, trader):
    """
    The slot counts as looked at, and nothing is said.
    """
    await correct(pool, connection, "AAAUSDT", 2, 13)

    assert await Revisions(pool).report() == 0
    left = world.call(
        connection, "select count(*) from vyx.candle_corrections where screened_again_at is null"
    )
    assert left == (0,)
    assert world.states(connection)[trader] == "starting"


async def test_a_filter_that_was_changed_since_is_left_alone(pool, connection, trader):
    """
    What it would have signalled then nobody asked.
    """
    connection.execute("update vyx.markets set anchor_wall_at = now() - interval '1 hour'")
    connection.execute("update public.traders set description = 'changed'")
    await correct(pool, connection, "BBBUSDT", 3, 12)

    assert await Revisions(pool).report() == 0
    assert world.when(connection, trader) == [("AAAUSDT", 2)]
