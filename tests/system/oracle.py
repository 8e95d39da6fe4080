"""
What should be in `signals`, computed from the candle files by another road: csv, plain loops, TA-Lib over the whole history.

Nothing here imports the engine. It shares only ``docs/contract.md``, *Meaning of a match*, with it.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

SECONDS = {"1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "2h": 7200, "4h": 14400}
Minute = tuple[int, float, float, float, float, float]


class Bars:
    """One symbol in one timeframe, on the axis of the bars that exist for anybody."""

    def __init__(self, times: np.ndarray, rows: dict[int, Minute], seconds: int) -> None:
        self.close_time = times + seconds
        self.present = np.array([t in rows for t in times.tolist()])
        columns: list[list[float]] = []
        last = np.nan
        for t in times.tolist():
            if t in rows:
                columns.append(list(rows[t][1:]))
                last = rows[t][4]
            else:
                columns.append([last, last, last, last, np.nan if math.isnan(last) else 0.0])
        self.open, self.high, self.low, self.close, self.volume = np.array(columns).T.copy()


class Board:
    """Every symbol of a folder of the exchange's dump files."""

    def __init__(self, folder: Path) -> None:
        self.minutes: dict[str, dict[int, Minute]] = {}
        for file in sorted(folder.glob("*.zip")):
            with zipfile.ZipFile(file) as archive:
                text = archive.read(archive.namelist()[0]).decode()
            rows = [
                (int(r[0]) // 1000, *map(float, r[1:6]))
                for r in csv.reader(io.StringIO(text))
                if r and r[0].isdigit()
            ]
            self.minutes.setdefault(file.name.split("-")[0], {}).update({r[0]: r for r in rows})
        self._frames: dict[str, dict[str, Bars]] = {}

    def frame(self, timeframe: str) -> dict[str, Bars]:
        if timeframe not in self._frames:
            seconds = SECONDS[timeframe]
            rolled = {symbol: _roll_up(rows, seconds) for symbol, rows in self.minutes.items()}
            times = np.array(sorted({t for rows in rolled.values() for t in rows}))
            self._frames[timeframe] = {symbol: Bars(times, rows, seconds) for symbol, rows in rolled.items()}
        return self._frames[timeframe]

    def matches(
        self, trigger: str, condition: Callable[[Callable[[str], Bars]], np.ndarray]
    ) -> set[tuple[str, int]]:
        """(symbol, bar close in seconds) wherever *condition*, a bool array on the trigger's axis, is true on a bar of the symbol's own."""
        found = set()
        for symbol, bars in self.frame(trigger).items():
            with np.errstate(invalid="ignore", divide="ignore"):
                truth = condition(lambda timeframe, symbol=symbol: self.frame(timeframe)[symbol])
            found |= {(symbol, int(t)) for t in bars.close_time[truth & bars.present]}
        return found


def _roll_up(rows: dict[int, Minute], seconds: int) -> dict[int, Minute]:
    buckets: dict[int, list[Minute]] = defaultdict(list)
    for t in sorted(rows):
        buckets[t - t % seconds].append(rows[t])
    rolled = {}
    for t, minutes in buckets.items():
        traded = [m for m in minutes if m[5] > 0] or minutes
        rolled[t] = (
            t,
            traded[0][1],
            max(m[2] for m in traded),
            min(m[3] for m in traded),
            minutes[-1][4],
            sum(m[5] for m in minutes),
        )
    return rolled


def seen_from(fine: Bars, coarse: Bars, values: np.ndarray) -> np.ndarray:
    """A coarse series on a finer axis: its value on the last bar that had closed."""
    index = np.searchsorted(coarse.close_time, fine.close_time, side="right") - 1
    return np.where(index >= 0, values[np.maximum(index, 0)], np.nan if values.dtype.kind == "f" else False)


def before(values: np.ndarray, n: int = 1) -> np.ndarray:
    out = np.full(values.shape, np.nan if values.dtype.kind == "f" else False)
    out[n:] = values[:-n]
    return out if values.dtype.kind == "f" else out.astype(bool)


def window(values: np.ndarray, n: int, reduce: Callable[..., np.ndarray]) -> np.ndarray:
    out = np.full(values.shape, np.nan)
    if len(values) >= n:
        out[n - 1 :] = reduce(np.lib.stride_tricks.sliding_window_view(values, n), axis=1)
    return out


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
