"""
Explanations over HTTP of filters that look across the market, on real candles in the database, against one panel of all of them: an
explanation reads what its plan needs, for one symbol and a few bars, and has to say what the whole market and all of history say.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import httpx2
import numpy as np
import pytest

from app.http.application import make_application
from app.web import make_service
from sandbox.engine.explain import explain as explain_on
from sandbox.engine.replay import evaluate_range
from sandbox.interpreter.functions import EachRunner
from tests import real_market, world
from tests.in_process import in_process_filters
from tests.real_market import ACROSS, GONE, HOLEY, YOUNG

PAIRS = 24


@pytest.fixture(scope="module")
def filters():
    with in_process_filters() as filters:
        yield filters


@pytest.fixture(scope="module")
def rolled(shared_data):
    return real_market.frames(real_market.read(shared_data))


@pytest.fixture(scope="module")
def panel(rolled):
    return real_market.panel(rolled)


@pytest.fixture
def stored(connection, rolled, panel):
    """The candles in the database, a complete slot for every minute, an outage for those in which nobody has one."""
    minutes = rolled["1m"]
    last = instant(real_market.last_ms(minutes))
    connection.execute("insert into vyx.markets (source, anchor_market_at) values ('test', %s)", (last,))
    for symbol in panel.symbols:
        connection.execute(
            "insert into vyx.symbols (symbol, base, quote) values (%s, %s, 'USDT')",
            (symbol, symbol.removesuffix("USDT")),
        )
    numbers = dict(connection.execute("select symbol, symbol_id from vyx.symbols").fetchall())
    columns = "symbol_id, timeframe, open_time, open, high, low, close, volume"
    with connection.cursor() as cursor, cursor.copy(f"copy vyx.candles ({columns}) from stdin") as copy:
        for timeframe, bars in rolled.items():
            closed = bars.take(bars.close_time <= real_market.last_ms(minutes))
            for bar in closed.rows():
                began = instant(bar.open_time)
                copy.write_row((numbers[bar.symbol], timeframe, began, *bar[2:7]))
    connection.execute(
        """insert into vyx.slots (slot, state, reason, closed_at)
           select slot, (case when traded then 'complete' else 'outage' end)::vyx.slot_state, case when not traded then 'no candles: test' end, slot
             from (select slot, exists (select from vyx.candles where timeframe = '1m' and open_time = slot - interval '1 min') as traded
                     from generate_series(%s::timestamptz, %s, interval '1 min') slot) s""",
        (instant(int(minutes.open_time.min()) + 60_000), last),
    )
    connection.execute("analyze vyx.candles")
    return connection


@pytest.fixture
async def http(stored, make_settings, filters):
    async with make_service(make_settings(), filters) as service:
        await service.feed.has_horizon.wait()
        transport = httpx2.ASGITransport(make_application(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test", timeout=60) as client:
            yield client


@pytest.fixture
def make_trader(http, user, stored):
    """A trader that a machine has screened over all of history."""

    async def make(source, **fields):
        response = await http.post(
            "/api/v1/traders", json={"name": "t", "filter": source, **fields}, headers=user.headers
        )
        assert response.status_code == 201, response.text
        trader_id = response.json()["id"]
        with world.without_triggers(stored):
            stored.execute(
                """insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through)
                   select %s, 1, 1, 'm', min(slot) - interval '1 min', max(slot) from vyx.slots""",
                (trader_id,),
            )
        return trader_id

    return make


@pytest.fixture
def explain(http, user):
    async def explain(trader_id, symbol, at_ms):
        query = {"symbol": symbol, "at": text(at_ms)}
        response = await http.get(f"/api/v1/traders/{trader_id}/explain", params=query, headers=user.headers)
        assert response.status_code == 200, response.text
        return response.json()

    return explain


def instant(milliseconds):
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(milliseconds))


def text(milliseconds):
    return f"{instant(milliseconds):%Y-%m-%dT%H:%M:%SZ}"


def found_over_all(panel, plan, frequency="every_bar"):
    """{(symbol, instant): shown values} of every match, from all candles at once."""
    with EachRunner(node_seconds=60, slot_seconds=120) as each:
        found = evaluate_range(panel, plan, 0, 1 << 45, frequency=frequency, each=each)
    values = [dict(zip(found.values, row, strict=True)) for row in zip(*found.values.values(), strict=True)]
    return dict(zip(zip(found.symbols, found.triggered_at_ms.tolist(), strict=True), values, strict=True))


def explanation(panel, compiled, symbol, at):
    with EachRunner(node_seconds=60, slot_seconds=120) as each:
        return explain_on(compiled.plan, compiled.terms, panel, at, symbol, each)


def pairs(panel, trigger, hits, seed):
    """Half of them matches; the rest at random, those of the odd symbols among them."""
    rng = np.random.default_rng(seed)
    slots = set((panel.frame("1m").open_time + 60_000).tolist())  # the others are outages: nobody is screened
    closes = [
        at for at in (panel.frame(trigger).open_time + panel.frame(trigger).step_ms).tolist() if at in slots
    ]
    names = [*panel.symbols, *[YOUNG, HOLEY] * 4]
    matched = sorted(hit for hit in hits if hit[1] in slots)
    for _ in range(PAIRS // 2):
        yield matched[rng.integers(len(matched))]
        yield names[rng.integers(len(names))], closes[rng.integers(len(closes))]


@pytest.mark.parametrize("frequency", ["every_bar", "on_enter"])
@pytest.mark.parametrize("name", ACROSS)
async def test_it_matches_what_the_whole_market_over_all_of_history_does(
    make_trader, explain, filters, panel, name, frequency
):
    source = real_market.source(name)
    compiled = filters.compiler.compile(source)
    plan = compiled.plan
    hits = found_over_all(panel, plan)
    signals = found_over_all(panel, plan, frequency)
    trader = await make_trader(source, frequency=frequency)

    for symbol, at in pairs(panel, plan.trigger, hits, seed=len(name)):
        told = await explain(trader, symbol, at)
        whole = explanation(panel, compiled, symbol, at)

        assert told["matched"] is ((symbol, at) in signals), (symbol, at, told["reason"])
        assert (told["reason"] is None) is told["matched"]
        assert told["values"] == whole.values
        assert [term["value"] for term in told["terms"]] == [term.value for term in whole.terms]
        if (symbol, at) not in hits:
            assert told["reason"] == whole.blame
            continue
        assert told["values"] == hits[symbol, at]
        if not told["matched"]:
            assert told["reason"] == "not entering: the condition was true on the bar before already"


async def test_places_count_symbols_that_nobody_asked_about(make_trader, explain, panel):
    """Every symbol of the slot has its own place, whichever symbols the trader screens."""
    trader = await make_trader(
        'b = bars("5m")\nplace = rank(ta.rocp(b.close, 12))\nshow(place=place)\nsignal(place < 15)\n',
        symbols=["ADAUSDT"],
    )
    at = int(panel.frame("5m").open_time[-20]) + 300_000
    row = panel.frame("5m").bars_closed_at(at) - 1
    having = [panel.symbols[i] for i in np.flatnonzero(panel.frame("5m").present[:, row])]

    places = [(await explain(trader, symbol, at))["values"]["place"] for symbol in having]

    assert sorted(places) == list(range(1, len(having) + 1))
    assert len(having) >= 18


async def test_each_kind_of_missing_history_has_its_own_reason(make_trader, explain, panel):
    """A symbol the market does not have, one without candles, one too young; whose it is; and the symbol that is asked about."""
    frame = panel.frame("5m")
    listed = int(frame.present[panel.index[YOUNG]].argmax())
    young = int(frame.open_time[listed + 4]) + 300_000
    template = 'b, o = bars("5m"), symbol("{}").bars("5m")\nsignal(b.close > 0 and ta.sma(o.close, 9) > 0)\n'
    term = "line 2: ta.sma(o.close, 9) > 0"
    expected = {
        "NOPEUSDT": f"symbol missing: {term}: the market has no NOPEUSDT",
        GONE: f"not enough history: {term}: bars(5m, close, {GONE}) has no value after 0 bars of 5m of {GONE}",
        YOUNG: f"not enough history: {term}: ta.sma(9) has no value after 5 bars of 5m of {YOUNG}",
        "BTCUSDT": None,
    }
    for other, reason in expected.items():
        trader = await make_trader(template.format(other))
        assert (await explain(trader, "ADAUSDT", young))["reason"] == reason

    own = await make_trader('b = bars("5m")\nsignal(top(ta.rocp(b.close, 6), 5000))\n')
    told = [(await explain(own, symbol, young))["reason"] for symbol in (YOUNG, GONE, "ADAUSDT")]
    assert told == [
        "not enough history: line 2: top(ta.rocp(b.close, 6), 5000): ta.rocp(6) has no value after 5 bars of 5m",
        f"bar missing: {GONE} has no 5m candle of its own that closed then",
        None,
    ]


async def test_a_long_way_into_history_no_warm_up_is_called_too_little_of_it(make_trader, explain, panel):
    """An exact RSI takes more bars than there are here; that is no reason for a function that gave None."""
    source = 'b = bars("15m")\ndef never(c):\n    return None\nshow(rsi=ta.rsi(b.close, 14))\nsignal(each(never, b.close, bars=4) > 0)\n'
    trader = await make_trader(source)

    told = await explain(trader, "ADAUSDT", int(panel.frame("15m").open_time[-2]) + 900_000)

    words = "line 5: each(never, b.close, bars=4) > 0: each(never) has no value at this bar"
    assert told["reason"] == f"condition false: {words}"


async def test_an_outage_comes_before_what_the_market_looked_like(make_trader, explain, panel):
    trader = await make_trader(real_market.source("minutes"))
    times = panel.frame("1m").open_time
    before = next(int(a) for a, b in itertools.pairwise(times) if b - a > 3_600_000)

    told = await explain(trader, "ADAUSDT", before + 600_000)

    assert told["reason"] == "outage: no candles: test"
