"""
Where this database's market is: Binance, or the simulated exchange as a child process of whoever feeds.

Decided here: which market a database holds (the first process to feed it says so, once), and that a simulated
one continues at the same market time whichever machine serves it: its clock is the row in ``vyx.markets``.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import structlog

from app.domain.demo import DEMO_USER
from app.errors import CommandFailed
from app.market.addresses import host_of, own_address
from app.settings import Settings, child_environment
from app.store import exchange_holds, markets
from app.store.markets import Market
from app.store.pool import Pool

log = structlog.get_logger(__name__)
REACHABLE_WITHIN_S = 3.0
READY_WITHIN_S = 60.0
DUMP_SUFFIXES = (".zip", ".csv", ".csv.gz")


class MarketUnusable(CommandFailed):
    """
    The market that was asked for cannot be served, or another one lives in this database; the text says what
    to do.
    """


@dataclass(frozen=True, slots=True)
class Venue:
    """Where the exchange client talks to. ``speed`` is market minutes per real minute."""

    rest_url: str
    stream_url: str
    speed: float
    source: str


async def is_reachable(rest_url: str) -> bool:
    """Does the exchange answer a ping within 3 s?"""
    try:
        timeout = aiohttp.ClientTimeout(total=REACHABLE_WITHIN_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{rest_url}/api/v3/ping") as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def source_name(market: str) -> str:
    """
    What ``vyx.markets.source`` says of a market: its kind, and for files which ones.

    Raises:
        MarketUnusable: there are no candle files at the path.
    """
    if market in ("binance", "simulated"):
        return market
    path = Path(market)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.name.endswith(DUMP_SUFFIXES))
    if not files:
        raise MarketUnusable(f"{market} holds no candle files (SYMBOL-1m-*.zip, .csv or .csv.gz).")
    listing = "\n".join(f"{p.name} {p.stat().st_size}" for p in files)
    return f"files {path.name} {hashlib.sha256(listing.encode()).hexdigest()[:12]}"


def check_market(settings: Settings, stored: Market | None) -> None:
    """
    Whether this database may serve the market that was asked for.

    Raises:
        MarketUnusable: there are no candle files at the path; the database holds another market, or candle
            files whose path ``auto`` cannot know.
    """
    if settings.market == "auto":
        if stored is not None and stored.source not in ("binance", "simulated"):
            raise MarketUnusable(
                f"This database holds the market {stored.source!r}; name its path with --market, or use another --data-dir."
            )
        return
    wanted = source_name(settings.market)
    if stored is not None and stored.source != wanted:
        raise MarketUnusable(
            f"This database holds the market {stored.source!r} and cannot take {wanted!r} as well;"
            " use another --data-dir or DATABASE_URL."
        )


async def choose(settings: Settings, stored: Market | None, pool: Pool) -> str:
    """
    The market to feed: what was asked for, with ``auto`` decided.

    ``auto`` means Binance. Only the embedded database may fall back to the simulated exchange, when Binance does not answer; a fall-back
    that nobody but the demo user has seen is forgotten as soon as Binance is there.

    Raises:
        MarketUnusable: the database holds another market than the one asked for.
    """
    check_market(settings, stored)
    if settings.market != "auto":
        return settings.market
    if stored is None:
        return "binance" if await _may_be_binance(settings, pool) else "simulated"
    if stored.source != "simulated":
        return stored.source
    if stored.chosen_by_auto and await _may_be_binance(settings, pool):
        async with pool.connection() as connection:
            if await markets.forget_simulated(connection, DEMO_USER):
                log.warning("the simulated market gives way to Binance")
                return "binance"
    if settings.is_embedded:
        return "simulated"
    raise MarketUnusable(
        "This database holds invented prices (the simulated market), which auto never serves to real users;"
        " set VYX_MARKET=simulated to go on with them, or use another DATABASE_URL."
    )


async def _may_be_binance(settings: Settings, pool: Pool) -> bool:
    """With a database of one's own: always, it is waited for. With the embedded one: when it answers, and is not held."""
    if not settings.is_embedded:
        return True
    url = settings.exchange_rest_url
    address = await asyncio.to_thread(own_address, url)
    async with pool.connection() as connection:
        hold = await exchange_holds.find(connection, host_of(url), address)
    if hold is not None and hold.remaining_s:
        return False
    return await is_reachable(url)


