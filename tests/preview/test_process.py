from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
import psutil
import pytest

from app.bounded.process import Crashed, OutOfTime
from app.preview import wire
from app.preview.process import EvaluatingProcess
from sandbox.plan.document import build_plan

NODES = [
    {"op": "bars", "params": {"timeframe": "1m", "field": "close"}},
    {"op": "bars", "params": {"timeframe": "1m", "field": "open"}},
    {"op": "gt", "args": [0, 1]},
]
PLAN = build_plan(NODES, 2, {"opened": 1})
MINUTE_MS = 60_000


def question(plan=None, *, hits_max=1000, **changed):
    """Two symbols, five minutes; the first rises in each, the second never."""
    times = np.arange(1000, 1005) * MINUTE_MS
    columns = (
        np.repeat([0, 1], 5),
        np.tile(times, 2),
        np.full(10, 2.0),
        np.full(10, 4.0),
        np.full(10, 1.0),
        np.repeat([3.0, 1.5], 5),
        np.full(10, 7.0),
    )
    given = {
        "plan": PLAN.encode().decode() if plan is None else plan,
        "symbols": ["AAAUSDT", "BBBUSDT"],
        "matched": None,
        "bars": 3,
        "until_ms": 1005 * MINUTE_MS,
        "outages_ms": [],
        "late": [],
        "hits_max": hits_max,
        "frames": [wire.Frame("1m", 10)],
    }
    return wire.Question(**{**given, **changed}), [columns]


@pytest.fixture
async def process():
    process = EvaluatingProcess()
    yield process
    await process.close()


def fake(code):
    """A child that says it is ready and then runs *code*."""
    ready = "import sys, time; sys.stdout.buffer.write(bytes(4)); sys.stdout.buffer.flush();"
    return EvaluatingProcess(command=(sys.executable, "-c", ready + code), wall_limit_s=0.3)


async def test_a_question_is_answered(process):
    answer = await process.evaluate(*question())

    assert answer.trigger == "1m"
    assert answer.bars == 3
    assert answer.hit_count == 3
    assert answer.hits[0] == wire.Hit("AAAUSDT", 1003 * MINUTE_MS, 3.0, {"opened": 2.0})


async def test_the_child_is_kept_for_the_next_question(process):
    await process.evaluate(*question())
    first = process.pid
    await process.evaluate(*question())

    assert process.pid == first


async def test_of_too_many_hits_the_newest_are_told_and_all_are_counted(process):
    answer = await process.evaluate(*question(hits_max=1))

    assert [hit.triggered_at_ms for hit in answer.hits] == [1005 * MINUTE_MS]
    assert answer.hit_count == 3


async def test_slots_that_live_screening_passed_over_are_no_hits(process):
    answer = await process.evaluate(
        *question(outages_ms=[1003 * MINUTE_MS], late=[("AAAUSDT", 1004 * MINUTE_MS)])
    )

    assert [hit.triggered_at_ms for hit in answer.hits] == [1005 * MINUTE_MS]
    assert answer.hit_count == 1


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ("not json", "not a plan"),
        ('{"version": 3, "nodes": [], "signal": 0, "show": {}}', "there is no node 0"),
        (json.dumps({"version": 99, "nodes": NODES, "signal": 2, "show": {}}), "version 99"),
        (
            json.dumps({"version": 3, "nodes": [*NODES, {"op": "system"}], "signal": 2, "show": {}}),
            "no operator 'system'",
        ),
        (
            json.dumps(
                {"version": 3, "nodes": [NODES[0], {"op": "gt", "args": [0, 1]}], "signal": 1, "show": {}}
            ),
            "does not come before",
        ),
        (
            json.dumps(
                {
                    "version": 3,
                    "nodes": [
                        NODES[0],
                        {"op": "ta.sma", "args": [0], "params": {"timeperiod": 10**9}},
                        {"op": "gt", "args": [0, 1]},
                    ],
                    "signal": 2,
                    "show": {},
                }
            ),
            "timeperiod",
        ),
        (
            json.dumps({"version": 3, "nodes": NODES[:1] * 3000, "signal": 2, "show": {}}),
            "at most 2000 are allowed",
        ),
        ("[" * 100_000, "not a plan"),
    ],
)
async def test_a_hostile_plan_is_refused_by_the_child_itself(process, plan, reason):
    """Whatever reaches the child is validated there again, and the child lives on."""
    refused = await process.evaluate(*question(plan))

    assert isinstance(refused, wire.Refused)
    assert reason in refused.problem
    assert isinstance(await process.evaluate(*question()), wire.Found)


