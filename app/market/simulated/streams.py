"""
What the simulated exchange pushes: 1m kline events on ``/ws`` and ``/stream``, and the rules of a connection.

A closing event of every symbol leaves at each minute's close, all symbols at once; at ordinary speed the unfinished
candle follows every 2 s, as on the real exchange. A subscriber has a bounded queue: who does not read is cut off.
Streams of other kinds can be subscribed to and stay silent.
"""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from app.domain import timeframes
from app.market.candles import Candle
from app.market.simulated.clock import Clock
from app.market.simulated.faults import Faults, Way
from app.market.simulated.source import Source, unfinished

STREAMS_MAX: Final = 1_024
MESSAGES_PER_S_MAX: Final = 5  # pings and pongs count too
FRAME_BYTES_MAX: Final = 4_096  # a longer request is ignored without an answer, as the real one does
_QUEUE_MAX: Final = 20_000
_UPDATE_MS: Final = 2_000


@dataclass(eq=False)
class Subscriber:
    """One connection: what it listens to and what is on the way to it."""

    socket: web.WebSocketResponse
    request: web.Request
    combined: bool
    streams: set[str]
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(_QUEUE_MAX))
    pong_at: float = field(default_factory=time.monotonic)
    received_at: list[float] = field(default_factory=list)

    def push(self, stream: str, event: str) -> None:
        """Queue an event of *stream* when it is subscribed to."""
        if stream in self.streams:
            self.send(f'{{"stream":"{stream}","data":{event}}}' if self.combined else event)

    def send(self, frame: str) -> None:
        """Queue a frame; cut the connection when its reader has fallen too far behind."""
        try:
            self.outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self.cut()

    def cut(self) -> None:
        """End the connection as a broken network does: no close frame."""
        if self.request.transport is not None:
            self.request.transport.abort()


