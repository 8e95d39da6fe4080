from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.domain.coverage import SLOT, Gap, Pause, Range, gaps_between

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def at(minute):
    return NOON + timedelta(minutes=minute)


def ran(first, last, epoch=1):
    return Range(at(first), at(last), "m1", epoch)


def outage(minute, reason="no candle"):
    return Gap(at(minute), at(minute), reason)


def test_one_range_has_no_gaps():
    assert gaps_between([ran(1, 5)], [], []) == []


def test_a_failover_without_a_missed_slot_leaves_no_gap():
    assert gaps_between([ran(1, 5), ran(6, 9, epoch=2)], [], []) == []


def test_a_stop_is_a_gap_that_says_so():
    gaps = gaps_between([ran(1, 5), ran(9, 12, epoch=3)], [], [Pause(at(5.5), at(8.2))])
    assert gaps == [Gap(at(6), at(8), "stopped")]


def test_a_hole_without_a_stop_was_not_screened():
    assert gaps_between([ran(1, 5), ran(9, 12)], [], []) == [Gap(at(6), at(8), "not screened")]


def test_an_earlier_stop_explains_nothing():
    gaps = gaps_between([ran(1, 5), ran(9, 12)], [], [Pause(at(-9), at(-3))])
    assert gaps == [Gap(at(6), at(8), "not screened")]


def test_neighbouring_outage_slots_are_one_gap():
    gaps = gaps_between([ran(1, 4), ran(7, 9)], [outage(5), outage(6)], [])
    assert gaps == [Gap(at(5), at(6), "no candle")]


def test_outages_of_different_reasons_stay_apart():
    gaps = gaps_between([ran(1, 4), ran(7, 9)], [outage(5, "a"), outage(6, "b")], [])
    assert gaps == [Gap(at(5), at(5), "a"), Gap(at(6), at(6), "b")]


def test_an_outage_before_a_stop_keeps_its_own_reason():
    gaps = gaps_between([ran(1, 4), ran(9, 12)], [outage(5)], [Pause(at(5.2), None)])
    assert gaps == [Gap(at(5), at(5), "no candle"), Gap(at(6), at(8), "stopped")]


def test_outages_at_the_ends_are_told_too():
    assert gaps_between([ran(2, 4)], [outage(1), outage(5)], []) == [outage(1), outage(5)]


@given(st.lists(st.sampled_from("ro."), min_size=1, max_size=40))
def test_every_slot_between_the_first_and_the_last_span_is_in_exactly_one_place(slots):
    """r: screened, o: outage, dot: neither."""
    ranges = [ran(minute, minute) for minute, what in enumerate(slots) if what == "r"]
    outages = [outage(minute) for minute, what in enumerate(slots) if what == "o"]

    gaps = gaps_between(ranges, outages, [])

    told = [*ranges, *gaps]
    minutes = sorted(moment for span in told for moment in _minutes(span.first, span.last))
    known = [minute for minute, what in enumerate(slots) if what != "."]
    assert minutes == ([at(m) for m in range(known[0], known[-1] + 1)] if known else [])
    assert all(b.first - a.last > SLOT or a.reason != b.reason for a, b in itertools.pairwise(gaps))


def _minutes(first, last):
    while first <= last:
        yield first
        first += SLOT
