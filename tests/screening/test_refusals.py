"""What the database refuses, or answers late, costs the thing it is about and nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager

import psycopg
import pytest

from app.store import machines, signals, signals_failed, slots
from tests import world

CLOSES = {f"S{n:02}USDT": [100 + n + minute for minute in range(5)] for n in range(20)}
POISON = "S07USDT"


@pytest.fixture
def user(connection):
    return world.add_user(connection)


@pytest.fixture
def market(connection):
    world.put_closes(connection, CLOSES, first=1)
    world.close_slots(connection, 0)


def refuse(connection, symbol=POISON):
    """A constraint that somebody added by hand."""
    connection.execute(f"alter table public.signals add constraint no_such_pair check (symbol <> '{symbol}')")


def everything(slots, but=()):
    return [(symbol, slot) for slot in slots for symbol in sorted(CLOSES) if symbol not in but]


async def test_one_refused_row_is_set_aside_and_the_rest_of_its_slot_is_kept(
    connection, machine, market, user
):
    """
    The signals of the pair that a constraint refuses are rows of signals_failed with their trader and reason; every other trader and
    pair has its signals in the same slot.
    """
    traders = [world.add_trader(connection, user, world.above(0)) for _ in range(3)]
    a = await machine()
    world.claim(connection, a.boot_id)
    refuse(connection)
    world.close_slots(connection, 1, 2)

    assert await a.screen() == 2

    for trader in traders:
        assert world.when(connection, trader) == everything([1, 2], but=[POISON])
    failed = connection.execute(
        "select trader_id, symbol, triggered_at, reason from public.signals_failed"
    ).fetchall()
    assert {(row[0], row[1], row[2]) for row in failed} == {
        (t, POISON, world.at(n)) for t in traders for n in (1, 2)
    }
    assert all("no_such_pair" in row[3] for row in failed)
    assert connection.execute(
        "select distinct kind, about from public.dead_letters order by 2 limit 1"
    ).fetchone() == (
        "signal",
        f"{POISON} at 2024-07-01 00:01:00+00",
    )


async def test_a_refused_signal_shows_in_the_status_and_in_an_event_of_its_trader(
    connection, machine, market, user
):
    """
    It goes on running; the reason says what the database said.
    """
    hit = world.add_trader(connection, user, world.above(0), symbols=[POISON, "S01USDT"])
    spared = world.add_trader(connection, user, world.above(0), symbols=["S01USDT"])
    a = await machine()
    world.claim(connection, a.boot_id)
    refuse(connection)
    world.close_slots(connection, 1)

    await a.screen()

    row = world.status(connection, hit)
    assert (row.state, row.reason, row.through) == ("running", "signals refused", world.at(1))
    assert POISON in row.last_error
    assert "no_such_pair" in row.last_error
    assert world.events(connection, hit)[-1] == ("running", "running")
    assert world.status(connection, spared).last_error is None


async def test_refused_signals_are_redelivered_once_what_refused_them_is_mended(
    connection, pool, machine, market, user
):
    """
    Before, they stay with their reason; afterwards they are signals, once, and the status is clean again.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    refuse(connection)
    world.close_slots(connection, 1, 2)
    await a.screen()

    async with pool.connection() as by_hand:
        assert await signals_failed.redeliver(by_hand) == (0, 2)
        connection.execute("alter table public.signals drop constraint no_such_pair")
        assert await signals_failed.redeliver(by_hand, last=world.at(1)) == (1, 0)
        assert world.status(connection, trader).reason == "signals refused"
        assert await signals_failed.redeliver(by_hand) == (1, 0)
        assert await signals_failed.redeliver(by_hand) == (0, 0)

    assert world.when(connection, trader) == everything([1, 2])
    row = world.status(connection, trader)
    assert (row.signal_count, row.reason, row.last_error) == (40, None, None)


