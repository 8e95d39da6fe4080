"""
A whole web process inside the test's event loop: by ASGI calls (``http``), or on a socket (``server``) where streams matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import jwt
import psycopg
import pytest

from app.bounded.questions import Compiled, CompiledPlan, Explain, Explained
from app.http.application import make_application
from app.http.border import Door
from app.http.server import Server, listen, url_of
from app.http.service import Service
from app.settings import Settings, read_settings
from app.web import make_service
from sandbox.plan.text.diagnostics import Diagnostic

SECRET = "a-secret-for-tests-that-is-long-enough"


def fake_diagnostic(severity: str, message: str) -> Diagnostic:
    return Diagnostic(1, 1, 1, 2, severity, "test", message, "")


def fake_plan(source: str) -> CompiledPlan:
    shown = {
        "trigger": "1m",
        "timeframes": ["1m"],
        "forming": [],
        "due_every": "1m",
        "operators": ["bars", "lt"],
        "lookback_bars": 2,
        "cost": 7,
        "calls_each": False,
    }
    return CompiledPlan(json.dumps({"source": source}).encode(), str(hash(source)), shown)


class FakeFilters:
    """``broken`` in the source is an error, ``odd`` a warning, ``explode`` a bug of the compiler."""

    async def compile(self, source: str) -> Compiled:
        if "explode" in source:
            raise RuntimeError("a bug in the compiler, with a secret in it")
        if "broken" in source:
            return Compiled(None, [fake_diagnostic("error", "it is broken")])
        warnings = [fake_diagnostic("warning", "it is odd")] if "odd" in source else []
        return Compiled(fake_plan(source), warnings)

    async def explain(self, question: Explain) -> Explained:
        raise AssertionError("tests of explanations use real filters")


def sign(user_id: uuid.UUID, lifetime_s: float, **claims: Any) -> str:
    given = {
        "sub": str(user_id),
        "role": "authenticated",
        "aud": "authenticated",
        "exp": int(time.time() + lifetime_s),
    }
    return jwt.encode(given | claims, SECRET, algorithm="HS256")


@pytest.fixture
def token_for() -> Callable[..., str]:
    """A user's token, signed with the secret of ``make_settings``."""
    return sign


@dataclass
class User:
    """A signed-in user and the headers that say so."""

    id: uuid.UUID
    headers: dict[str, str]


@pytest.fixture
def make_settings(dsn, tmp_path) -> Callable[..., Settings]:
    def make(**environment: str) -> Settings:
        return read_settings(
            {},
            {
                "DATABASE_URL": dsn,
                "VYX_DATA_DIR": str(tmp_path),
                "VYX_JWT_SECRET": SECRET,
                "VYX_METRICS_PORT": "off",
                "VYX_PORT": "0",
                "VYX_POOL_MAX": "8",
                **environment,
            },
        )

    return make


@pytest.fixture
async def service(make_settings) -> AsyncIterator[Service]:
    async with make_service(make_settings(), FakeFilters()) as service:
        await service.feed.has_horizon.wait()
        yield service


