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

Each hold, and the breaker's opening, is passed to the `HoldRecord`, which may lengthen it (a repeated refusal) and which
whoever asks next reads. No credentials: market data needs none. Hosts are arguments, so the simulated exchange is asked by this same code.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeVar

import aiohttp
import msgspec
import stamina

from app.domain import timeframes
from app.market import errors
from app.market.breaker import Breaker, Permit
from app.market.budget import WeightBudget
from app.market.candles import Candles, RefusedCandle
from app.market.kline_rows import OnRefused, read_rows
from app.market.streams import KlineStreams, StreamLimits
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


_TIME: Final = msgspec.json.Decoder(_ServerTime)
_INFO: Final = msgspec.json.Decoder(ExchangeInfo)
# Not strict: decimals come as strings.
_TICKERS: Final = msgspec.json.Decoder(list[_Ticker], strict=False)
_REFUSAL: Final = msgspec.json.Decoder(_Refused)


class HoldRecord(Protocol):
    """Where it is written down that the exchange must not be asked."""

    async def hold(self, status: int | None, wait_s: float, reason: str) -> float:
        """The exchange refused us (None: the breaker opened); returns for how long it is not asked, at least *wait_s*."""

    async def answered(self) -> None:
        """The exchange answered."""


class NoRecord:
    """Holds end with the process."""

    async def hold(self, _status: int | None, wait_s: float, _reason: str) -> float:
        return wait_s

    async def answered(self) -> None:
        return


