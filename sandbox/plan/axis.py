"""
Axes: which bars a series has a value for.

* `Axis("1h")`: the closed bars of one timeframe.
* `Axis("1h", forming=True)`: those and the forming bar.
* `Axis.NOW`: no bars, only a current value.
* `Axis.CONSTANT`: no bars, the same value everywhere.

Mixing a forming bar with bars of the same or a finer timeframe gives `Axis.NOW`, because earlier states of the
forming bar are not stored. Example: `h1.close > m5.close` with a forming `h1` has a value now, and none an hour ago.

Decided here: which axes there are and on which one a combination of series lives. Not decided here: what a
forming bar holds (`sandbox.engine.candles.forming`), what may be done with a series that has no history
(`sandbox.plan.graph`).

An axis is never stored: the axes of a plan follow from its nodes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

from sandbox.plan.timeframes import TIMEFRAMES

_FINEST = next(iter(TIMEFRAMES))


@final
@dataclass(frozen=True, slots=True, init=False, eq=False)
class Axis:
    """
    The bars of one timeframe, or none (`NOW`, `CONSTANT`).

    There is one object for each axis, so axes are compared with `is`, and hashed by address as cheaply.
    `forming` says whether the last bar may be a forming one. Of the finest timeframe nothing is known before its
    close: `Axis("1m", forming=True)` is `Axis("1m")`.

    Raises:
        KeyError: There is no such timeframe.
    """

    timeframe: str
    forming: bool
    has_bars: bool
    length_s: int
    """Seconds of one bar; 0 without bars."""
    is_provisional: bool
    """Whether values move with every minute, not with the close of a bar only."""

    NOW: ClassVar["Axis"]
    CONSTANT: ClassVar["Axis"]

    def __new__(cls, timeframe: str, *, forming: bool = False) -> "Axis":
        return _AXES[timeframe, forming]

    def __str__(self) -> str:
        return f"{self.timeframe} forming" if self.forming else self.timeframe

    @staticmethod
    def joined(axes: Iterable["Axis"]) -> "Axis":
        """
        The axis of what is made of series on *axes*; of constants only, `CONSTANT`.

        The finest one, where every other is of closed bars of a coarser timeframe: then each of its bars, the
        forming one too, sees the coarser bars closed by its end. Else `NOW`.
        """
        known = set(axes)
        known.discard(Axis.CONSTANT)
        if len(known) < 2:
            return known.pop() if known else Axis.CONSTANT
        if Axis.NOW in known:
            return Axis.NOW
        finest = min(known, key=lambda axis: axis.length_s)
        known.remove(finest)
        if any(axis.forming or axis.length_s == finest.length_s for axis in known):
            return Axis.NOW
        return finest


def _made(timeframe: str, length_s: int, *, forming: bool = False, is_provisional: bool = False) -> Axis:
    axis = object.__new__(Axis)
    fields = (timeframe, forming, length_s > 0, length_s, is_provisional)
    for name, value in zip(Axis.__slots__, fields, strict=True):
        object.__setattr__(axis, name, value)
    return axis


Axis.NOW = _made("now", 0, is_provisional=True)
Axis.CONSTANT = _made("constant", 0)

_CLOSED = {timeframe: _made(timeframe, length_s) for timeframe, length_s in TIMEFRAMES.items()}
_FORMING = {
    timeframe: _made(timeframe, length_s, forming=True, is_provisional=True)
    for timeframe, length_s in TIMEFRAMES.items()
    if timeframe != _FINEST
}
_AXES = {
    (timeframe, forming): _FORMING.get(timeframe, closed) if forming else closed
    for timeframe, closed in _CLOSED.items()
    for forming in (False, True)
}
