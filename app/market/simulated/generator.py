"""
A generated market: 30 USDT pairs and a stablecoin whose candles are a function of (seed, symbol, minute) alone.

No state runs from day to day, so any minute of an endless future can be asked for first. A day of a symbol is one
chunk: its log price is fixed at both midnights (smooth noise of several periods, so it trends for days and never runs
away) and walks between them as a bridge of fat-tailed minute returns, whose size follows slow volatility regimes and a
few bursts a day that move price and volume together. A share of each return is the whole market's. Quiet pairs have
minutes without trades, which repeat the previous close.
Figures are chosen to look like the real board: 3 to 7 % a day, volume bursts of 4 to 20 times.
"""

import zlib
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.domain import timeframes
from app.market.candles import Candles

_Array = NDArray[np.float64]

DAY_MS: Final = 86_400_000
HISTORY_DAYS: Final = 30
_MINUTES: Final = 1_440
# A chunk is 90 kB; eight symbols whose 30 days of history are asked for at the same time are 240, besides the live ones.
_CHUNKS_KEPT: Final = 320


class _Profile(NamedTuple):
    price: float
    quote_volume_day: float
    sigma_day: float = 0.045
    beta: float = 1.0
    quiet: float = 0.0  # share of minutes without trades


_PROFILES: Final[dict[str, _Profile]] = {
    "BTCUSDT": _Profile(64_000, 1.6e9, 0.028),
    "ETHUSDT": _Profile(3_200, 8e8, 0.034, 1.1),
    "BNBUSDT": _Profile(580, 2e8, 0.03, 0.9),
    "SOLUSDT": _Profile(150, 5e8, 0.045, 1.3),
    "XRPUSDT": _Profile(0.6, 3e8, 0.042, 0.9),
    "DOGEUSDT": _Profile(0.13, 2.5e8, 0.05, 1.3),
    "ADAUSDT": _Profile(0.42, 8e7, 0.042, 1.1),
    "AVAXUSDT": _Profile(28, 7e7, 0.047, 1.2),
    "LINKUSDT": _Profile(14, 6e7, 0.045, 1.1),
    "DOTUSDT": _Profile(6.1, 4e7, 0.042, 1.1),
    "TRXUSDT": _Profile(0.13, 5e7, 0.02, 0.4),
    "LTCUSDT": _Profile(71, 5e7, 0.036, 0.9),
    "BCHUSDT": _Profile(350, 4e7, 0.044, 1.0),
    "UNIUSDT": _Profile(7.9, 3e7, 0.05, 1.1),
    "ATOMUSDT": _Profile(6.4, 2e7, 0.042, 1.0),
    "NEARUSDT": _Profile(5.2, 6e7, 0.05, 1.3),
    "APTUSDT": _Profile(7.1, 3e7, 0.048, 1.2),
    "ARBUSDT": _Profile(0.74, 3e7, 0.05, 1.2),
    "OPUSDT": _Profile(1.8, 3e7, 0.052, 1.2),
    "SUIUSDT": _Profile(1.2, 1.5e8, 0.06, 1.3),
    "INJUSDT": _Profile(24, 3e7, 0.055, 1.2),
    "FILUSDT": _Profile(4.3, 2e7, 0.045, 1.1, 0.01),
    "ICPUSDT": _Profile(9.2, 2e7, 0.046, 1.1, 0.01),
    "AAVEUSDT": _Profile(101, 2e7, 0.05, 1.1, 0.02),
    "ETCUSDT": _Profile(22, 1.5e7, 0.042, 1.0, 0.02),
    "HBARUSDT": _Profile(0.071, 1e7, 0.048, 1.0, 0.03),
    "PEPEUSDT": _Profile(0.0000105, 2e8, 0.068, 1.5),
    "SHIBUSDT": _Profile(0.0000175, 8e7, 0.05, 1.3),
    "PSGUSDT": _Profile(2.9, 6e5, 0.05, 0.3, 0.25),
    "币安人生USDT": _Profile(0.15, 4e6, 0.07, 0.5, 0.08),
    "USDCUSDT": _Profile(1.0, 4e8, 0.0004, 0.0),
}
_MARKET_SIGMA_DAY: Final = 0.022


