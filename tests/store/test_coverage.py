"""
Coverage over real rows: leases that ended, the live one, outages between them.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from app.domain.coverage import Gap, gaps_between
from app.store.leases import read_coverage
from tests import world

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def at(minute):
    return NOON + timedelta(minutes=minute)


@pytest.fixture
def ledger(connection):
    """Writes slots from 12:00 on: ``c`` complete, ``x`` outage, ``o`` open; no market yet, so events have no market time."""

    def write(text):
        for minute, what in enumerate(text):
            state = {"c": "complete", "x": "outage", "o": "open"}[what]
            connection.execute(
                "insert into vyx.slots (slot, state, reason, closed_at) values (%s, %s, %s, case when %s <> 'open' then now() end)",
                (at(minute), state, "no candle" if what == "x" else None, state),
            )

    return write


@pytest.fixture
def trader(connection):
    user_id = uuid.uuid4()
    connection.execute("insert into auth.users (id) values (%s)", (user_id,))
    connection.execute("select public.set_tier(%s, 'pro')", (user_id,))
    return connection.execute(
        "insert into public.traders (user_id, name, filter, plan, plan_hash) values (%s, 't', 'f', '{}', 'h') returning id",
        (user_id,),
    ).fetchone()[0]


@pytest.fixture
def read(dsn, trader):
    async def coverage():
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            ranges, outages, pauses = await read_coverage(connection, trader)
        told = [
            ((r.first - NOON).seconds // 60, (r.last - NOON).seconds // 60, r.machine_id, r.epoch)
            for r in ranges
        ]
        return told, gaps_between(ranges, outages, pauses)

    return coverage


def lease(connection, trader, epoch, after, through, machine="m1"):
    with world.without_triggers(connection):
        connection.execute(
            "insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through) values (%s, %s, 1, %s, %s, %s)",
            (trader, epoch, machine, at(after), at(through)),
        )


async def test_a_trader_that_never_ran_has_no_coverage(read):
    assert await read() == ([], [])


async def test_a_lease_covers_the_slots_after_its_beginning_through_its_end(connection, ledger, trader, read):
    ledger("cccccccccc")
    lease(connection, trader, 1, 2, 6)

    assert await read() == ([(3, 6, "m1", 1)], [])


async def test_outages_cut_a_lease_and_are_gaps_with_their_reason(connection, ledger, trader, read):
    ledger("ccccxxccxc")
    lease(connection, trader, 1, 1, 9)

    ranges, gaps = await read()

    assert ranges == [(2, 3, "m1", 1), (6, 7, "m1", 1), (9, 9, "m1", 1)]
    assert gaps == [Gap(at(4), at(5), "no candle"), Gap(at(8), at(8), "no candle")]


async def test_a_lease_of_nothing_but_outages_has_no_range(connection, ledger, trader, read):
    ledger("cxxc")
    lease(connection, trader, 1, 0, 2)

    assert await read() == ([], [Gap(at(1), at(2), "no candle")])


async def test_an_outage_beside_the_lease_is_not_the_traders(connection, ledger, trader, read):
    ledger("xxccxx")
    lease(connection, trader, 1, 1, 3)

    assert await read() == ([(2, 3, "m1", 1)], [])


async def test_the_live_lease_counts_as_far_as_its_machine_has_screened(connection, ledger, trader, read):
    ledger("ccc")
    boot = connection.execute("select boot_id from vyx.register_machine_v1('m2')").fetchone()[0]
    connection.execute("select public.start_trader(%s)", (trader,))
    connection.execute("select vyx.claim_v1(%s, 10)", (boot,))
    world.speak_for(connection, boot)
    connection.execute(
        "update public.trader_state set state = 'running', in_step = true where trader_id = %s", (trader,)
    )
    connection.execute(
        "insert into vyx.slots (slot, state, closed_at) select %s + n * interval '1 min', 'complete', now() from generate_series(3, 8) n",
        (NOON,),
    )
    for minute in range(3, 8):
        connection.execute("update vyx.machines set screened_through = %s", (at(minute),))

    assert (await read())[0] == [(3, 7, "m2", 1)]


async def test_a_trader_that_moved_between_machines_has_no_gap(connection, ledger, trader, read):
    ledger("cccccc")
    lease(connection, trader, 1, 0, 2)
    lease(connection, trader, 3, 2, 5, machine="m2")

    assert await read() == ([(1, 2, "m1", 1), (3, 5, "m2", 3)], [])


async def test_what_a_stop_left_out_is_called_stopped(connection, ledger, trader, read):
    """Events happen at wall time, slots at market time: the market's clock joins them."""
    ledger("c" * 30)
    connection.execute(
        "insert into vyx.markets (source, speed, anchor_market_at, anchor_wall_at) values ('file', 60, %s, now() - interval '10 s')",
        (NOON,),
    )
    lease(connection, trader, 1, 0, 5)
    lease(connection, trader, 3, 20, 25)
    connection.execute("select public.start_trader(%s)", (trader,))
    connection.execute("select public.stop_trader(%s)", (trader,))  # market time is now 12:10

    assert (await read())[1] == [Gap(at(6), at(20), "stopped")]


async def test_a_hole_without_a_stop_is_called_not_screened(connection, ledger, trader, read):
    ledger("c" * 30)
    lease(connection, trader, 1, 0, 5)
    lease(connection, trader, 3, 20, 25)

    assert (await read())[1] == [Gap(at(6), at(20), "not screened")]
