"""
A hole of days or months between two files of a file market: jumped over, with a line, instead of waited through.

Real outages of the exchange last hours and stay what they are: slots without candles. A hole of a day and more is one between files:
the market's clock goes on at the next candle, and the ledger holds one slot there that says what was jumped over.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
import structlog

from app.domain import timeframes
from app.market import errors
from app.market.venue import Venue
from app.store import machines, markets, slots
from app.store.pool import Pool
from app.store.slots import ClosedSlot

log = structlog.get_logger(__name__)
HOLE_MS: Final = 86_400_000
AFTER_MS: Final = 120_000  # market time after the last candle: its slot has closed
LOOK_EVERY_S: Final = 1.0


class Jumped(errors.MarketError):
    """The market's clock was set to the end of a hole: the venue has to be opened again there."""


async def watch_holes(pool: Pool, venue: Venue, boot_id: int) -> None:
    """
    Look for a hole in front of the market's clock, for ever; a venue that is no file market has none.

    Raises:
        Jumped: one was jumped over.
    """
    if not venue.source.startswith("files "):
        return
    async with aiohttp.ClientSession() as session:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            async with session.get(f"{venue.rest_url}/_clock") as response:
                clock = await response.json()
            await _jump(pool, boot_id, clock["market_now"], clock["closed"], clock["next"])


async def _jump(pool: Pool, boot_id: int, now_ms: int, closed_ms: int | None, next_ms: int | None) -> None:
    if closed_ms is None or next_ms is None or next_ms - closed_ms < HOLE_MS or now_ms < closed_ms + AFTER_MS:
        return
    begin, end = timeframes.instant(closed_ms), timeframes.instant(next_ms)
    async with machines.fenced(pool, boot_id) as connection:
        newest = await slots.newest_closed(connection)
        if newest is None or newest < begin:
            return
        reason = (
            f"the files hold no candle from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: jumped over"
        )
        await slots.close_open(connection, end, reason)
        await markets.jump(connection, end)  # before the slot: none may lie a day after the market's own time
        await slots.close(connection, [ClosedSlot(end, "outage", 0, {}, reason)])
    log.warning("jumping over a hole between the files", begin=begin.isoformat(), end=end.isoformat())
    raise Jumped(reason)
