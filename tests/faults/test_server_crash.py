"""Postgres loses a backend to SIGKILL and restarts all of them: nobody is reaped for it, and screening goes on."""

from __future__ import annotations

import os
import signal
import time

import psycopg
import pytest

from app.store import embedded, migrations
from tests import world
from tests.faults.test_workers import check_everything, newest_slot, owners
from tests.world import eventually

AGAIN_WITHIN_S = 10


@pytest.fixture
def dsn(tmp_path_factory):
    """A server of this test's own: it is going to crash."""
    server = embedded.start(tmp_path_factory.mktemp("crash"))
    migrations.migrate(server.get_uri())
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def connection(dsn):
    """One that is made anew whenever it was lost."""
    made = Reconnecting(dsn)
    yield made
    made.close()


class Reconnecting:
    def __init__(self, dsn):
        self._dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True)

    def __getattr__(self, name):
        if self._connection.closed:
            self._connection = psycopg.connect(self._dsn, autocommit=True)
        return getattr(self._connection, name)

    def close(self):
        self._connection.close()


async def test_a_crashed_backend_moves_no_lease(connection, dsn, worker, stage):
    """
    The server's start time does not change, every lock is gone and every heartbeat is old: only the unlogged row tells.
    """
    await worker("first", speed=60)
    await worker("second", speed=60)
    await eventually(lambda: newest_slot(connection) >= stage.market.first + 3, within_s=30)
    await eventually(lambda: set(owners(connection)) == {"first", "second"}, within_s=30)
    before = leases(connection)
    since = world.call(connection, "select vyx.readable_since(), pg_postmaster_start_time()")

    stood = newest_slot(connection)
    with psycopg.connect(dsn, autocommit=True) as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)
    await eventually(
        lambda: lives_since(connection) not in (None, since[0]), within_s=30
    )  # recovery emptied the row
    began = time.monotonic()
    await eventually(lambda: newest_slot(connection) > stood and screened(connection) > stood)

    assert time.monotonic() - began < AGAIN_WITHIN_S
    assert world.call(connection, "select pg_postmaster_start_time()")[0] == since[1]
    assert leases(connection) == before
    assert connection.execute("select distinct state::text from vyx.machines").fetchall() == [("alive",)]
    await eventually(stage.is_over, within_s=90)
    check_everything(connection, stage)


def lives_since(connection):
    """Since when the server's tables can be read; None while they cannot."""
    try:
        return world.call(connection, "select vyx.readable_since()")[0]
    except psycopg.OperationalError:
        return None


def leases(connection):
    """Owner and epoch of each trader."""
    return connection.execute(
        "select trader_id, owner, epoch from public.trader_state order by trader_id"
    ).fetchall()


def screened(connection):
    """Number of the slot up to which every living machine has accounted for the ledger."""
    through = world.call(connection, "select min(screened_through) from vyx.machines where state <> 'dead'")[
        0
    ]
    return int((through - world.T0) / world.MINUTE)
