"""
Closed 1m candles from the exchange's streams, over several connections that look after themselves.

Decided here: how symbols are spread over connections, what a sign of life is, when a connection is replaced, what
counts as a repeat. Not decided: whether a minute is complete. **The stream alone is no reliable close signal** (closes
come up to 30 s late or never): the consumer repairs by REST, and so fills the hole after every `StreamUp` with
``hole``. A connection ends by: network or close frame · silence · a frame of which not even the symbol can be read ·
serverShutdown, age or a change of its symbols (these three: the new one first, so nothing is lost). A candle that cannot
be is passed on as refused, and its connection goes on.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from app.market import errors
from app.market.candles import Candle, RefusedCandle, fault_of, nearest_bar_ms

_log = structlog.get_logger(__name__)

CONNECTIONS_MIN: Final = 3  # one that dies takes a third of the market with it, not all
STREAMS_MAX: Final = 170  # of the 1024 allowed: names average 20 bytes, and the URL is what limits
URL_BYTES_MAX: Final = (
    4_000  # above ~4,096 bytes requests were ignored without an error (binance-connector-rust#27)
)
_REMEMBERED: Final = 16  # candles per symbol that a repeat is looked for in
_QUEUE_MAX: Final = 50_000
_jitter = random.SystemRandom()


@dataclass(frozen=True)
class StreamUp:
    """A connection delivers *symbols* from now on. With *hole*, closes before it may have been missed: ask REST."""

    symbols: tuple[str, ...]
    hole: bool


@dataclass(frozen=True)
class StreamDown:
    """A connection ended; until the next `StreamUp` nothing comes for *symbols*."""

    symbols: tuple[str, ...]
    reason: str


StreamEvent = Candle | RefusedCandle | StreamUp | StreamDown


@dataclass(frozen=True)
class StreamLimits:
    """
    Times of a connection, in wall seconds.

    Attributes:
        age_max_s: Replaced at this age; the exchange cuts at 24 h.
        silence_max_s: Nothing at all for so long is dead: the server pings every 20 s.
        quiet_max_s: No event for so long, while the exchange's clock moved on by `QUIET_MARKET_MS`, is dead.
        connect_timeout_s: For the handshake.
        stagger_s: Between the first handshakes.
        overlap_s: How long a connection is still read after its successor is up.
        retry_wait_s, retry_wait_max_s: Before reconnecting: doubling, times 0.5 … 1 at random. 300 attempts in 5 min
            are allowed per address.
    """

    age_max_s: float = 23 * 3_600.0
    silence_max_s: float = 45.0
    quiet_max_s: float = 90.0
    connect_timeout_s: float = 10.0
    stagger_s: float = 0.2
    overlap_s: float = 1.0
    retry_wait_s: float = 0.5
    retry_wait_max_s: float = 30.0


# A symbol closes a candle each minute, trades or not: half a minute more is late by any experience.
QUIET_MARKET_MS: Final = 90_000


class _Kline(msgspec.Struct, frozen=True):
    t: int
    s: str
    i: str
    o: float
    h: float
    l: float  # noqa: E741 - the exchange's name
    c: float
    v: float
    q: float
    n: int
    x: bool


class _Event(msgspec.Struct, frozen=True):
    event_ms: int = msgspec.field(name="E")
    k: _Kline = msgspec.field()


class _Frame(msgspec.Struct, frozen=True):
    data: _Event


_FRAME: Final = msgspec.json.Decoder(_Frame, strict=False)  # not strict: decimals come as strings


class _Named(msgspec.Struct, frozen=True):
    """A frame as far as it can be trusted when the rest cannot be read."""

    stream: str
    data: msgspec.Raw = msgspec.Raw(b"")


_NAMED: Final = msgspec.json.Decoder(_Named)
_OPEN_TIME: Final = re.compile(rb'"t":(\d{10,16})')


def closed_candle(frame: bytes) -> Candle | RefusedCandle | None:
    """
    The closed 1m candle in a combined-stream frame, refused when it cannot be; None for every other frame.

    Frames of unfinished candles are 30 times as many and are passed over without decoding.

    Raises:
        AnswerInvalid: The frame says it closes a candle, but not whose.
    """
    if b'"x":true' not in frame:
        return None
    try:
        k = _FRAME.decode(frame).data.k
    except msgspec.DecodeError as error:
        return _unreadable(frame, error)
    candle = Candle(k.s, k.t, k.o, k.h, k.l, k.c, k.v, k.q, k.n)
    fault = fault_of(candle) if k.i == "1m" else f"its interval is {k.i}"
    if fault is not None:
        return _refused(k.s, k.t, fault, frame)
    return candle


def _unreadable(frame: bytes, error: Exception) -> RefusedCandle:
    opened = _OPEN_TIME.search(frame)
    try:
        stream = _NAMED.decode(frame).stream
    except msgspec.DecodeError:
        stream = ""
    symbol, _, kind = stream.partition("@")
    if kind != "kline_1m" or opened is None:
        raise errors.AnswerInvalid(f"The exchange sent a frame that is no kline event: {error}.") from error
    return _refused(symbol.upper(), int(opened[1]), f"it cannot be read: {error}", frame)


def _refused(symbol: str, open_ms: int, what: str, frame: bytes) -> RefusedCandle:
    text = frame.decode(errors="replace")
    return RefusedCandle(symbol, "1m", nearest_bar_ms(open_ms, "1m"), what, text)


def shard_symbols(stream_url: str, symbols: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """
    Spread *symbols* evenly over as few connections as the limits allow, at least three.

    Returns:
        URL and symbols of each connection; each URL is below 4 kB and names at most 170 streams.
    """
    count = max(min(CONNECTIONS_MIN, len(symbols)), -(-len(symbols) // STREAMS_MAX))
    while count:
        shards = [tuple(symbols[i::count]) for i in range(count)]
        urls = [_url(stream_url, shard) for shard in shards]
        if max(map(len, urls)) <= URL_BYTES_MAX:
            return list(zip(urls, shards, strict=True))
        count += 1
    return []


def _url(stream_url: str, symbols: Sequence[str]) -> str:
    # Percent-encoded: symbols need not be ASCII (币安人生USDT trades).
    return f"{stream_url}/stream?streams=" + "/".join(f"{quote(name.lower())}@kline_1m" for name in symbols)


@dataclass(eq=False)
class _Shard:
    """
    What one connection listens to; a change retires the connection, whose successor takes the new symbols.

    Attributes:
        symbols: Wanted now.
        connection: The newest one.
    """

    symbols: tuple[str, ...]
    connection: "_Connection | None" = None
    keeper: "asyncio.Task[None] | None" = None

    def has_room(self, stream_url: str, symbol: str) -> bool:
        wanted = (*self.symbols, symbol)
        return len(wanted) <= STREAMS_MAX and len(_url(stream_url, wanted)) <= URL_BYTES_MAX


@dataclass(eq=False)
class _Connection:
    url: str
    symbols: tuple[str, ...]
    socket: aiohttp.ClientWebSocketResponse[Literal[False]]  # frames stay bytes
    retire: asyncio.Event = field(default_factory=asyncio.Event)
    heard_at: float = 0.0  # loop time of the last frame of any kind
    event_at: float = 0.0  # loop time of the last event
    event_ms: int | None = None  # exchange's clock when events were last known to come


class KlineStreams:
    """
    Args:
        session: For the handshakes.
        stream_url: ``wss://host``, without path.
        symbols: As the exchange writes them, upper case.
        server_time: Asks the exchange for its clock in ms, to tell a silent stream from a market that stands still.
        limits: Times.

    Attributes:
        reconnect_count: Connections that broke, or could not be made.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        stream_url: str,
        symbols: Sequence[str],
        *,
        server_time: Callable[[], Awaitable[int]],
        limits: StreamLimits,
    ) -> None:
        self._session = session
        self._stream_url = stream_url
        self._shards = [_Shard(names) for _, names in shard_symbols(stream_url, symbols)]
        self._server_time = server_time
        self._limits = limits
        self._seen: dict[str, deque[Candle]] = {name: deque(maxlen=_REMEMBERED) for name in symbols}
        self._events: asyncio.Queue[StreamEvent | Exception] = asyncio.Queue(_QUEUE_MAX)
        self.reconnect_count = 0
        self._is_running = False

    @property
    def symbols(self) -> frozenset[str]:
        """What is listened to."""
        return frozenset(name for shard in self._shards for name in shard.symbols)

    def change(self, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """
        Listen to other symbols from now on, without a hole in those that stay.

        A connection that gets symbols is replaced, the new one first. One that only loses some goes on as it is: what
        does not trade is silent.
        """
        gone = set(remove)
        for shard in self._shards:
            shard.symbols = tuple(name for name in shard.symbols if name not in gone)
        for shard in [shard for shard in self._shards if not shard.symbols]:
            self._shards.remove(shard)
            if shard.keeper is not None:
                shard.keeper.cancel()
        changed: list[_Shard] = []
        for name in sorted(set(add) - self.symbols):
            self._seen[name] = deque(maxlen=_REMEMBERED)
            shard = self._place(name)
            shard.symbols = (*shard.symbols, name)
            changed.append(shard)
        for shard in changed:
            if shard.connection is not None:
                shard.connection.retire.set()
            elif shard.keeper is None and self._is_running:
                self._start(shard, wait_s=0.0)
        for name in gone - self.symbols:
            self._seen.pop(name, None)

    def _place(self, name: str) -> _Shard:
        """The smallest connection with room; a new one where there are fewer than three, or none has room."""
        roomy = [shard for shard in self._shards if shard.has_room(self._stream_url, name)]
        if roomy and len(self._shards) >= CONNECTIONS_MIN:
            return min(roomy, key=lambda shard: len(shard.symbols))
        shard = _Shard(())
        self._shards.append(shard)
        return shard

    def _start(self, shard: _Shard, *, wait_s: float) -> None:
        shard.keeper = asyncio.create_task(self._keep(shard, wait_s=wait_s))
        shard.keeper.add_done_callback(self._pass_on_failure)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Candles and what happens to connections, for ever; connections end when the iterator is closed."""
        self._is_running = True
        for i, shard in enumerate(self._shards):
            self._start(shard, wait_s=i * self._limits.stagger_s)
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self._is_running = False
            tasks = [shard.keeper for shard in self._shards if shard.keeper is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _pass_on_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._events.put_nowait(error)

    async def _keep(self, shard: _Shard, *, wait_s: float) -> None:
        """Keep one shard connected: reconnect when it breaks, replace it before it is cut."""
        await asyncio.sleep(wait_s)
        current: asyncio.Task[str] | None = None
        follows: set[asyncio.Task[str]] = set()
        failures = 0
        try:
            while True:
                connection = shard.connection = await self._connect(shard)
                symbols = connection.symbols
                if symbols != shard.symbols:  # changed while it was connecting
                    connection.retire.set()
                if current is not None and current.done():  # it broke while its successor was connecting
                    self.reconnect_count += 1
                    await self._events.put(StreamDown(symbols, current.result()))
                    current = None
                await self._events.put(StreamUp(symbols, hole=current is None))
                successor = asyncio.create_task(self._follow(connection))
                follows.add(successor)
                successor.add_done_callback(follows.discard)
                if current is not None:  # what left on the old one before the new one was there has to arrive
                    await asyncio.sleep(self._limits.overlap_s)
                    current.cancel()
                current = successor
                retired = asyncio.create_task(connection.retire.wait())
                try:
                    await asyncio.wait({current, retired}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    retired.cancel()
                if current.done():
                    self.reconnect_count += 1
                    await self._events.put(StreamDown(symbols, current.result()))
                    current = None
                    failures = 0 if connection.event_ms else failures + 1
                    await asyncio.sleep(self._wait_s(failures))
        finally:
            for task in tuple(follows):
                task.cancel()
            await asyncio.gather(*follows, return_exceptions=True)

    async def _connect(self, shard: _Shard) -> _Connection:
        """A new connection, however long it takes."""
        failures = 0
        while True:
            symbols = shard.symbols
            url = _url(self._stream_url, symbols)
            try:
                async with asyncio.timeout(self._limits.connect_timeout_s):
                    socket = await self._session.ws_connect(
                        url, autoping=False, decode_text=False, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)
                    )
                return _Connection(url, symbols, socket)
            except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
                failures += 1
                self.reconnect_count += 1
                wait_s = self._wait_s(failures)
                reason = str(error) or type(error).__name__
                _log.warning(
                    "stream handshake failed",
                    host=url.partition("?")[0],
                    reason=reason,
                    wait_s=round(wait_s, 2),
                )
                await asyncio.sleep(wait_s)

    def _wait_s(self, failures: int) -> float:
        longest: float = min(
            self._limits.retry_wait_s * 2.0 ** min(failures, 10), self._limits.retry_wait_max_s
        )
        return longest * _jitter.uniform(0.5, 1.0)

    async def _follow(self, connection: _Connection) -> str:
        """Pass on what a connection delivers until it ends; why it ended."""
        loop = asyncio.get_running_loop()
        connection.heard_at = connection.event_at = loop.time()
        aging = loop.call_later(self._limits.age_max_s * _jitter.uniform(0.98, 1.0), connection.retire.set)
        parts = [asyncio.create_task(self._read(connection)), asyncio.create_task(self._watch(connection))]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            aging.cancel()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await connection.socket.close()

    async def _read(self, connection: _Connection) -> str:
        loop = asyncio.get_running_loop()
        while True:
            message = await connection.socket.receive()
            connection.heard_at = loop.time()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                connection.event_at = connection.heard_at
                try:
                    await self._take(connection, message.data)
                except errors.AnswerInvalid as error:
                    return str(error)
            elif message.type is aiohttp.WSMsgType.PING:
                await connection.socket.pong(message.data)
            elif message.type is not aiohttp.WSMsgType.PONG:
                return (
                    f"the connection was closed ({connection.socket.close_code or 'without a close frame'})"
                )

    async def _take(self, connection: _Connection, frame: bytes) -> None:
        candle = closed_candle(frame)
        if candle is None:
            if b'"serverShutdown"' in frame:
                connection.retire.set()
            return
        connection.event_ms = candle.open_time + 60_000
        if isinstance(candle, Candle):
            seen = self._seen.get(candle.symbol)
            if seen is None or candle in seen:
                return
            seen.append(candle)  # another copy of a minute is news: a correction
        await self._events.put(candle)

    async def _watch(self, connection: _Connection) -> str:
        """Return once the connection is open but dead."""
        loop = asyncio.get_running_loop()
        limits = self._limits
        checked_at = loop.time()
        while True:
            await asyncio.sleep(min(limits.silence_max_s, limits.quiet_max_s) / 4)
            now = loop.time()
            if now - connection.heard_at > limits.silence_max_s:
                return f"nothing was heard for {limits.silence_max_s:g} s, not even a ping"
            if now - max(connection.event_at, checked_at) > limits.quiet_max_s:
                checked_at = now
                if await self._market_moved_on(connection):
                    return f"no event came for {limits.quiet_max_s:g} s while the exchange's clock went on"

    async def _market_moved_on(self, connection: _Connection) -> bool:
        """Whether the exchange's clock has passed closes that never came: a market that stands still has none."""
        try:
            now_ms = await self._server_time()
        except errors.ExchangeError as error:
            _log.warning("cannot tell a silent stream from a market that stands still", reason=str(error))
            return False
        if connection.event_ms is None:  # nothing came yet: measure from this look on
            connection.event_ms = now_ms
            return False
        return now_ms - connection.event_ms >= QUIET_MARKET_MS
