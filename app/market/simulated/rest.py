"""
What the simulated exchange answers over REST: parameters checked as the real one does, rows in its format.

Pure: (source, faults, now, parameters) in, a body out; refusals are `Refusal` with the exchange's own codes. Intervals
below a minute and above a day are refused as unknown. Weight and HTTP belong to ``server``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from app.domain import timeframes
from app.market.candles import Candle, Candles
from app.market.simulated.faults import Faults, Way
from app.market.simulated.rollup import roll_up
from app.market.simulated.source import Source, unfinished

LIMIT_DEFAULT: Final = 500
LIMIT_MAX: Final = 1_000
_DAY_MS: Final = 86_400_000
_QUOTES: Final = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY")
# Listed, but nothing to screen: one of each reason the real list has.
_DECOYS: Final = {
    "ETHBTC": "TRADING",
    "BTCEUR": "TRADING",
    "FTTUSDT": "BREAK",
    "LUNAUSDT": "HALT",
    "MTLUSDT": "CANCEL_ONLY",
}

Parameters = Mapping[str, str]


class Refusal(Exception):
    """An error answer, HTTP 400 unless another status is named, with the exchange's code and text."""

    def __init__(self, code: int, msg: str, status: int = 400) -> None:
        self.status = status
        self.code = code
        self.msg = msg
        super().__init__(msg)


def candles_of(
    source: Source, faults: Faults, symbol: str, *, start_ms: int, end_ms: int, now_ms: int
) -> Candles:
    """1m candles with start ≤ open time < end as seen at *now_ms*: finished ones, and the one that is under way."""
    this_minute = timeframes.bar_open_ms(now_ms, "1m")
    rows = source.minutes(symbol, start_ms, min(end_ms, this_minute))
    if start_ms <= this_minute < end_ms and now_ms > this_minute:
        current = source.minutes(symbol, this_minute, this_minute + timeframes.MINUTE_MS)
        passed = (now_ms - this_minute) / timeframes.MINUTE_MS
        rows = Candles.concat([rows, Candles.from_rows(unfinished(row, passed) for row in current.rows())])
    return faults.existing(rows)


