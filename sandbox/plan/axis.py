"""
Axes: which bars a series has a value for.

A series lives on the closed bars of one timeframe ("1h"), or on those and the forming bar ("1h forming"), or on `NOW`:
only a current value. Mixing a forming bar with bars of the same or a finer timeframe gives no history, because earlier
states of the forming bar are not stored.

Decided here: the names of the axes and on which one a combination of series lives. Not decided here: what a forming bar
holds (`sandbox.engine.candles.forming`), what may be done with a series that has no history (`sandbox.plan.graph`).
"""

from collections.abc import Iterable

from sandbox.plan.timeframes import TIMEFRAMES

NOW = "now"
_FORMING = " forming"
_FINEST = min(TIMEFRAMES, key=TIMEFRAMES.__getitem__)


def forming_axis(timeframe: str) -> str:
    """The closed bars of *timeframe* and the forming one; of the finest timeframe nothing is known before its close."""
    return timeframe if timeframe == _FINEST else timeframe + _FORMING


def is_forming(axis: str) -> bool:
    """Whether the last bar of the axis may be a forming one."""
    return axis.endswith(_FORMING)


def is_provisional(axis: str) -> bool:
    """Whether values of the axis move with every minute, not with the close of a bar only."""
    return axis == NOW or is_forming(axis)


def timeframe_of(axis: str) -> str:
    """The timeframe whose bars the axis has; not of `NOW`."""
    return axis.removesuffix(_FORMING)


def length_s(axis: str) -> int:
    """Seconds of one bar of the axis; not of `NOW`."""
    return TIMEFRAMES[timeframe_of(axis)]


def joined(axes: Iterable[str | None]) -> str | None:
    """
    The axis of what is made of series on *axes* (None: a constant).

    The finest one, where every other is of closed bars of a coarser timeframe: then each of its bars, the one in
    progress too, sees the coarser bars closed by its end. Else `NOW`.
    """
    known = {axis for axis in axes if axis is not None}
    if len(known) < 2:
        return next(iter(known), None)
    if NOW in known:
        return NOW
    finest = min(known, key=length_s)
    others = known - {finest}
    if any(is_forming(axis) or length_s(axis) == length_s(finest) for axis in others):
        return NOW
    return finest
