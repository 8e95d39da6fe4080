"""What is in `signals` is what the plan says of the candles: whoever screened it, whenever, however often it moved."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import psycopg
import pytest

from app.errors import Fenced, NotTrusted
from app.screening import screener as screener_module
from app.store import machines
from sandbox.engine.screen import Evaluator
from tests import world

CLOSES = {
    "AAAUSDT": [101, 99, 103, 104, None, 106, 95, 108, 109, 110],
    "BBBUSDT": [99, 102, 98, None, None, 101, 97, 120, 90, 91],
}


@pytest.fixture
def user(connection):
    return world.add_user(connection)


@pytest.fixture
def market(connection):
    """Candles of two symbols in slots 1 … 10, some missing; the ledger stands at 0."""
    world.put_closes(connection, CLOSES, first=1)
    world.close_slots(connection, 0)
    return CLOSES


def matches(level, slots, closes=CLOSES):
    """(symbol, slot) where the close is above the level, by slot then symbol."""
    return [
        (symbol, slot)
        for slot in slots
        for symbol, values in sorted(closes.items())
        if values[slot - 1] is not None and values[slot - 1] > level
    ]


async def test_the_signals_are_exactly_the_matches(connection, machine, market, user):
    """
    One row per symbol and slot where the condition holds and the symbol has its own bar; price, time, values and epoch say which.
    """
    trader = world.add_trader(connection, user, world.above(100, show=True))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 11))

    assert await a.screen() == 10

    assert world.when(connection, trader) == matches(100, range(1, 11))
    for row in world.signals(connection):
        slot = int((row.triggered_at - world.T0) / world.MINUTE)
        assert row.price == market[row.symbol][slot - 1]
    told = connection.execute(
        "select distinct timeframe::text, epoch, (shown ->> 'seen')::float8 = price, user_id, plan_hash from public.signals"
    )
    assert told.fetchall() == [("1m", 1, True, user, world.above(100, show=True).hash)]
    row = world.status(connection, trader)
    assert (row.state, row.through, row.signal_count) == (
        "running",
        world.at(10),
        len(matches(100, range(1, 11))),
    )
    assert row.last_signal_at == world.at(10)


async def test_a_slot_screened_twice_yields_its_signals_once(connection, machine, market, user):
    """
    Waking up again finds nothing to do.
    """
    trader = world.add_trader(connection, user, world.above(100))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2, 3)

    assert [await a.screen(), await a.screen()] == [3, 0]

    assert world.when(connection, trader) == matches(100, range(1, 4))


async def test_a_trader_sees_only_the_symbols_it_names(connection, machine, market, user):
    """
    A name that the market does not have is ignored.
    """
    trader = world.add_trader(connection, user, world.above(100), symbols=["BBBUSDT", "ZZZUSDT"])
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 11))

    await a.screen()

    assert world.when(connection, trader) == [m for m in matches(100, range(1, 11)) if m[0] == "BBBUSDT"]


async def test_on_enter_fires_when_the_condition_becomes_true(connection, machine, market, user):
    """
    True on this bar and not on the one before; a bar that is missing reads flat, so it neither leaves nor enters.
    """
    trader = world.add_trader(connection, user, world.above(100), symbols=["AAAUSDT"], frequency="on_enter")
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 11))

    await a.screen()

    assert world.when(connection, trader) == [("AAAUSDT", n) for n in (1, 3, 8)]


async def test_a_cooldown_counts_market_time_per_symbol(connection, machine, market, user):
    """
    120 s after a signal the next one is allowed, not before.
    """
    trader = world.add_trader(
        connection, user, world.above(0), symbols=["AAAUSDT"], frequency={"cooldown_s": 120}
    )
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 11))

    await a.screen()

    assert world.when(connection, trader) == [("AAAUSDT", n) for n in (1, 3, 6, 8, 10)]


async def test_a_coarser_timeframe_is_due_only_when_it_closes(connection, machine, user):
    """
    A 5m trader is screened at 5 and 10, and accounted for at every slot.
    """
    world.put_closes(connection, {"AAAUSDT": [101, 102]}, first=5, timeframe="5m", minutes=5)
    world.close_slots(connection, 0)
    trader = world.add_trader(connection, user, world.above(100, timeframe="5m"))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 13))

    await a.screen()

    assert world.when(connection, trader) == [("AAAUSDT", 5), ("AAAUSDT", 10)]
    assert world.status(connection, trader).through == world.at(12)


async def test_an_outage_slot_is_skipped_and_accounted_for(connection, machine, market, user):
    """
    It yields no signal, and screening goes on behind it.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    world.close_slots(connection, 2, state="outage")
    world.close_slots(connection, 3)

    assert await a.screen() == 3

    assert {slot for _, slot in world.when(connection, trader)} == {1, 3}
    assert world.status(connection, trader).through == world.at(3)


