from __future__ import annotations

import asyncio

import psutil
import pytest

from app.preview import wire
from app.preview.process import EvaluatingProcess
from sandbox.plan.document import build_plan
from tests.preview.test_process import MINUTE_MS, question


def plan(source):
    close = {"op": "bars", "params": {"timeframe": "1m", "field": "close"}}
    nodes = [
        close,
        {"op": "eq", "args": [0, 0]},
        {"op": "each", "args": [1, 0], "params": {"bars": 2, "name": "f", "source": source}},
        {"op": "const", "params": {"value": 0}},
        {"op": "lt", "args": [3, 2]},
    ]
    return build_plan(nodes, 4, {"x": 2}).encode().decode()


@pytest.fixture
async def process():
    process = EvaluatingProcess()
    yield process
    await process.close()


async def test_a_preview_runs_the_functions_of_the_filter(process):
    answer = await process.evaluate(*question(plan("f = lambda c: c[0] + c[1] - 5")))

    assert answer.hit_count == 3
    assert answer.hits[0] == wire.Hit("AAAUSDT", 1003 * MINUTE_MS, 3.0, {"x": 1.0})


async def test_a_function_that_hangs_is_told_and_the_next_preview_answers(process):
    answer = await process.evaluate(*question(plan("def f(c):\n    while c[0] > 2: pass\n    return 1\n")))

    assert answer == wire.Refused(
        "The filter cannot be evaluated: each: f takes longer than 50 ms on AAAUSDT."
    )
    assert (await process.evaluate(*question(plan("f = lambda c: 1")))).hit_count == 6


async def test_no_interpreter_outlives_the_process(process):
    await process.evaluate(*question(plan("f = lambda c: 1")))
    children = psutil.Process(process.pid).children(recursive=True)

    await process.close()

    assert children
    async with asyncio.timeout(10):
        while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
            await asyncio.sleep(0.01)


async def test_an_interpreter_inherits_no_environment_but_the_childs(process, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    await process.evaluate(*question(plan("f = lambda c: 1")))

    for child in psutil.Process(process.pid).children(recursive=True):
        assert "DATABASE_URL" not in child.environ()