@pytest.mark.parametrize(
    "changed",
    [
        {"frames": [wire.Frame("7m", 10)]},
        {"symbols": ["AAAUSDT"]},
        {"symbols": ["AAAUSDT", "AAAUSDT"]},
    ],
    ids=["unknown timeframe", "row without a symbol", "a symbol twice"],
)
async def test_candles_that_are_no_candles_are_refused_or_end_the_child_only(process, changed):
    try:
        answer = await process.evaluate(*question(**changed))
    except Crashed:
        answer = wire.Refused("crashed")

    assert isinstance(answer, wire.Refused)
    assert isinstance(await process.evaluate(*question()), wire.Found)


async def test_a_hanging_child_is_killed_at_its_limit():
    process = fake("time.sleep(60)")

    asked = asyncio.create_task(process.evaluate(*question()))
    while (pid := process.pid) is None:
        await asyncio.sleep(0)
    child = psutil.Process(pid)
    with pytest.raises(OutOfTime):
        await asked

    assert not child.is_running()
    assert process.pid is None


@pytest.mark.parametrize(
    "code",
    [
        "sys.exit(3)",
        "import os; os.abort()",
        "sys.stdout.buffer.write(b'\\xff\\xff\\xff\\xff'); sys.stdout.buffer.flush(); time.sleep(60)",
        "sys.stdout.buffer.write(b'\\x03\\0\\0\\0abc'); sys.stdout.buffer.flush(); time.sleep(60)",
    ],
    ids=["leaves", "aborts", "endless answer", "nonsense"],
)
async def test_a_child_that_dies_or_babbles_is_a_crash_and_leaves_no_process(code):
    process = fake(code)

    with pytest.raises(Crashed):
        await process.evaluate(*question())
    assert process.pid is None


async def test_a_cancelled_question_ends_its_child():
    """Half a message in the pipe would be taken for the next one."""
    process = fake("time.sleep(60)")
    asked = asyncio.create_task(process.evaluate(*question()))
    while process.pid is None:
        await asyncio.sleep(0)
    child = psutil.Process(process.pid)

    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    assert not child.is_running()


async def test_the_child_inherits_no_secret_no_connection_and_a_low_priority(process, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    monkeypatch.setenv("VYX_JWT_SECRET", "secret")
    await process.evaluate(*question())
    child = psutil.Process(process.pid)

    assert "secret" not in json.dumps(child.environ())
    assert set(child.environ()) <= {
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "LC_CTYPE",
    }
    assert child.net_connections(kind="all") == []
    assert child.nice() >= min(19, psutil.Process().nice() + 10)
    assert child.num_fds() <= 3


async def test_an_idle_child_ends_with_its_parents_pipe(process):
    await process.evaluate(*question())
    child = psutil.Process(process.pid)

    own = process._process._process
    own.stdin.close()

    assert await own.wait() == 0
    assert not child.is_running()


def test_a_message_that_ends_early_is_refused():
    message = b"".join(bytes(part) for part in wire.question_message(*question()))
    for end in (2, 30, len(message) - 1):
        at = iter([message[:end]])
        buffer = bytearray(next(at))

        def read(count, buffer=buffer):
            taken = bytes(buffer[:count])
            del buffer[:count]
            return taken

        with pytest.raises(EOFError):
            wire.read_question(read)
