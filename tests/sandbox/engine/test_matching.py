"""What a match is: the rule by itself. That screening, replay and explain use it is held in their own tests."""

import numpy as np
import pytest

from sandbox.engine.candles.panel import Panel
from sandbox.engine.matching import (
    chosen_symbols,
    closing_bar,
    firsts_of_bars,
    matches,
    previous_close_ms,
)
from sandbox.engine.rows import Rows
from sandbox.plan.timeframes import bar_of_slot_ms

MINUTE = 60_000
HOUR = 60 * MINUTE
START = 1024 * 86_400_000 * 16


@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("own_candle", [False, True])
@pytest.mark.parametrize("before", [None, False, True])
@pytest.mark.parametrize("chosen", [None, False, True])
def test_a_match_is_true_now_in_its_own_bar_not_a_bar_ago_and_of_a_chosen_symbol(
    condition, own_candle, before, chosen
):
    flags = {
        name: None if flag is None else np.bool_(flag)
        for name, flag in (("before", before), ("chosen", chosen))
    }

    found = matches(np.bool_(condition), np.bool_(own_candle), **flags)

    assert found == (condition and own_candle and not before and chosen is not False)


def test_words_of_64_symbols_match_as_bools_do():
    random = np.random.default_rng(4)
    rows = Rows(100)
    condition, own_candle, before, chosen = random.random((4, 5, 100)) < 0.6

    words = matches(
        rows.packed(condition),
        rows.packed(own_candle),
        before=rows.packed(before),
        chosen=rows.packed(chosen),
    )

    bools = matches(condition, own_candle, before=before, chosen=chosen)
    assert (rows.unpacked(words) == bools).all()
    assert bools.any()


def test_a_match_changes_none_of_what_it_is_made_of():
    condition = np.ones(3, dtype=bool)

    matches(condition, np.zeros(3, dtype=bool), before=np.ones(3, dtype=bool), chosen=np.zeros(3, dtype=bool))

    assert condition.all()


def test_a_choice_names_symbols_and_ignores_those_that_are_not_there():
    assert chosen_symbols(["A", "B"], frozenset({"B", "GONE"})).tolist() == [False, True]
    assert chosen_symbols(["A", "B"], None).all()


@pytest.mark.parametrize(("minutes", "opened"), [(1, 0), (59, 0), (60, 0), (61, 60), (120, 60)])
def test_a_slot_lies_in_the_bar_that_closes_at_it_or_is_forming(minutes, opened):
    assert bar_of_slot_ms(START + minutes * MINUTE, HOUR) == START + opened * MINUTE


def hours(count, missing=()):
    """A panel of one symbol with hourly candles from START on, but for those *missing*."""
    panel = Panel(["A"])
    times = np.array([START + HOUR * at for at in range(count) if at not in missing])
    panel.load("1h", np.zeros(len(times)), times, *[np.ones(len(times))] * 5)
    return panel


def test_the_bar_that_closes_at_a_slot_may_not_exist():
    frame = hours(3, missing={1}).frame("1h")

    assert closing_bar(frame, START + HOUR) == 0
    assert closing_bar(frame, START + 2 * HOUR) is None
    assert closing_bar(frame, START + 3 * HOUR) == 1
    assert closing_bar(frame, START + 3 * HOUR + MINUTE) is None
    assert closing_bar(frame, START) is None


@pytest.mark.parametrize(
    ("minutes", "closed"), [(60, None), (61, 60), (120, 60), (121, 60), (180, 60), (181, 180)]
)
def test_a_bar_ago_is_when_the_last_bar_before_the_slots_own_one_closed(minutes, closed):
    panel = hours(3, missing={1})

    found = previous_close_ms(panel, "1h", START + minutes * MINUTE)

    assert found == (None if closed is None else START + closed * MINUTE)


def test_of_a_bar_the_first_counted_match_of_each_symbol_is_its_signal():
    symbols = ["A", "B", "A", "A", "A", "B"]
    minutes = [1, 2, 60, 61, 62, 120]
    slots = [START + minute * MINUTE for minute in minutes]

    assert firsts_of_bars(symbols, slots, "1h", np.arange(6)).tolist() == [0, 1, 3, 5]
    assert firsts_of_bars(symbols, slots, "1h", np.array([2, 4])).tolist() == [2, 4]