async def test_nothing_behind_an_open_slot_is_screened(connection, machine, market, user):
    """
    Slots are accounted for in order, each exactly once: an open one holds the later ones back.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    connection.execute("insert into vyx.slots (slot) values (%s)", (world.at(2),))
    world.close_slots(connection, 1, 3)

    assert await a.screen() == 1
    world.close_slots(connection, 2)
    assert await a.screen() == 2

    assert {slot for _, slot in world.when(connection, trader)} == {1, 2, 3}


# -- moving ---------------------------------------------------------------------------------------------------------------


async def test_a_trader_claimed_late_gets_the_rows_it_would_have_had(connection, machine, user):
    """
    Its owner died eleven slots ago: the next one screens them, from the same rows, with the same answer as a machine that never died.
    """
    closes = world.random_closes(4, 60)
    world.put_closes(connection, closes, first=-29)
    world.close_slots(connection, 0)
    plan = world.above_average(7)
    moved, stayed = (world.add_trader(connection, user, plan) for _ in range(2))
    a, b = await machine("a"), await machine("b")
    world.claim(connection, a.boot_id, 2)
    await a.sync()
    world.release(connection, a.boot_id, [stayed])
    world.claim(connection, b.boot_id, 1)
    for number in range(1, 26):
        world.close_slots(connection, number)
        if number <= 7:
            await a.screen()
        if number == 18:
            world.bury(connection, a.boot_id)
            world.claim(connection, b.boot_id)
        await b.screen()

    assert world.when(connection, moved) == world.when(connection, stayed) != []
    assert world.status(connection, moved).through == world.at(25)
    ranges = connection.execute(
        "select after, through from vyx.leases where trader_id = %s union all"
        " select lease_after, vyx.screened_through(s) from public.trader_state s where trader_id = %s order by 1",
        (moved, moved),
    ).fetchall()
    assert ranges == [(world.at(0), world.at(7)), (world.at(7), world.at(25))]


async def test_two_machines_of_which_one_leaves_midway_yield_what_one_machine_does(connection, machine, user):
    """
    Ten traders, shared, released, claimed anew: the rows of `signals` are those of a machine that had them all.
    """
    closes = world.random_closes(5, 70)
    world.put_closes(connection, closes, first=-29)
    world.close_slots(connection, 0)
    plans = [world.above_average(n) for n in range(2, 12)]
    shared = [world.add_trader(connection, user, plan) for plan in plans]
    a, b, alone = [await machine(name) for name in ("a", "b", "alone")]
    world.claim(connection, a.boot_id, 5)
    world.claim(connection, b.boot_id, 5)
    reference = [world.add_trader(connection, user, plan) for plan in plans]
    world.claim(connection, alone.boot_id, 10)
    for number in range(1, 41):
        world.close_slots(connection, number)
        if number < 17:
            await a.screen()
        elif number == 17:
            await a.drain()
            world.call(connection, world.MACHINES["leave"], boot_id=a.boot_id)
        elif number == 20:
            assert world.claim(connection, b.boot_id) == 5
        if number % 3 == 0:
            await b.screen()
        await alone.screen()
    await b.screen()

    for one, other in zip(shared, reference, strict=True):
        assert world.when(connection, one) == world.when(connection, other) != []


async def test_surplus_traders_go_on_elsewhere_without_a_hole(connection, machine, market, user):
    """
    A machine that joins takes over between two slots; nothing is screened twice or never.
    """
    traders = [world.add_trader(connection, user, world.above(0)) for _ in range(4)]
    a = await machine("a")
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2, 3)
    await a.screen()
    b = await machine("b")

    assert await a.release_surplus(2) == 2
    world.claim(connection, b.boot_id)
    world.close_slots(connection, 4, 5, 6)
    await a.screen()
    await b.screen()

    assert (a.owned, b.owned) == (2, 2)
    assert all(world.when(connection, t) == matches(0, range(1, 7)) for t in traders)
    assert connection.execute("select count(*) from vyx.leases").fetchone() == (2,)


async def test_what_a_trader_missed_is_screened_when_it_is_taken_over(connection, machine, market, user):
    """
    Not with the next slot, which may be a minute away.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a, b = await machine("a"), await machine("b")
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2)
    await a.screen()
    world.close_slots(connection, 3, 4, 5)
    await b.screen()
    world.release(connection, a.boot_id)

    world.claim(connection, b.boot_id)
    await b.sync()

    assert world.when(connection, trader) == matches(0, range(1, 6))
    assert world.status(connection, trader).through == world.at(5)
    assert not b.progress.is_expected


