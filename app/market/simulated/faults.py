"""What goes wrong on demand: posted to ``/_control`` or set in-process. Nothing here is on unless a test asked."""

from typing import Any

import msgspec
import numpy as np

from app.market.candles import Candles


class Hole(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_ms": "from", "to_ms": "to"}
):
    """An outage: minutes with from ≤ open time < to (ms) are in no answer and on no stream."""

    from_ms: int
    to_ms: int
    symbols: tuple[str, ...] = ()  # none named: all


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """
    Attributes:
        late_close_s: Closing events come this many market seconds after the close.
        drop_close: Symbols whose closing event never comes; ``"*"`` is all.
        double: Each closing event comes twice.
        reverse: The symbols' closing events of a minute come in reverse order.
        silence: Streams stay open and say nothing, not even ping.
        status: REST answers with this status: 403, 418, 429, 451, 5xx.
        status_count: So many answers; None: until changed.
        retry_after: Seconds in Retry-After of 418 and 429; None: no such header.
        delay_s: REST answers come this many wall seconds late.
        garbage: REST answers 200 with something that is not JSON.
        skew_s: What the exchange's clock shows too much.
        hole: Minutes that do not exist.
        symbol_status: Status in exchangeInfo by symbol, instead of TRADING.
    """

    late_close_s: float = 0.0
    drop_close: tuple[str, ...] = ()
    double: bool = False
    reverse: bool = False
    silence: bool = False
    status: int | None = None
    status_count: int | None = None
    retry_after: int | None = None
    delay_s: float = 0.0
    garbage: bool = False
    skew_s: float = 0.0
    hole: Hole | None = None
    symbol_status: dict[str, str] = {}

    def changed(self, changes: dict[str, Any]) -> "Faults":
        """
        These faults with *changes*; fields not named stay.

        Raises:
            msgspec.ValidationError: A field is unknown or of the wrong type.
        """
        return msgspec.convert(msgspec.to_builtins(self) | changes, Faults)

    def take_status(self) -> int | None:
        """The status for the next answer, counted down."""
        if self.status is None or self.status_count == 0:
            return None
        if self.status_count is not None:
            self.status_count -= 1
        return self.status

    def existing(self, candles: Candles) -> Candles:
        """*candles* without those in the hole."""
        if self.hole is None or not len(candles):
            return candles
        inside = (candles.open_time >= self.hole.from_ms) & (candles.open_time < self.hole.to_ms)
        if self.hole.symbols:
            named = [i for i, name in enumerate(candles.symbols) if name in self.hole.symbols]
            inside &= np.isin(candles.symbol, named)
        return candles.take(~inside)

    def drops(self, symbol: str) -> bool:
        """Whether the closing event of *symbol* never comes."""
        return symbol in self.drop_close or "*" in self.drop_close
