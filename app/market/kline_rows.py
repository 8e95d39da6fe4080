"""
Kline rows of a REST answer into candles: a row that cannot be a candle is set aside, and the others are taken.

Decided here: what a row must look like to be read, and which bar an unreadable one stands for. The rules of a possible
candle are those of ``candles.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from app.domain import timeframes
from app.market import errors
from app.market.candles import Candles, RefusedCandle, fault_of, nearest_bar_ms

Row = tuple[int, float, float, float, float, float, int, float, int, float, float, float]
OnRefused = Callable[[RefusedCandle], None]

# Not strict: decimals come as strings.
_ROWS: Final = msgspec.json.Decoder(list[Row], strict=False)
_ROW: Final = msgspec.json.Decoder(Row, strict=False)
_RAW_ROWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ANY: Final = msgspec.json.Decoder(list[Any])


def read_rows(
    symbol: str, interval: str, body: bytes, *, settled_ms: int, on_refused: OnRefused | None
) -> Candles:
    """
    The candles of *symbol* in an answer to ``klines`` that had closed by *settled_ms*, oldest first.

    Each row that cannot be a candle goes to *on_refused*; without it the first one is an error.

    Raises:
        AnswerInvalid: *body* is no list of rows; or a row is unreadable and nobody takes it.
        CandleInvalid: A row is no possible candle and nobody takes it.
    """
    try:
        rows = _ROWS.decode(body)
    except msgspec.DecodeError as error:
        if on_refused is None:
            raise errors.AnswerInvalid(_not_documented(error)) from error
        rows = _read_one_by_one(symbol, interval, body, settled_ms, on_refused)
    candles = _candles(symbol, interval, [row for row in rows if row[6] < settled_ms])
    valid = candles.valid()
    if valid.all():
        return candles
    if on_refused is None:
        return candles.checked()
    for candle in candles.take(~valid).rows():
        what = fault_of(candle, interval) or "its columns hold other values than its row"
        raw = msgspec.json.encode(candle[1:]).decode()
        on_refused(RefusedCandle(symbol, interval, nearest_bar_ms(candle.open_time, interval), what, raw))
    return candles.take(valid)


def _read_one_by_one(
    symbol: str, interval: str, body: bytes, settled_ms: int, on_refused: OnRefused
) -> list[Row]:
    """The readable rows of an answer in which at least one is not."""
    try:
        raw_rows = _RAW_ROWS.decode(body)
    except msgspec.DecodeError as error:
        raise errors.AnswerInvalid(_not_documented(error)) from error
    length_ms = timeframes.length_ms(interval)
    rows: list[Row] = []
    expected_ms = 0  # the bar after the one before
    for raw in raw_rows:
        try:
            row = _ROW.decode(raw)
        except msgspec.DecodeError as error:
            open_ms = nearest_bar_ms(_open_time(raw) or expected_ms, interval)
            if 0 < open_ms <= settled_ms - length_ms:
                text = bytes(raw).decode(errors="replace")
                on_refused(RefusedCandle(symbol, interval, open_ms, f"it cannot be read: {error}", text))
            expected_ms = open_ms + length_ms
        else:
            rows.append(row)
            expected_ms = row[0] + length_ms
    return rows


def _open_time(raw: msgspec.Raw) -> int | None:
    try:
        first = _ANY.decode(raw)[0]
    except (msgspec.DecodeError, IndexError):
        return None
    return first if isinstance(first, int) and first > 0 else None


def _candles(symbol: str, interval: str, rows: list[Row]) -> Candles:
    if not rows:
        return Candles.empty(interval, (symbol,))
    times, open_, high, low, close, volume, _, quote_volume, trades, *_ = zip(*rows, strict=True)
    columns = {
        "symbol": np.zeros(len(rows), np.int32),
        "open_time": times,
        "open": open_,
        "high": high,
        "low": low,
        "close": close,
        "volume": volume,
        "quote_volume": quote_volume,
        "trades": trades,
    }
    return Candles.of(interval, (symbol,), columns)


def _not_documented(error: Exception) -> str:
    return f"The exchange answered with something else than documented: {error}."