@pytest.fixture
async def http(service) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(make_application(service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://vyx.test") as client:
        yield client


@contextlib.asynccontextmanager
async def serving(service: Service) -> AsyncIterator[tuple[Server, str]]:
    listener = listen("127.0.0.1", 0)
    server = Server(make_application(service), door=Door(1000, 1000), drain_s=5, on_drain=service.drain)
    with contextlib.closing(listener):
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await server.is_listening.wait()
        try:
            yield server, url_of(listener)
        finally:
            server.stop()
            await task


@pytest.fixture
def replica(make_settings):
    """Starts one more web process of the same database: ``async with replica() as (server, url, service)``."""

    @contextlib.asynccontextmanager
    async def start() -> AsyncIterator[tuple[Server, str, Service]]:
        async with make_service(make_settings(), FakeFilters()) as service:
            await service.feed.has_horizon.wait()
            async with serving(service) as (server, url):
                yield server, url, service

    return start


@pytest.fixture
def make_user(connection) -> Callable[..., User]:
    def make(tier: str = "pro", *, lifetime_s: float = 600) -> User:
        user_id = uuid.uuid4()
        connection.execute("insert into auth.users (id) values (%s)", (user_id,))
        connection.execute("select public.set_tier(%s, %s)", (user_id, tier))
        return User(user_id, {"authorization": f"Bearer {sign(user_id, lifetime_s)}"})

    return make


@pytest.fixture
def user(make_user) -> User:
    return make_user()


@pytest.fixture
def make_trader(connection) -> Callable[..., uuid.UUID]:
    """A trader as a row, past the API and its limits."""

    def make(owner: User, name: str = "t") -> uuid.UUID:
        return connection.execute(
            "insert into public.traders (user_id, name, filter, plan, plan_hash) values (%s, %s, 'f', '{}', 'h') returning id",
            (owner.id, name),
        ).fetchone()[0]

    return make


@pytest.fixture
def run_machine(connection) -> Callable[..., int]:
    """Registers a machine as a worker would and returns its boot id."""

    def make(name: str = "m1") -> int:
        return connection.execute("select boot_id from vyx.register_machine_v1(%s)", (name,)).fetchone()[0]

    return make


def kind_of(response: Any) -> str:
    """The end of a problem's type."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert body["type"].startswith("https://vyx.dev/problems/")
    assert body["title"]
    assert body["detail"]
    return body["type"].rsplit("/", 1)[1]


@pytest.fixture
def kind() -> Callable[[Any], str]:
    return kind_of


class StreamClient:
    """Reads a stream event by event, as a browser would."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def events(self) -> AsyncIterator[dict[str, str]]:
        event: dict[str, str] = {}
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            if not line:
                if event.keys() - {"retry"}:
                    yield event
                event = {}
            elif line.startswith(":"):
                yield {"comment": line[1:].strip()}
            else:
                name, _, value = line.partition(": ")
                event[name] = value

    async def next(self) -> dict[str, str]:
        async with asyncio.timeout(5):
            return await anext(self.events())

    async def rest(self) -> list[dict[str, str]]:
        async with asyncio.timeout(10):
            return [event async for event in self.events()]


@pytest.fixture
def open_stream():
    """``async with open_stream(url, user, last_event_id=…) as stream``."""

    @contextlib.asynccontextmanager
    async def start(
        url: str, user: User, *, last_event_id: object = None, params: dict[str, str] | None = None
    ) -> AsyncIterator[StreamClient]:
        headers = dict(user.headers)
        if last_event_id is not None:
            headers["last-event-id"] = str(last_event_id)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/api/v1/stream", headers=headers, params=params) as response,
        ):
            assert response.status == 200, await response.text()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            yield StreamClient(response)

    return start


@pytest.fixture
def add_signal(connection):
    """Inserts a signal as screening would; returns its id. ``on`` is another connection for an open transaction."""
    connection.execute("select vyx.keep_signal_partition(timestamptz '2024-05-01T00:00:00Z')")
    number = iter(range(10**6))

    def add(owner: User, trader: uuid.UUID, *, on: psycopg.Connection | None = None, **columns: Any) -> int:
        given = {"symbol": f"S{next(number)}USDT", **columns}
        return (
            (on or connection)
            .execute(
                """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, screened_at)
               values (%(trader)s, %(user)s, %(symbol)s, '1m', '2024-05-01T12:00:00Z', 1.5, '{"rsi": 20.5}', 'h', 1, now()) returning id""",
                {"trader": trader, "user": owner.id, **given},
            )
            .fetchone()[0]
        )

    return add


@pytest.fixture
def eventually():
    """Asks again until the answer is true; five seconds without it are a failure."""

    async def ask(question: Callable[[], Any]) -> Any:
        async with asyncio.timeout(5):
            while not (answer := question()):
                await asyncio.sleep(0.005)
        return answer

    return ask
