"""A machine learns of every change to its traders, and reads no more than what changed."""

from __future__ import annotations

import psycopg
import pytest

from app.domain.timeframes import epoch_ms
from app.store import trader_state
from tests import world


@pytest.fixture
def user(connection):
    world.put_closes(connection, {"AAAUSDT": [101.0] * 5}, first=1)
    world.close_slots(connection, 0)
    return world.add_user(connection)


@pytest.fixture
def other(dsn):
    """A second connection, whose transactions it ends itself."""
    with psycopg.connect(dsn) as other:
        yield other


def held(machine):
    return set(machine.traders.by_id)


async def test_a_change_that_commits_after_a_later_one_is_not_missed(connection, other, machine, user):
    """Its transaction is the older one: a reader that goes by the newest change seen would pass it over."""
    slow, quick = (world.add_trader(connection, user) for _ in range(2))
    a = await machine()
    world.claim(connection, a.boot_id)
    await a.sync()
    assert held(a) == {slow, quick}
    other.execute("select vyx.stop_trader_v1(%s)", (slow,))  # not committed yet
    world.stop(connection, quick)
    await a.sync()
    assert held(a) == {slow}
    await a.sync()

    other.commit()
    await a.sync()

    assert held(a) == set()
    assert world.states(connection) == {slow: "stopped", quick: "stopped"}


async def test_what_is_screened_is_learnt_when_its_transaction_ends(connection, other, machine, user):
    trader = world.add_trader(connection, user, world.above(100))
    a = await machine()
    world.claim(connection, a.boot_id)
    await a.sync()
    world.change_plan(other, trader, world.above(200))
    for _ in range(2):
        await a.sync()
        assert a.traders.by_id[trader].plan_hash == world.above(100).hash

    other.commit()
    await a.sync()

    assert a.traders.by_id[trader].plan_hash == world.above(200).hash


async def test_a_deleted_trader_is_let_go(connection, machine, user):
    gone, stays = (world.add_trader(connection, user) for _ in range(2))
    a = await machine()
    world.claim(connection, a.boot_id)
    await a.sync()

    connection.execute("delete from public.traders where id = %s", (gone,))
    await a.sync()

    assert held(a) == {stays}
    assert len(a.evaluation.evaluator) == 1


async def test_only_what_changed_is_read(connection, pool, machine, user, monkeypatch):
    """Not the traders that stay as they are, whatever is screened meanwhile; all of them the first time only."""
    traders = [world.add_trader(connection, user) for _ in range(5)]
    a = await machine()
    world.claim(connection, a.boot_id)
    await a.sync()
    monkeypatch.delattr(trader_state, "list_owned")

    async def changed_since(horizon):
        async with pool.connection() as reading:
            return await trader_state.owned_changes(reading, a.boot_id, horizon)

    horizon = (await changed_since(None)).horizon
    world.close_slots(connection, 1, 2, 3)
    await a.screen()
    assert world.when(connection, traders[0])
    quiet = await changed_since(horizon)
    assert (quiet.ours, quiet.others, quiet.owned) == ([], [], 5)

    world.stop(connection, traders[3])
    (stopping,) = (await changed_since(quiet.horizon)).ours
    assert (stopping.trader_id, stopping.state) == (traders[3], "stopping")
    await a.sync()
    assert held(a) == set(traders) - {traders[3]}


async def test_what_an_error_interrupted_is_read_again(connection, machine, user, monkeypatch):
    """The database goes away while traders are taken over, the first ones or later ones: the next attempt takes them over."""
    a = await machine()
    traders = set()
    for _ in range(2):
        traders |= {world.add_trader(connection, user) for _ in range(3)}
        world.claim(connection, a.boot_id)
        await interrupted(a, monkeypatch)
        await a.sync()
        assert held(a) == traders
        assert set(world.states(connection).values()) == {"running"}


async def interrupted(a, monkeypatch):
    with monkeypatch.context() as broken:

        async def lost(*_):
            raise psycopg.OperationalError("the connection is lost")

        broken.setattr(trader_state, "mark_running", lost)
        with pytest.raises(psycopg.OperationalError):
            await a.sync()


async def test_traders_of_other_machines_are_none_of_its_business(connection, machine, user):
    mine, theirs = (world.add_trader(connection, user) for _ in range(2))
    a, b = await machine("a"), await machine("b")
    world.claim(connection, a.boot_id, 1)
    world.claim(connection, b.boot_id, 1)
    await a.sync()
    await b.sync()
    assert held(a) | held(b) == {mine, theirs}
    assert not held(a) & held(b)

    world.release(connection, b.boot_id)
    world.claim(connection, a.boot_id)
    await a.sync()
    await b.sync()

    assert (held(a), held(b)) == ({mine, theirs}, set())


async def test_what_new_traders_need_is_computed_before_their_first_slot(connection, machine, user):
    """Their first slot then computes no more than the next one."""
    traders = [world.add_trader(connection, user, world.above(level)) for level in range(90, 110)]
    a = await machine()
    world.claim(connection, a.boot_id)

    await a.sync()

    evaluator = a.evaluation.evaluator
    assert held(a) == set(traders)
    assert evaluator.prepare(epoch_ms(a.screened_through), 0.0) == 0
    evaluator.evaluate(epoch_ms(a.screened_through))
    assert evaluator.seconds == {}
