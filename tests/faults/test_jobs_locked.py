"""The jobs' tables are held by somebody: nothing but the jobs stands still."""

from __future__ import annotations

import psycopg

from tests import world
from tests.faults.test_workers import check_everything, newest_slot, owners
from tests.world import eventually


async def test_slots_go_on_while_the_jobs_tables_are_locked(connection, dsn, worker, stage):
    """
    An ACCESS EXCLUSIVE lock on procrastinate_jobs: slots close without a tick job, and are screened all the same; no lease moves.
    """
    first = await worker("first", speed=120)
    await eventually(lambda: newest_slot(connection) >= stage.market.first + 3, within_s=30)

    with psycopg.connect(dsn) as holder:
        holder.execute("lock table procrastinate.procrastinate_jobs in access exclusive mode")
        stood = newest_slot(connection)
        waiting = "select count(*) from pg_locks where relation = 'procrastinate.procrastinate_jobs'::regclass and not granted"
        await eventually(lambda: world.call(connection, waiting)[0] > 0)
        await eventually(lambda: screened(connection) >= stood + 8)
        holder.rollback()

    assert "no tick job for this slot" in first.log.read_text()
    assert set(owners(connection)) == {"first"}
    assert world.call(connection, "select count(*) from vyx.machines") == (1,)
    await eventually(stage.is_over, within_s=45)
    check_everything(connection, stage)


def screened(connection):
    """Number of the last slot that the machine accounted for."""
    through = world.call(connection, "select screened_through from vyx.machines")[0]
    return int((through - world.T0) / world.MINUTE)
