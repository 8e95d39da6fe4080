"""
What somebody may do to screening's rows in Studio or psql: refused with a sentence, or found within two bars and put right.

``docs/hand-edits.md`` has the table; here is what screening itself does about rows that were edited with triggers off.
"""

from __future__ import annotations

import psycopg
import pytest

from tests import world

CLOSES = {"AAAUSDT": [101.0 + n for n in range(10)]}


@pytest.fixture
def user(connection):
    return world.add_user(connection)


@pytest.fixture
async def running(connection, machine, user):
    """A trader that has been screened at slots 1 and 2, and its machine."""
    world.put_closes(connection, CLOSES, first=1)
    world.close_slots(connection, 0)
    trader = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2)
    await a.screen()
    return trader, a


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ("update public.trader_state set epoch = epoch + 5", "follow from other columns"),
        (
            "update public.trader_state set lease_after = lease_after - interval '1 day'",
            "follow from other columns",
        ),
        ("update public.trader_state set in_step = false", "only the machine that holds the trader"),
        (
            "update vyx.machines set screened_through = screened_through + interval '2 min'",
            "only the machine itself moves it",
        ),
        (
            "update vyx.machines set screened_through = screened_through + interval '1 year'",
            "only the machine itself moves it",
        ),
        (
            "delete from vyx.slots where slot = (select max(slot) from vyx.slots)",
            "part of the ledger of the last day",
        ),
    ],
)
async def test_an_edit_that_would_hide_a_slot_is_refused_with_a_sentence(connection, running, edit, sentence):
    """
    Nothing changes, and the next slots are screened.
    """
    trader, a = running
    world.close_slots(connection, 3, 4)

    with pytest.raises(psycopg.Error, match=sentence):
        connection.execute(edit)

    await a.screen()
    assert world.when(connection, trader) == [("AAAUSDT", n) for n in (1, 2, 3, 4)]
    assert world.status(connection, trader).through == world.at(4)


async def test_a_trader_that_is_behind_cannot_be_put_in_step_by_hand(connection, machine, user):
    """
    Coverage would claim the slots that it missed.
    """
    world.put_closes(connection, CLOSES, first=1)
    world.close_slots(connection, 0)
    trader = world.add_trader(connection, user, world.above(0))
    world.close_slots(connection, 1, 2)
    a = await machine()
    world.claim(connection, a.boot_id)

    with pytest.raises(psycopg.Error, match="only the machine that holds the trader"):
        connection.execute("update public.trader_state set in_step = true where trader_id = %s", (trader,))

    await a.sync()
    assert world.when(connection, trader) == [("AAAUSDT", 1), ("AAAUSDT", 2)]


async def test_a_machine_moved_forward_by_one_slot_moves_back_and_screens_it(connection, running):
    """
    It is an incident, and no slot is passed over.
    """
    trader, a = running
    world.close_slots(connection, 3, 4)
    with world.without_triggers(connection):
        connection.execute("update vyx.machines set screened_through = %s", (world.at(3),))

    await a.screen()

    assert world.when(connection, trader) == [("AAAUSDT", n) for n in (1, 2, 3, 4)]
    kinds = connection.execute("select kind, slot from vyx.incidents").fetchall()
    assert kinds == [("position moved", world.at(3))]


async def test_a_machine_moved_back_screens_again_and_inserts_nothing(connection, running):
    """
    The key of a signal makes it harmless.
    """
    trader, a = running
    with world.without_triggers(connection):
        connection.execute("update vyx.machines set screened_through = %s", (world.at(0),))
    world.close_slots(connection, 3)

    assert await a.screen() == 3

    assert world.when(connection, trader) == [("AAAUSDT", n) for n in (1, 2, 3)]
    assert world.status(connection, trader).signal_count == 3


@pytest.mark.parametrize("edit", ["plan_hash = 'x'", "plan = jsonb_set(plan, '{signal}', '0')"])
async def test_a_plan_that_is_not_what_was_saved_is_found_at_the_next_slot(connection, running, edit):
    """
    The trader goes to error with the reason, as an event; before, a changed hash was stamped on signals of the old plan.
    """
    trader, a = running
    connection.execute(f"update public.traders set {edit} where id = %s", (trader,))
    world.close_slots(connection, 3)

    await a.screen()

    row = world.status(connection, trader)
    assert (row.state, row.reason) == ("error", "plan refused")
    assert world.events(connection, trader)[-1] == ("running", "error")
    assert world.when(connection, trader) == [("AAAUSDT", n) for n in (1, 2)]


async def test_a_trader_behind_a_slot_that_is_still_open_waits_for_it(connection, machine, user):
    """
    A machine that joined while slot 1 was open and slot 2 closed stands at 2: what it claims is screened at 1 and 2 once 1 closes.
    """
    world.put_closes(connection, CLOSES, first=1)
    world.close_slots(connection, 0)
    trader = world.add_trader(connection, user, world.above(0))
    connection.execute("insert into vyx.slots (slot) values (%s)", (world.at(1),))
    world.close_slots(connection, 2)
    a = await machine()
    world.claim(connection, a.boot_id)
    await a.sync()
    world.close_slots(connection, 3)
    await a.screen()
    assert world.when(connection, trader) == []

    world.close_slots(connection, 1, 4)
    await a.screen()

    assert world.when(connection, trader) == [("AAAUSDT", n) for n in (1, 2, 3, 4)]
    assert world.status(connection, trader).through == world.at(4)
