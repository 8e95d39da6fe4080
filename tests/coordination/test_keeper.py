"""Keepers on a real database, with a holder that only remembers: shares, deaths, identities."""

from __future__ import annotations

import asyncio
import threading

import pytest
from prometheus_client import CollectorRegistry

from app.coordination import heartbeat
from app.coordination import keeper as module
from app.coordination.keeper import Keeper
from app.coordination.progress import Board
from app.coordination.supervisor import supervise
from app.metrics import WorkerMetrics
from app.store import leases
from app.store.pool import connect_direct, make_pool
from tests import world
from tests.world import eventually


class Holder:
    """What a screener looks like to its keeper."""

    def __init__(self, connection, dsn, trusted, progress):
        self._connection, self._dsn = connection, dsn
        self.trusted, self.progress = trusted, progress
        self.screened_through = None
        self.identities = []
        self.screenings = 0
        self.syncs = 0
        self.hangs, self.hung = False, 0

    @property
    def owned(self):
        return len(world.leases(self._connection, self.identities[-1])) if self.identities else 0

    async def begin_boot(self, boot_id, screened_through):
        self.identities.append(boot_id)
        self.screened_through = screened_through

    async def sync(self):
        self.syncs += 1
        if self.hangs:
            self.hung += 1
            self.progress.expect()
            await asyncio.Event().wait()

    async def screen(self):
        self.screenings += 1
        newest = world.call(self._connection, "select vyx.newest_closed_slot()")[0]
        if newest is None or newest <= self.screened_through:
            return 0
        self.screened_through = newest
        return 1

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
    def __init__(self, connection, dsn, pool, name, ttl_s):
        self.stopping = asyncio.Event()
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.feeding = []
        self.hopeless = []
        self.job_restarts = 0
        self.keeper = Keeper(
            dsn,
            pool,
            name,
            lambda trusted, progress: Holder(connection, dsn, trusted, progress),
            Board(),
            self.metrics,
            ttl_s=ttl_s,
            on_ingest=self._feed,
            on_registered=lambda _boot: None,
            on_jobs_silent=self._restart_jobs,
            on_hopeless=self.hopeless.append,
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
        await self.keeper.close()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=2, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
async def machine(connection, dsn, pool):
    """A function name -> Machine whose keeper has registered."""
    made = []

    async def make(name, ttl_s=10):
        made.append(Machine(connection, dsn, pool, name, ttl_s))
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


def end_sessions(connection, name):
    """What a network that breaks does to a machine's direct connections; how many there were."""
    ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = any (%(names)s)"
    return world.call(connection, ended, names=[f"vyx-keeper:{name}", f"vyx-beat:{name}"])[0]


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
    await a.end()

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
    failures, syncs = a.metrics.beat_failures._value.get(), a.holder.syncs

    assert end_sessions(connection, "a") == 2
    await eventually(lambda: a.metrics.beat_failures._value.get() > failures)
    await eventually(lambda: a.keeper.heartbeat.failing_since is None and a.holder.syncs > syncs + 3)

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


async def test_a_reaped_machine_comes_back_as_another(connection, machine, traders):
    """
    Whoever reaps it ends its sessions; it registers again, and claims what it had owned like anybody.
    """
    a = await machine("a")
    first = a.keeper.boot_id
    await eventually(lambda: shares(connection, a) == [20])

    connection.execute("update vyx.machines set state = 'dead', ended_at = now()")

    await eventually(lambda: len(a.holder.identities) == 2)
    await eventually(lambda: shares(connection, a) == [20])
    assert a.keeper.boot_id == a.holder.identities[-1] != first


async def test_a_main_loop_that_stands_still_gives_the_leases_back_and_ends_the_process(
    connection, machine, traders, monkeypatch
):
    """
    Nobody in it can: the thread of the beat does, by its own connection.
    """
    monkeypatch.setattr(module, "LOOP_BOUND_S", 0.3)
    a = await machine("a")
    await eventually(lambda: shares(connection, a) == [20])
    ended = threading.Event()
    a.keeper.heartbeat._end_process = ended.set

    stands_still_until(ended)

    assert world.call(connection, "select state::text from vyx.machines") == ("dead",)


def stands_still_until(event):
    """What a plain loop in a coroutine would do."""
    assert event.wait(timeout=20)


async def test_a_slot_that_no_job_screens_is_screened_all_the_same(connection, machine, monkeypatch):
    """
    The ledger says what is due; that no job came is counted, and when it goes on their worker starts again.
    """
    monkeypatch.setattr(module, "JOBS_SILENT_S", 0.2)
    monkeypatch.setattr(module, "BYPASS_AFTER_S", 0.05)
    world.close_slots(connection, 0)
    a = await machine("a")

    for slot in range(1, 100):
        world.close_slots(connection, slot)
        await eventually(lambda slot=slot: a.holder.screened_through == world.at(slot))
        if a.job_restarts:
            break

    assert a.job_restarts == 1
    assert a.metrics.job_bypasses._value.get() == slot


async def test_a_slot_that_a_job_screens_is_no_bypass(connection, machine):
    """
    A job lets it be screened and ends when that has ended.
    """
    world.close_slots(connection, 0)
    a = await machine("a")

    world.close_slots(connection, 1)
    await a.keeper.screen_for_job()

    assert a.holder.screened_through == world.at(1)
    assert a.metrics.job_bypasses._value.get() == 0


async def test_screening_without_progress_is_started_again_and_then_hopeless(
    connection, machine, monkeypatch
):
    """
    The one rule: no step in its own bound ends the run; the next one without a step ends the process.
    """
    monkeypatch.setattr(module, "SCREEN_BOUND_S", 0.2)
    a = await machine("a")
    a.holder.hangs = True

    await eventually(lambda: a.hopeless)

    assert set(a.hopeless) <= {"screen", "sync"}
    assert a.holder.hung >= 2


SLOWLY = """
create function public.slowly() returns trigger language plpgsql as $$ begin perform pg_sleep(0.004); return new; end $$;
create trigger slowly before update on public.trader_state for each row
  when (old.owner = {victim} and new.owner is distinct from old.owner) execute function public.slowly();
"""


async def test_a_takeover_that_is_too_slow_gets_smaller_and_delays_no_beat(connection, machine):
    """
    20,000 traders on three machines: one dies, moving its traders exceeds the statement's time, and nobody else looks dead for it.
    """
    user = world.add_user(connection)
    connection.execute(
        "insert into public.traders (user_id, name, filter, plan, plan_hash)"
        " select %s, 't', 'f', '{}', 'h' from generate_series(1, 20000)",
        (user,),
    )
    connection.execute("update public.trader_state set state = 'starting'")
    made = [await machine(name) for name in "abc"]
    await eventually(
        lambda: (
            sum(owned(connection, m) for m in made) == 20_000
            and min(owned(connection, m) for m in made) > 6000
        ),
        within_s=60,
    )
    victim, *others = made
    boot = victim.keeper.boot_id
    connection.execute(SLOWLY.format(victim=boot))

    await victim.end()
    oldest_s = 0.0

    def shrunk():
        nonlocal oldest_s
        oldest_s = max(oldest_s, oldest_beat_s(connection, boot))
        return all(m.metrics.pieces_shrunk.labels("claim")._value.get() >= 2 for m in others)

    await eventually(shrunk, within_s=60)
    connection.execute("drop trigger slowly on public.trader_state")
    await eventually(lambda: shrunk() and sum(owned(connection, m) for m in others) == 20_000, within_s=60)

    assert oldest_s < heartbeat.GRACE_S
    assert connection.execute("select boot_id from vyx.machines where state = 'dead'").fetchall() == [(boot,)]
    assert [len(m.holder.identities) for m in others] == [1, 1]


def owned(connection, machine):
    counted = "select count(*) from public.trader_state where owner = %(boot)s"
    return world.call(connection, counted, boot=machine.keeper.boot_id)[0]


def oldest_beat_s(connection, dead):
    """Age of the oldest heartbeat of those that live, in seconds."""
    age = "select max(extract(epoch from clock_timestamp() - heartbeat_at))::float8 from vyx.machine_heartbeats where boot_id <> %(boot)s"
    return world.call(connection, age, boot=dead)[0]


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