@asynccontextmanager
async def open_venue(settings: Settings, pool: Pool) -> AsyncIterator[Venue]:
    """
    The exchange, ready to be asked; a simulated one is served by a child process until the context ends.

    Raises:
        MarketUnusable: see :func:`choose`; or the candle files cannot be read (named, with the line).
    """
    async with pool.connection() as connection:
        stored = await markets.find(connection)
    market = await choose(settings, stored, pool)
    if stored is not None and stored.source != source_name(market):
        stored = None  # it has been forgotten
    if market == "binance":
        now = datetime.now(UTC)
        async with pool.connection() as connection:
            await markets.put(
                connection,
                source="binance",
                speed=1,
                anchor_market_at=now,
                anchor_wall_at=now,
                ends_at=None,
                chosen_by_auto=settings.market == "auto",
            )
        yield Venue(settings.exchange_rest_url, settings.exchange_stream_url, 1, "binance")
        return
    async with _simulated(settings, market, stored) as (rest_url, clock):
        if stored is None:
            stored = await _name_market(settings, pool, market, clock)
        yield Venue(rest_url, rest_url.replace("http", "ws", 1), stored.speed, stored.source)


@dataclass(frozen=True, slots=True)
class _Clock:
    market_now: datetime
    ends_at: datetime | None


async def _name_market(settings: Settings, pool: Pool, market: str, clock: _Clock) -> Market:
    async with pool.connection() as connection:
        await markets.put(
            connection,
            source=source_name(market),
            speed=settings.speed,
            anchor_market_at=clock.market_now,
            anchor_wall_at=datetime.now(UTC),
            ends_at=clock.ends_at,
            chosen_by_auto=settings.market == "auto",
        )
        stored = await markets.find(connection)
    if stored is None:
        raise RuntimeError("the market was just stored")
    return stored


@asynccontextmanager
async def _simulated(
    settings: Settings, market: str, stored: Market | None
) -> AsyncIterator[tuple[str, _Clock]]:
    process = await asyncio.create_subprocess_exec(
        *_command(settings, market, stored),
        env=child_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said: deque[str] = deque(maxlen=20)
    listening = asyncio.create_task(_listen(process, said))
    try:
        rest_url = await _first_line(process, listening, said)
        yield rest_url, await _clock(rest_url)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await asyncio.gather(listening, return_exceptions=True)


async def _listen(process: asyncio.subprocess.Process, said: deque[str]) -> None:
    """Pass on what the child says on stderr; a pipe that nobody reads would stop it."""
    if process.stderr is None:
        raise RuntimeError("the child was started with pipes")
    async for line in process.stderr:
        if text := line.decode(errors="replace").strip():
            said.append(text)
            log.warning("the simulated exchange says", text=text)


def _command(settings: Settings, market: str, stored: Market | None) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "app.market.simulated",
        "--market",
        "generator" if market == "simulated" else market,
    ]
    if stored is not None:
        anchors = [
            "--from",
            stored.anchor_market_at.isoformat(),
            "--anchor-wall",
            stored.anchor_wall_at.isoformat(),
        ]
        return [*command, "--speed", f"{stored.speed:g}", *anchors]
    first_live = ["--from", settings.market_from.isoformat()] if settings.market_from is not None else []
    return [*command, "--speed", f"{settings.speed:g}", *first_live]


async def _first_line(
    process: asyncio.subprocess.Process, listening: asyncio.Task[None], said: deque[str]
) -> str:
    if process.stdout is None:
        raise RuntimeError("the child was started with pipes")
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            line = (await process.stdout.readline()).decode().strip()
    except TimeoutError:
        raise MarketUnusable(f"The simulated exchange was not ready within {READY_WITHIN_S:g} s.") from None
    if not line:
        await listening
        raise MarketUnusable(said[-1] if said else "The simulated exchange ended without saying why.")
    return line


async def _clock(rest_url: str) -> _Clock:
    async with aiohttp.ClientSession() as session, session.get(f"{rest_url}/_clock") as response:
        body = await response.json()
    ends_at = datetime.fromtimestamp(body["end"] / 1000, UTC) if body["end"] is not None else None
    return _Clock(datetime.fromtimestamp(body["market_now"] / 1000, UTC), ends_at)
