"""Filters of different styles, each beside the same condition written for the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import talib

from tests.system.oracle import Bars, before, seen_from, window


@dataclass(frozen=True)
class Screen:
    """With `forming` the condition is said for every minute, and the first one of each bar of the trigger signals."""

    name: str
    trigger: str
    source: str
    condition: Callable[[Callable[[str], Bars]], np.ndarray]
    body: dict[str, Any] = field(default_factory=dict)
    forming: bool = False

    @property
    def due_every(self) -> str:
        return "1m" if self.forming else self.trigger


def _oversold(at: Callable[[str], Bars]) -> np.ndarray:
    m1 = at("1m")
    return (talib.RSI(m1.close, 14) < 30) & (m1.volume > 2 * talib.SMA(m1.volume, 20))


def _breakdown(at: Callable[[str], Bars]) -> np.ndarray:
    m5, h1 = at("5m"), at("1h")
    support = before(window(m5.low, 20, np.min))
    under = (m5.close < support) & (before(m5.close) >= before(support))
    downtrend = h1.close < talib.EMA(h1.close, 10)
    return under & seen_from(m5, h1, downtrend).astype(bool)


def _ribbon(at: Callable[[str], Bars]) -> np.ndarray:
    m1 = at("1m")
    averages = [talib.EMA(m1.close, n) for n in (5, 8, 13, 21)]
    return np.logical_and.reduce([a > b for a, b in pairwise(averages)]) & (
        m1.close > window(before(m1.high), 30, np.max)
    )


def _squeeze(at: Callable[[str], Bars]) -> np.ndarray:
    m5 = at("5m")
    upper, middle, lower = talib.BBANDS(m5.close, 20, 2.0, 2.0)
    width = (upper - lower) / middle
    return (width <= window(width, 60, np.min)) & (m5.volume > 0)


def _momentum(at: Callable[[str], Bars]) -> np.ndarray:
    m15 = at("15m")
    macd, signal, _ = talib.MACD(m15.close)
    crossed = (macd > signal) & (before(macd) <= before(signal))
    return crossed | (m15.close - before(m15.close, 3) > 0.03 * m15.close)


def _hammer(at: Callable[[str], Bars]) -> np.ndarray:
    m5 = at("5m")
    return (talib.CDLHAMMER(m5.open, m5.high, m5.low, m5.close) > 0) & (m5.close > m5.open)


def _enters(at: Callable[[str], Bars]) -> np.ndarray:
    m1 = at("1m")
    above = m1.close > talib.SMA(m1.close, 50)
    return above & ~before(above)


def _breaking_out(at: Callable[[str], Bars]) -> np.ndarray:
    m1, m15 = at("1m"), at("15m")
    began = (m1.close_time - 1) // 900 * 900  # of the bar that each minute is in
    last = np.searchsorted(m15.close_time, began, side="right") - 1
    ceiling = np.where(last >= 0, window(m15.high, 6, np.max)[last], np.nan)
    four = np.where(last >= 0, window(m15.close, 4, np.sum)[last], np.nan)
    return (m1.close > ceiling) & (m1.close > (four + m1.close) / 5)


SCREENS = [
    Screen(
        "oversold on volume",
        "1m",
        'b = bars("1m")\nsignal(ta.rsi(b.close, 14) < 30 and b.volume > 2 * ta.sma(b.volume, 20))\nshow(rsi=ta.rsi(b.close, 14))\n',
        _oversold,
    ),
    Screen(
        "breakdown in a downtrend",
        "5m",
        'm5, h1 = bars("5m"), bars("1h")\nsupport = lowest(m5.low, 20)[1]\ndowntrend = h1.close < ta.ema(h1.close, 10)\n'
        "show(support=support)\nsignal(crossunder(m5.close, support) and downtrend)\n",
        _breakdown,
    ),
    Screen(
        "ribbon, written as a loop",
        "1m",
        'b = bars("1m")\naverages = [ta.ema(b.close, n) for n in (5, 8, 13, 21)]\nordered = True\n'
        "for fast, slow in zip(averages, averages[1:]):\n    ordered = ordered and fast > slow\n"
        "signal(ordered and b.close > highest(b.high[1], 30))\n",
        _ribbon,
    ),
    Screen(
        "squeeze, written as a function",
        "5m",
        "def width(close, n=20):\n    upper, middle, lower = ta.bbands(close, n, 2, 2)\n    return (upper - lower) / middle\n\n"
        'm5 = bars("5m")\nw = width(m5.close)\nsignal(w <= lowest(w, 60) and m5.volume > 0)\n',
        _squeeze,
    ),
    Screen(
        "momentum, either of two",
        "15m",
        'b = bars("15m")\nmacd, line, _ = ta.macd(b.close)\nsignal(crossover(macd, line) or change(b.close, 3) > 0.03 * b.close)\n',
        _momentum,
    ),
    Screen(
        "hammer",
        "5m",
        'b = bars("5m")\nsignal(ta.cdlhammer(b.open, b.high, b.low, b.close) > 0 and b.close > b.open)\n',
        _hammer,
    ),
    Screen(
        "enters above its average",
        "1m",
        'b = bars("1m")\nsignal(b.close > ta.sma(b.close, 50))\n',
        _enters,
        {"frequency": "on_enter", "symbols": ["BTCUSDT", "LINKUSDT", "XRPUSDT"]},
    ),
    Screen(
        "breaking out now",
        "15m",
        'f = bars("15m", forming=True)\nsignal(f.close > highest(f.high, 6)[1] and f.close > ta.sma(f.close, 5))\n',
        _breaking_out,
        forming=True,
    ),
]