class OwnTime(NamedTuple):
    """The database's market clock: ms since the epoch, and whether the market's candles have ended there."""

    now_ms: int
    has_ended: bool = False


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
        record: Where holds are kept.
        own_time: A second clock; None from it, or no such clock: only the exchange's counts.
        margin_s: What both clocks must have passed a bar's end by, in market time, before its row counts as closed.
        on_answer: Called with each answer's status; 0 for none.
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
        record: HoldRecord | None = None,
        own_time: Callable[[], Awaitable[OwnTime | None]] | None = None,
        margin_s: float = 0.0,
        on_answer: Callable[[int], None] = lambda _status: None,
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
        self._record = record or NoRecord()
        self._own_time = own_time
        self.has_ended = False  # as of the last look at the clocks
        self._margin_ms = int(margin_s * 1_000)
        self._on_answer = on_answer
        self._settled_ms = 0
        self._settled_asked_at = float("-inf")
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
        return _decoded(_TIME, await self._get("time", 1)).server_time

    @property
    def settled_ms(self) -> int:
        """What `settled_time` said last: of bars that close later nobody has said that they do not exist."""
        return self._settled_ms

    async def settled_time(self) -> int:
        """
        The instant up to which bars are closed: the exchange's clock and our own have both passed it, by the margin. Weight 1.

        An exchange whose clock runs ahead sends unfinished candles that look closed; one of two clocks is right.
        """
        # Noted as of when it was asked, not answered: what it says was true then or later.
        asked_at = self._clock()
        now_ms = await self.server_time()
        own = None if self._own_time is None else await self._own_time()
        margin_ms = self._margin_ms
        if own is not None:
            now_ms = min(now_ms, own.now_ms)
            self.has_ended = own.has_ended
            if own.has_ended:  # time stands still: nothing is under way
                margin_ms = 0
        self._settled_ms, self._settled_asked_at = now_ms - margin_ms, asked_at
        return self._settled_ms

    async def ping(self) -> None:
        """Whether the exchange is well, whatever one pair's answers say. Weight 1."""
        await self._get("ping", 1)

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
        background: bool = False,
        on_refused: OnRefused | None = None,
    ) -> Candles:
        """
        Closed candles of one symbol, oldest first. Weight 2, plus 1 when the window reaches the present.

        Args:
            symbol: As the exchange writes it.
            interval: A timeframe.
            start_ms: Open time of the first candle wanted; the oldest *limit* from there on.
            end_ms: Greatest open time wanted. Without *start_ms*, the newest *limit* up to it, or up to now.
            limit: 1 … 1000 rows asked for; the unfinished candle is one of them and is left out of the result.
            background: It is history, which leaves a share of the weight to others.
            on_refused: Takes each closed row that cannot be a candle; without it the first one is an error.

        Returns:
            Valid candles; none is an empty batch (outage, not yet listed, delisted).

        Raises:
            ExchangeError: As the table of this module says.
            CandleInvalid: The exchange sent an impossible candle, and nobody takes it.
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
        settled_ms = await self._settled_ms_for(end_ms, length)
        body = await self._get("klines", 2, params, background=background)
        return read_rows(symbol, interval, body, settled_ms=settled_ms, on_refused=on_refused)

    async def klines_between(
        self,
        symbol: str,
        interval: str,
        start_ms: int,
        end_ms: int,
        *,
        background: bool = False,
        on_refused: OnRefused | None = None,
    ) -> Candles:
        """
        All closed candles of one symbol with start ≤ open time < end, oldest first, 1000 per request.

        With *on_refused*, a page that holds impossible rows is asked for once more, and what stays impossible is passed on.

        Raises:
            ExchangeError, CandleInvalid, ValueError: As `klines`.
        """
        pages: list[Candles] = []
        length = timeframes.length_ms(interval)
        while start_ms < end_ms:
            refused: list[RefusedCandle] = []
            for _ in range(2):
                refused.clear()
                page = await self.klines(
                    symbol,
                    interval,
                    start_ms=start_ms,
                    end_ms=end_ms - 1,
                    background=background,
                    on_refused=None if on_refused is None else refused.append,
                )
                if not refused:
                    break
            if on_refused is not None:
                for row in refused:
                    on_refused(row)
            closes = [int(page.close_time[-1])] if len(page) else []
            closes += [row.open_time + length for row in refused]
            pages.append(page)
            if not closes or max(closes) <= start_ms:
                break
            start_ms = max(closes)
        return Candles.concat(pages, interval)

    def stream_klines(self, symbols: Sequence[str]) -> KlineStreams:
        """
        Closed 1m candles of *symbols* as they come, and what happens to the connections: see `app.market.streams`.

        Iterate over its ``events()``, and close that (``contextlib.aclosing``) to end the connections; ``change`` its
        symbols at any time.
        """
        return KlineStreams(
            self._session, self._stream_url, symbols, server_time=self.server_time, limits=self._stream_limits
        )

    async def _settled_ms_for(self, end_ms: int | None, length_ms: int) -> int:
        """A settled time, good enough to tell which rows up to *end_ms* are closed."""

        def known_enough() -> bool:
            if end_ms is not None and end_ms - end_ms % length_ms + length_ms <= self._settled_ms:
                return True
            return self._clock() - self._settled_asked_at < self._time_fresh_s and end_ms is None

        if not known_enough():
            async with self._asking_time:  # one asks, the others use its answer
                if not known_enough():
                    await self.settled_time()
        return self._settled_ms

    async def _get(
        self, path: str, weight: int, params: Mapping[str, str] | None = None, *, background: bool = False
    ) -> bytes:
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
                return await self._ask(path, weight, params, background=background)
        raise AssertionError("stamina returns or raises")

    async def _ask(
        self, path: str, weight: int, params: Mapping[str, str] | None, *, background: bool
    ) -> bytes:
        self.breaker.check()  # before the budget: nobody waits for a minute to be refused
        minute = await self.budget.spend(weight, background=background)
        permit = self.breaker.acquire()
        try:
            answer = await self._send(path, params, minute)
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            self._on_answer(0)
            reason = f"{path} failed: {str(error) or f'no answer within {self._timeout_s:g} s'}"
            await self._fail(permit, reason)
            raise errors.ExchangeUnavailable(f"The exchange did not answer: {reason}.") from error
        except BaseException:
            self.breaker.forget(permit)
            raise
        self._on_answer(answer.status)
        if answer.status == 200:
            if self.breaker.succeed(permit):
                await self._record.answered()
            return answer.body
        raise await self._refused(permit, path, answer)

    async def _fail(self, permit: Permit, reason: str) -> None:
        """A failure that counts; the one that opens the breaker is put on record."""
        self.breaker.fail(permit, reason)
        if self.breaker.state == "open" and permit.generation != self.breaker.generation:
            await self._hold(None, self.breaker.open_for_s, reason)

    async def _hold(self, status: int | None, wait_s: float, reason: str) -> float:
        self.breaker.hold(wait_s, reason)  # at once: others are about to ask
        wait_s = await self._record.hold(status, wait_s, reason)
        self.breaker.hold(wait_s, reason)
        return wait_s

    async def _send(self, path: str, params: Mapping[str, str] | None, minute: int) -> _Answer:
        async with self._session.get(f"{self._rest_url}/api/v3/{path}", params=params) as response:
            body = await response.read()
            used = response.headers.get("X-MBX-USED-WEIGHT-1M", "")
            if used.isdecimal():
                self.budget.observe(int(used), minute=minute)
            return _Answer(response.status, response.headers.get("Retry-After"), body)

    async def _refused(self, permit: Permit, path: str, answer: _Answer) -> errors.ExchangeError:
        """The error an answer other than 200 stands for, after telling the breaker and the record."""
        status = answer.status
        refused = _refusal(answer.body)
        said = f"HTTP {status} on {path}" + (
            f", {refused.code}: {refused.msg.rstrip('.')}" if refused else ""
        )
        if status in (418, 429) or (refused and refused.code == _TOO_MANY_REQUESTS):
            if status != 418:
                self.budget.slow_down()
            wait_s = await self._hold(status, _wait_s(answer, refused), said)
            kind = errors.Banned if status == 418 else errors.RateLimited
            return kind(f"The exchange told us to wait {wait_s:.0f} s ({said}).", retry_after_s=wait_s)
        if status == 403:
            wait_s = await self._hold(status, _FIREWALL_S, said)
            return errors.Blocked(f"The exchange's firewall refused us ({said}).", retry_after_s=wait_s)
        if status == 451:
            await self._hold(status, _REGION_S, f"it does not serve this region ({said})")
            return errors.RegionRefused(
                f"The exchange does not serve the region this machine is in ({said}); run it elsewhere or set other hosts."
            )
        if status >= 500 or (refused and refused.code in _THEIRS):
            await self._fail(permit, said)
            return errors.ExchangeUnavailable(f"The exchange is not well ({said}).")
        if self.breaker.succeed(permit):
            await self._record.answered()
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