class GeneratedSource:
    """
    Args:
        seed: Another seed is another market.
        anchor_ms: First live instant; history begins 30 days before its midnight.
        symbols_max: Only so many of the symbols, greatest first.
    """

    def __init__(self, seed: int, *, anchor_ms: int, symbols_max: int | None = None) -> None:
        self.symbols = tuple(_PROFILES)[:symbols_max]
        self.first_ms = anchor_ms // DAY_MS * DAY_MS - HISTORY_DAYS * DAY_MS
        self.end_ms: int | None = None
        self._seed = seed
        self._day = lru_cache(_CHUNKS_KEPT)(self._build_day)
        self._market_day = lru_cache(8)(self._build_market_day)

    def minutes(self, symbol: str, start_ms: int, end_ms: int) -> Candles:
        start_ms = max(start_ms, self.first_ms)
        if symbol not in self.symbols or start_ms >= end_ms:
            return Candles.empty("1m", self.symbols)
        days = range(start_ms // DAY_MS, (end_ms - 1) // DAY_MS + 1)
        rows = Candles.concat([self._day(symbol, day) for day in days])
        first, last = np.searchsorted(rows.open_time, [start_ms, end_ms])
        return rows.take(slice(first, last))

    def at(self, open_ms: int) -> Candles:
        if open_ms < self.first_ms:
            return Candles.empty("1m", self.symbols)
        day, minute = open_ms // DAY_MS, open_ms % DAY_MS // timeframes.MINUTE_MS
        return Candles.concat([self._day(name, day).take(slice(minute, minute + 1)) for name in self.symbols])

    def _rng(self, name: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode()), *numbers])

    def _midnight(self, name: str, day: int, sigma_day: float) -> float:
        """Log price against the long-run mean at the midnight that begins *day*."""
        total = 0.0
        for days, size in ((2, 0.8), (5, 1.3), (13, 2.2), (34, 3.0)):
            node, within = divmod(day, days)
            left, right = (self._rng(name, days, n).uniform(-1, 1) for n in (node, node + 1))
            share = within / days
            total += size * (left + (right - left) * share * share * (3 - 2 * share))
        return total * sigma_day

    def _walk(self, name: str, day: int, sigma_day: float, returns: _Array) -> _Array:
        """Log price after each minute of *day*: the sum of *returns*, bent to meet the next midnight."""
        start = self._midnight(name, day, sigma_day)
        path = start + np.cumsum(returns)
        miss = self._midnight(name, day + 1, sigma_day) - path[-1]
        bent: _Array = path + miss * np.arange(1, _MINUTES + 1) / _MINUTES
        return bent

    def _build_market_day(self, day: int) -> _Array:
        rng = self._rng("the whole market", day)
        returns = _regime(rng) * rng.standard_t(4, _MINUTES) * (_MARKET_SIGMA_DAY / np.sqrt(2 * _MINUTES))
        return self._walk("the whole market", day, _MARKET_SIGMA_DAY, returns)

    def _build_day(self, name: str, day: int) -> Candles:
        profile = _PROFILES[name]
        rng = self._rng(name, day)
        sigma = profile.sigma_day / np.sqrt(2 * _MINUTES)  # √2: the spread of Student's t with 4 degrees
        regime = _regime(rng)
        volume_burst, drift = _bursts(rng)
        shock = rng.standard_t(4, _MINUTES)
        returns = sigma * regime * (shock * np.sqrt(volume_burst) ** 0.7 + drift)
        own = self._walk(name, day, profile.sigma_day, returns)
        log_close = np.log(profile.price) + own + profile.beta * self._market_day(day)

        decimals = int(np.clip(4 - np.floor(np.log10(profile.price)), 2, 8))
        close = np.round(np.exp(log_close), decimals)
        traded = rng.uniform(size=_MINUTES) >= profile.quiet
        traded[-1] = True  # so that the next day can know this day's last close
        last_traded = np.maximum.accumulate(np.where(traded, np.arange(_MINUTES), -1))
        opening = self._midnight(name, day, profile.sigma_day) + profile.beta * self._midnight(
            "the whole market", day, _MARKET_SIGMA_DAY
        )
        before = np.round(profile.price * np.exp(opening), decimals)
        close = np.where(last_traded >= 0, close[last_traded], before)
        open_ = np.concatenate([[before], close[:-1]])
        wick = np.abs(rng.standard_normal((2, _MINUTES))) * sigma * regime * 0.6 * traded
        tick = 10.0**-decimals
        high = np.maximum(
            np.maximum(open_, close), np.round(np.maximum(open_, close) * (1 + wick[0]), decimals)
        )
        low = np.minimum(
            np.minimum(open_, close), np.round(np.minimum(open_, close) * (1 - wick[1]), decimals)
        )
        low = np.maximum(low, tick)

        busy = (
            regime**1.2
            * volume_burst
            * (0.5 + 0.6 * np.abs(shock))
            * np.exp(0.4 * rng.standard_normal(_MINUTES))
        )
        quote = profile.quote_volume_day / _MINUTES * busy * traded
        volume = np.round(quote / close, int(np.clip(5 - decimals, 0, 5)))
        volume = np.where(traded, np.maximum(volume, 10.0 ** -np.clip(5 - decimals, 0, 5)), 0.0)
        return Candles.of(
            "1m",
            (name,),
            {
                "symbol": np.zeros(_MINUTES),
                "open_time": day * DAY_MS + np.arange(_MINUTES, dtype=np.int64) * timeframes.MINUTE_MS,
                "open": open_,
                "high": high,
                "low": low,
                "close": close,
                "volume": volume,
                "quote_volume": np.round(volume * (open_ + high + low + close) / 4, 4),
                "trades": np.where(traded, 1 + quote // 450, 0),  # an ordinary trade is some hundred USDT
            },
        )


def _regime(rng: np.random.Generator) -> _Array:
    """Volatility against the day's mean, per minute: slow and quick swings between about 0.4 and 2.5."""
    minutes = np.arange(_MINUTES)
    total = np.zeros(_MINUTES)
    for spacing, size in ((360, 0.3), (60, 0.25), (15, 0.15)):
        nodes = rng.standard_normal(_MINUTES // spacing + 1) * size
        total += np.interp(minutes, np.arange(len(nodes)) * spacing, nodes)
    return np.exp(total)


def _bursts(rng: np.random.Generator) -> tuple[_Array, _Array]:
    """Volume multiple and drift (in sigmas a minute) of a day's bursts; 1 and 0 outside them."""
    volume, drift = np.ones(_MINUTES), np.zeros(_MINUTES)
    for _ in range(rng.poisson(5)):
        start, length = int(rng.integers(_MINUTES)), int(rng.integers(3, 40))
        fade = np.linspace(1, 0.1, length)[: _MINUTES - start]
        volume[start : start + length] += rng.uniform(3, 19) * fade
        drift[start : start + length] += rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 2.5) * fade
    return volume, drift
