"""
`ExchangeClient`: Binance spot market data over REST and streams, within the exchange's rules.

Decided here: what each answer means (one table below), what is retried, what counts for the breaker, and which rows
are closed candles: those whose close time lies before the exchange's own clock, never judged by position or by ours.

    answer                         raises               then
    200                            -                    breaker closes
    429, or code -1003             RateLimited          all REST stops until Retry-After (else a minute)
    418                            Banned               the same, until the ban ends (else 2 minutes)
    403 (HTML)                     Blocked              the same, 5 minutes: the firewall names no time
    451                            RegionRefused        the same, an hour: waiting does not help
    5xx, theirs, no answer         ExchangeUnavailable  up to 3 attempts, each counts for the breaker
    any other 4xx                  RequestInvalid       never retried; the exchange is well
    200, but not as documented     AnswerInvalid        never retried

No credentials: market data needs none. Hosts are arguments, so the simulated exchange is asked by this same code.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar, cast

import aiohttp
import msgspec
import numpy as np
import stamina

from app.domain import timeframes
from app.market import errors
from app.market.breaker import Breaker, Permit
from app.market.budget import WeightBudget
from app.market.candles import Candles
from app.market.streams import KlineStreams, StreamEvent, StreamLimits
from app.market.universe import ExchangeInfo

REST_URL: Final = "https://data-api.binance.vision"
STREAM_URL: Final = "wss://data-stream.binance.vision"

KLINES_MAX: Final = 1_000  # rows per request, at a weight of 2 whatever the count
_FIREWALL_S: Final = 300.0
_REGION_S: Final = 3_600.0
_RATE_S: Final = 60.0  # the weight window
_BAN_S: Final = 120.0  # the shortest ban
# Codes that mean "not your fault" whatever the HTTP status: disconnected, timeout, unexpected response, overloaded ...
_THEIRS: Final = frozenset({-1000, -1001, -1006, -1007, -1008, -1016})
_TOO_MANY_REQUESTS: Final = -1003

_Row = tuple[int, float, float, float, float, float, int, float, int, float, float, float]
_T = TypeVar("_T")


class _ServerTime(msgspec.Struct, frozen=True, rename="camel"):
    server_time: int


class _Ticker(msgspec.Struct, frozen=True, rename="camel"):
    symbol: str
    quote_volume: float


class _Refused(msgspec.Struct, frozen=True):
    code: int
    msg: str = ""


class _Answer(NamedTuple):
    status: int
    retry_after: str | None
    body: bytes


# Not strict: decimals come as strings.
_ROWS: Final = msgspec.json.Decoder(list[_Row], strict=False)
_TIME: Final = msgspec.json.Decoder(_ServerTime)
_INFO: Final = msgspec.json.Decoder(ExchangeInfo)
_TICKERS: Final = msgspec.json.Decoder(list[_Ticker], strict=False)
_REFUSAL: Final = msgspec.json.Decoder(_Refused)


class ExchangeClient:
    """
    An async context manager; one per process, shared by everyone in it.

    Args:
        rest_url: ``https://host[:port]``.
        stream_url: ``wss://host[:port]``.
        budget: Weight budget; its own when not given.
        breaker: Its own when not given.
        clock: Monotonic seconds, for the age of what we know of the exchange's clock.
        timeout_s: Of one attempt; above the 10 s after which the exchange gives up itself (-1007).
        attempts: For `ExchangeUnavailable` only.
        retry_wait_s: Before the second attempt; doubles, with as much jitter.
        time_fresh_s: Newest rows are judged by a look at the exchange's clock not older than this.
        stream_limits: Times of the stream connections.
    """

    def __init__(
        self,
        rest_url: str = REST_URL,
        stream_url: str = STREAM_URL,
        *,
        budget: WeightBudget | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = 12.0,
        attempts: int = 3,
        retry_wait_s: float = 0.2,
        time_fresh_s: float = 1.0,
        stream_limits: StreamLimits | None = None,
    ) -> None:
        self.budget = budget or WeightBudget()
        self.breaker = breaker or Breaker()
        self._rest_url = rest_url.rstrip("/")
        self._stream_url = stream_url.rstrip("/")
        self._clock = clock
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._retry_wait_s = retry_wait_s
        self._time_fresh_s = time_fresh_s
        self._stream_limits = stream_limits or StreamLimits()
        self._server_ms = 0
        self._server_asked_at = float("-inf")
        self._asking_time = asyncio.Lock()
        self._open_session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        self._open_session = aiohttp.ClientSession(timeout=timeout, headers={"Accept": "application/json"})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open_session is not None:
            await self._open_session.close()
            self._open_session = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._open_session is None:
            raise RuntimeError("an ExchangeClient is used inside 'async with'")
        return self._open_session

    async def server_time(self) -> int:
        """
        The exchange's clock in milliseconds. Weight 1.

        Raises:
            ExchangeError: As the table of this module says; so for every method here.
        """
        # Noted as of when it was asked, not answered: what it says was true then or later.
        asked_at = self._clock()
        now_ms = _decoded(_TIME, await self._get("time", 1)).server_time
        self._server_ms, self._server_asked_at = now_ms, asked_at
        return now_ms

    async def exchange_info(self) -> ExchangeInfo:
        """Every symbol the exchange lists. Weight 20."""
        return _decoded(_INFO, await self._get("exchangeInfo", 20))

    async def quote_volumes(self) -> dict[str, float]:
        """24 h volume in the quote asset, by symbol. Weight 80."""
        tickers = _decoded(_TICKERS, await self._get("ticker/24hr", 80, {"type": "MINI"}))
        return {ticker.symbol: ticker.quote_volume for ticker in tickers}

    async def klines(
        self,
        symbol: str,
        interval: str,
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = KLINES_MAX,
    ) -> Candles:
        """
        Closed candles of one symbol, oldest first. Weight 2, plus 1 when the window reaches the present.

        Args:
            symbol: As the exchange writes it.
            interval: A timeframe.
            start_ms: Open time of the first candle wanted; the oldest *limit* from there on.
            end_ms: Greatest open time wanted. Without *start_ms*, the newest *limit* up to it, or up to now.
            limit: 1 … 1000 rows asked for; the unfinished candle is one of them and is left out of the result.

        Returns:
            Valid candles; none is an empty batch (outage, not yet listed, delisted).

        Raises:
            ExchangeError: As the table of this module says.
            CandleInvalid: The exchange sent an impossible candle.
            ValueError: *interval* is no timeframe, or *limit* is out of range.
        """
        if not 1 <= limit <= KLINES_MAX:
            raise ValueError(f"limit {limit} is not in 1 … {KLINES_MAX}")
        length = timeframes.length_ms(interval)
        params = {"symbol": symbol, "interval": interval, "limit": str(limit)}
        if start_ms is not None:
            params["startTime"] = str(start_ms)
        if end_ms is not None:
            params["endTime"] = str(end_ms)
        # Before the rows are asked for: a row closed by this clock was closed when it was sent.
        server_ms = await self._server_ms_for(end_ms, length)
        rows = _decoded(_ROWS, await self._get("klines", 2, params))
        closed = [row for row in rows if row[6] < server_ms]
        return _candles(symbol, interval, closed)

    async def klines_between(self, symbol: str, interval: str, start_ms: int, end_ms: int) -> Candles:
        """
        All closed candles of one symbol with start ≤ open time < end, oldest first, 1000 per request.

        Raises:
            ExchangeError, CandleInvalid, ValueError: As `klines`.
        """
        pages: list[Candles] = []
        while start_ms < end_ms:
            page = await self.klines(symbol, interval, start_ms=start_ms, end_ms=end_ms - 1)
            if not len(page):
                break
            pages.append(page)
            start_ms = int(page.close_time[-1])
        return Candles.concat(pages, interval)

    async def stream_klines(self, symbols: Sequence[str]) -> AsyncGenerator[StreamEvent, None]:
        """
        Closed 1m candles of *symbols* as they come, each once, and `StreamUp` / `StreamDown` for the connections.

        Reconnects by itself, for ever. Close the generator (``contextlib.aclosing``) to end the connections. Order is
        that of arrival: candles may be late, out of order or missing; see `app.market.streams`.
        """
        streams = KlineStreams(
            self._session, self._stream_url, symbols, server_time=self.server_time, limits=self._stream_limits
        )
        events = cast("AsyncGenerator[StreamEvent, None]", streams.events())
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def _server_ms_for(self, end_ms: int | None, length_ms: int) -> int:
        """A time the exchange's clock has passed, good enough to tell which rows up to *end_ms* are closed."""

        def known_enough() -> bool:
            if end_ms is not None:
                return end_ms - end_ms % length_ms + length_ms <= self._server_ms
            return self._clock() - self._server_asked_at < self._time_fresh_s

        if not known_enough():
            async with self._asking_time:  # one asks, the others use its answer
                if not known_enough():
                    await self.server_time()
        return self._server_ms

    async def _get(self, path: str, weight: int, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a 200, with short retries for what is theirs."""
        retrying = stamina.retry_context(
            on=errors.ExchangeUnavailable,
            attempts=self._attempts,
            timeout=None,
            wait_initial=self._retry_wait_s,
            wait_max=self._retry_wait_s * 8,
            wait_jitter=self._retry_wait_s,
        )
        async for attempt in retrying:
            with attempt:
                return await self._ask(path, weight, params)
        raise AssertionError("stamina returns or raises")

    async def _ask(self, path: str, weight: int, params: Mapping[str, str] | None) -> bytes:
        self.breaker.check()  # before the budget: nobody waits for a minute to be refused
        minute = await self.budget.spend(weight)
        permit = self.breaker.acquire()
        try:
            answer = await self._send(path, params, minute)
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            reason = f"{path} failed: {str(error) or f'no answer within {self._timeout_s:g} s'}"
            self.breaker.fail(permit, reason)
            raise errors.ExchangeUnavailable(f"The exchange did not answer: {reason}.") from error
        except BaseException:
            self.breaker.forget(permit)
            raise
        if answer.status == 200:
            self.breaker.succeed(permit)
            return answer.body
        raise self._refused(permit, path, answer)

    async def _send(self, path: str, params: Mapping[str, str] | None, minute: int) -> _Answer:
        async with self._session.get(f"{self._rest_url}/api/v3/{path}", params=params) as response:
            body = await response.read()
            used = response.headers.get("X-MBX-USED-WEIGHT-1M", "")
            if used.isdecimal():
                self.budget.observe(int(used), minute=minute)
            return _Answer(response.status, response.headers.get("Retry-After"), body)

    def _refused(self, permit: Permit, path: str, answer: _Answer) -> errors.ExchangeError:
        """The error an answer other than 200 stands for, after telling the breaker."""
        status = answer.status
        refused = _refusal(answer.body)
        said = f"HTTP {status} on {path}" + (
            f", {refused.code}: {refused.msg.rstrip('.')}" if refused else ""
        )
        if status in (418, 429) or (refused and refused.code == _TOO_MANY_REQUESTS):
            wait_s = _wait_s(answer, refused)
            self.breaker.hold(wait_s, said)
            kind = errors.Banned if status == 418 else errors.RateLimited
            return kind(f"The exchange told us to wait {wait_s:.0f} s ({said}).", retry_after_s=wait_s)
        if status == 403:
            self.breaker.hold(_FIREWALL_S, said)
            return errors.Blocked(f"The exchange's firewall refused us ({said}).", retry_after_s=_FIREWALL_S)
        if status == 451:
            self.breaker.hold(_REGION_S, f"it does not serve this region ({said})")
            return errors.RegionRefused(
                f"The exchange does not serve the region this machine is in ({said}); run it elsewhere or set other hosts."
            )
        if status >= 500 or (refused and refused.code in _THEIRS):
            self.breaker.fail(permit, said)
            return errors.ExchangeUnavailable(f"The exchange is not well ({said}).")
        self.breaker.succeed(permit)
        if status >= 400:
            code = refused.code if refused else None
            return errors.RequestInvalid(
                f"The exchange refused our request ({said}).", status=status, code=code
            )
        return errors.AnswerInvalid(f"The exchange answered with an unexpected status ({said}).")


def _refusal(body: bytes) -> _Refused | None:
    """Code and message of an error body; None when it is not the exchange's JSON (a firewall's page)."""
    try:
        return _REFUSAL.decode(body)
    except msgspec.DecodeError:
        return None


def _wait_s(answer: _Answer, refused: _Refused | None) -> float:
    """How long 418 or 429 told us to wait: Retry-After, else the instant in the text, else the shortest there is."""
    if answer.retry_after is not None and answer.retry_after.strip().isdecimal():
        return float(answer.retry_after)
    until = re.search(r"banned until (\d{13})", refused.msg) if refused else None
    if until is not None:
        return max(1.0, int(until[1]) / 1_000 - time.time())
    return _BAN_S if answer.status == 418 else _RATE_S


def _decoded(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise errors.AnswerInvalid(
            f"The exchange answered with something else than documented: {error}."
        ) from error


def _candles(symbol: str, interval: str, rows: list[_Row]) -> Candles:
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
    return Candles.of(interval, (symbol,), columns).checked()