async def test_a_month_without_a_partition_refuses_nothing(connection, machine, market, user):
    """
    It is made when it is missed.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    connection.execute("drop table vyx.signals_2024_07")

    await a.screen()

    assert world.when(connection, trader) == everything([1])
    assert connection.execute("select count(*) from public.signals_failed").fetchone() == (0,)


async def test_a_slot_of_which_every_row_is_refused_ends(connection, machine, market, user, monkeypatch):
    """
    The halving has a limit: what is left of a refused piece is set aside whole, and comes back with `vyx redeliver`.
    """
    monkeypatch.setattr(signals, "REFUSED_TRIES_MAX", 5)
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    connection.execute("alter table public.signals add constraint nothing_at_all check (price < 0)")
    world.close_slots(connection, 1)

    assert await a.screen() == 1

    assert world.when(connection, trader) == []
    assert connection.execute("select count(*) from public.signals_failed").fetchone() == (20,)
    assert world.status(connection, trader).through == world.at(1)


def test_the_text_of_a_failure_may_hold_anything():
    """
    A filter's own error is text of its user: a NUL or half a character in it must not stop the machine.
    """
    from app.store.trader_state import _storable

    assert _storable("a\0b\ud800c") == "a\N{REPLACEMENT CHARACTER}b?c"


# -- errors that pass -----------------------------------------------------------------------------------------------------

PASSING = [
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.AdminShutdown,
    psycopg.errors.QueryCanceled,
    psycopg.OperationalError,
    ConnectionResetError,
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: error.__name__)
@pytest.mark.parametrize("when", ["before the commit", "after the commit"])
async def test_an_error_that_passes_costs_one_more_attempt(
    connection, machine, market, user, monkeypatch, error, when
):
    """
    One error in each slot's transaction: every slot is committed by the same call, by a second attempt.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    await a.sync()
    fenced, transactions = machines.fenced, []

    @asynccontextmanager
    async def failing(pool, boot_id):
        transactions.append(boot_id)
        fails = len(transactions) % 2 == 1
        async with fenced(pool, boot_id) as transaction:
            yield transaction
            if fails and when == "before the commit":
                raise error("injected")
        if fails:
            raise error("injected")

    monkeypatch.setattr(machines, "fenced", failing)
    world.close_slots(connection, 1, 2, 3)

    assert await a.screen() == 3

    assert world.when(connection, trader) == everything([1, 2, 3])
    assert world.status(connection, trader).through == world.at(3)
    assert a._metrics.slot_retries._value.get() >= 2


async def test_a_backend_that_is_terminated_in_a_slot_costs_one_more_attempt(
    connection, machine, market, user, monkeypatch
):
    """
    For real: its own connection is ended from another one before the commit.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    advance, ended = machines.advance_machine, []

    async def ending(transaction, *args):
        if not ended:
            ended.append(transaction.info.backend_pid)
            connection.execute("select pg_terminate_backend(%s)", (ended[0],))
        return await advance(transaction, *args)

    monkeypatch.setattr(machines, "advance_machine", ending)
    world.close_slots(connection, 1)

    assert await a.screen() == 1

    assert ended
    assert world.when(connection, trader) == everything([1])


async def test_a_ledger_that_cannot_be_read_at_once_is_read_again(
    connection, machine, market, user, monkeypatch
):
    """
    The wake-up that met the error screens the slot; it does not wait for the next one.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    read, failed = slots.next_closed, []

    async def failing(*args):
        if not failed:
            failed.append(args)
            raise psycopg.errors.AdminShutdown("injected")
        return await read(*args)

    monkeypatch.setattr(slots, "next_closed", failing)

    assert await a.screen() == 1

    assert world.when(connection, trader) == everything([1])


# -- leases that changed without a trace -----------------------------------------------------------------------------------


async def test_matches_whose_lease_changed_are_not_dropped(connection, machine, market, user):
    """
    The epoch changed behind everybody's back (its guard switched off): the slot is rolled back, the leases are read, and it is screened
    again with all its matches. It is an incident and a metric.
    """
    traders = [world.add_trader(connection, user, world.above(0)) for _ in range(2)]
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()
    for _ in range(2):  # nothing of before is read again
        connection.execute("select pg_current_xact_id()")
        await a.sync()
    connection.execute("alter table public.trader_state disable trigger user")
    connection.execute("update public.trader_state set epoch = epoch + 5 where trader_id = %s", (traders[0],))
    connection.execute("alter table public.trader_state enable trigger user")
    world.close_slots(connection, 2)

    assert await a.screen() == 1

    for trader in traders:
        assert world.when(connection, trader) == everything([1, 2])
    assert connection.execute("select kind, boot_id, slot from vyx.incidents").fetchall() == [
        ("matches without a lease", a.boot_id, world.at(2))
    ]
    assert a._metrics.matches_unjoined._value.get() == 20
