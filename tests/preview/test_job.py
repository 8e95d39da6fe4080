from __future__ import annotations

import json
import sys
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from app.coordination.hints import Hints
from app.preview.job import PreviewJob
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
HANG = (sys.executable, "-c", "import sys, time; sys.stdout.write('\\n'); sys.stdout.flush(); time.sleep(60)")


@pytest.fixture
def user(connection) -> UUID:
    user = uuid4()
    connection.execute("insert into auth.users (id) values (%s)", (user,))
    return user


@pytest.fixture
async def job(pool):
    job = PreviewJob(pool, Hints(pool), EvaluatingProcess(time_limit_s=20))
    yield job
    await job._hints.close()
    await job.close()


async def put(pool, user, *, plan=None, bars=20, symbols=None, until=LAST):
    async with pool.connection() as connection:
        return await previews.insert(
            connection, user, plan=plan or PLAN.encode(), bars=bars, symbols=symbols, until=until
        )


async def standing(pool, preview_id):
    async with pool.connection() as connection:
        return await previews.find(connection, preview_id)


async def test_the_answer_stands_in_the_row(pool, candles, user, job):
    preview_id = await put(pool, user)

    await job.run(preview_id)

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
    }
    assert (result["trigger"], result["bars"], result["symbols"], result["truncated"]) == ("1m", 20, 4, False)
    assert set(result["hits"][0]) == {"symbol", "triggered_at", "price", "values"}
    assert result["hits"][0]["triggered_at"].endswith("Z")
    assert result["hit_count"] == len(result["hits"]) > 20


async def test_a_hanging_evaluation_ends_as_timeout_and_the_next_is_answered(pool, candles, user, job):
    """The child is killed; the machine that ran it has lost nothing."""
    hanging, well = await put(pool, user), await put(pool, user)
    command, limit_s = job._process._command, job._process._time_limit_s
    job._process._command, job._process._time_limit_s = HANG, 0.3

    await job.run(hanging)
    job._process._command, job._process._time_limit_s = command, limit_s
    await job.run(well)

    found = await standing(pool, hanging)
    assert found.state == "timeout"
    assert "too long" in found.problem
    assert (await standing(pool, well)).state == "done"


async def test_a_plan_that_was_tampered_with_is_refused(pool, candles, user, job):
    preview_id = await put(
        pool, user, plan=b'{"version": 2, "nodes": [{"op": "system"}], "signal": 0, "show": {}}'
    )

    await job.run(preview_id)

    found = await standing(pool, preview_id)
    assert found.state == "failed"
    assert "no operator 'system'" in found.problem


async def test_a_preview_that_nobody_waits_for_is_not_begun(pool, connection, user, job):
    preview_id = await put(pool, user)
    connection.execute("update vyx.previews set created_at = created_at - interval '11 s'")

    await job.run(preview_id)

    assert (await standing(pool, preview_id)).state == "waiting"


async def test_a_preview_is_answered_once(pool, candles, user, job):
    """A job that runs twice changes nothing."""
    preview_id = await put(pool, user, bars=1)
    await job.run(preview_id)
    first = connection_row(candles)

    await job.run(preview_id)

    assert connection_row(candles) == first


def connection_row(connection):
    return connection.execute("select * from vyx.previews").fetchone()


async def test_symbols_and_until_narrow_the_answer(pool, candles, user, job):
    preview_id = await put(pool, user, symbols=["AAAUSDT"], until=LAST - timedelta(minutes=30))

    await job.run(preview_id)

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
        assert await previews.prune(other, keep_s=3600) == 1

    assert await standing(pool, old) is None
    assert await standing(pool, kept) is not None
