from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from app.coordination.hints import Hints
from app.preview.job import IN_FLIGHT_MAX, SILENT_S, WAIT_S, PreviewJob
from app.preview.process import EvaluatingProcess
from app.store import previews
from sandbox.plan.document import build_plan
from tests.preview.conftest import LAST

NODES = [
    {"op": "bars", "params": {"timeframe": "1m", "field": "close"}},
    {"op": "bars", "params": {"timeframe": "1m", "field": "open"}},
    {"op": "gt", "args": [0, 1]},
]
PLAN = build_plan(NODES, 2, {"opened": 1})
HANG = (
    sys.executable,
    "-c",
    "import sys, time; sys.stdout.buffer.write(bytes(4)); sys.stdout.flush(); time.sleep(60)",
)


@pytest.fixture
def make_preview_user(connection):
    def make() -> UUID:
        user = uuid4()
        connection.execute("insert into auth.users (id) values (%s)", (user,))
        return user

    return make


@pytest.fixture
def user(make_preview_user) -> UUID:
    return make_preview_user()


@pytest.fixture
async def job(pool):
    job = PreviewJob(pool, Hints(pool), [EvaluatingProcess(wall_limit_s=60)])
    yield job
    await job._hints.close()
    await job.close()


async def put(pool, user, *, plan=None, bars=20, symbols=None, until=LAST):
    async with pool.connection() as connection:
        return await previews.insert(
            connection,
            user,
            plan=plan or PLAN.encode(),
            bars=bars,
            symbols=symbols,
            until=until,
            waiting_max=4,
            wait_s=WAIT_S,
        )


async def standing(pool, preview_id):
    async with pool.connection() as connection:
        return await previews.find(connection, preview_id)


async def test_the_answer_stands_in_the_row(pool, candles, user, job):
    preview_id = await put(pool, user)

    await job.run()

    found = await standing(pool, preview_id)
    result = json.loads(found.result)
    assert (found.state, found.problem) == ("done", None)
    assert set(result) == {
        "trigger",
        "due_every",
        "bars",
        "symbols",
        "hits",
        "hit_count",
        "truncated",
        "evaluated_ms",
        "bars_left",
        "history_begins",
    }
    assert (result["trigger"], result["bars"], result["symbols"], result["truncated"]) == ("1m", 20, 4, False)
    assert set(result["hits"][0]) == {"symbol", "triggered_at", "price", "values"}
    assert result["hits"][0]["triggered_at"].endswith("Z")
    assert result["hit_count"] == len(result["hits"]) > 20


async def test_a_hanging_evaluation_ends_as_timeout_and_the_next_is_answered(pool, candles, user, job):
    """The child is killed; the machine that ran it has lost nothing."""
    hanging = await put(pool, user)
    well = job._processes[0]
    job._idle[:] = [EvaluatingProcess(command=HANG, wall_limit_s=0.3)]
    await job.run()
    answered = await put(pool, user)
    job._idle[:] = [well]

    await job.run()

    found = await standing(pool, hanging)
    assert found.state == "timeout"
    assert "too long" in found.problem
    assert (await standing(pool, answered)).state == "done"


async def test_a_plan_that_was_tampered_with_is_refused(pool, candles, user, job):
    preview_id = await put(
        pool, user, plan=b'{"version": 3, "nodes": [{"op": "system"}], "signal": 0, "show": {}}'
    )

    await job.run()

    found = await standing(pool, preview_id)
    assert found.state == "failed"
    assert "no operator 'system'" in found.problem


async def test_a_preview_that_nobody_waits_for_is_not_begun(pool, connection, user, job):
    preview_id = await put(pool, user)
    connection.execute("update vyx.previews set created_at = created_at - interval '21 s'")

    await job.run()

    assert (await standing(pool, preview_id)).state == "waiting"


async def test_a_preview_is_answered_once(pool, candles, user, job):
    """A job that runs twice changes nothing."""
    await put(pool, user, bars=1)
    await job.run()
    first = connection_row(candles)

    await job.run()

    assert connection_row(candles) == first


def connection_row(connection):
    return connection.execute("select * from vyx.previews").fetchone()


