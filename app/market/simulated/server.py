"""
`SimulatedExchange`: the simulated exchange on a port of its own, in this process or as one of its own.

Decided here: routes, weight (per address and wall-clock minute, 429, then 418), injected faults, the control endpoint.
``/_control`` (GET, POST a part of `Faults` as JSON plus ``disconnect`` / ``shutdown``: true, DELETE) and ``/_clock``
are ours, not the exchange's.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from app.market.simulated import rest
from app.market.simulated.clock import Clock
from app.market.simulated.faults import Faults
from app.market.simulated.source import DumpSource, Source
from app.market.simulated.streams import Streams

_TOO_MUCH: Final = (
    "Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
    "Please use WebSocket Streams for live updates to avoid polling the API."
)
_BANNED: Final = (
    "Way too much request weight used; IP banned until {until}. "
    "Please use WebSocket Streams for live updates to avoid bans."
)
_FIREWALL: Final = (
    "<!DOCTYPE HTML><html><head><title>403 Forbidden</title></head><body>Request blocked.</body></html>"
)
_FAULT_BODIES: Final = {
    451: (
        0,
        "Service unavailable from a restricted location according to 'b. Eligibility' in the terms of use.",
    ),
    503: (-1008, "Server is currently overloaded with other requests. Please try again in a few minutes."),
    504: (
        -1007,
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
    ),
}
_REFUSED_BEFORE_BAN: Final = 20
_BAN_S: Final = 120  # the shortest of the real ones, which go up to 3 days


@dataclass
class WeightMeter:
    """The exchange's own count of one address: this wall-clock minute's weight, refusals, ban."""

    limit: int
    wall: Callable[[], float]
    minute: int = -1
    used: int = 0
    refused: int = 0
    banned_until_s: float = 0.0

    def take(self, weight: int) -> web.Response | None:
        """Count *weight*; the refusal when it is too much, or the address is banned."""
        now = self.wall()
        if now < self.banned_until_s:
            return self._ban(now)
        if int(now // 60) != self.minute:
            self.minute, self.used = int(now // 60), 0
        self.used += weight
        if self.used <= self.limit:
            self.refused = 0
            return None
        self.refused += 1
        if self.refused > _REFUSED_BEFORE_BAN:
            self.banned_until_s = now + _BAN_S
            return self._ban(now)
        return _error(429, -1003, _TOO_MUCH.format(limit=self.limit), math.ceil(60 - now % 60))

    def _ban(self, now: float) -> web.Response:
        until = int(self.banned_until_s * 1_000)
        return _error(418, -1003, _BANNED.format(until=until), math.ceil(self.banned_until_s - now))


class SimulatedExchange:
    """
    Args:
        source: The candles.
        clock: Market time.
        port: 0 takes a free one.
        weight_limit: REQUEST_WEIGHT per minute.
        wall: Seconds since the epoch, for the weight window.
        ping_s, pong_timeout_s, connection_max_s, mid_candles: See `Streams`.

    An async context manager; inside it *rest_url* and *stream_url* answer.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        weight_limit: int = 6_000,
        wall: Callable[[], float] = time.time,
        ping_s: float = 20.0,
        pong_timeout_s: float = 60.0,
        connection_max_s: float = 86_400.0,
        mid_candles: bool = False,
    ) -> None:
        self.source = source
        self.clock = clock
        self.request_count = 0
        self.streams = Streams(
            source,
            clock,
            ping_s=ping_s,
            pong_timeout_s=pong_timeout_s,
            connection_max_s=connection_max_s,
            mid_candles=mid_candles,
        )
        self._host = host
        self._port = port
        self._weight_limit = weight_limit
        self._wall = wall
        self._meters: dict[str, WeightMeter] = {}
        self._runner: web.AppRunner | None = None
        self._pusher: asyncio.Task[None] | None = None

    @property
    def faults(self) -> Faults:
        """What goes wrong now; change its fields, or replace it."""
        return self.streams.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.streams.faults = faults

    @property
    def rest_url(self) -> str:
        """``http://host:port``."""
        return f"http://{self._host}:{self._port}"

    @property
    def stream_url(self) -> str:
        """``ws://host:port``."""
        return f"ws://{self._host}:{self._port}"

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._pusher = asyncio.create_task(self.streams.push_market())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pusher is not None:
            self._pusher.cancel()
            await asyncio.gather(self._pusher, return_exceptions=True)
        await self.streams.close_all()
        if self._runner is not None:
            await self._runner.cleanup()

    def now_ms(self) -> int:
        """The time the exchange shows: market now, and the skew."""
        return self.clock.now_ms() + int(self.faults.skew_s * 1_000)

    def _application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/v3/ping", self._rest(lambda _: 1, self._ping)),
                web.get("/api/v3/time", self._rest(lambda _: 1, self._time)),
                web.get("/api/v3/exchangeInfo", self._rest(lambda _: 20, self._exchange_info)),
                web.get("/api/v3/klines", self._rest(lambda _: 2, self._klines)),
                web.get("/api/v3/ticker/24hr", self._rest(rest.ticker_weight, self._ticker)),
                web.get("/ws", self._serve_raw),
                web.get("/ws/{streams:.+}", self._serve_raw),
                web.get("/stream", self._serve_combined),
                web.get("/_clock", self._show_clock),
                web.get("/_control", self._show_faults),
                web.post("/_control", self._change_faults),
                web.delete("/_control", self._clear_faults),
            ]
        )
        return app

    def _rest(
        self, weight: Callable[[rest.Parameters], int], answer: Callable[[rest.Parameters], bytes]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler with the exchange's limits, errors and injected faults around *answer*."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.request_count += 1
            if self.faults.delay_s:
                await asyncio.sleep(self.faults.delay_s)
            address = request.remote or ""
            meter = self._meters.setdefault(address, WeightMeter(self._weight_limit, self._wall))
            response = (
                meter.take(weight(request.query)) or self._faulty_answer() or _answer(answer, request.query)
            )
            response.headers["X-MBX-USED-WEIGHT-1M"] = str(meter.used)
            response.headers["X-MBX-USED-WEIGHT"] = str(meter.used)
            return response

        return handle

    def _faulty_answer(self) -> web.Response | None:
        status = self.faults.take_status()
        if status == 403:
            return web.Response(status=403, text=_FIREWALL, content_type="text/html")
        if status in (418, 429):
            until = int((self._wall() + (self.faults.retry_after or _BAN_S)) * 1_000)
            msg = _BANNED.format(until=until) if status == 418 else _TOO_MUCH.format(limit=self._weight_limit)
            return _error(status, -1003, msg, self.faults.retry_after)
        if status is not None:
            theirs, ours = (
                (-1000, "An unknown error occurred."),
                (-1100, "Illegal characters found in a parameter."),
            )
            return _error(status, *_FAULT_BODIES.get(status, theirs if status >= 500 else ours))
        if self.faults.garbage:
            return web.Response(body=b"{", content_type="application/json")
        return None

    def _ping(self, _query: rest.Parameters) -> bytes:
        return b"{}"

    def _time(self, _query: rest.Parameters) -> bytes:
        return b'{"serverTime":%d}' % self.now_ms()

    def _exchange_info(self, query: rest.Parameters) -> bytes:
        return rest.exchange_info(
            self.source, self.faults, self.now_ms(), query, weight_limit=self._weight_limit
        )

    def _klines(self, query: rest.Parameters) -> bytes:
        return rest.klines(self.source, self.faults, self.clock.now_ms(), query)

    def _ticker(self, query: rest.Parameters) -> bytes:
        return rest.ticker_24h(self.source, self.faults, self.clock.now_ms(), query)

    async def _serve_raw(self, request: web.Request) -> web.StreamResponse:
        names = [name for name in request.match_info.get("streams", "").split("/") if name]
        return await self.streams.serve(request, combined=False, streams=names)

    async def _serve_combined(self, request: web.Request) -> web.StreamResponse:
        names = [name for name in request.query.get("streams", "").split("/") if name]
        return await self.streams.serve(request, combined=True, streams=names)

    async def _show_clock(self, _request: web.Request) -> web.Response:
        now, end = self.clock.now_ms(), self.source.end_ms
        body: dict[str, Any] = {
            "market_now": now,
            "speed": self.clock.speed,
            "ended": end is not None and now >= end,
        }
        if isinstance(self.source, DumpSource):
            body["closed"], body["next"] = self.source.around(now)
        return web.json_response(body | {"first": self.source.first_ms, "end": end})

    async def _show_faults(self, _request: web.Request) -> web.Response:
        return _json(self.faults)

    async def _change_faults(self, request: web.Request) -> web.Response:
        try:
            changes: dict[str, Any] = msgspec.json.decode(await request.read(), type=dict[str, Any])
            disconnect, shutdown = changes.pop("disconnect", False), changes.pop("shutdown", False)
            self.faults = self.faults.changed(changes)
        except msgspec.MsgspecError as error:
            return web.json_response({"msg": str(error)}, status=400)
        if disconnect:
            self.streams.cut_all()
        if shutdown:
            self.streams.announce_shutdown()
        return _json(self.faults)

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self.faults = Faults()
        return _json(self.faults)


def _answer(answer: Callable[[rest.Parameters], bytes], query: rest.Parameters) -> web.Response:
    try:
        return web.Response(body=answer(query), content_type="application/json")
    except rest.Refusal as refusal:
        return _error(refusal.status, refusal.code, refusal.msg)


def _json(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _error(status: int, code: int, msg: str, retry_after_s: int | None = None) -> web.Response:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return web.json_response({"code": code, "msg": msg}, status=status, headers=headers)
