"""Keepers on a real database, with a holder that only remembers: shares, deaths, identities."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from app.coordination import keeper as module
from app.coordination.keeper import Keeper
from app.coordination.supervisor import supervise
from app.metrics import WorkerMetrics
from app.store import leases
from app.store.pool import connect_direct
from tests import world
from tests.world import eventually


class Holder:
    """What a screener looks like to its keeper."""

    def __init__(self, connection, dsn, trusted):
        self._connection, self._dsn = connection, dsn
        self.trusted = trusted
        self.screened_through = None
        self.busy_since = None
        self.identities = []
        self.screenings = 0
        self.syncs = 0

    @property
    def owned(self):
        return len(world.leases(self._connection, self.identities[-1])) if self.identities else 0

    async def begin_boot(self, boot_id, screened_through):
        self.identities.append(boot_id)
        self.screened_through = screened_through

    async def sync(self):
        self.syncs += 1

    async def screen(self):
        self.screenings += 1
        return 0

    async def release_surplus(self, surplus):
        boot = self.identities[-1]
        ids = list(world.leases(self._connection, boot))[:surplus]
        client = await connect_direct(self._dsn, name="vyx-test")
        try:
            return await leases.release(client, boot, ids)
        finally:
            await client.close()

    async def drain(self):
        pass


class Machine:
    def __init__(self, connection, dsn, name, ttl_s):
        self.stopping = asyncio.Event()
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.feeding = []
        self.job_restarts = 0
        self.keeper = Keeper(
            dsn,
            name,
            lambda trusted: Holder(connection, dsn, trusted),
            self.metrics,
            ttl_s=ttl_s,
            on_ingest=self._feed,
            on_registered=lambda _boot: None,
            on_bypass=self._restart_jobs,
        )
        self.holder = self.keeper.holder
        self.task = asyncio.create_task(supervise(name, self.keeper.run, self.stopping))

    def _restart_jobs(self):
        self.job_restarts += 1

    async def _feed(self, boot_id):
        self.feeding.append(boot_id)
        await asyncio.Event().wait()

    async def end(self):
        self.stopping.set()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.05)


@pytest.fixture
async def machine(connection, dsn):
    """A function name -> Machine whose keeper has registered."""
    made = []

    async def make(name, ttl_s=10):
        made.append(Machine(connection, dsn, name, ttl_s))
        await eventually(lambda: made[-1].holder.identities)
        return made[-1]

    yield make
    for one in made:
        await one.end()


@pytest.fixture
def traders(connection):
    user = world.add_user(connection)
    return [world.add_trader(connection, user) for _ in range(20)]


def shares(connection, *made):
    return [len(world.leases(connection, m.keeper.boot_id)) for m in made]


def end_session(connection, name):
    """What a network that breaks does to the keeper's direct connection."""
    connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
        (f"vyx-keeper:{name}",),
    )


async def test_a_machine_alone_claims_everything(connection, machine, traders):
    """
    Its fair share is all.
    """
    a = await machine("a")

    await eventually(lambda: shares(connection, a) == [20])


async def test_a_machine_that_joins_is_given_its_share_and_no_more(connection, machine, traders):
    """
    Only the surplus moves: 20 become 10 and 10.
    """
    a = await machine("a")
    await eventually(lambda: shares(connection, a) == [20])

    b = await machine("b")
    await eventually(lambda: sum(shares(connection, a, b)) == 20 and min(shares(connection, a, b)) >= 9)

    moved = "select count(*) from public.trader_state where epoch > 1"
    assert world.call(connection, moved)[0] <= 11


async def test_a_machine_that_leaves_gives_everything_back(connection, machine, traders):
    """
    At once, and the others take it.
    """
    a, b = await machine("a"), await machine("b")
    await eventually(lambda: sum(shares(connection, a, b)) == 20 and min(shares(connection, a, b)) >= 9)

    await a.keeper.leave()

    await eventually(lambda: shares(connection, b) == [20])
    assert world.call(connection, "select state::text from vyx.machines where machine_id = 'a'") == ("dead",)


