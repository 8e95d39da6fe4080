"""A stored plan is data that people can edit and that ages: what a machine makes of one when it loads it."""

from __future__ import annotations

import json

import psycopg
import pytest

from app.screening import loaded_traders as loaded_module
from sandbox.language.compiler import Compiled, FilterCompiler
from sandbox.plan.document import PLAN_VERSION, load_plan
from sandbox.plan.text.diagnostics import Diagnostic
from tests import world

CLOSES = {"AAAUSDT": [101, 99, 103, 104], "BBBUSDT": [99, 102, 98, 97]}


@pytest.fixture
def user(connection):
    return world.add_user(connection)


@pytest.fixture
def market(connection):
    world.put_closes(connection, CLOSES, first=1)
    world.close_slots(connection, 0)


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler(processes=1) as compiler:
        yield compiler


def edit(connection, trader, path, value):
    """What a person does in Studio."""
    connection.execute(
        "update public.traders set plan = jsonb_set(plan, %s, %s) where id = %s",
        (path, json.dumps(value), trader),
    )


def age(connection, trader, filter_=None):
    """As if the plan had been saved by a service of an older version, in a format that nobody reads any more."""
    connection.execute(
        "update public.traders set plan = %s, plan_hash = 'of long ago', plan_summary = '{}', filter = coalesce(%s, filter) where id = %s",
        (json.dumps({"version": PLAN_VERSION - 1, "expression": "old"}), filter_, trader),
    )


def trader_row(connection, trader):
    return connection.execute(
        "select revision, filter, plan, plan_hash, plan_summary from public.traders where id = %s",
        (trader,),
    ).fetchone()


async def test_a_plan_edited_by_hand_is_refused_and_nothing_else_happens(connection, machine, market, user):
    """The edit is a valid plan; it is still not what its user saved."""
    edited, well = (world.add_trader(connection, user, world.above(100)) for _ in range(2))
    edit(connection, edited, "{nodes,0,params,value}", 50)
    assert load_plan(
        connection.execute("select plan::text from public.traders where id = %s", (edited,)).fetchone()[0]
    )
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1, 2)

    await a.screen()

    row = world.status(connection, edited)
    assert (row.state, row.reason, row.owner) == ("error", "plan refused", None)
    assert (
        row.last_error
        == "The stored plan is not valid: it was edited by hand, its hash is not the saved one. Save the filter again."
    )
    assert world.when(connection, edited) == []
    assert world.states(connection)[well] == "running"
    assert world.when(connection, well) == [("AAAUSDT", 1), ("BBBUSDT", 2)]


async def test_a_running_trader_whose_plan_is_edited_goes_to_error_before_its_next_slot(
    connection, machine, market, user
):
    trader = world.add_trader(connection, user, world.above(100))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()

    edit(connection, trader, "{nodes,0,params,value}", 50)
    world.close_slots(connection, 2, 3)
    await a.screen()

    assert world.states(connection)[trader] == "error"
    assert world.when(connection, trader) == [("AAAUSDT", 1)]


async def test_an_edit_that_changes_no_meaning_is_none(connection, machine, market, user):
    """jsonb keeps no order and no spelling of numbers; the hash is of the meaning."""
    trader = world.add_trader(connection, user, world.above(100))
    edit(connection, trader, "{nodes,0,params,value}", 1e2)
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)

    await a.screen()

    assert world.states(connection)[trader] == "running"


@pytest.mark.parametrize("level", [1e-9, 0.1, 123456789.123456789, 1e9, 1e22, 5e-324, 1.7976931348623157e308])
async def test_constants_survive_being_stored(connection, machine, market, user, level):
    """Every double comes back from jsonb as it was: no plan is refused for what the database did to it."""
    trader = world.add_trader(connection, user, world.above(level))
    a = await machine()
    world.claim(connection, a.boot_id)

    await a.sync()

    assert world.states(connection)[trader] == "running"


