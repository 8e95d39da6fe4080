"""When a minute is over: full, or out of grace; and each one once, in order, whatever the order of arrival."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.market.assembly import MINUTE_MS, Assembly, Excuse, Ready
from app.market.candles import Candle

GRACE_S = 5.0
SYMBOLS = ("AAA", "BBB", "CCC")


def candle(symbol, slot, close=1.0):
    """The 1m candle that closes at minute *slot*."""
    return Candle(symbol, (slot - 1) * MINUTE_MS, 1.0, max(1.0, close), min(1.0, close), close, 1.0, 1.0, 1)


def ready(first, last, *, repair):
    return Ready(first * MINUTE_MS, last * MINUTE_MS, repair)


@pytest.fixture
def assembly():
    """Three symbols; the ledger stands at minute 10."""
    return Assembly(SYMBOLS, 10 * MINUTE_MS, GRACE_S)


def taken(assembly, first, last):
    """Close the slots; who had a candle in each."""
    closed = assembly.take(first * MINUTE_MS, last * MINUTE_MS)
    return {slot // MINUTE_MS: set(taken.candles) for slot, taken in closed.items()}


def test_a_full_slot_closes_at_once(assembly):
    """
    The last symbol's candle is enough: no grace, no repair.
    """
    for symbol in SYMBOLS[:2]:
        assembly.add(candle(symbol, 11), 0)
    assert assembly.ready(0) is None

    assembly.add(candle("CCC", 11), 0)

    assert assembly.ready(0) == ready(11, 11, repair=False)


def test_several_full_slots_close_together(assembly):
    """
    After a pause everything that is complete is one batch.
    """
    for slot in (12, 11, 13):
        for symbol in SYMBOLS:
            assembly.add(candle(symbol, slot), 0)

    assert assembly.ready(0) == ready(11, 13, repair=False)


def test_stragglers_have_the_grace_time_and_then_rest_is_asked_once(assembly):
    """
    5 s after the first candle of a slot it closes after a repair, with what there is.
    """
    assembly.add(candle("AAA", 11), 100)
    assert assembly.ready(104.999) is None
    assert assembly.wait_s(104) == 1

    assert assembly.ready(105) == ready(11, 11, repair=True)

    assembly.repaired(11 * MINUTE_MS, 11 * MINUTE_MS)
    assert assembly.ready(105) == ready(11, 11, repair=False)


def test_a_slot_behind_one_that_lacks_a_candle_waits_for_it(assembly):
    """
    Slots close in order: a full one does not overtake.
    """
    assembly.add(candle("AAA", 11), 0)
    for symbol in SYMBOLS:
        assembly.add(candle(symbol, 12), 1)

    assert assembly.ready(1) is None
    assert assembly.ready(5) == ready(11, 11, repair=True)


def test_a_minute_without_any_candle_closes_only_when_a_later_one_exists(assembly):
    """
    Silence may be our own; a later candle proves that the exchange has gone on without it.
    """
    assert assembly.ready(1e9) is None
    assert assembly.wait_s(1e9) is None

    assembly.add(candle("AAA", 14), 0)

    assert assembly.ready(GRACE_S) == ready(11, 14, repair=True)
    assert taken(assembly, 11, 14) == {11: set(), 12: set(), 13: set(), 14: {"AAA"}}


def test_a_candle_of_a_closed_slot_is_late(assembly):
    """
    Also one of long ago; its slot stays closed.
    """
    assert not assembly.add(candle("AAA", 10), 0)
    assert assembly.add(candle("AAA", 11), 0)
    assembly.take(11 * MINUTE_MS, 11 * MINUTE_MS)

    assert not assembly.add(candle("BBB", 11), 0)
    assert not assembly.add(candle("BBB", 3), 0)


def test_the_newest_copy_of_a_candle_counts(assembly):
    """
    The exchange corrects what it sent: until the slot closes, the later copy takes the place of the earlier one.
    """
    assembly.add(candle("AAA", 11, close=2.0), 0)
    assembly.add(candle("AAA", 11, close=3.0), 0)

    assert assembly.take(11 * MINUTE_MS, 11 * MINUTE_MS)[11 * MINUTE_MS].candles["AAA"].close == 3.0


def test_what_is_lacking_is_asked_for_from_the_first_minute_it_lacks(assembly):
    """
    One request per symbol, from its own hole on.
    """
    assembly.add(candle("AAA", 11), 0)
    assembly.add(candle("AAA", 12), 0)
    assembly.add(candle("BBB", 11), 0)

    assert assembly.lacking(11 * MINUTE_MS, 12 * MINUTE_MS) == {"BBB": 12 * MINUTE_MS, "CCC": 11 * MINUTE_MS}


def test_a_pair_that_is_dropped_is_not_waited_for(assembly):
    """
    The slot that waited for it is full at once, and takes nothing of it.
    """
    for symbol in ("AAA", "BBB"):
        assembly.add(candle(symbol, 11), 0)
    assert assembly.ready(0) is None

    assembly.drop("CCC")

    assert assembly.ready(0) == ready(11, 11, repair=False)


def test_a_pair_that_joins_is_waited_for_from_the_next_slot_on(assembly):
    """
    Its candles of slots that are open count, those of closed ones are late.
    """
    assembly.add(candle("DDD", 11), 0)
    for symbol in SYMBOLS:
        assembly.add(candle(symbol, 11), 0)
    assert "DDD" not in assembly.take(11 * MINUTE_MS, 11 * MINUTE_MS)[11 * MINUTE_MS].candles
    for symbol in SYMBOLS:
        assembly.add(candle(symbol, 12), 0)

    assembly.join("DDD")

    assert assembly.ready(0) is None
    assembly.add(candle("DDD", 12), 0)
    assert assembly.ready(0) == ready(12, 12, repair=False)


def test_an_excused_pair_is_not_waited_for_and_its_reason_is_kept(assembly):
    """
    Its slot closes with the reason; a candle that comes before that counts nevertheless.
    """
    for symbol in ("AAA", "BBB"):
        assembly.add(candle(symbol, 11), 0)
    assembly.excuse("CCC", 11 * MINUTE_MS, Excuse("refused", is_settled=True))

    assert assembly.ready(0) == ready(11, 11, repair=False)
    assert assembly.take(11 * MINUTE_MS, 11 * MINUTE_MS)[11 * MINUTE_MS].excuses == {"CCC": Excuse("refused")}


arrivals = st.lists(
    st.tuples(st.sampled_from(SYMBOLS), st.integers(8, 16), st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0])),
    max_size=60,
)


@given(arrivals)
def test_every_slot_closes_once_and_in_order_whatever_arrives_when(events):
    """
    For any order, repeats and pauses: closed slots follow each other without hole or repeat, each candle is in its own slot or told late,
    and no slot closes early unless it is full.
    """
    assembly = Assembly(SYMBOLS, 10 * MINUTE_MS, GRACE_S)
    now = 0.0
    first_seen: dict[int, float] = {}
    closed: dict[int, set[str]] = {}
    on_time: dict[int, set[str]] = {}

    for symbol, slot, pause in events:
        now += pause
        is_late = slot <= 10 or slot in closed
        assert assembly.add(candle(symbol, slot), now) is not is_late
        if not is_late:
            on_time.setdefault(slot, set()).add(symbol)
            first_seen.setdefault(slot, now)
        while (due := assembly.ready(now)) is not None:
            first, last = due.first // MINUTE_MS, due.last // MINUTE_MS
            assert first == max(closed, default=10) + 1
            waited = [now - seen for other, seen in first_seen.items() if other >= first]
            assert (
                all(on_time.get(n) == set(SYMBOLS) for n in range(first, last + 1)) or max(waited) >= GRACE_S
            )
            closed |= taken(assembly, first, last)

    assert list(closed) == list(range(11, max(closed, default=10) + 1))
    assert all(present == on_time.get(slot, set()) for slot, present in closed.items())
