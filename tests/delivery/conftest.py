"""
A sender, its outbox and a receiver that logs every request, in the test's own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from psycopg.rows import namedtuple_row

from app.delivery.destinations import Destinations, Draft, Made
from app.delivery.sealing import Sealer
from app.delivery.sender import Sender
from app.delivery.transport import Transport
from app.metrics import DeliveryMetrics
from app.store.pool import Pool, make_pool
from tests.world import (
    SIGNALS,
    above,
    add_trader,
    add_user,
    at,
    call,
    claim,
    close_slots,
    leases,
    mark_running,
    register,
    speak_for,
)

KEY = "a-key-of-a-test-that-is-long-enough-to-be-one"
LOOPBACK = ((ipaddress.ip_network("127.0.0.0/8"), None),)
PUBLIC_URL = "https://vyx.test"


@pytest.fixture
async def pool(dsn) -> AsyncIterator[Pool]:
    pool = make_pool(dsn, max_size=5, name="test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Logs requests; ``answer`` makes each reply."""

    url: str = ""
    log: list[Received] = field(default_factory=list)
    answer: Callable[[Received], Any] = lambda _: web.Response(text="thanks")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        received = Received(
            request.path, {k.lower(): v for k, v in request.headers.items()}, await request.read()
        )
        self.log.append(received)
        answer = self.answer(received)
        return await answer if asyncio.iscoroutine(answer) else answer

    def reply(self, status: int, text: str = "", **headers: str) -> None:
        self.answer = lambda _: web.Response(
            status=status, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest.fixture
def user(connection) -> uuid.UUID:
    return add_user(connection)


@pytest.fixture
def destinations(pool) -> Destinations:
    return Destinations(pool=pool, sealer=Sealer([KEY]), allowed=LOOPBACK, public_url=PUBLIC_URL)


@pytest.fixture
def make(destinations, user, receiver) -> Callable[..., Any]:
    """``await make(kind="webhook", …)``: a destination of ``user``, at the receiver unless another url is given."""

    async def create(*, owner: uuid.UUID | None = None, signature: str = "hmac", **given: Any) -> Made:
        fields: dict[str, Any] = {
            "name": "d",
            "kind": "webhook",
            "events": ["signal"],
            "trader_ids": None,
            "preset": None,
            "template": None,
            "quiet_hours": None,
            "digest": None,
            "rate": None,
            "expires_after_s": None,
            "url": receiver.url,
        }
        return await destinations.create(owner or user, Draft(**(fields | given)), signature=signature)

    return create


class NoChannels:
    async def send(self, call: Any) -> Any:
        raise AssertionError("no third-party channel in this test")


@pytest.fixture
def make_sender(pool) -> Callable[..., Any]:
    """``async with make_sender() as sender``: one that runs; its transport may reach the loopback."""

    @contextlib.asynccontextmanager
    async def start(*, timeout_s: float = 2.0, third_party: Any = None) -> AsyncIterator[Sender]:
        transport = Transport(LOOPBACK, timeout_s=timeout_s)
        sender = Sender(
            pool,
            transport=transport,
            third_party=third_party or NoChannels(),
            sealer=Sealer([KEY]),
            public_url=PUBLIC_URL,
            metrics=DeliveryMetrics(CollectorRegistry()),
        )
        running = asyncio.create_task(sender.run())
        try:
            yield sender
        finally:
            sender.stop()
            await running
            await transport.close()

    return start


@dataclass
class Screen:
    """A machine that holds one trader and writes signals as screening does."""

    connection: Any
    user: uuid.UUID
    boot: int = 0
    trader: uuid.UUID = field(default_factory=uuid.uuid4)

    def __post_init__(self) -> None:
        self.trader = add_trader(self.connection, self.user, above(0))
        self.boot = register(self.connection)
        speak_for(self.connection, self.boot)
        claim(self.connection, self.boot)
        mark_running(self.connection, self.boot, leases(self.connection, self.boot))

    def match(
        self, *symbols: str, slot: int = 1, timeframe: str = "1m", shown: str = '{"rsi": 20.5}'
    ) -> None:
        """Write a signal for each symbol at the slot."""
        close_slots(self.connection, slot)
        n = len(symbols)
        self.connection.execute(
            SIGNALS["insert_signals"],
            {
                "boot_id": self.boot,
                "slot": at(slot),
                "screened_at": at(slot),
                "trader_ids": [self.trader] * n,
                "epochs": [leases(self.connection, self.boot)[self.trader]] * n,
                "symbols": list(symbols),
                "timeframes": [timeframe] * n,
                "prices": [1.5] * n,
                "shown": [shown] * n,
                "plan_hashes": ["h"] * n,
                "forming": [False] * n,
                "cooldowns_s": [None] * n,
            },
        )


@pytest.fixture
def screen(connection, user) -> Screen:
    return Screen(connection, user)


@pytest.fixture
def rows(connection) -> Callable[..., list[Any]]:
    """The outbox, oldest first."""

    def read(where: str = "true") -> list[Any]:
        with connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(
                f"select * from vyx.deliveries where {where} order by queued_at, source_id"
            ).fetchall()

    return read


@pytest.fixture
def count(connection) -> Callable[[str], int]:
    def ask(where: str) -> int:
        return int(call(connection, f"select count(*) from vyx.deliveries where {where}")[0])

    return ask