def klines_window(
    source: Source,
    faults: Faults,
    symbol: str,
    interval: str,
    *,
    now_ms: int,
    start_ms: int | None,
    end_ms: int | None,
    limit: int,
) -> list[Candle]:
    """
    The rows the exchange would give, oldest first, the unfinished one included.

    With a start: the oldest *limit* rows that open from there on, none after the end. Without: the newest *limit* rows
    that open no later than the end, or now.
    """
    length = timeframes.length_ms(interval)
    last_open = timeframes.bar_open_ms(now_ms if end_ms is None else min(now_ms, end_ms), interval)
    first_open = timeframes.bar_open_ms(source.first_ms, interval)
    rows: list[Candle] = []

    def bars(start: int, count: int) -> list[Candle]:
        minutes = candles_of(
            source, faults, symbol, start_ms=start, end_ms=start + count * length, now_ms=now_ms
        )
        return list(roll_up(minutes, interval).rows())

    # Bars may be missing, so a window can hold fewer than it is long: go on until there are enough.
    if start_ms is not None:
        begin = max(-(-start_ms // length) * length, first_open)
        while begin <= last_open and len(rows) < limit:
            count = min(limit, (last_open - begin) // length + 1)
            rows += bars(begin, count)
            begin += count * length
        return rows[:limit]
    end = last_open + length
    while end > first_open and len(rows) < limit:
        count = min(limit, (end - first_open) // length)
        rows = bars(end - count * length, count) + rows
        end -= count * length
    return rows[-limit:]


def klines(source: Source, faults: Faults, now_ms: int, query: Parameters) -> bytes:
    """``GET /api/v3/klines``."""
    known = ("symbol", "interval", "startTime", "endTime", "timeZone", "limit")
    _only(query, known)
    symbol, interval = _required(query, "symbol"), _required(query, "interval")
    unknown = symbol in faults.unlisted or symbol in faults.unknown_pairs
    if unknown or (symbol not in source.symbols and symbol not in _DECOYS):
        raise Refusal(-1121, "Invalid symbol.")
    if symbol in faults.pair_status:
        raise Refusal(-1000, "An unknown error occurred.", faults.pair_status[symbol])
    if interval not in timeframes.TIMEFRAMES:
        raise Refusal(-1120, "Invalid interval.")
    limit = _integer(query, "limit")
    if limit is not None and limit < 1:
        raise Refusal(-1130, "Data sent for parameter 'limit' is not valid.")
    rows = klines_window(
        source,
        faults,
        symbol,
        interval,
        now_ms=now_ms,
        start_ms=_time_ms(query, "startTime"),
        end_ms=_time_ms(query, "endTime"),
        limit=min(limit or LIMIT_DEFAULT, LIMIT_MAX),
    )
    length_ms = timeframes.length_ms(interval)
    if not faults.impossible:
        return encode_rows(rows, length_ms)
    lines = [
        spoil_row(row_text(row, length_ms), row, faults.spoiled(symbol, row.open_time, "rest", interval))
        for row in rows
    ]
    return f"[{','.join(lines)}]".encode()


def encode_rows(rows: Iterable[Candle], length_ms: int) -> bytes:
    """Rows of 12 columns, decimals as strings of 8 places; taker volumes are half of the whole."""
    return f"[{','.join(row_text(row, length_ms) for row in rows)}]".encode()


def row_text(row: Candle, length_ms: int) -> str:
    """One row of `encode_rows`."""
    return (
        f'[{row[1]},"{row[2]:.8f}","{row[3]:.8f}","{row[4]:.8f}","{row[5]:.8f}","{row[6]:.8f}",{row[1] + length_ms - 1},'
        f'"{row[7]:.8f}",{row[8]},"{row[6] / 2:.8f}","{row[7] / 2:.8f}","0"]'
    )


def spoil_row(text: str, row: Candle, way: Way | None) -> str:
    """*text* of a row, made impossible in this way."""
    fields = text.split(",")
    if way == "off_grid":
        fields[0] = f"[{row.open_time + 1}"
    elif way == "null_field":
        fields[3] = "null"
    elif way == "high_below_low":
        fields[2] = f'"{row.low / 2:.8f}"'
    elif way == "zero_price":
        fields[3] = '"0.00000000"'
    return ",".join(fields)


def exchange_info(
    source: Source, faults: Faults, now_ms: int, query: Parameters, *, weight_limit: int
) -> bytes:
    """``GET /api/v3/exchangeInfo``."""
    _only(query, ("symbol", "symbols", "permissions", "symbolStatus", "showPermissionSets"))
    listed = [*source.symbols, *(name for name in _DECOYS if name not in source.symbols)]
    listed = [name for name in listed if name not in faults.unlisted]
    chosen = _chosen(query, listed)
    status = {name: _DECOYS.get(name, "TRADING") for name in listed} | dict.fromkeys(
        source.symbols, "TRADING"
    )
    status |= faults.symbol_status
    wanted = query.get("symbolStatus")
    body = {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": weight_limit,
            },
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000},
        ],
        "exchangeFilters": [],
        "symbols": [_symbol_info(name, status[name]) for name in chosen if wanted in (None, status[name])],
    }
    return json.dumps(body, ensure_ascii=False).encode()


def ticker_24h(source: Source, faults: Faults, now_ms: int, query: Parameters) -> bytes:
    """``GET /api/v3/ticker/24hr``; symbols without a candle in the last 24 hours show zeros."""
    _only(query, ("symbol", "symbols", "type", "symbolStatus"))
    listed = [name for name in source.symbols if name not in faults.unlisted]
    tickers = [_ticker(source, faults, name, now_ms) for name in _chosen(query, listed)]
    return json.dumps(tickers[0] if "symbol" in query else tickers, ensure_ascii=False).encode()


def ticker_weight(query: Parameters) -> int:
    """2 for up to 20 symbols, 40 for up to 100, else 80; all of them when none is named."""
    count = 1 if "symbol" in query else query["symbols"].count(",") + 1 if "symbols" in query else 1_000
    return 2 if count <= 20 else 40 if count <= 100 else 80


def _ticker(source: Source, faults: Faults, symbol: str, now_ms: int) -> dict[str, Any]:
    rows = candles_of(source, faults, symbol, start_ms=now_ms - _DAY_MS, end_ms=now_ms + 1, now_ms=now_ms)
    some = bool(len(rows))
    return {
        "symbol": symbol,
        "openPrice": f"{rows.open[0] if some else 0:.8f}",
        "highPrice": f"{rows.high.max() if some else 0:.8f}",
        "lowPrice": f"{rows.low.min() if some else 0:.8f}",
        "lastPrice": f"{rows.close[-1] if some else 0:.8f}",
        "volume": f"{rows.volume.sum():.8f}",
        "quoteVolume": f"{rows.quote_volume.sum():.8f}",
        "openTime": now_ms - _DAY_MS,
        "closeTime": now_ms,
        "firstId": 0,
        "lastId": int(rows.trades.sum()),
        "count": int(rows.trades.sum()),
    }


def _symbol_info(name: str, status: str) -> dict[str, Any]:
    quote = next((quote for quote in _QUOTES if name.endswith(quote) and name != quote), "USDT")
    return {
        "symbol": name,
        "status": status,
        "baseAsset": name.removesuffix(quote),
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def _chosen(query: Parameters, listed: Sequence[str]) -> Sequence[str]:
    """The symbols a request names, or all."""
    if "symbol" in query and "symbols" in query:
        raise Refusal(-1128, "Combination of optional parameters invalid.")
    if "symbol" in query:
        names = [query["symbol"]]
    elif "symbols" in query:
        try:
            names = json.loads(query["symbols"])
        except ValueError as error:
            raise Refusal(-1100, "Illegal characters found in parameter 'symbols'.") from error
        if len(set(names)) != len(names):
            raise Refusal(-1151, "Symbol is present multiple times in the list.")
    else:
        return listed
    if any(name not in listed for name in names):
        raise Refusal(-1121, "Invalid symbol.")
    return names


def _only(query: Parameters, known: Sequence[str]) -> None:
    unknown = [name for name in query if name not in known]
    if unknown:
        raise Refusal(-1101, f"Too many parameters; expected '{len(known)}' and received '{len(query)}'.")


def _required(query: Parameters, name: str) -> str:
    value = query.get(name, "")
    if not value:
        raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return value


def _integer(query: Parameters, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise Refusal(
            -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        )
    return int(text)


def _time_ms(query: Parameters, name: str) -> int | None:
    """Times come in milliseconds or microseconds; 1e14 ms is the year 5138."""
    value = _integer(query, name)
    return value if value is None or value < 10**14 else value // 1_000
