from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from app import history
from app.domain.timeframes import epoch_ms
from app.preview import evaluation, wire
from app.preview.question import ask
from app.store import candles as candle_store
from sandbox.engine.screen import Evaluator
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import build_plan
from tests.preview.conftest import FIRST, LAST, LATE, MINUTES, OUTAGE, SYMBOLS

ALL = 10_000


def close(timeframe, symbol=""):
    return {"op": "bars", "params": {"timeframe": timeframe, "field": "close", "symbol": symbol}}


def plan_of(timeframe="1m", *, coarse=None, symbol=""):
    """close > sma(close, 5), and the same of *coarse*, which may be of another *symbol*."""
    nodes = [
        close(timeframe),
        {"op": "ta.sma", "args": [0], "params": {"timeperiod": 5}},
        {"op": "gt", "args": [0, 1]},
    ]
    if coarse is not None:
        nodes += [
            close(coarse, symbol),
            {"op": "ta.sma", "args": [3], "params": {"timeperiod": 3}},
            {"op": "gt", "args": [3, 4]},
        ]
        nodes.append({"op": "and", "args": [2, 5]})
    return build_plan(nodes, len(nodes) - 1, {"average": 1})


async def found(pool, plan, *, bars=ALL, until=LAST, symbols=None):
    async with pool.connection() as connection:
        question = await ask(connection, plan, bars=min(bars, 1000), until=until, symbols=symbols)
    with evaluation.each_runner() as each:
        (answer,) = evaluation.evaluate(*question, each, budget=None)
    assert isinstance(answer, wire.Found), answer
    return answer


def plan_of_places():
    """The two that gained most in three bars."""
    nodes = [
        close("1m"),
        {"op": "ta.rocp", "args": [0], "params": {"timeperiod": 3}},
        {"op": "top", "args": [1], "params": {"n": 2}},
    ]
    return build_plan(nodes, 2, {"average": 1})


def plan_with_each():
    """close > the function's mean of five closes; the function fails where no symbol is: at a price of 1."""
    source = "def mean(c):\n    assert c[-1] != 1\n    return sum(c) / len(c)\n"
    nodes = [
        close("1m"),
        {"op": "eq", "args": [0, 0]},
        {"op": "each", "args": [1, 0], "params": {"bars": 5, "name": "mean", "source": source}},
        {"op": "gt", "args": [0, 2]},
    ]
    return build_plan(nodes, 3, {"average": 2})


@pytest.fixture
def each():
    with EachRunner() as each:
        yield each


async def live(pool, plan, each, symbols=None):
    """What the machines' own evaluator finds slot by slot over everything that is stored, at the slots they screen."""
    async with pool.connection() as connection:
        stretch = await history.load(connection, plan, bars=1000, until=LAST, symbols=None)
    evaluator = Evaluator(stretch.panel(), each)
    evaluator.put("t", plan, None if symbols is None else frozenset(symbols), "every_bar")
    hits = []
    for minute in range(1, MINUTES + 1):
        if minute - 1 in OUTAGE:
            continue
        slot = epoch_ms(FIRST + timedelta(minutes=minute))
        for hit in evaluator.evaluate(slot).hits:
            hits += [
                (symbol, slot, price, average)
                for symbol, price, average in zip(
                    hit.symbols, hit.prices.tolist(), hit.values["average"], strict=True
                )
                if not (hit.timeframe == "1m" and symbol == "CCCUSDT" and minute == LATE + 1)
            ]
    return hits


def told(answer):
    return [(hit.symbol, hit.triggered_at_ms, hit.price, hit.values["average"]) for hit in answer.hits]