async def test_a_trader_started_while_a_slot_is_open_begins_behind_it(connection, machine, market, user):
    """
    "From the next slot on": what was already being assembled at the start does not count.
    """
    a = await machine()
    connection.execute("insert into vyx.slots (slot) values (%s)", (world.at(1),))
    trader = world.add_trader(connection, user, world.above(0))
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2)

    await a.screen()

    assert world.when(connection, trader) == matches(0, [2])
    assert (world.status(connection, trader).lease_after, world.status(connection, trader).through) == (
        world.at(1),
        world.at(2),
    )


# -- changes --------------------------------------------------------------------------------------------------------------


async def test_a_changed_filter_takes_effect_at_the_next_slot(connection, machine, market, user):
    """
    PATCH needs no restart: the same lease goes on with the new plan.
    """
    trader = world.add_trader(connection, user, world.above(100))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, *range(1, 6))
    await a.screen()

    world.change_plan(connection, trader, world.above(107))
    world.close_slots(connection, *range(6, 11))
    await a.screen()

    assert world.when(connection, trader) == matches(100, range(1, 6)) + matches(107, range(6, 11))
    assert world.status(connection, trader).epoch == 1


async def test_a_stopped_trader_is_let_go_before_the_next_slot(connection, machine, market, user):
    """
    stopping becomes stopped when its machine syncs, and it screens no more.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()

    world.stop(connection, trader)
    world.close_slots(connection, 2)
    await a.screen()

    assert world.states(connection)[trader] == "stopped"
    assert world.when(connection, trader) == matches(0, [1])
    assert a.owned == 0


async def test_a_deleted_trader_disturbs_nobody(connection, machine, market, user):
    """
    Its rows are gone, also in the middle of its lease; the others are screened.
    """
    gone, stays = (world.add_trader(connection, user, world.above(0)) for _ in range(2))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()

    connection.execute("delete from public.traders where id = %s", (gone,))
    world.close_slots(connection, 2)
    await a.screen()

    assert world.when(connection, stays) == matches(0, [1, 2])
    assert {row.trader_id for row in world.signals(connection)} == {stays}


@pytest.mark.parametrize(
    "plan",
    [
        "null",
        "[]",
        "{}",
        '{"version": 3, "nodes": [], "signal": 0, "show": {}}',
        '{"version": 3, "nodes": [{"op": "const", "params": {"value": 1}}], "signal": 0, "show": {}}',
        '{"version": 3, "nodes": [{"op": "eval", "params": {"code": "1"}}], "signal": 0, "show": {}}',
        '{"version": 3, "nodes": [{"op": "bars", "params": {"timeframe": ["1m"], "field": {}}}], "signal": 0, "show": {}}',
    ],
)
async def test_a_plan_edited_by_hand_sends_its_trader_to_error_and_nobody_else(
    connection, machine, market, user, plan
):
    """
    Plans are validated again wherever they come from; what is wrong is in last_error.
    """
    edited, intact = (world.add_trader(connection, user, world.above(0)) for _ in range(2))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()

    connection.execute("update public.traders set plan = %s where id = %s", (plan, edited))
    world.close_slots(connection, 2)
    await a.screen()

    row = world.status(connection, edited)
    assert (row.state, row.reason, row.error_count) == ("error", "plan refused", 1)
    assert row.last_error.startswith("The stored plan is not valid: ")
    assert a._metrics.trader_errors.labels("plan refused")._value.get() == 1
    assert world.when(connection, edited) == matches(0, [1])
    assert world.when(connection, intact) == matches(0, [1, 2])


async def test_a_failed_evaluation_sends_its_trader_to_error_and_nobody_else(
    connection, machine, market, user, monkeypatch
):
    """
    The failing slot is not accounted for: after the retry it is screened.
    """
    evaluate = Evaluator.evaluate

    def broken(self, slot_ms, keys=None):
        slot = evaluate(self, slot_ms, keys)
        hits = [hit for hit in slot.hits if hit.key != failing]
        return msgspec.structs.replace(slot, hits=hits, failed={failing: "ta.sma: out of order"})

    failing = world.add_trader(connection, user, world.above_average(1))
    intact = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "evaluate", broken)
        await a.screen()

    row = world.status(connection, failing)
    assert (row.state, row.reason, row.last_error, row.resume_after) == (
        "error",
        "evaluation failed",
        "ta.sma: out of order",
        world.at(0),
    )
    assert world.when(connection, intact) == matches(0, [1])

    world.call(connection, "select vyx.retry_due_v1(%(now)s)", now=row.retry_at)
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 2)
    await a.screen()
    assert world.status(connection, failing).through == world.at(2)
    assert world.status(connection, failing).state == "running"


# -- identity and trust ---------------------------------------------------------------------------------------------------


async def test_a_buried_machine_writes_nothing(connection, machine, market, user):
    """
    It was too slow: others own its traders, its transaction is refused.
    """
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    await a.sync()
    world.bury(connection, a.boot_id)
    world.close_slots(connection, 1)

    with pytest.raises(Fenced):
        await a.screen()

    assert world.signals(connection) == []
    assert world.status(connection, trader).resume_after == world.at(0)


async def test_a_machine_that_is_not_trusted_pauses_and_then_gives_up(
    connection, machine, market, user, monkeypatch
):
    """
    A late heartbeat only delays the slot; one that stays away ends the attempt, with nothing written.
    """
    monkeypatch.setattr(screener_module, "TRUST_POLL_S", 0.0)
    answers: list[bool] = []
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine(trusted=lambda: answers.pop(0) if answers else False)
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)

    with pytest.raises(NotTrusted):
        await a.screen()
    assert world.signals(connection) == []

    answers += [False, False, True, False, True]
    assert await a.screen() == 1
    assert world.when(connection, trader) == matches(0, [1])


async def test_a_new_identity_does_not_wait_for_the_trust_of_the_old_one(connection, machine, market, user):
    """
    A machine that was buried while it hung has a slot in hand that nobody trusts: it is given up at once, not after five seconds.
    """
    world.add_trader(connection, user, world.above(0))
    asked = asyncio.Event()
    a = await machine(trusted=lambda: asked.set() or False)
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    in_hand = asyncio.create_task(a.screen())
    await asked.wait()
    world.bury(connection, a.boot_id)

    async with asyncio.timeout(1):
        await a.begin_boot(world.register(connection, "a"), world.at(1))

    with pytest.raises(Fenced):
        await in_hand
    assert world.signals(connection) == []


@pytest.mark.parametrize("breaks_at", [1, 2, 3, 4])
async def test_a_commit_whose_answer_was_lost_does_not_stop_the_machine(
    connection, machine, market, monkeypatch, breaks_at
):
    """
    The connection breaks after one of its commits: what was committed counts, the next slots follow, nothing is there twice or missing.
    """
    fenced = machines.fenced
    commits: list[int] = []

    @asynccontextmanager
    async def breaking(pool, boot_id):
        async with fenced(pool, boot_id) as transaction:
            yield transaction
        commits.append(boot_id)
        if len(commits) == breaks_at:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(machines, "fenced", breaking)
    trader = world.add_trader(connection, world.add_user(connection), world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2, 3)
    world.close_slots(connection, 4)

    await a.screen()

    assert world.when(connection, trader) == matches(0, [1, 2, 3, 4])
    assert world.status(connection, trader).through == world.at(4)


async def test_a_drained_machine_starts_no_other_slot(connection, machine, market, user):
    """
    After drain() the ledger may grow: nothing is screened here any more.
    """
    world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)

    await a.drain()

    assert await a.screen() == 0
    assert world.signals(connection) == []


async def test_who_catches_up_gives_the_answer_of_who_was_in_time(connection, machine, market, user):
    """
    A candle came after its slot had closed: who screened the slot in time did not have it, who screens it later leaves it out.
    """
    in_time, later = (world.add_trader(connection, user, world.above(0)) for _ in range(2))
    a = await machine("a")
    world.claim(connection, a.boot_id, 2)
    world.close_slots(connection, 1)
    await a.sync()
    world.release(connection, a.boot_id, [later])
    await a.screen()
    world.put_closes(connection, {"LATEUSDT": [105.0]}, first=1)
    connection.execute(
        "insert into vyx.candle_corrections (symbol_id, timeframe, open_time, became, reason)"
        " select symbol_id, '1m', %s, '{}', 'late' from vyx.symbols where symbol = 'LATEUSDT'",
        (world.at(0),),
    )
    b = await machine("b")
    world.claim(connection, b.boot_id)
    await b.sync()

    assert world.when(connection, later) == world.when(connection, in_time) == matches(0, [1])
