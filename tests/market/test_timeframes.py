from datetime import UTC, datetime

import pytest

from app.domain import timeframes

MIDNIGHT = timeframes.epoch_ms(datetime(2024, 7, 29, tzinfo=UTC))


def test_every_timeframe_closes_at_midnight():
    assert timeframes.closing_at(MIDNIGHT) == tuple(timeframes.TIMEFRAMES)


@pytest.mark.parametrize(
    ("minutes", "closing"),
    [
        (1, ("1m",)),
        (3, ("1m", "3m")),
        (15, ("1m", "3m", "5m", "15m")),
        (240, ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h")),
        (480, ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h")),
    ],
)
def test_a_slot_closes_the_timeframes_that_divide_it(minutes, closing):
    assert timeframes.closing_at(MIDNIGHT + minutes * 60_000) == closing


def test_nothing_closes_within_a_minute():
    assert timeframes.closing_at(MIDNIGHT + 1) == ()


def test_an_open_time_belongs_to_its_own_bar():
    assert timeframes.bar_open_ms(MIDNIGHT, "4h") == MIDNIGHT
    assert timeframes.bar_open_ms(MIDNIGHT - 1, "4h") == MIDNIGHT - 4 * 3_600_000


def test_a_close_time_is_a_multiple_of_the_length():
    assert timeframes.closes_at(MIDNIGHT + 300_000, "5m")
    assert not timeframes.closes_at(MIDNIGHT + 300_000, "3m")


def test_an_unknown_timeframe_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'1M' is not a timeframe; choose one of 1m 3m"):
        timeframes.length_ms("1M")


def test_instants_go_to_milliseconds_and_back():
    moment = datetime(2026, 10, 4, 12, 30, 1, 234_000, tzinfo=UTC)

    assert timeframes.instant(timeframes.epoch_ms(moment)) == moment


def test_a_naive_instant_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        timeframes.epoch_ms(datetime(2024, 1, 1))  # noqa: DTZ001 - the naive instant is the point
