"""Workers that are killed, stopped or asked to leave in the middle: the signals are those of a run without it."""

from __future__ import annotations

import itertools
import signal
import time

import pytest

from tests import world
from tests.world import eventually


def newest_slot(connection):
    newest = world.call(connection, "select vyx.newest_closed_slot()")[0]
    return -1 if newest is None else int((newest - world.T0) / world.MINUTE)


def owners(connection):
    """Name of the living machine that owns each trader; None: nobody, whoever has room may claim it."""
    rows = connection.execute(
        "select m.machine_id from public.trader_state s left join vyx.machines m on m.boot_id = s.owner and m.state <> 'dead' order by s.trader_id"
    )
    return [row[0] for row in rows]


def check_everything(connection, stage):
    """Signals equal the evaluator's own replay, and each was written under the lease that covers its slot, which leave no gap."""
    for trader in stage.screens:
        assert world.when(connection, trader) == stage.expected(trader) != []
    strays = connection.execute(
        "with covered as ("
        "  select trader_id, epoch, after, through from vyx.leases union all"
        "  select trader_id, epoch, lease_after, vyx.screened_through(s) from public.trader_state s where owner is not null)"
        " select count(*) from public.signals g where not exists ("
        "  select from covered c where c.trader_id = g.trader_id and c.epoch = g.epoch and g.triggered_at > c.after and g.triggered_at <= c.through)"
    ).fetchone()
    assert strays == (0,)
    for trader in stage.screens:
        ranges = connection.execute(
            "select after, through from vyx.leases where trader_id = %(t)s union all"
            " select lease_after, vyx.screened_through(s) from public.trader_state s where trader_id = %(t)s and owner is not null order by 1",
            {"t": trader},
        ).fetchall()
        assert ranges[-1][1] == world.at(stage.market.last)
        assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))
    outages = "select count(*) from vyx.slots where state <> 'complete'"
    assert world.call(connection, outages) == (0,)


async def test_a_market_of_files_is_screened_to_its_end(connection, worker, stage):
    """
    Without any fault, for comparison: one worker, all slots, exactly the evaluator's matches.
    """
    await worker("alone")

    await eventually(stage.is_over, within_s=30)

    check_everything(connection, stage)


@pytest.mark.parametrize("successor", ["is there already", "comes afterwards"])
async def test_a_killed_worker_loses_nothing(connection, worker, stage, successor):
    """
    SIGKILL in the middle of the market: another worker, or the same one started again, owns its traders soon and screens what was missed.
    """
    first = await worker("first")
    if successor == "is there already":
        await worker("second")
    await eventually(lambda: newest_slot(connection) >= stage.market.first + 15)

    first.send(signal.SIGKILL)
    killed = time.monotonic()
    if successor == "comes afterwards":
        await worker("second")
    await eventually(lambda: set(owners(connection)) == {"second"})

    assert time.monotonic() - killed < 5 + (3 if successor == "comes afterwards" else 0)
    await eventually(stage.is_over, within_s=30)
    check_everything(connection, stage)


async def test_a_worker_told_to_leave_gives_everything_back_at_once(connection, worker, stage):
    """
    SIGTERM: the slot in hand is finished, leases are free within a second, the process ends with 0, and another worker goes on.
    """
    first = await worker("first")
    await eventually(
        lambda: newest_slot(connection) >= stage.market.first + 10 and set(owners(connection)) == {"first"}
    )

    first.send(signal.SIGTERM)
    told = time.monotonic()
    await eventually(lambda: set(owners(connection)) == {None})
    released_s = time.monotonic() - told
    await eventually(lambda: first.process.poll() is not None)

    assert released_s < 1
    assert first.process.returncode == 0, first.log.read_text()
    assert connection.execute("select state::text from vyx.machines").fetchall() == [("dead",)]
    await worker("second")
    await eventually(stage.is_over, within_s=30)
    check_everything(connection, stage)


async def test_a_worker_that_hangs_is_reaped_and_writes_nothing_when_it_wakes(connection, worker, stage):
    """
    SIGSTOP: after the ttl its traders and the feeding of the market are elsewhere. Continued, it notices, and comes back as another boot.
    """
    first = await worker("first", speed=240)
    await worker("second", speed=240)
    await eventually(lambda: newest_slot(connection) >= stage.market.first + 10)

    first.send(signal.SIGSTOP)
    stood = newest_slot(connection)
    await eventually(lambda: set(owners(connection)) == {"second"})
    await eventually(lambda: newest_slot(connection) > stood + 5)
    first.send(signal.SIGCONT)

    boots = "select count(*) from vyx.machines where machine_id = 'first'"
    await eventually(lambda: world.call(connection, boots) == (2,))
    await eventually(stage.is_over, within_s=30)
    check_everything(connection, stage)
