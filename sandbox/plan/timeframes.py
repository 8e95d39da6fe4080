"""
The one table of timeframes, for plans, candles and the service.

Every bar starts at a multiple of its length counted from 1970-01-01 UTC. That is how the exchange cuts bars of up to
one day; it cuts weeks and months otherwise, and those are not offered. Standard library only, because
`app.domain.timeframes` reads it.
"""

from typing import Final

TIMEFRAMES: Final[dict[str, int]] = {
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "6h": 21_600,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
}
"""Name to length in seconds, finest first. Names are the exchange's and case matters there: `1M` is a month."""


def bar_of_slot_ms(slot_ms: int, length_ms: int) -> int:
    """
    Open time of the bar that a slot lies in: the one that closes at it, or the forming one.

    A bar holds the slots of (open, close]: 10:00 lies in the 1h bar that opened at 9:00, 10:01 in the one of 10:00.
    """
    return (slot_ms - 1) // length_ms * length_ms
