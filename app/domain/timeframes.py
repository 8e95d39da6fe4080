"""
Timeframes: how long each bar is and which bars close at a slot.

Decided here: which bars open and close at an instant. Not decided here: which timeframes there are
(``sandbox.plan.timeframes``), what a bar holds (``app.market.simulated.rollup``) and when a slot may close
(ingest). Instants are whole milliseconds since the epoch, the exchange's own unit.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from sandbox.plan.timeframes import TIMEFRAMES, bar_of_slot_ms

__all__ = [
    "MINUTE_MS",
    "TIMEFRAMES",
    "bar_of_slot_ms",
    "bar_open_ms",
    "closes_at",
    "closing_at",
    "epoch_ms",
    "instant",
    "length_ms",
]

MINUTE_MS: Final = 60_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def length_ms(timeframe: str) -> int:
    """
    Length of a bar in milliseconds.

    Raises:
        ValueError: *timeframe* is not one of ``TIMEFRAMES``; the message lists them.
    """
    try:
        return TIMEFRAMES[timeframe] * 1_000
    except KeyError:
        known = " ".join(TIMEFRAMES)
        raise ValueError(f"{timeframe!r} is not a timeframe; choose one of {known}") from None


def bar_open_ms(at_ms: int, timeframe: str) -> int:
    """Open time of the bar that contains the instant *at_ms* (an open time belongs to its own bar)."""
    return at_ms - at_ms % length_ms(timeframe)


def closes_at(slot_ms: int, timeframe: str) -> bool:
    """Whether a bar of *timeframe* closes at *slot_ms* (close times are exclusive: open time + length)."""
    return slot_ms % length_ms(timeframe) == 0


def closing_at(slot_ms: int) -> tuple[str, ...]:
    """The timeframes of which a bar closes at *slot_ms*, finest first; none unless it is a whole minute."""
    return tuple(name for name, length_s in TIMEFRAMES.items() if slot_ms % (length_s * 1_000) == 0)


def epoch_ms(instant: datetime) -> int:
    """
    Milliseconds since the epoch of an aware instant, without going through a float.

    Raises:
        ValueError: *instant* is naive.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone; instants are aware")
    return (instant - _EPOCH) // _MILLISECOND


def instant(at_ms: int) -> datetime:
    """The aware UTC instant *at_ms* milliseconds after the epoch."""
    return _EPOCH + at_ms * _MILLISECOND