@pytest.mark.parametrize(
    "plan",
    [
        plan_of("1m"),
        plan_of("5m"),
        plan_of("1m", coarse="15m"),
        plan_of("5m", coarse="15m", symbol="AAAUSDT"),
        plan_with_each(),
        plan_of_places(),
    ],
    ids=["1m", "5m", "1m and 15m", "5m and another symbol's 15m", "a function", "places"],
)
@pytest.mark.parametrize("symbols", [None, ["BBBUSDT"], ["CCCUSDT", "DDDUSDT"]], ids=["all", "one", "two"])
async def test_a_preview_finds_exactly_what_live_screening_would(pool, candles, each, plan, symbols):
    """Bit for bit, over holes, an outage and a late candle, whatever part of the market is read."""
    answer = await found(pool, plan, symbols=symbols)

    expected = await live(pool, plan, each, symbols)
    assert len(expected) > 2
    assert told(answer) == expected
    assert answer.hit_count == len(expected)


async def test_fewer_bars_are_the_end_of_more_bars(pool, candles):
    """How far back one looks changes no value."""
    plan = plan_of("1m", coarse="15m")

    everything, some = await found(pool, plan), await found(pool, plan, bars=40)

    assert some.bars == 40
    assert told(some) == [hit for hit in told(everything) if hit[1] > epoch_ms(LAST - timedelta(minutes=40))]


async def test_until_ends_the_preview_in_the_past(pool, candles):
    plan = plan_of("1m")
    until = FIRST + timedelta(minutes=150, seconds=30)

    answer = await found(pool, plan, bars=50, until=until)

    everything = await found(pool, plan)
    ends = epoch_ms(FIRST + timedelta(minutes=150))
    assert answer.bars == 50
    assert told(answer) == [hit for hit in told(everything) if ends - 50 * 60_000 < hit[1] <= ends]


async def test_bars_are_counted_over_an_outage(pool, candles):
    """A bar that exists for nobody is no bar."""
    answer = await found(pool, plan_of("1m"), bars=10, until=FIRST + timedelta(minutes=209))

    assert answer.bars == 10
    assert min(hit.triggered_at_ms for hit in answer.hits) < epoch_ms(FIRST + timedelta(minutes=200))


async def test_before_history_begins_there_is_nothing(pool, candles):
    answer = await found(pool, plan_of("5m", coarse="15m"), until=FIRST - timedelta(days=1))

    assert (answer.bars, answer.hits, answer.hit_count) == (0, [], 0)


async def test_the_axis_is_the_newest_bars_that_exist_for_anybody(pool, candles):
    async with pool.connection() as connection:
        axis = await candle_store.bar_times(connection, "1m", FIRST + timedelta(minutes=208), 5)

    assert axis == [FIRST + timedelta(minutes=m) for m in (199, 200, 201, 207, 208)]


async def test_columns_arrive_as_they_are_stored(pool, candles):
    async with pool.connection() as connection:
        read = await candle_store.read_by_symbol(connection, "1m", FIRST, LAST, ["BBBUSDT", "AAAUSDT"])

    assert [r.symbol for r in read] == ["AAAUSDT", "BBBUSDT"]
    for number, candles_read in enumerate(read, 1):
        rows = candles.execute(
            "select (extract(epoch from open_time) * 1000)::bigint, open, high, low, close, volume from vyx.candles"
            " where symbol_id = %s and timeframe = '1m' order by open_time",
            (number,),
        ).fetchall()
        order = np.argsort(candles_read.open_time())
        columns = [candles_read.open_time(), *candles_read.fields()]
        assert list(zip(*(column[order].tolist() for column in columns), strict=True)) == rows


async def test_only_the_symbols_that_matter_are_read(pool, candles):
    async with pool.connection() as connection:
        stretch = await history.load(
            connection, plan_of("1m", coarse="5m", symbol="AAAUSDT"), bars=5, until=LAST, symbols=["BBBUSDT"]
        )

    assert stretch.symbols == ["AAAUSDT", "BBBUSDT", history.AXIS_ROW]


async def test_a_plan_across_the_market_reads_all_of_it(pool, candles):
    plan = plan_of_places()

    async with pool.connection() as connection:
        stretch = await history.load(connection, plan, bars=5, until=LAST, symbols=["BBBUSDT"])

    assert stretch.symbols == SYMBOLS
    assert stretch.panel().frame("1m").present[:, -1].all()
