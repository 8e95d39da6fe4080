"""
Holds and used weight as rows, so that they outlive this process: whoever feeds next, here or elsewhere, obeys them.

A hold belongs to a host and an address. The address is this machine's own towards that host: behind a gateway several machines show
the exchange one address and know different ones; each then finds out for itself, once.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog

from app.market.breaker import Breaker
from app.market.budget import WeightBudget
from app.store import exchange_holds
from app.store.exchange_holds import Hold
from app.store.pool import Pool

log = structlog.get_logger(__name__)
KEEP_WEIGHT_EVERY_S: Final = (
    1.0  # a feeder that dies takes at most so much spending with it: the ceiling leaves 900 free
)
LONGEST_S: Final = {None: 900.0, 403: 3_600.0, 429: 3_600.0, 451: 6 * 3_600.0}  # of a repeated refusal


class StoredHolds:
    """The `HoldRecord` of one host and address in the database."""

    def __init__(self, pool: Pool, host: str, address: str) -> None:
        self._pool = pool
        self._host = host
        self._address = address
        self._is_held = False
        self.reason: str | None = None

    async def begin(self, breaker: Breaker, budget: WeightBudget) -> None:
        """Go on from what is on record: how long not to ask, one probe when that is over, and the weight used."""
        hold = await self.find()
        if hold is None:
            return
        if hold.weight_minute is not None:
            budget.resume(hold.weight_minute, hold.weight_used)
        if hold.held_until is not None:
            self._is_held, self.reason = True, hold.reason
            breaker.hold(hold.remaining_s or 0.0, hold.reason or "it was refused")

    async def find(self) -> Hold | None:
        """What is on record now."""
        async with self._pool.connection() as connection:
            return await exchange_holds.find(connection, self._host, self._address)

    async def hold(self, status: int | None, wait_s: float, reason: str) -> float:
        """Put a refusal on record; returns for how long it holds, twice as long as the last one when it is repeated."""
        async with self._pool.connection() as connection:
            held_s = await exchange_holds.put(
                connection,
                self._host,
                self._address,
                status,
                wait_s,
                reason,
                longest_s=LONGEST_S.get(status, exchange_holds.LONGEST_S),
            )
        self._is_held, self.reason = True, reason
        log.warning("the exchange is not asked", reason=reason, held_s=round(held_s, 1), status=status)
        return held_s

    async def answered(self) -> None:
        """The exchange answered: the next refusal is a first one."""
        if not self._is_held:
            return
        self._is_held, self.reason = False, None
        async with self._pool.connection() as connection:
            await exchange_holds.end(connection, self._host, self._address)

    async def other_may_ask(self) -> bool:
        """Whether a live machine at another address could feed instead."""
        async with self._pool.connection() as connection:
            return await exchange_holds.other_may_ask(connection, self._host, self._address)

    async def keep_weight(self, budget: WeightBudget) -> None:
        """Write what is used once a second, for ever."""
        kept = (0, 0)
        while True:
            await asyncio.sleep(KEEP_WEIGHT_EVERY_S)
            now = (budget.minute, budget.used)
            if now != kept and now[1]:
                kept = now
                async with self._pool.connection() as connection:
                    await exchange_holds.put_weight(
                        connection, self._host, self._address, minute=now[0], used=now[1]
                    )


def held_text(host: str, hold: Hold) -> str:
    """For people: who refuses, why, and until when."""
    until = "" if hold.held_until is None else f", asked again at {_text(hold.held_until)}"
    status = "" if hold.status is None else f" ({hold.status})"
    return f"{host} refuses this address{status}: {hold.reason}{until}"


def _text(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
