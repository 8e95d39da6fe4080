"""
Who loads candles for some bars of the past finds what a screen with all stored candles finds, slot by slot.

The readers are the preview, the audit, explanations, reports on corrected candles, and the panel of a machine that has just started.
Each is asked about random markets: every timeframe begins at a time of its own, pairs are listed late and halt for hours, and nobody has
candles during an outage.

``VYX_PROPERTY=large`` runs a soak.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import history
from app.domain.timeframes import epoch_ms
from app.preview import evaluation, wire
from app.preview.question import ask
from app.screening.panel_loader import PanelLoader
from app.store.pool import make_pool
from sandbox.engine.candles.panel import Panel
from sandbox.engine.explain import explain
from sandbox.engine.replay import evaluate_range
from sandbox.engine.screen import Evaluator
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import build_plan
from tests.plans import bars, const, forming, node

LARGE = os.environ.get("VYX_PROPERTY") == "large"
SYMBOLS = ["AAAUSDT", "BBBUSDT", "CCCUSDT"]
MINUTE_MS = 60_000
FIRST_MS = epoch_ms(datetime(2024, 5, 1, 10, tzinfo=UTC))
MINUTES = 1260
STORED = {"1m": 1, "5m": 5, "15m": 15, "1h": 60}


@dataclass(frozen=True)
class Market:
    """
    What is stored, in minutes since the first one: when each timeframe begins, when pairs are listed, when they halt (pair, from, for),
    and when nobody has a candle.
    """

    begins: dict[str, int]
    listed: tuple[int, int, int]
    halts: tuple[tuple[int, int, int], ...]
    outage: tuple[int, int]
    seed: int = 0

    def candles(self) -> dict[str, list[tuple[int, int, float, float, float, float, float]]]:
        """By timeframe: symbol row, open time in ms, open, high, low, close, volume."""
        rng = np.random.default_rng(self.seed)
        stored: dict[str, list[tuple[int, int, float, float, float, float, float]]] = {}
        for row in range(len(SYMBOLS)):
            close = 1000 + rng.integers(-8, 9, MINUTES).cumsum() / 4
            has = np.arange(MINUTES) >= self.listed[row]
            for who, begin, length in self.halts:
                has[begin : begin + length] &= who != row
            has[self.outage[0] : sum(self.outage)] = False
            for timeframe, length in STORED.items():
                for at in range(self.begins[timeframe] // length * length, MINUTES, length):
                    own = close[at : at + length][has[at : at + length]]
                    if len(own):
                        bar = (own[0], own.max(), own.min(), own[-1], float(len(own)))
                        open_ms = FIRST_MS + at * MINUTE_MS
                        stored.setdefault(timeframe, []).append((row, open_ms, *map(float, bar)))
        return stored


def mixed(fine, coarse, *, symbol="", function="ta.sma", **params):
    """Fine close above its mean of three, and a coarse close unequal to a function of it; both values shown."""
    return build_plan(
        [
            bars(fine),
            node("ta.sma", 0, timeperiod=3),
            node("ge", 0, 1),
            bars(coarse, symbol=symbol),
            node(function, 3, **params),
            node("ne", 3, 4),
            node("and", 2, 5),
        ],
        6,
        {"coarse": 3, "value": 4},
    )


PLANS = {
    "5m and 15m": mixed("5m", "15m", timeperiod=5),
    "1m and 1h": mixed("1m", "1h", timeperiod=2),
    "1m and 15m": mixed("1m", "15m", function="ta.ema", timeperiod=3),
    "5m and another pair's 1h": mixed("5m", "1h", symbol="BBBUSDT", timeperiod=4),
    "15m and 1h": mixed("15m", "1h", function="ta.rsi", timeperiod=4),
    "a coarse value, always": build_plan([bars("5m"), node("eq", 0, 0), bars("15m")], 1, {"coarse": 2}),
    "a mean of a coarse value": build_plan(
        [bars("5m"), bars("15m"), node("ta.sma", 1, timeperiod=7), node("gt", 0, 2), node("shift", 3, n=6)],
        4,
        {"mean": 2},
    ),
    "places": build_plan(
        [
            bars("5m"),
            bars("15m"),
            node("ta.rocp", 1, timeperiod=2),
            node("top", 2, n=2),
            node("eq", 0, 0),
            node("and", 3, 4),
        ],
        5,
        {"change": 2},
    ),
    "an hour in progress": build_plan(
        [forming("1h"), node("ta.sma", 0, timeperiod=3), const(1000), node("gt", 0, 2), bars("15m")],
        3,
        {"mean": 1, "coarse": 4},
    ),
}

begins = st.fixed_dictionaries(
    {timeframe: st.one_of(st.just(0), st.integers(0, MINUTES)) for timeframe in STORED}
)
markets = st.builds(
    Market,
    begins=begins,
    listed=st.tuples(*[st.one_of(st.just(0), st.integers(0, MINUTES - 60))] * len(SYMBOLS)),
    halts=st.lists(
        st.tuples(st.integers(0, len(SYMBOLS) - 1), st.integers(0, MINUTES), st.integers(1, 800)), max_size=2
    ).map(tuple),
    outage=st.tuples(st.integers(0, MINUTES), st.integers(0, 300)),
    seed=st.integers(0, 99),
)
WHOLE = Market(dict.fromkeys(STORED, 0), (0, 0, 0), (), (0, 0))
LATE_COARSE = Market(dict.fromkeys(STORED, 0) | {"15m": 240}, (0, 0, 0), (), (0, 0))
HALTED = Market(dict.fromkeys(STORED, 0), (0, 0, 0), ((1, 500, 700),), (0, 0))
LONG_OUTAGE = Market(dict.fromkeys(STORED, 0), (0, 0, 0), (), (30, 1200))
FEW_MINUTES = Market(dict.fromkeys(STORED, 0) | {"1m": 1122}, (0, 0, 0), (), (0, 0))
NO_HOURS = Market(dict.fromkeys(STORED, 0) | {"1m": 600, "1h": MINUTES}, (0, 0, 0), (), (0, 0))


@dataclass(frozen=True)
class Window:
    """Which bars are looked at, and of which pairs."""

    bars: int
    until: int  # minutes before the last one
    symbols: tuple[str, ...] | None


windows = st.builds(
    Window,
    bars=st.integers(1, 260),
    until=st.one_of(st.just(0), st.integers(0, MINUTES)),
    symbols=st.sampled_from([None, ("AAAUSDT",), ("BBBUSDT", "CCCUSDT")]),
)


@pytest.fixture(scope="module")
def url(admin_dsn, template):
    """A database for all examples of this module: each stores its own candles in it."""
    name = f"vyx_test_history_{os.getpid()}"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}")
    url = psycopg.conninfo.make_conninfo(admin_dsn, dbname=name)
    with psycopg.connect(url) as connection:
        for symbol in SYMBOLS:
            connection.execute(
                "insert into vyx.symbols (symbol, base, quote) values (%s, %s, 'USDT')", (symbol, symbol[:3])
            )
    yield url
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


def store(url, market):
    """Replace the stored candles; returns a panel of all of them."""
    panel, candles = Panel(SYMBOLS), market.candles()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("delete from vyx.candles")
        with cursor.copy(
            "copy vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume) from stdin"
        ) as copy:
            for timeframe, rows in candles.items():
                for row, open_ms, *fields in rows:
                    at = datetime.fromtimestamp(open_ms / 1000, UTC)
                    copy.write_row((row + 1, timeframe, at, *fields))
    for timeframe, rows in candles.items():
        panel.load(timeframe, *(np.array(column) for column in zip(*rows, strict=True)))
    return panel


def slots_of(panel, plan, window):
    """The newest `bars` slots at which the plan is due by `until`."""
    axis = panel.frame(plan.due_every)
    end = axis.bars_closed_at(FIRST_MS + (MINUTES - window.until) * MINUTE_MS)
    return (axis.open_time[max(0, end - window.bars) : end] + axis.step_ms).tolist()


def screened(panel, plan, slots, symbols, frequency="every_bar"):
    """Each slot screened on its own, with nothing carried over: (symbol, slot, price, values) of every match."""
    evaluator = Evaluator(panel)
    evaluator.put("t", plan, None if symbols is None else frozenset(symbols), frequency)
    found = []
    for slot in slots:
        seen = evaluator.evaluate(slot, ["t"])
        assert not seen.failed
        for hits in seen.hits:
            for at, (symbol, price) in enumerate(zip(hits.symbols, hits.prices.tolist(), strict=True)):
                found.append(
                    (symbol, slot, price, {name: values[at] for name, values in hits.values.items()})
                )
    return found


async def previewed(connection, plan, window, until, frequency):
    question, frames = await ask(connection, plan, bars=window.bars, until=until, symbols=window.symbols)
    question = msgspec.structs.replace(question, every_match=True, frequency=frequency, hits_max=10**6)
    with EachRunner() as each:
        (answer,) = evaluation.evaluate(question, frames, each, budget=None)
    assert isinstance(answer, wire.Found), answer
    return answer.bars, [(h.symbol, h.triggered_at_ms, h.price, h.values) for h in answer.hits]


def asked(url, use):
    """Run *use* with a pool of connections to *url*."""

    async def run():
        pool = make_pool(url, max_size=2, name="test")
        await pool.open(wait=True)
        try:
            return await use(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


profile = settings(max_examples=300 if LARGE else 20, deadline=None, suppress_health_check=list(HealthCheck))


@given(
    market=markets,
    plan=st.sampled_from(sorted(PLANS)),
    window=windows,
    frequency=st.sampled_from(["every_bar", "on_enter"]),
)
@example(market=WHOLE, plan="5m and 15m", window=Window(250, 0, ("AAAUSDT",)), frequency="every_bar")
@example(
    market=LATE_COARSE, plan="a coarse value, always", window=Window(260, 0, None), frequency="every_bar"
)
@example(market=HALTED, plan="5m and 15m", window=Window(20, 0, ("BBBUSDT",)), frequency="every_bar")
@example(market=LONG_OUTAGE, plan="1m and 1h", window=Window(20, 0, None), frequency="every_bar")
@example(market=FEW_MINUTES, plan="an hour in progress", window=Window(25, 0, None), frequency="every_bar")
@example(market=NO_HOURS, plan="an hour in progress", window=Window(60, 0, None), frequency="every_bar")
@profile
def test_a_window_of_the_past_is_what_live_screening_found(url, market, plan, window, frequency):
    """Every match with its price and values, whichever bars are asked for and wherever the stored candles begin."""
    plan, panel = PLANS[plan], store(url, market)
    slots = slots_of(panel, plan, window)
    until = datetime.fromtimestamp(FIRST_MS / 1000, UTC) + timedelta(minutes=MINUTES - window.until)

    async def use(pool):
        async with pool.connection() as connection:
            return await previewed(connection, plan, window, until, frequency)

    bars_seen, hits = asked(url, use)

    assert bars_seen == len(slots)
    assert hits == screened(panel, plan, slots, window.symbols, frequency)


@given(market=markets, plan=st.sampled_from(sorted(PLANS)), window=windows)
@example(market=HALTED, plan="1m and 15m", window=Window(1, 58, None))
@example(market=LONG_OUTAGE, plan="1m and 15m", window=Window(1, 0, None))
@profile
def test_one_slot_is_explained_reported_and_screened_alike(url, market, plan, window):
    """An explanation, a report on a corrected candle, and a machine that has just loaded its panel: one slot, one answer."""
    plan, panel = PLANS[plan], store(url, market)
    slots = slots_of(panel, plan, Window(1, window.until, None))
    if not slots:
        return
    (slot_ms,) = slots
    slot, symbol = datetime.fromtimestamp(slot_ms / 1000, UTC), SYMBOLS[market.seed % len(SYMBOLS)]

    async def use(pool):
        async with pool.connection() as connection:
            stretch = await history.load(connection, plan, bars=2, until=slot, symbols=[symbol])
        loader, needing = PanelLoader(pool), Evaluator(Panel([]))
        needing.put("t", plan, None, "every_bar")
        await loader.ensure(needing.needed(), slot, through=slot)
        return stretch.panel(), loader.panel

    some, machines = asked(url, use)

    expected = explain(plan, [], panel, slot_ms, symbol)
    found = explain(plan, [], some, slot_ms, symbol)
    assert (found.matched, found.matched_before, found.values, found.bars, found.forming) == (
        expected.matched, expected.matched_before, expected.values, expected.bars, expected.forming
    )  # fmt: skip
    for frequency in ("every_bar", "on_enter"):
        matches = screened(panel, plan, slots, None, frequency)
        assert sorted(screened(machines, plan, slots, None, frequency)) == sorted(matches)
        if not plan.forming:
            again = evaluate_range(some, plan, slot_ms, slot_ms, [symbol], frequency)
            assert again.symbols == [name for name, *_ in matches if name == symbol]
