"""
`Candles`: a batch of closed candles of one timeframe, as columns.

Decided here: the columns and their types, and what makes a candle valid. Every source of candles (REST, streams,
dump files, roll-up) ends in this type, so the rules are checked in one place. Not decided: what a missing bar means.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.domain import timeframes
from app.market import errors

PRICES: Final = ("open", "high", "low", "close")
VALUES: Final = (*PRICES, "volume", "quote_volume")
COLUMNS: Final = ("symbol", "open_time", *VALUES, "trades")
_DTYPES: Final[dict[str, Any]] = (
    {"symbol": np.int32, "open_time": np.int64} | dict.fromkeys(VALUES, np.float64) | {"trades": np.int64}
)


class Candle(NamedTuple):
    """One closed candle; times in milliseconds since the epoch, volume in base and quote asset."""

    symbol: str
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trades: int


class RefusedCandle(NamedTuple):
    """
    A candle that cannot be: set aside, never stored.

    Attributes:
        open_time: Of the bar it stands for, in milliseconds: the nearest on the timeframe's grid.
        what: What is wrong, with the values.
        raw: What the exchange sent.
    """

    symbol: str
    timeframe: str
    open_time: int
    what: str
    raw: str


def nearest_bar_ms(at_ms: int, timeframe: str) -> int:
    """The open time on the grid of *timeframe* that is nearest to *at_ms*."""
    length_ms = timeframes.length_ms(timeframe)
    return (at_ms + length_ms // 2) // length_ms * length_ms


@dataclass(frozen=True, eq=False, slots=True)
class Candles:
    """
    Candles of one timeframe, one array of shape ``(n,)`` per column.

    Attributes:
        timeframe: Name in `app.domain.timeframes.TIMEFRAMES`.
        symbols: Names that ``symbol`` indexes; a name may have no row.
        symbol: int32 index into *symbols*.
        open_time: int64, milliseconds since the epoch.
        open, high, low, close: float64, quote currency.
        volume, quote_volume: float64, base and quote asset.
        trades: int64 count.
    """

    timeframe: str
    symbols: tuple[str, ...]
    symbol: NDArray[np.int32]
    open_time: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    quote_volume: NDArray[np.float64]
    trades: NDArray[np.int64]

    @classmethod
    def empty(cls, timeframe: str = "1m", symbols: Sequence[str] = ()) -> Self:
        """A batch without rows."""
        return cls(timeframe, tuple(symbols), **{name: np.empty(0, dtype) for name, dtype in _DTYPES.items()})

    @classmethod
    def of(cls, timeframe: str, symbols: Sequence[str], columns: dict[str, Any]) -> Self:
        """
        A batch from array-likes by column name, each converted to its column's dtype.

        Raises:
            ValueError: A column is missing or the lengths differ.
        """
        arrays = {name: np.ascontiguousarray(columns[name], dtype) for name, dtype in _DTYPES.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        return cls(timeframe, tuple(symbols), **arrays)

    @classmethod
    def from_rows(cls, rows: Iterable[Candle], timeframe: str = "1m") -> Self:
        """A batch in the order of *rows*; ``symbols`` in order of first appearance."""
        rows = list(rows)
        index = {name: i for i, name in enumerate(dict.fromkeys(row.symbol for row in rows))}
        columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in COLUMNS[1:]}
        columns["symbol"] = [index[row.symbol] for row in rows]
        return cls.of(timeframe, tuple(index), columns)

    @classmethod
    def concat(cls, batches: Sequence["Candles"], timeframe: str = "1m") -> "Candles":
        """
        All rows of *batches* one after another; symbols are merged by name.

        Raises:
            ValueError: Two batches differ in timeframe.
        """
        if not batches:
            return cls.empty(timeframe)
        if len({batch.timeframe for batch in batches}) > 1:
            raise ValueError(f"cannot join timeframes {sorted({batch.timeframe for batch in batches})}")
        index: dict[str, int] = {}
        for batch in batches:
            for name in batch.symbols:
                index.setdefault(name, len(index))
        columns = {name: np.concatenate([getattr(b, name) for b in batches]) for name in COLUMNS[1:]}
        columns["symbol"] = np.concatenate(
            [np.array([index[name] for name in b.symbols], np.int32)[b.symbol] for b in batches]
        )
        return cls.of(batches[0].timeframe, tuple(index), columns)

    def __len__(self) -> int:
        return len(self.open_time)

    @property
    def close_time(self) -> NDArray[np.int64]:
        """Open time + timeframe: exclusive, unlike the exchange's ``closeTime``, which is 1 ms less."""
        return self.open_time + timeframes.length_ms(self.timeframe)

    def take(self, which: NDArray[Any] | slice) -> "Candles":
        """The rows *which* selects (mask, indices or slice), with the same symbols."""
        return Candles(self.timeframe, self.symbols, **{name: getattr(self, name)[which] for name in COLUMNS})

    def in_order(self) -> "Candles":
        """The same rows by symbol index, then open time; itself when they are already."""
        if self._is_in_order():
            return self
        return self.take(np.lexsort((self.open_time, self.symbol)))

    def _is_in_order(self) -> bool:
        step = np.diff(self.symbol)
        return bool(np.all((step > 0) | ((step == 0) & (np.diff(self.open_time) >= 0))))

    def rows(self) -> Iterator[Candle]:
        """Each row as a `Candle` of plain Python values, in order."""
        columns = [getattr(self, name).tolist() for name in COLUMNS[1:]]
        names = [self.symbols[i] for i in self.symbol.tolist()]
        return map(Candle._make, zip(names, *columns, strict=True))

    def checked(self) -> "Candles":
        """
        Itself, when every row is a possible closed candle.

        Raises:
            CandleInvalid: The first row where a price is not finite and positive, ``low ≤ open, close ≤ high`` does
                not hold, a volume or the trade count is negative or not finite, or the open time is not a multiple
                of the timeframe. It names the symbol, the time and what is wrong.
        """
        valid = self.valid()
        if valid.all():
            return self
        row = int(np.argmin(valid))
        candle = next(self.take(slice(row, row + 1)).rows())
        raise errors.CandleInvalid(
            symbol=candle.symbol,
            timeframe=self.timeframe,
            open_time=candle.open_time,
            reason=fault_of(candle, self.timeframe) or "its columns hold other values than its row",
            row=row,
        )

    def valid(self) -> NDArray[np.bool_]:
        """Whether each row is a possible closed candle, shape ``(n,)``; the rules are those of `checked`."""
        # Written so that NaN fails: every comparison with it is false.
        valid: NDArray[np.bool_] = (
            (self.low > 0)
            & (self.low <= np.minimum(self.open, self.close))
            & (np.maximum(self.open, self.close) <= self.high)
            & (self.high < np.inf)
            & (self.volume >= 0)
            & (self.volume < np.inf)
            & (self.quote_volume >= 0)
            & (self.quote_volume < np.inf)
            & (self.trades >= 0)
            & (self.open_time > 0)
            & (self.open_time % timeframes.length_ms(self.timeframe) == 0)
        )
        return valid


def fault_of(candle: Candle, timeframe: str = "1m") -> str | None:
    """
    What is wrong with one candle, None when nothing is: `Candles.checked` for a single row, 10 times faster there.
    """
    if candle.open_time <= 0 or candle.open_time % timeframes.length_ms(timeframe):
        return f"open time {candle.open_time} is not a multiple of {timeframe}"
    for name, value in zip((*VALUES, "trades"), candle[2:], strict=True):
        if not (0 < value < math.inf if name in PRICES else 0 <= value < math.inf):
            limit = "above 0" if name in PRICES else "0 or more"
            return f"{name} is {value:g}, which is not {limit}"
    if candle.high < candle.low:
        return f"high {candle.high:.10g} is below low {candle.low:.10g}"
    for name in ("open", "close"):
        if not candle.low <= getattr(candle, name) <= candle.high:
            span = f"low {candle.low:.10g} … high {candle.high:.10g}"
            return f"{name} {getattr(candle, name):.10g} is outside {span}"
    return None
