"""
Real candles of a day and a half of 20 pairs, some taken away, so that every reason for a missing value is there.

The pairs ADAUSDT and BTCUSDT are whole but for the exchange's own outage. YOUNG is listed 26 hours late, HOLEY lacks whole stretches of
minutes (up to two hours), GONE has no candle at all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.domain import timeframes
from app.market.candles import Candles
from app.market.dumps import read_dumps
from app.market.simulated.rollup import roll_up
from sandbox.engine.candles.panel import Panel
from sandbox.plan.operators import FIELDS

YOUNG, HOLEY, GONE = "XRPUSDT", "LTCUSDT", "GONEUSDT"
USED = ("1m", "5m", "15m", "1h")
MINUTE_MS = 60_000


def read(data: Path) -> Candles:
    minutes = read_dumps(data / "dumps" / "small-20pairs-36h-outage")
    rng = np.random.default_rng(3)
    minute = (minutes.open_time - minutes.open_time.min()) // MINUTE_MS
    gap = np.zeros(int(minute.max()) + 1, dtype=np.bool_)
    for begin, length in zip(rng.integers(0, len(gap), 40), rng.choice([1, 2, 7, 20, 120], 40), strict=True):
        gap[begin : begin + length] = True
    young, holey = (minutes.symbol == minutes.symbols.index(symbol) for symbol in (YOUNG, HOLEY))
    return minutes.take(~(young & (minute < 26 * 60 + 7)) & ~(holey & gap[minute]))


def of_symbol(candles: Candles, symbol: str) -> Candles:
    """The rows of one symbol."""
    return candles.take(candles.symbol == candles.symbols.index(symbol))


def frames(minutes: Candles) -> dict[str, Candles]:
    """The candles of all timeframes used; a bar that is unfinished at the end is a bar nobody looks at."""
    return {timeframe: roll_up(minutes, timeframe) for timeframe in USED}


def panel(rolled: dict[str, Candles]) -> Panel:
    """All symbols in the candles' order, GONE behind them."""
    made = Panel([*rolled["1m"].symbols, GONE])
    for timeframe, bars in rolled.items():
        made.load(timeframe, bars.symbol, bars.open_time, *(getattr(bars, name) for name in FIELDS))
    return made


def last_ms(minutes: Candles) -> int:
    """The close of the newest minute."""
    return int(minutes.open_time.max()) + timeframes.length_ms("1m")


# Name -> (what stands before the signal, its terms in order, what is shown). Every term can be true and false here.
ACROSS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "rank": (
        'b = bars("5m")\ngain = ta.rocp(b.close, 12)\n',
        ("b.close > b.open", "top(gain, 6)", "rank(b.close * b.volume) < 12"),
        "gain=gain, place=rank(gain)",
    ),
    "breadth": (
        'b = bars("5m")\nshare = breadth(b.close > ta.sma(b.close, 20))\n',
        ("share > share[2]", "b.close >= highest(b.high, 6)[1]"),
        "share=share, calm=lowest(share, 12)",
    ),
    "a named symbol": (
        'b, btc = bars("5m"), symbol("BTCUSDT").bars("15m")\nlead = ta.rocp(btc.close, 4)\n',
        ("lead > -0.004", "ta.rocp(b.close, 12) > lead", "b.volume > ta.sma(b.volume, 30)"),
        "lead=lead, own=ta.rocp(b.close, 12)",
    ),
    "a line against a named symbol": (
        'b, btc = bars("15m"), symbol("BTCUSDT").bars("15m")\nline = b.close / btc.close\n',
        ("line > highest(line, 8)[1]", "top(ta.rocp(line, 12), 9)"),
        "line=line, place=rank(ta.rocp(line, 12))",
    ),
    "a named symbol that is young": (
        f'b, other = bars("5m"), symbol("{YOUNG}").bars("5m")\n',
        ("b.close > b.open", "ta.sma(other.close, 10) > other.close[12]"),
        "average=ta.sma(other.close, 10)",
    ),
    "places of the hour": (
        'b, h = bars("5m"), bars("1h")\nplace = rank(ta.rocp(h.close, 3))\n',
        ("place <= 9", "b.close > b.close[1]"),
        "place=place, open=h.open",
    ),
    "minutes": (
        'b = bars("1m")\nfive = bars("5m")\nmoved = rank(ta.rocp(five.close, 1))\n',
        ("b.close > b.open", "moved < 8", "breadth(b.close > b.close[1]) > 0.5"),
        "moved=moved",
    ),
    "a function": (
        (
            'b = bars("15m")\n\n\ndef narrow(high, low):\n    if low[0] > low[-1]:\n        return None\n'
            "    return high[-1] / low[-1] - 1\n\n\nheavy = b.volume > ta.sma(b.volume, 8)\n"
            "width = each(narrow, b.high, b.low, bars=6, when=heavy)\n"
        ),
        ("width < 0.02", "b.close > b.open"),
        "width=width",
    ),
    "a function of places": (
        (
            'b = bars("15m")\nplace = rank(ta.rocp(b.close, 4))\n\n\ndef climbs(places) -> bool:\n'
            "    return places[-1] < min(places[:-1])\n\n\n"
        ),
        ("each(climbs, place, bars=4, when=place < 15)", "b.volume > 0"),
        "place=place",
    ),
    "places by a function": (
        (
            'b = bars("15m")\n\n\ndef swing(high, low):\n    return max(high) / min(low)\n\n\n'
            "wild = each(swing, b.high, b.low, bars=8)\n"
        ),
        ("top(wild, 7)", "b.close > b.open"),
        "wild=wild, place=rank(wild)",
    ),
}


def source(name: str, *, terms: tuple[str, ...] | None = None) -> str:
    """A filter of ACROSS, or the same with other *terms*."""
    before, own, shown = ACROSS[name]
    return f"{before}show({shown})\nsignal({' and '.join(terms or own)})\n"
