from __future__ import annotations

from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import build_plan
from tests import world


def calling(source):
    """A plan that is true where the function gives more than 0."""
    nodes = [
        {"op": "bars", "params": {"timeframe": "1m", "field": "close"}},
        {"op": "eq", "args": [0, 0]},
        {"op": "each", "args": [1, 0], "params": {"bars": 1, "name": "f", "source": source}},
        {"op": "const", "params": {"value": 0}},
        {"op": "lt", "args": [3, 2]},
    ]
    return build_plan(nodes, 4, {"answer": 2})


async def test_a_function_that_hangs_sends_its_trader_to_error_and_nobody_else(connection, machine):
    user = world.add_user(connection)
    world.put_closes(connection, {"AAAUSDT": [3.0], "BBBUSDT": [4.0]}, first=1)
    world.close_slots(connection, 0)
    hanging = world.add_trader(connection, user, calling("def f(c):\n    while True: pass\n"))
    working = world.add_trader(connection, user, calling("f = lambda c: c[-1] > 0"))
    plain = world.add_trader(connection, user, world.above(0))
    a = await machine()
    world.claim(connection, a.boot_id)
    world.close_slots(connection, 1)

    await a.screen()

    row = world.status(connection, hanging)
    assert (row.state, row.reason) == ("error", "evaluation failed")
    assert row.last_error.startswith("each: f takes longer than 50 ms on ")
    assert world.status(connection, working).state == "running"
    assert world.when(connection, working) == [("AAAUSDT", 1), ("BBBUSDT", 1)]
    assert world.when(connection, plain) == world.when(connection, working)
    assert world.when(connection, hanging) == []


async def test_a_user_whose_functions_hang_takes_no_time_from_another_user(connection, machine):
    greedy, modest = world.add_user(connection), world.add_user(connection)
    world.put_closes(connection, {"AAAUSDT": [3.0]}, first=1)
    world.close_slots(connection, 0)
    hanging = [
        world.add_trader(connection, greedy, calling(f"def f(c):\n    while c[-1] != {-at}: pass\n"))
        for at in range(1, 16)
    ]
    working = world.add_trader(connection, modest, calling("f = lambda c: c[-1] > 0"))
    with EachRunner(slot_seconds=0.8) as each:
        a = await machine(each=each)
        world.claim(connection, a.boot_id)
        world.close_slots(connection, 1)

        await a.screen()

    assert {world.status(connection, trader).state for trader in hanging} == {"error"}
    told = [world.status(connection, trader).last_error for trader in hanging]
    assert any(text.startswith("each: your functions took ") for text in told)
    assert world.status(connection, working).state == "running"
    assert world.when(connection, working) == [("AAAUSDT", 1)]
