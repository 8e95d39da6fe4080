from __future__ import annotations

import numpy as np
import pytest

from sandbox.engine.explain import explain
from sandbox.engine.screen import Evaluator

BARS = 400


@pytest.fixture(scope="module")
def panel(market, panel_of):
    return panel_of(market("1m", 3, BARS, 5, missing=0.05), market("5m", 3, BARS // 5, 6))


def slots(panel):
    return (panel.frame("1m").open_time + 60_000).tolist()


def test_it_agrees_with_the_evaluator_on_every_symbol_and_bar(compiled, panel):
    done = compiled(
        'm, c = bars("1m"), bars("5m")\nup = m.close > ta.sma(m.close, 9)\nsignal(up and not c.close < c.open and m.volume > 0)\n'
    )
    evaluator = Evaluator(panel)
    evaluator.put("t", done.plan, None, "every_bar")
    kinds = set()
    for slot in slots(panel)[:120]:
        hits = {symbol for found in evaluator.evaluate(slot).hits for symbol in found.symbols}
        for symbol in panel.symbols:
            told = explain(done.plan, done.terms, panel, slot, symbol)
            assert told.matched is (symbol in hits)
            assert (told.blame is None) is told.matched
            kinds.add((told.blame or "matched").partition(":")[0])
    assert kinds == {"matched", "condition false", "bar missing", "not enough history"}


def test_the_bar_before_is_what_on_enter_compares_with(compiled, panel):
    done = compiled('b = bars("1m")\nsignal(b.close > b.open)')
    close, opened = panel.frame("1m").field("close")[0], panel.frame("1m").field("open")[0]
    for at in range(1, 50):
        told = explain(done.plan, done.terms, panel, slots(panel)[at], panel.symbols[0])
        assert told.matched_before is bool(close[at - 1] > opened[at - 1])


@pytest.mark.parametrize(
    ("condition", "blame"),
    [
        ("b.close > 1 and b.close < 2", "condition false: line 2: b.close < 2"),
        ("b.close < 2 and b.open < 2", "condition false: line 2: b.close < 2"),
        ("b.close < 2 or b.open < 2", "condition false: line 2: b.close < 2 or b.open < 2"),
        ("not b.close > 1", "condition false: line 2: not b.close > 1"),
    ],
)
def test_the_first_false_term_is_blamed(compiled, panel, condition, blame):
    done = compiled(f'b = bars("1m")\nsignal({condition})')
    row = int(np.flatnonzero(panel.frame("1m").present[:, -1])[0])

    told = explain(done.plan, done.terms, panel, slots(panel)[-1], panel.symbols[row])

    assert told.blame == blame


def test_a_number_that_never_was_is_not_called_too_little_history(compiled, panel):
    """A division by zero has no value however long the history is."""
    done = compiled('b = bars("1m")\nsignal(b.close / where(b.close > 9999, 1, 0) > 1)')
    row = int(np.flatnonzero(panel.frame("1m").present[:, -1])[0])

    told = explain(done.plan, done.terms, panel, slots(panel)[-1], panel.symbols[row])

    assert (
        told.blame
        == "condition false: line 2: b.close / where(b.close > 9999, 1, 0) > 1: div has no value at this bar"
    )


def test_between_bars_nothing_has_a_value(compiled, panel):
    done = compiled('b = bars("5m")\nshow(opened=b.open)\nsignal(b.close > b.open)')

    told = explain(done.plan, done.terms, panel, slots(panel)[200] + 1000, panel.symbols[0])

    assert told.blame.startswith("bar missing: no symbol has a 5m bar")
    assert [term.value for term in told.terms] == [None, None]
    assert told.values == {"opened": None}
    assert set(told.bars) == {"5m"}


def test_a_symbol_the_panel_does_not_have_is_an_error(compiled, panel):
    done = compiled('b = bars("1m")\nsignal(b.close > b.open)')

    with pytest.raises(KeyError):
        explain(done.plan, done.terms, panel, slots(panel)[9], "NOPE")


def test_a_denied_or_is_blamed_and_told_as_one_term(compiled, market, panel_of):
    source = 'b = bars("1m")\nsignal(\n    b.close > 0\n    and not (b.close < 0 or b.volume > 0)\n)\n'
    filter_ = compiled(source)
    panel = panel_of(market("1m", 1, 30, seed=1))
    end = int(panel.frame("1m").open_time[-1]) + 60_000

    told = explain(filter_.plan, filter_.terms, panel, end, "S0")

    assert told.blame == "condition false: line 4: not (b.close < 0 or b.volume > 0)"
    assert [(term.text, term.value) for term in told.terms] == [
        ("b.close > 0", True),
        ("not (b.close < 0 or b.volume > 0)", False),
    ]


def test_the_negation_of_a_comparison_with_too_little_history_does_not_match(compiled, market, panel_of):
    filter_ = compiled('b = bars("1m")\nsignal(not (ta.sma(b.close, 200) < b.close))\n')
    panel = panel_of(market("1m", 1, 5, seed=1))
    end = int(panel.frame("1m").open_time[-1]) + 60_000

    told = explain(filter_.plan, filter_.terms, panel, end, "S0")

    assert not told.matched
    assert told.blame.startswith("not enough history: line 2: not (ta.sma(b.close, 200) < b.close)")