class Streams:
    """
    All connections of one exchange, and the task that pushes to them.

    Args:
        ping_s, pong_timeout_s: The server pings this often and cuts a connection silent for so long.
        connection_max_s: Greatest age of a connection.
        mid_candles: Push unfinished candles too, every 2 s of market time.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        *,
        ping_s: float = 20.0,
        pong_timeout_s: float = 60.0,
        connection_max_s: float = 86_400.0,
        mid_candles: bool = False,
    ) -> None:
        self.faults = Faults()
        self._source = source
        self._clock = clock
        self._ping_s = ping_s
        self._pong_timeout_s = pong_timeout_s
        self._connection_max_s = connection_max_s
        self._mid_candles = mid_candles
        self._subscribers: set[Subscriber] = set()
        self._late: set[asyncio.Task[None]] = set()

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._subscribers)

    async def push_market(self) -> None:
        """Push every close from now on, in market order; runs until cancelled."""
        step = _UPDATE_MS if self._mid_candles else timeframes.MINUTE_MS
        at = self._clock.now_ms() // step * step + step
        try:
            while True:
                await self._clock.wait_until(at)
                if at % timeframes.MINUTE_MS == 0:
                    self._close_minute(at)
                else:
                    self._update_minute(at)
                at += step
        finally:
            for task in self._late:
                task.cancel()

    def _close_minute(self, slot_ms: int) -> None:
        if self.faults.late_close_s:
            task = asyncio.create_task(
                self._close_late(slot_ms, slot_ms + int(self.faults.late_close_s * 1_000))
            )
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        else:
            self._push_candles(self._closed(slot_ms), slot_ms, closed=True)

    async def _close_late(self, slot_ms: int, at_ms: int) -> None:
        await self._clock.wait_until(at_ms)
        self._push_candles(self._closed(slot_ms), at_ms, closed=True)

    def _closed(self, slot_ms: int) -> list[Candle]:
        rows = self.faults.existing(self._source.at(slot_ms - timeframes.MINUTE_MS)).rows()
        kept = [row for row in rows if not self.faults.drops(row.symbol)]
        if self.faults.reverse:
            kept.reverse()
        return kept * 2 if self.faults.double else kept

    def _update_minute(self, at_ms: int) -> None:
        open_ms = timeframes.bar_open_ms(at_ms, "1m")
        passed = (at_ms - open_ms) / timeframes.MINUTE_MS
        rows = self.faults.existing(self._source.at(open_ms)).rows()
        self._push_candles((unfinished(row, passed) for row in rows if row.volume), at_ms, closed=False)

    def _push_candles(self, rows: Iterable[Candle], at_ms: int, *, closed: bool) -> None:
        if self.faults.silence or not self._subscribers:
            return
        event_ms = at_ms + int(self.faults.skew_s * 1_000)
        for row in rows:
            stream = f"{row.symbol.lower()}@kline_1m"
            event = kline_event(row, event_ms, closed=closed)
            if closed and (way := self.faults.spoiled(row.symbol, row.open_time, "stream")):
                event = spoil_event(event, row, way)
            for subscriber in self._subscribers:
                subscriber.push(stream, event)

    def cut_all(self) -> None:
        """Break every connection without a close frame."""
        for subscriber in tuple(self._subscribers):
            subscriber.cut()

    def announce_shutdown(self) -> None:
        """Send ``serverShutdown`` to every connection; they are cut by whoever stops the server."""
        event = f'{{"e":"serverShutdown","E":{self._clock.now_ms()}}}'
        for subscriber in self._subscribers:
            combined = f'{{"stream":"!serverShutdown","data":{event}}}'
            subscriber.send(combined if subscriber.combined else event)

    async def serve(
        self, request: web.Request, *, combined: bool, streams: Iterable[str]
    ) -> web.StreamResponse:
        """Serve one WebSocket until it ends."""
        names = set(streams)
        if len(names) > STREAMS_MAX:
            return web.json_response(
                {"code": 2, "msg": f"Invalid request: more than {STREAMS_MAX} streams"}, status=400
            )
        socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
        subscriber = Subscriber(socket, request, combined, names)
        # Before the handshake's answer: from the moment a client knows it is connected, it misses nothing.
        self._subscribers.add(subscriber)
        tasks: list[asyncio.Task[None]] = []
        try:
            await socket.prepare(request)
            tasks = [
                asyncio.create_task(self._send(subscriber)),
                asyncio.create_task(self._keep_alive(subscriber)),
            ]
            await self._receive(subscriber)
        finally:
            self._subscribers.discard(subscriber)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return socket

    async def close_all(self) -> None:
        """Close every connection properly, as a server that goes away does."""
        closing = [s.socket.close(code=WSCloseCode.GOING_AWAY) for s in tuple(self._subscribers)]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _send(self, subscriber: Subscriber) -> None:
        while True:
            frame = await subscriber.outbox.get()
            try:
                await subscriber.socket.send_str(frame)
            except ConnectionError:
                return

    async def _keep_alive(self, subscriber: Subscriber) -> None:
        opened = time.monotonic()
        while time.monotonic() - opened < self._connection_max_s:
            await asyncio.sleep(min(self._ping_s, self._connection_max_s))
            if time.monotonic() - subscriber.pong_at > self._pong_timeout_s:
                subscriber.cut()
                return
            if not self.faults.silence:
                await subscriber.socket.ping(str(self._clock.now_ms()).encode())
        await subscriber.socket.close(code=WSCloseCode.GOING_AWAY, message=b"24 hours")

    async def _receive(self, subscriber: Subscriber) -> None:
        async for message in subscriber.socket:
            now = time.monotonic()
            subscriber.received_at = [at for at in subscriber.received_at if now - at < 1] + [now]
            if len(subscriber.received_at) > MESSAGES_PER_S_MAX:
                await subscriber.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"Too many requests")
                return
            if message.type is WSMsgType.PONG:
                subscriber.pong_at = now
            elif message.type is WSMsgType.PING:
                await subscriber.socket.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                self._control(subscriber, message)

    def _control(self, subscriber: Subscriber, message: WSMessage) -> None:
        if len(message.data.encode()) > FRAME_BYTES_MAX:
            return
        answer = _control_answer(subscriber, message.data)
        subscriber.send(json.dumps(answer, ensure_ascii=False, separators=(",", ":")))


def _control_answer(subscriber: Subscriber, text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
        method, number = request["method"], request.get("id")
    except (ValueError, TypeError, KeyError):
        return {"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"}
    names = request.get("params", [])
    if method in ("SUBSCRIBE", "UNSUBSCRIBE") and not all(isinstance(name, str) for name in names):
        return {"code": 2, "msg": "Invalid request: invalid stream", "id": number}
    if method == "SUBSCRIBE":
        if len(subscriber.streams | set(names)) > STREAMS_MAX:
            return {"code": 2, "msg": f"Invalid request: more than {STREAMS_MAX} streams", "id": number}
        subscriber.streams |= set(names)
    elif method == "UNSUBSCRIBE":
        subscriber.streams -= set(names)
    elif method == "LIST_SUBSCRIPTIONS":
        return {"result": sorted(subscriber.streams), "id": number}
    else:
        return {"code": 0, "msg": f"Unknown property: {method}", "id": number}
    return {"result": None, "id": number}


def spoil_event(event: str, row: Candle, way: Way) -> str:
    """A closing event, made impossible in this way."""
    if way == "off_grid":
        return event.replace(f'"t":{row.open_time}', f'"t":{row.open_time + 1}')
    if way == "null_field":
        return event.replace(f'"l":"{row.low:.8f}"', '"l":null')
    if way == "high_below_low":
        return event.replace(f'"h":"{row.high:.8f}"', f'"h":"{row.low / 2:.8f}"')
    return event.replace(f'"l":"{row.low:.8f}"', '"l":"0.00000000"')


def kline_event(row: Candle, event_ms: int, *, closed: bool) -> str:
    """A 1m kline event as the exchange writes it; a candle without trades has first and last trade id -1."""
    first, last = (1, row.trades) if row.trades else (-1, -1)
    return (
        f'{{"e":"kline","E":{event_ms},"s":"{row.symbol}","k":{{"t":{row.open_time},"T":{row.open_time + 59_999},'
        f'"s":"{row.symbol}","i":"1m","f":{first},"L":{last},"o":"{row.open:.8f}","c":"{row.close:.8f}",'
        f'"h":"{row.high:.8f}","l":"{row.low:.8f}","v":"{row.volume:.8f}","n":{row.trades},'
        f'"x":{"true" if closed else "false"},"q":"{row.quote_volume:.8f}",'
        f'"V":"{row.volume / 2:.8f}","Q":"{row.quote_volume / 2:.8f}","B":"0"}}}}'
    )
