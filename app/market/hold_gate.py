"""
Whether this machine may ask the exchange, and who should feed when it may not.

Before the first request the hold on record is read. A machine that is held lets one at another address feed; where there is none it
waits, to the second, and says why. A hold that begins while minutes are live does not end the streams: REST is refused here without
asking, until the hold is over or another machine may take over.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

import structlog

from app.market import errors
from app.market.addresses import host_of, own_address
from app.market.client import ExchangeClient, HoldRecord, NoRecord
from app.market.holds import StoredHolds, held_text
from app.market.venue import Venue
from app.store import exchange_holds, market_progress
from app.store.pool import Pool

log = structlog.get_logger(__name__)
LOOK_EVERY_S: Final = 1.0
HAND_OVER_FROM_S: Final = 60.0  # a shorter hold ends before another machine has opened its streams


class HandedOver(errors.MarketError):
    """The exchange must not be asked from here, and another machine may ask it."""


class HoldGate:
    """The holds of one venue; a simulated one has none that outlive its process."""

    def __init__(self, pool: Pool, holds: StoredHolds | None, host: str) -> None:
        self._pool = pool
        self._holds = holds
        self._host = host
        self.record: HoldRecord = holds or NoRecord()

    @classmethod
    async def enter(cls, pool: Pool, venue: Venue, boot_id: int) -> Self:
        """The gate of *venue* for this machine, whose address is put on record."""
        if venue.source != "binance":
            return cls(pool, None, venue.source)
        host = host_of(venue.rest_url)
        address = await asyncio.to_thread(own_address, venue.rest_url)
        async with pool.connection() as connection:
            await exchange_holds.put_address(connection, boot_id, address)
        return cls(pool, StoredHolds(pool, host, address), host)

    async def until_free(self, client: ExchangeClient) -> None:
        """
        Go on from what is on record; while the exchange must not be asked, wait.

        Raises:
            HandedOver: Another machine may ask it.
        """
        if self._holds is None:
            return
        await self._holds.begin(client.breaker, client.budget)
        hold = await self._holds.find()
        if client.breaker.open_for_s <= 0 or hold is None:
            return
        reason = held_text(self._host, hold)
        log.warning("waiting until the exchange may be asked", reason=reason)
        async with self._pool.connection() as connection:
            await market_progress.put(connection, "held", reason)
        while (wait_s := client.breaker.open_for_s) > 0:
            await self._hand_over(reason)
            await asyncio.sleep(min(LOOK_EVERY_S, wait_s))

    async def watch(self, client: ExchangeClient) -> None:
        """
        Keep the weight used, and look for another machine while a long hold lasts, for ever.

        Raises:
            HandedOver: Another machine may ask the exchange.
        """
        if self._holds is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._holds.keep_weight(client.budget))
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                if client.breaker.open_for_s > HAND_OVER_FROM_S:
                    await self._hand_over(self._holds.reason or "the exchange is not asked")

    async def _hand_over(self, reason: str) -> None:
        if self._holds is not None and await self._holds.other_may_ask():
            raise HandedOver(reason)
