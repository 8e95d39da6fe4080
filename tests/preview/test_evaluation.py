"""The pieces in which a filter with functions is answered."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from app.preview import wire
from app.preview.evaluation import FIRST_PIECE_BARS, Budget, evaluate, merged
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import build_plan
from tests.preview.test_process import MINUTE_MS

MINUTES = 60
SYMBOLS = ["AAAUSDT", "BBBUSDT", "CCCUSDT"]
LONG = Budget(cpu_s=60.0, wall_s=60.0)
RISES = "f = lambda c: 1 if c[1] > c[0] else 0"


@pytest.fixture(scope="module")
def each():
    with EachRunner(node_seconds=60.0, slot_seconds=60.0) as runner:
        yield runner


def plan(source=RISES, timeframe="1m", *, forming=False):
    field = {"timeframe": timeframe, "field": "close"}
    nodes = [
        {"op": "forming" if forming else "bars", "params": field},
        {"op": "bars", "params": {"timeframe": "1m", "field": "close"}},
        {"op": "eq", "args": [1, 1]},
        {"op": "each", "args": [2, 1], "params": {"bars": 2, "name": "f", "source": source}},
        {"op": "const", "params": {"value": 0}},
        {"op": "lt", "args": [4, 3]},
    ]
    return build_plan(nodes, 5, {"x": 3}).encode().decode()


def question(text, *, bars=MINUTES - 5):
    """Three symbols, an hour of random closes."""
    random = np.random.default_rng(1)
    times = np.arange(1000, 1000 + MINUTES) * MINUTE_MS
    close = random.uniform(1, 2, MINUTES * len(SYMBOLS))
    columns = (np.repeat(range(len(SYMBOLS)), MINUTES), np.tile(times, len(SYMBOLS)), *[close] * 4, close)
    frames = [wire.Frame("1m", MINUTES * len(SYMBOLS))]
    asked = wire.Question(
        plan=text,
        symbols=SYMBOLS,
        matched=None,
        bars=bars,
        until_ms=(1000 + MINUTES) * MINUTE_MS,
        outages_ms=[],
        late=[],
        hits_max=1000,
        frames=frames,
    )
    return asked, [columns]


def test_the_pieces_of_an_answer_are_the_whole_answer(each):
    (whole,) = evaluate(*question(plan()), each, budget=None)

    pieces = list(evaluate(*question(plan()), each, LONG))

    joined = reduce(lambda newer, older: merged(newer, older, 1000), pieces)
    assert len(pieces) > 1
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert joined.hits == whole.hits
    assert (joined.bars, joined.hit_count, joined.bars_left) == (whole.bars, whole.hit_count, 0)
    assert 20 < whole.hit_count < MINUTES * len(SYMBOLS)


def test_without_time_the_newest_bars_are_the_answer_and_the_rest_is_counted(each):
    (whole,) = evaluate(*question(plan()), each, budget=None)

    (only,) = evaluate(*question(plan()), each, Budget(cpu_s=0.0, wall_s=60.0))

    assert only.is_last
    assert (only.bars, only.bars_left) == (FIRST_PIECE_BARS, MINUTES - 5 - FIRST_PIECE_BARS)
    assert only.hits == whole.hits[-len(only.hits) :]


def test_a_filter_without_functions_is_one_piece(each):
    nodes = [
        {"op": "bars", "params": {"timeframe": "1m", "field": "close"}},
        {"op": "shift", "args": [0], "params": {"n": 1}},
        {"op": "lt", "args": [1, 0]},
    ]
    text = build_plan(nodes, 2, {}).encode().decode()

    assert len(list(evaluate(*question(text), each, Budget(cpu_s=0.0, wall_s=0.0)))) == 1


def test_a_function_that_fails_on_an_older_bar_is_told(each):
    """What it did on newer ones does not hide it."""
    text = plan("def f(c):\n    return 1 / 0 if c[1] == 7 else 1\n")
    asked, (columns,) = question(text)
    columns[5][columns[1] == 1010 * MINUTE_MS] = 7.0

    *found, last = evaluate(asked, [columns], each, LONG)

    assert all(isinstance(piece, wire.Found) for piece in found)
    assert isinstance(last, wire.Refused)
    assert "ZeroDivisionError" in last.problem


def test_only_the_newest_hits_are_kept_and_all_are_counted():
    def piece(times, left):
        hits = [wire.Hit("A", at, 1.0, {}) for at in times]
        return wire.Found("1m", "1m", 2, hits, len(times), 1.0, left, left == 0)

    joined = merged(piece([5, 6], 2), piece([3, 4], 0), 3)

    assert [hit.triggered_at_ms for hit in joined.hits] == [4, 5, 6]
    assert (joined.hit_count, joined.bars, joined.bars_left, joined.is_last) == (4, 4, 0, True)
