"""Explanations of filters that look across the market, or run a function, on real candles, against the evaluator over the whole range."""

from __future__ import annotations

import numpy as np
import pytest

from sandbox.engine.explain import explain
from sandbox.engine.replay import evaluate_range
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import build_plan
from tests import real_market
from tests.real_market import ACROSS, GONE, HOLEY, YOUNG

PAIRS = 160
KINDS = {"matched", "condition false", "not enough history", "bar missing"}


@pytest.fixture(scope="module")
def each():
    with EachRunner(node_seconds=60, slot_seconds=120) as each:
        yield each


@pytest.fixture(scope="module")
def minutes(shared_data):
    return real_market.read(shared_data)


@pytest.fixture(scope="module")
def panel(minutes):
    return real_market.panel(real_market.frames(minutes))


def matches(panel, plan, each, frequency="every_bar"):
    """(symbol, instant) of every match on the panel."""
    found = evaluate_range(panel, plan, 0, 1 << 45, frequency=frequency, each=each)
    return set(zip(found.symbols, found.triggered_at_ms.tolist(), strict=True))


def nodes_shown(panel, plan, nodes, each):
    """The values of *nodes* by (symbol, instant), as a range evaluation shows them where a symbol has its bar."""
    always = [
        *plan.nodes,
        {"op": "bars", "params": {"timeframe": plan.trigger, "field": "close"}},
        {"op": "eq", "args": [len(plan.nodes), len(plan.nodes)]},
    ]
    shown = build_plan(always, len(always) - 1, {f"n{at}": node for at, node in enumerate(nodes)})
    found = evaluate_range(panel, shown, 0, 1 << 45, each=each)
    values = zip(*(found.values[f"n{at}"] for at in range(len(nodes))), strict=True)
    return dict(zip(zip(found.symbols, found.triggered_at_ms.tolist(), strict=True), values, strict=True))


def some_pairs(panel, trigger, seed):
    """Symbols and instants at random, the odd ones more often, and the first bars of the young one."""
    rng = np.random.default_rng(seed)
    closes = (panel.frame(trigger).open_time + panel.frame(trigger).step_ms).tolist()
    names = [*panel.symbols, *[YOUNG, HOLEY] * 6]
    for _ in range(PAIRS):
        yield names[rng.integers(len(names))], closes[rng.integers(len(closes))]
    listed = int(panel.frame(trigger).present[panel.index[YOUNG]].argmax())
    yield from ((YOUNG, closes[at]) for at in range(listed - 1, listed + 6))