async def test_leaving_makes_no_machine_that_does_nothing(connection, machine, traders):
    """
    A beat that finds its boot ended by leave() does not register another one.
    """
    a = await machine("a")
    await a.keeper.leave()
    await eventually(lambda: a.keeper._connection is None)

    assert connection.execute("select machine_id, state::text from vyx.machines").fetchall() == [
        ("a", "dead")
    ]


async def test_a_machine_to_be_drained_gives_everything_back_and_stays(connection, machine, traders):
    """
    It beats, and claims nothing.
    """
    a, b = await machine("a"), await machine("b")
    await eventually(lambda: sum(shares(connection, a, b)) == 20)

    connection.execute("select public.drain_machine('a')")

    await eventually(lambda: shares(connection, a, b) == [0, 20])
    assert world.call(connection, "select state::text from vyx.machines where machine_id = 'a'") == (
        "draining",
    )


async def test_a_connection_that_breaks_costs_no_lease(connection, machine, traders):
    """
    The same boot takes its lock again within the grace: nothing moves.
    """
    a, b = await machine("a"), await machine("b")
    await eventually(lambda: sum(shares(connection, a, b)) == 20 and min(shares(connection, a, b)) >= 9)
    before = world.leases(connection, a.keeper.boot_id)
    old = a.keeper._connection

    end_session(connection, "a")
    await eventually(lambda: a.keeper._connection not in (old, None) and a.keeper.trusted())

    assert len(a.holder.identities) == 1
    assert world.leases(connection, a.keeper.boot_id) == before


async def test_one_machine_feeds_the_market_and_another_takes_over(connection, machine):
    """
    The ingest lock hangs on the keeper's connection.
    """
    a = await machine("a")
    await eventually(lambda: len(a.feeding) == 1)
    b = await machine("b")
    await eventually(lambda: b.holder.syncs > 3)
    assert b.feeding == []

    await a.end()

    await eventually(lambda: len(b.feeding) == 1)


async def test_a_buried_machine_comes_back_as_another(connection, machine, traders):
    """
    Whoever buries it ends its session; it registers anew, and its trust begins again.
    """
    a = await machine("a")
    first = a.keeper.boot_id
    await eventually(lambda: shares(connection, a) == [20])

    connection.execute(
        "update public.trader_state set owner = null; update vyx.machines set state = 'dead', ended_at = now()"
    )

    await eventually(lambda: len(a.holder.identities) == 2)
    await eventually(lambda: shares(connection, a) == [20])
    assert a.keeper.boot_id == a.holder.identities[-1] != first


async def test_screening_that_is_stuck_stops_the_heartbeat(connection, machine, monkeypatch):
    """
    The beat comes from the loop that does the work: others may take over, and the machine no longer trusts itself.
    """
    monkeypatch.setattr(module, "GRACE_S", 0.6)
    a = await machine("a")
    await eventually(a.keeper.trusted)

    a.holder.busy_since = time.monotonic() - module.STUCK_AFTER_S - 1

    await eventually(lambda: not a.keeper.trusted())
    beat = world.call(connection, "select heartbeat_at from vyx.machine_heartbeats")
    a.holder.busy_since = None
    await eventually(a.keeper.trusted)
    assert world.call(connection, "select heartbeat_at from vyx.machine_heartbeats") > beat


async def test_a_slot_that_no_job_screens_is_screened_by_the_keeper(connection, machine, monkeypatch):
    """
    The backstop: counted, so that somebody looks at the jobs, whose worker starts anew.
    """
    monkeypatch.setattr(module, "BYPASS_AFTER_S", 0.2)
    world.close_slots(connection, 0)
    a = await machine("a")

    world.close_slots(connection, 1)

    await eventually(lambda: a.holder.screenings > 0)
    assert a.metrics.job_bypasses._value.get() == a.job_restarts >= 1


async def test_errors_whose_time_has_come_are_retried_by_whoever_beats(connection, machine, traders):
    """
    No separate process wakes them.
    """
    boot = world.register(connection, "gone")
    world.claim(connection, boot, 1)
    world.fail(connection, boot, world.leases(connection, boot))
    connection.execute("update public.trader_state set retry_at = now() where state = 'error'")
    world.call(connection, world.MACHINES["leave"], boot_id=boot)

    a = await machine("a")

    await eventually(lambda: shares(connection, a) == [20])
