"""The axis rule: what stands in the arrays for bars that exist, are missing, or exist for nobody."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.engine.candles.panel import Panel
from sandbox.plan.operators import FIELDS

MINUTE = 60_000


def candle(symbol, minute, close):
    return (symbol, minute * MINUTE, close - 0.5, close + 1, close - 1, close, 10.0 * close)


def load(panel, candles):
    panel.load("1m", *columns(candles))


def columns(candles):
    return zip(*candles, strict=True) if candles else [[]] * 7


def plain(candles, symbols):
    """Slow reference of the axis rule: {(symbol, time): (present, fields)} over the axis."""
    by_place = {(c[0], c[1]): c[2:] for c in candles}
    axis = sorted({c[1] for c in candles})
    rows = []
    for symbol in range(symbols):
        row, close = [], None
        for time in axis:
            own = by_place.get((symbol, time))
            if own is not None:
                row.append((True, own))
                close = own[3]
            elif close is None:
                row.append((False, (np.nan,) * 5))
            else:
                row.append((False, (close,) * 4 + (0.0,)))
        rows.append(row)
    return axis, rows


def assert_equals(panel, axis, rows):
    frame = panel.frame("1m")
    assert frame.open_time.tolist() == axis
    for symbol, row in enumerate(rows):
        for bar, (present, fields) in enumerate(row):
            assert frame.present[symbol, bar] == present
            np.testing.assert_array_equal([frame.field(name)[symbol, bar] for name in FIELDS], fields)


def test_a_missing_bar_reads_flat_and_is_not_present():
    panel = Panel(["A", "B"])
    load(panel, [candle(0, 1, 10), candle(1, 2, 20), candle(0, 3, 11), candle(1, 5, 21), candle(0, 5, 12)])

    frame = panel.frame("1m")

    assert frame.open_time.tolist() == [1 * MINUTE, 2 * MINUTE, 3 * MINUTE, 5 * MINUTE]
    assert frame.present.tolist() == [[True, False, True, True], [False, True, False, True]]
    np.testing.assert_array_equal(frame.field("open")[0], [9.5, 10, 10.5, 11.5])
    np.testing.assert_array_equal(frame.field("volume")[0], [100, 0, 110, 120])
    np.testing.assert_array_equal(frame.field("high")[1], [np.nan, 21, 20, 22])


def test_bars_closed_at_counts_close_times():
    panel = Panel(["A"])
    load(panel, [candle(0, 1, 10), candle(0, 2, 10), candle(0, 5, 10)])

    closed = [panel.frame("1m").bars_closed_at(minute * MINUTE) for minute in range(8)]

    assert closed == [0, 0, 1, 2, 2, 2, 3, 3]


places = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), unique=True, max_size=60)


@given(places, st.integers(0, 31), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_loading_at_once_and_appending_slot_by_slot_are_the_same(where, cut, random):
    candles = [candle(s, m, 100 + random.random()) for s, m in where]
    early = [c for c in candles if c[1] < cut * MINUTE]
    panel = Panel(list("ABCD"))
    load(panel, early)
    for minute in range(cut, 31):
        panel.append("1m", *columns([c for c in candles if c[1] == minute * MINUTE]))

    assert_equals(panel, *plain(candles, 4))


@given(places, places, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_corrections_replace_insert_and_refill(where, corrected, random):
    candles = {(s, m): candle(s, m, 100 + random.random()) for s, m in where}
    first = min((m for _, m in where), default=0)
    changes = {(s, m): candle(s, m, 200 + random.random()) for s, m in corrected if m >= first}
    panel = Panel(list("ABCD"))
    load(panel, list(candles.values()))
    epoch = panel.frame("1m").epoch

    panel.correct("1m", *columns(list(changes.values())))

    assert_equals(panel, *plain(list((candles | changes).values()), 4))
    assert panel.frame("1m").epoch > epoch


@given(places, st.integers(0, 40), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_trimming_forgets_the_oldest_bars_only(where, keep, random):
    candles = [candle(s, m, 100 + random.random()) for s, m in where]
    panel = Panel(list("ABCD"))
    load(panel, candles)
    panel.trim("1m", keep)
    axis, rows = plain(candles, 4)
    start = max(0, len(axis) - keep)

    assert_equals(panel, axis[start:], [row[start:] for row in rows])
    assert panel.frame("1m").first == start


def test_a_correction_after_trimming_keeps_flat_bars_at_the_start():
    panel = Panel(["A", "B"])
    load(panel, [candle(0, 1, 10), *(candle(1, m, 20) for m in range(1, 6))])
    panel.trim("1m", 3)

    panel.correct("1m", *columns([candle(1, 4, 30), candle(0, 5, 12)]))

    np.testing.assert_array_equal(panel.frame("1m").field("close"), [[10, 10, 12], [20, 30, 20]])
    np.testing.assert_array_equal(panel.frame("1m").field("volume")[0], [0, 0, 120])


def test_appending_for_long_keeps_memory_in_proportion():
    panel = Panel(["A", "B"])
    load(panel, [candle(0, 0, 10)])
    for minute in range(1, 6000):
        panel.append("1m", *columns([candle(0, minute, 10 + minute % 7), candle(1, minute, 20)]))
        panel.trim("1m", 100)

    frame = panel.frame("1m")
    assert len(frame) == 100
    assert frame.first == 5900
    assert frame.field("close")[0].tolist() == [10 + minute % 7 for minute in range(5900, 6000)]
    assert frame.field("close").base.shape[1] < 2000


def test_a_late_candle_among_newer_ones_is_a_correction():
    panel = Panel(["A", "B"])
    load(panel, [candle(0, 1, 10), candle(0, 2, 11), candle(1, 1, 20)])

    panel.append("1m", *columns([candle(1, 2, 21), candle(1, 3, 22)]))

    np.testing.assert_array_equal(panel.frame("1m").field("close"), [[10, 11, 11], [20, 21, 22]])


def test_new_symbols_start_blank():
    panel = Panel(["A"])
    load(panel, [candle(0, 1, 10), candle(0, 2, 11)])

    panel.add_symbols(["A", "B"])
    panel.append("1m", *columns([candle(0, 3, 12), candle(1, 3, 20)]))

    assert panel.symbols == ["A", "B"]
    np.testing.assert_array_equal(panel.frame("1m").field("close"), [[10, 11, 12], [np.nan, np.nan, 20]])


@pytest.mark.parametrize(
    ("candles", "text"),
    [
        ([candle(7, 1, 10)], "does not have"),
        ([candle(-1, 1, 10)], "does not have"),
        ([(0, MINUTE + 1, 1, 1, 1, 1, 1)], "whole 1m"),
        ([candle(0, 1, float("nan"))], "not finite"),
        ([candle(0, 1, 10), candle(0, 1, 10)], "two candles"),
    ],
)
def test_wrong_candles_are_refused(candles, text):
    panel = Panel(["A"])

    with pytest.raises(ValueError, match=text):
        load(panel, candles)
    assert len(panel.frame("1m")) == 0


def test_a_symbol_cannot_be_there_twice():
    with pytest.raises(ValueError, match="twice"):
        Panel(["A", "A"])
