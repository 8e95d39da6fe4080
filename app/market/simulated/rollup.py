"""
Roll-up: closed candles of one timeframe to those of a coarser one; from 1m candles, equal to the exchange's own.

The rule, said for minutes: open is the first, high the maximum and low the minimum **over the minutes with volume > 0**,
close is the last minute's, volume, quote volume and trade count are sums. Without a traded minute the candle is flat at the close.
A bar exists if and only if at least one of its minutes does: a minute without trades is a row (flat, volume 0), an
outage of the exchange is no row, and a bar wholly inside an outage is no bar.

That equalled the exchange's own 5m open/high/low/close in 1,085,555 of 1,085,555 buckets outside two incidents of the
exchange; with zero-volume minutes counted in, about 1,600 differ.
The rule may be applied in steps (1m to 5m, 5m to 1h): prices are the same bits, sums differ by rounding only.
Not decided here: whether all minutes of a bar are in. Who rolls up an unfinished bar gets an unfinished candle.
"""

import numpy as np

from app.domain import timeframes
from app.market.candles import Candles


def roll_up(candles: Candles, timeframe: str) -> Candles:
    """
    The candles of *timeframe* that *candles* make up.

    Args:
        candles: Candles of one timeframe, of any symbols in any order, each (symbol, open time) once.
        timeframe: Any name in `TIMEFRAMES` whose bars are whole bars of the candles'; the candles' own returns them in order.

    Returns:
        One row per (symbol, bar) that holds a candle, by symbol index then open time, with the same ``symbols``.
        Sums run in time order, so equal candles give equal bits.

    Raises:
        ValueError: *timeframe* is unknown, or its bars are not made of whole bars of the candles' timeframe.
    """
    length_ms = timeframes.length_ms(timeframe)
    if length_ms % timeframes.length_ms(candles.timeframe):
        raise ValueError(f"{candles.timeframe} candles do not make up {timeframe} bars")
    rows = candles.in_order()
    if timeframe == candles.timeframe:
        return rows
    if not len(rows):
        return Candles.empty(timeframe, candles.symbols)

    bar_open = rows.open_time - rows.open_time % length_ms
    first = np.ones(len(rows), np.bool_)
    first[1:] = (bar_open[1:] != bar_open[:-1]) | (rows.symbol[1:] != rows.symbol[:-1])
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(rows))

    traded = rows.volume > 0
    close = rows.close[ends - 1]
    # Index of the first traded candle of each bar; len(rows) stands for none.
    opener = np.minimum.reduceat(np.where(traded, np.arange(len(rows)), len(rows)), starts)
    flat = opener == len(rows)
    opener[flat] = ends[flat] - 1
    high = np.maximum.reduceat(np.where(traded, rows.high, -np.inf), starts)
    low = np.minimum.reduceat(np.where(traded, rows.low, np.inf), starts)
    return Candles.of(
        timeframe,
        candles.symbols,
        {
            "symbol": rows.symbol[starts],
            "open_time": bar_open[starts],
            "open": np.where(flat, close, rows.open[opener]),
            "high": np.where(flat, close, np.maximum(high, close)),
            "low": np.where(flat, close, np.minimum(low, close)),
            "close": close,
            "volume": np.add.reduceat(rows.volume, starts),
            "quote_volume": np.add.reduceat(rows.quote_volume, starts),
            "trades": np.add.reduceat(rows.trades, starts),
        },
    )