async def test_one_job_answers_all_that_may_begin(pool, candles, user, job):
    """A job that found its user's two in work has ended; whoever ends one of those looks for the next."""
    asked = [await put(pool, user, bars=1) for _ in range(4)]

    await job.run()

    assert {(await standing(pool, preview_id)).state for preview_id in asked} == {"done"}


async def test_a_machine_that_drains_begins_no_further_preview(pool, candles, user, job):
    preview_id = await put(pool, user)
    job.stop()

    await job.run()

    assert (await standing(pool, preview_id)).state == "waiting"


async def claim(pool):
    async with pool.connection() as connection:
        return await previews.claim(connection, wait_s=WAIT_S, silent_s=SILENT_S, in_flight_max=IN_FLIGHT_MAX)


async def test_a_victim_is_next_beside_ten_previews_of_one_attacker(pool, connection, make_preview_user):
    """At most two of the attacker's are worked on; the victim's, which came last, is the third."""
    attacker, victim = make_preview_user(), make_preview_user()
    for _ in range(4):
        await put(pool, attacker)
    first, second = await claim(pool), await claim(pool)
    wanted = await put(pool, victim)

    third, fourth = await claim(pool), await claim(pool)

    assert third.preview_id == wanted
    assert fourth is None
    assert first.preview_id != second.preview_id


async def test_users_are_served_by_turns(pool, connection, make_preview_user):
    """Whose last preview began or ended longest ago is next."""
    a, b = make_preview_user(), make_preview_user()
    asked = {await put(pool, user): name for user, name in [(a, "a"), (a, "a"), (a, "a"), (b, "b"), (b, "b")]}

    order = []
    for _ in range(5):
        claimed = await claim(pool)
        order.append(asked[claimed.preview_id])
        async with pool.connection() as other:
            await previews.end(other, claimed.preview_id, "failed", problem="test")

    assert order == ["a", "b", "a", "b", "a"]


async def test_two_machines_never_begin_the_same_preview_nor_a_third_of_one_user(pool, connection, user):
    for _ in range(4):
        await put(pool, user)

    claimed = await asyncio.gather(*(claim(pool) for _ in range(4)))

    begun = [c.preview_id for c in claimed if c is not None]
    assert len(begun) == len(set(begun)) == IN_FLIGHT_MAX


async def test_what_a_dead_machine_worked_on_no_longer_counts(pool, connection, user):
    for _ in range(3):
        await put(pool, user)
    await claim(pool)
    await claim(pool)
    assert await claim(pool) is None

    connection.execute(
        "update vyx.previews set worked_at = worked_at - make_interval(secs => %s)", (SILENT_S + 1,)
    )

    assert await claim(pool) is not None


async def test_a_full_line_takes_no_more(pool, connection, make_preview_user):
    attacker, victim = make_preview_user(), make_preview_user()
    assert None not in [await put(pool, attacker) for _ in range(4)]

    assert await put(pool, attacker) is None
    assert await put(pool, victim) is not None


async def test_who_gives_up_leaves_the_line(pool, connection, user):
    given_up = await put(pool, user)
    async with pool.connection() as other:
        await previews.give_up(other, given_up, "Nobody waits for it any more.")

    assert await claim(pool) is None
    assert (await standing(pool, given_up)).state == "timeout"


async def test_symbols_and_until_narrow_the_answer(pool, candles, user, job):
    preview_id = await put(pool, user, symbols=["AAAUSDT"], until=LAST - timedelta(minutes=30))

    await job.run()

    result = json.loads((await standing(pool, preview_id)).result)
    assert result["symbols"] == 1
    assert {hit["symbol"] for hit in result["hits"]} == {"AAAUSDT"}
    assert (
        max(hit["triggered_at"] for hit in result["hits"])
        <= f"{LAST - timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}"
    )


async def test_old_previews_are_forgotten(pool, connection, user):
    kept = await put(pool, user)
    old = await put(pool, user)
    connection.execute(
        "update vyx.previews set created_at = created_at - interval '61 min' where preview_id = %s", (old,)
    )

    async with pool.connection() as other:
        assert await previews.prune(other, before=datetime.now(UTC) - timedelta(hours=1), limit=10) == 1

    assert await standing(pool, old) is None
    assert await standing(pool, kept) is not None
