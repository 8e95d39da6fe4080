"""
What goes wrong on demand: posted to ``/_control`` or set in-process. Nothing here is on unless a test asked.

This table is the shared tool of every test of a misbehaving exchange; each line is a field of `Faults`.

    what the exchange does                                     field
    closes come late, never, twice, in another order           late_close_s  drop_close  double  reverse
    streams stay open and say nothing                          silence
    minutes that nobody, or some pairs, have                   hole
    a candle that cannot be, on streams or by REST             impossible
    a candle that is corrected afterwards                      revised
    REST refuses: firewall, ban, limit, region, errors         status  status_count  retry_after
    REST answers late, or with garbage                         delay_s  garbage
    one pair's candles answer an error                         pair_status
    one listed pair is unknown (-1121)                         unknown_pairs
    a pair halts, is not listed yet, is delisted               symbol_status  unlisted
    the clock runs ahead (unfinished candles look closed)      skew_s
    connections break, or end with notice                      (``/_control`` only) disconnect  shutdown
"""

from dataclasses import replace
from typing import Any, Literal

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


Where = Literal["rest", "stream", "both"]
Way = Literal["high_below_low", "zero_price", "null_field", "off_grid"]


class Impossible(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Candles of a pair that cannot be.

    Attributes:
        way: What is wrong: high below low, a price of 0, a null where the low should be, or an open time 1 ms off.
        open_ms: Only the minute that opened then; None: all of them.
        where: By REST, on streams, or both.
        interval: Only REST rows of this interval; streams carry 1m.
    """

    symbol: str
    way: Way
    open_ms: int | None = None
    where: Where = "both"
    interval: str = "1m"

    def concerns(self, symbol: str, open_ms: int, where: Where, interval: str = "1m") -> bool:
        """Whether this candle is to be spoiled."""
        return (
            symbol == self.symbol
            and self.open_ms in (None, open_ms)
            and self.where in (where, "both")
            and interval == self.interval
        )


class Revised(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The minute of a pair that opened at *open_ms* is told with its prices times *factor* from now on."""

    symbol: str
    open_ms: int
    factor: float


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
        symbol_status: Status in exchangeInfo by symbol, instead of TRADING; of a pair that does not trade nothing is streamed.
        unlisted: Symbols the exchange has never heard of: not in exchangeInfo, -1121, no stream.
        unknown_pairs: Symbols of which klines answers -1121 although they are listed.
        pair_status: Status that klines answers with, by symbol.
        impossible: Candles that cannot be.
        revised: Minutes that are told differently from now on.
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
    unlisted: tuple[str, ...] = ()
    unknown_pairs: tuple[str, ...] = ()
    pair_status: dict[str, int] = {}
    impossible: tuple[Impossible, ...] = ()
    revised: tuple[Revised, ...] = ()

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
        """*candles* without those in the hole, and as they are told now."""
        candles = self._as_revised(candles)
        if self.hole is None or not len(candles):
            return candles
        inside = (candles.open_time >= self.hole.from_ms) & (candles.open_time < self.hole.to_ms)
        if self.hole.symbols:
            named = [i for i, name in enumerate(candles.symbols) if name in self.hole.symbols]
            inside &= np.isin(candles.symbol, named)
        return candles.take(~inside)

    def _as_revised(self, candles: Candles) -> Candles:
        for revised in self.revised:
            if revised.symbol not in candles.symbols:
                continue
            here = (candles.open_time == revised.open_ms) & (
                candles.symbol == candles.symbols.index(revised.symbol)
            )
            prices = {name: getattr(candles, name).copy() for name in ("open", "high", "low", "close")}
            for column in prices.values():
                column[here] = np.round(column[here] * revised.factor, 8)
            candles = replace(candles, **prices)
        return candles

    def drops(self, symbol: str) -> bool:
        """Whether the closing event of *symbol* never comes: because it is dropped, or the pair does not trade."""
        is_trading = self.symbol_status.get(symbol, "TRADING") == "TRADING" and symbol not in self.unlisted
        return symbol in self.drop_close or "*" in self.drop_close or not is_trading

    def spoiled(self, symbol: str, open_ms: int, where: Where, interval: str = "1m") -> Way | None:
        """How this candle is to be spoiled, if at all."""
        found = (i.way for i in self.impossible if i.concerns(symbol, open_ms, where, interval))
        return next(found, None)