@pytest.mark.parametrize("name", ACROSS)
def test_an_explanation_tells_what_the_range_found(compiled, panel, each, name):
    """Match, bar before, terms, shown values and the first false term: each against evaluations of the whole range."""
    done = compiled(real_market.source(name))
    plan, terms = done.plan, ACROSS[name][1]
    hits, entering = matches(panel, plan, each), matches(panel, plan, each, "on_enter")
    values = nodes_shown(panel, plan, [term.node for term in done.terms], each)
    shown = nodes_shown(panel, plan, plan.show.values(), each)
    alone = [
        matches(panel, compiled(real_market.source(name, terms=(term, "b.close > 0"))).plan, each)
        for term in terms
    ]
    kinds = set()
    for symbol, at in [*some_pairs(panel, plan.trigger, 1), *sorted(hits)[:: len(hits) // 25 + 1]]:
        told = explain(plan, done.terms, panel, at, symbol, each)

        assert told.matched is ((symbol, at) in hits), (symbol, at)
        assert (told.blame is None) is told.matched
        kinds.add((told.blame or "matched").partition(":")[0])
        if told.matched:
            assert told.matched_before is ((symbol, at) not in entering)
        if (symbol, at) not in values:
            assert (
                told.blame
                == f"bar missing: {symbol} has no {plan.trigger} candle of its own that closed then"
            )
            continue
        assert tuple(term.value for term in told.terms) == values[symbol, at]
        assert told.values == {name: shown[symbol, at][number] for number, name in enumerate(plan.show)}
        if not told.matched:
            blamed = next(term for term, held in zip(terms, alone, strict=True) if (symbol, at) not in held)
            line = real_market.source(name).count("\n")
            assert told.blame.partition(": ")[2].startswith(f"line {line}: {blamed}"), told.blame
    assert kinds == KINDS
    assert 20 < len(hits) < 0.9 * len(values)


@pytest.mark.parametrize("name", ACROSS)
def test_with_a_longer_past_nothing_is_too_little_history(compiled, minutes, panel, each, name):
    """What is called so on these candles is something else, or nothing, once two days stand before every symbol's first candle."""
    done = compiled(real_market.source(name))
    longer = real_market.panel(real_market.frames(with_a_past(minutes)))
    short = 0
    for symbol, at in some_pairs(panel, done.plan.trigger, 2):
        told = explain(done.plan, done.terms, panel, at, symbol, each)
        then = explain(done.plan, done.terms, longer, at, symbol, each)

        short += (told.blame or "").startswith("not enough history")
        assert not (then.blame or "").startswith("not enough history"), (then.blame, told.blame)
    assert short


def with_a_past(minutes):
    """The minutes, and before each symbol's first those of the two days before, at its first open."""
    first_ms = int(minutes.open_time.min()) - 2 * 86_400_000
    batches = [minutes]
    for symbol in minutes.symbols:
        own = real_market.of_symbol(minutes, symbol)
        began = own.take(slice(0, 1))
        times = np.arange(first_ms, int(own.open_time[0]), 60_000)
        flat = began.take(np.zeros(len(times), dtype=np.intp))
        batches.append(type(minutes).of("1m", minutes.symbols, columns_of(flat) | {"open_time": times}))
    return type(minutes).concat(batches)


def columns_of(candles):
    names = ("symbol", "open_time", "open", "high", "low", "close", "volume", "quote_volume", "trades")
    return {name: getattr(candles, name) for name in names}


# -- each its own reason ----------------------------------------------------------------------------------------------------


def bars_of(panel, symbol, timeframe):
    """Close times of the bars that the symbol has itself."""
    frame = panel.frame(timeframe)
    return (frame.open_time[frame.present[panel.index[symbol]]] + frame.step_ms).tolist()


@pytest.fixture(scope="module")
def blame(compiled, panel, each):
    """Why the filter did not match a symbol at an instant; the filter's line of the term left out."""

    def told(source, symbol, at):
        done = compiled(source)
        return explain(done.plan, done.terms, panel, at, symbol, each).blame

    return told


def test_a_symbol_that_the_market_does_not_have_is_named(blame, panel):
    source = 'b, other = bars("5m"), symbol("NOPEUSDT").bars("15m")\nsignal(b.close > 0 and b.close > ta.sma(other.close, 5))\n'

    told = blame(source, "ADAUSDT", bars_of(panel, "ADAUSDT", "5m")[-1])

    assert told == "symbol missing: line 2: b.close > ta.sma(other.close, 5): the market has no NOPEUSDT"


def test_a_place_against_a_symbol_that_is_missing_is_missing_for_it(blame, panel):
    source = 'b, other = bars("5m"), symbol("NOPEUSDT").bars("5m")\nsignal(top(b.close / other.close, 3))\n'

    told = blame(source, "ADAUSDT", bars_of(panel, "ADAUSDT", "5m")[-1])

    assert told == "symbol missing: line 2: top(b.close / other.close, 3): the market has no NOPEUSDT"


def test_too_little_history_of_a_named_symbol_is_said_of_that_one(blame, panel):
    source = (
        f'b, other = bars("5m"), symbol("{YOUNG}").bars("5m")\nsignal(b.close / ta.sma(other.close, 9) > 0)\n'
    )
    at = bars_of(panel, YOUNG, "5m")

    short = blame(source, "ADAUSDT", at[7])

    words = (
        "line 2: b.close / ta.sma(other.close, 9) > 0: ta.sma(9) has no value after 8 bars of 5m of XRPUSDT"
    )
    assert short == f"not enough history: {words}"
    assert blame(source, "ADAUSDT", at[8]) is None


def test_too_little_history_of_the_symbol_itself_is_said_of_it(blame, panel):
    source = 'b = bars("5m")\ngain = ta.rocp(b.close, 10)\nsignal(top(gain, 5000))\n'
    at = bars_of(panel, YOUNG, "5m")

    short = blame(source, YOUNG, at[9])

    assert (
        short == "not enough history: line 3: top(gain, 5000): ta.rocp(10) has no value after 10 bars of 5m"
    )
    assert blame(source, YOUNG, at[10]) is None


def test_a_condition_that_looks_back_further_than_history_is_too_little_of_it(blame, panel):
    """It has no number without a value; it is the bars before that are not there."""
    source = 'b = bars("5m")\nsignal(rising(b.volume, 4) or (b.close < 0)[3])\n'

    told = blame(source, YOUNG, bars_of(panel, YOUNG, "5m")[2])

    words = "line 2: rising(b.volume, 4) or (b.close < 0)[3]: rising(4) is unknown after 3 bars of 5m"
    assert told == f"not enough history: {words}"


def test_a_symbol_without_any_candle_has_no_bar(blame, panel):
    source = 'b = bars("5m")\nsignal(top(b.close, 3))\n'

    told = blame(source, GONE, bars_of(panel, "ADAUSDT", "5m")[-1])

    assert told == f"bar missing: {GONE} has no 5m candle of its own that closed then"


def test_who_lacks_the_coarser_bar_has_no_place_for_that_reason(blame, panel):
    """A place counts those that have the bar; the symbol's own 1m candle is there already, its last 5m candle is not."""
    frame = panel.frame("5m")
    row = panel.index[HOLEY]
    own = set(bars_of(panel, HOLEY, "1m"))
    listed = int(frame.present[row].argmax())
    lacking = (frame.open_time[listed:][~frame.present[row, listed:]] + frame.step_ms).tolist()
    at = next(close + 60_000 * n for close in lacking for n in range(5) if close + 60_000 * n in own)
    source = 'b, five = bars("1m"), bars("5m")\nsignal(b.close > 0 and rank(five.close) < 99)\n'

    told = blame(source, HOLEY, at)

    words = f"rank counts those with a 5m candle of their own, {HOLEY} has none"
    assert told == f"bar missing: line 2: rank(five.close) < 99: {words}"


EACH = 'b = bars("15m")\ndef low(c):\n    return None if c[0] > 0 else 1\n'


@pytest.mark.parametrize(
    ("call", "bars", "why"),
    [
        ("each(low, b.close, bars=3, when=b.close < 0)", 20, "condition false: {}: each(low) was not called: its when= is false"),
        ("each(low, b.close, bars=3)", 20, "condition false: {}: each(low) has no value at this bar"),
        ("each(low, b.close, bars=3)", 2, "not enough history: {}: each(low) has no value after 2 bars of 15m"),
        (
            "each(low, b.close, bars=3, when=b.close > ta.sma(b.close, 9))",
            5,
            "not enough history: {}: ta.sma(9) has no value after 5 bars of 15m",
        ),
    ],
    ids=["not asked", "gave None", "too young for its lists", "too young for its when"],
)  # fmt: skip
def test_a_function_without_a_value_says_why(blame, panel, call, bars, why):
    """In particular none is called too little history when there is enough: an exact RSI would take far more than there is here."""
    source = f"{EACH}signal(b.close > 0 and {call} > 0)\nshow(rsi=ta.rsi(b.close, 14))\n"

    told = blame(source, YOUNG, bars_of(panel, YOUNG, "15m")[bars - 1])

    assert told == why.format(f"line 4: {call} > 0")


@pytest.mark.parametrize(
    "condition", ["h.close > ta.sma(h.close, 3)", "top(b.close / ta.sma(h.close, 3), 5000)"]
)
def test_a_bar_in_progress_counts_as_history(blame, panel, condition):
    """Of three hours the third may be in progress: ten minutes into it, and mixed with finer bars, there are enough."""
    source = f'b, h = bars("5m"), bars("1h", forming=True)\nsignal({condition})\n'
    minutes, hours = bars_of(panel, YOUNG, "1m"), bars_of(panel, YOUNG, "1h")
    second, third = (next(at for at in minutes if at >= hours[n] + 600_000) for n in (0, 1))

    short = blame(source, YOUNG, second)

    assert short == f"not enough history: line 2: {condition}: ta.sma(3) has no value after 1 bars of 1h"
    assert not (blame(source, YOUNG, third) or "").startswith("not enough history")


def test_a_division_by_zero_is_not_too_little_history_however_young_the_symbol(blame, panel):
    source = 'b = bars("5m")\nratio = b.close / (b.close - b.close)\nsignal(ratio > 1 and ta.ema(b.close, 5) > 0)\n'

    told = blame(source, YOUNG, bars_of(panel, YOUNG, "5m")[7])

    assert told == "condition false: line 3: ratio > 1: div has no value at this bar"


def test_a_filter_of_a_thousand_steps_can_be_explained(blame, panel):
    """One sum behind the other: what is missing is found without a call for each."""
    source = 'b = bars("5m")\ntotal = ta.sma(b.close, 50)\nfor n in range(900):\n    total = (total + b.close) / 2\nsignal(total > 0)\n'

    told = blame(source, YOUNG, bars_of(panel, YOUNG, "5m")[7])

    assert told == "not enough history: line 5: total > 0: ta.sma(50) has no value after 8 bars of 5m"