async def test_a_plan_of_an_older_version_is_compiled_anew(connection, machine, market, user, compiler):
    """Its filter stays as it is, and no slot is left out."""
    trader = world.add_trader(connection, user)
    age(connection, trader, 'signal(bars("1m").close > 100)')
    before = trader_row(connection, trader)
    a = await machine(compile_filter=compiler.compile)
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()
    assert world.states(connection)[trader] == "starting"
    assert world.when(connection, trader) == []

    await a.sync()
    world.close_slots(connection, 2)
    await a.screen()

    after = trader_row(connection, trader)
    plan = compiler.compile('signal(bars("1m").close > 100)').plan
    assert (after[0], after[1]) == (before[0] + 1, before[1])
    assert json.loads(plan.encode()) == after[2]
    assert (after[3], after[4]["trigger"]) == (plan.hash, "1m")
    assert world.states(connection)[trader] == "running"
    assert world.when(connection, trader) == [("AAAUSDT", 1), ("BBBUSDT", 2)]


async def test_an_old_filter_that_no_longer_compiles_is_refused_with_the_diagnostics(
    connection, machine, market, user, compiler
):
    trader = world.add_trader(connection, user)
    age(connection, trader, 'b = bars("1m")\nsignal(b.close > gone(b.open))')
    a = await machine(compile_filter=compiler.compile)
    world.claim(connection, a.boot_id)

    await a.sync()

    row = world.status(connection, trader)
    assert (row.state, row.reason) == ("error", "filter refused")
    assert "line 2: V101 There is no name 'gone'." in row.last_error
    assert trader_row(connection, trader)[2]["version"] == PLAN_VERSION - 1


async def test_a_plan_of_a_newer_version_is_left_to_newer_machines(connection, machine, market, user):
    trader = world.add_trader(connection, user)
    edit(connection, trader, "{version}", PLAN_VERSION + 1)
    a = await machine()
    world.claim(connection, a.boot_id)

    await a.sync()

    row = world.status(connection, trader)
    assert (row.state, row.reason) == ("error", "plan refused")
    assert f"plan version {PLAN_VERSION + 1} is not {PLAN_VERSION}" in row.last_error


async def test_a_filter_saved_while_the_old_one_was_compiled_wins(connection, dsn, machine, market, user):
    trader = world.add_trader(connection, user)
    age(connection, trader)
    newer = world.above(102)

    def compile_slowly(_source):
        with psycopg.connect(dsn, autocommit=True) as other:
            world.change_plan(other, trader, newer)
            other.execute("update public.traders set filter = 'newer' where id = %s", (trader,))
        return Compiled(world.above(1), [])

    a = await machine(compile_filter=compile_slowly)
    world.claim(connection, a.boot_id)
    await a.sync()
    world.close_slots(connection, 1, 2, 3)
    await a.screen()

    assert trader_row(connection, trader)[3] == newer.hash
    assert world.when(connection, trader) == [("AAAUSDT", 3)]


async def test_while_old_plans_are_compiled_slots_are_screened(
    connection, machine, market, user, monkeypatch
):
    """A thousand old plans are compiled in stretches, beside the slot in hand."""
    monkeypatch.setattr(loaded_module, "RECOMPILE_S", 0.0)
    old, well = world.add_trader(connection, user), world.add_trader(connection, user, world.above(100))
    age(connection, old)
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)

    await a.sync()
    await a.screen()

    assert world.when(connection, well) == [("AAAUSDT", 1)]
    assert world.states(connection)[old] == "starting"


async def test_a_trader_caught_up_whose_new_plan_is_outdated_misses_no_slot(
    connection, machine, market, user
):
    """During a rolling deploy an older web process may save for a newer machine: until it is compiled anew the filter before counts."""
    trader = world.add_trader(connection, user, world.above(100))
    compiled = []

    def compile_filter(source):
        compiled.append(source)
        return Compiled(world.above(102), [])

    a = await machine(compile_filter=compile_filter)
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()
    age(connection, trader, "signal(another)")
    world.close_slots(connection, 2)
    await a.screen()
    await a.sync()
    world.close_slots(connection, 3)
    await a.screen()

    assert compiled == ["signal(another)"]
    assert world.when(connection, trader) == [("AAAUSDT", 1), ("BBBUSDT", 2), ("AAAUSDT", 3)]


async def test_a_trader_stopped_while_its_plan_waits_is_stopped(connection, machine, market, user):
    trader = world.add_trader(connection, user)
    age(connection, trader)
    a = await machine(compile_filter=lambda _: Compiled(None, [DIAGNOSTIC]))
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)
    await a.screen()

    world.stop(connection, trader)
    await a.sync()

    assert world.states(connection)[trader] == "stopped"


DIAGNOSTIC = Diagnostic(
    line=1, column=1, end_line=1, end_column=2, severity="error", code="V390", message="No.", hint=""
)
