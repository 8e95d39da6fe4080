"""
Screening corrected slots again, to report: which signals would be missing or new with the candles as they are now.

Decided here: the slots looked at are those at which a corrected bar, or a roll-up of it, closes; the pairs are those that were
corrected. Nothing is deleted and no signal is sent: a difference is a row of ``signal_revisions``. Left out are filters on forming
bars, whose earlier states are not stored, and filters that call Python functions, which have the interpreters to themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from uuid import UUID

import structlog

from app import history
from app.domain import timeframes
from app.store import signal_revisions
from app.store.pool import Pool
from app.store.signal_revisions import CorrectedSlot, ScreenedTrader
from sandbox.engine.calls import OperatorError
from sandbox.engine.matching import Frequency
from sandbox.engine.replay import evaluate_range
from sandbox.plan.document import PlanError, load_plan

log = structlog.get_logger(__name__)
LOOK_EVERY_S: Final = 5.0
SLOTS_AT_ONCE: Final = 50
TRADERS_AT_ONCE: Final = 200
BARS_LOOKED_AT: Final = 2  # the slot's, and the one before, which on_enter compares with


class Revisions:
    """Reports on behalf of nobody: two machines that do the same write the same rows."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Look for corrections every 5 s until :meth:`stop`."""
        while not self._over.is_set():
            await self.report()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._over.wait()

    def stop(self) -> None:
        """Let :meth:`run` return after the slots it is at."""
        self._over.set()

    async def report(self) -> int:
        """Screen every corrected slot again that nobody has; returns how many differences were found."""
        found = 0
        async with self._pool.connection() as connection:
            corrected = await signal_revisions.next_corrected(connection, SLOTS_AT_ONCE)
        for slot in corrected:
            found += await self._screen_again(slot)
            async with self._pool.connection() as connection:
                await signal_revisions.mark(connection, slot)
        return found

    async def _screen_again(self, corrected: CorrectedSlot) -> int:
        found, after_id = 0, UUID(int=0)
        while True:
            async with self._pool.connection() as connection:
                traders = await signal_revisions.traders_at(
                    connection,
                    corrected.slot,
                    corrected.symbols,
                    after_id=after_id,
                    limit=TRADERS_AT_ONCE,
                )
            for trader in traders:
                found += await self._compare(trader, corrected)
            if len(traders) < TRADERS_AT_ONCE:
                return found
            after_id = traders[-1].trader_id

    async def _compare(self, trader: ScreenedTrader, corrected: CorrectedSlot) -> int:
        slot = corrected.slot
        symbols = [s for s in corrected.symbols if trader.symbols is None or s in trader.symbols]
        matches = await self._matches(trader, corrected, symbols)
        if matches is None:
            return 0
        async with self._pool.connection() as connection:
            stored, cooling = await signal_revisions.signals_near(connection, trader, slot, symbols)
            kinds = dict.fromkeys(stored - matches, "missing") | dict.fromkeys(
                matches - stored - cooling, "new"
            )
            if kinds:
                await signal_revisions.put(connection, trader, slot, kinds)
                log.info(
                    "a corrected candle would change signals",
                    trader_id=str(trader.trader_id),
                    slot=slot.isoformat(),
                    signals=len(kinds),
                )
        return len(kinds)

    async def _matches(
        self, trader: ScreenedTrader, corrected: CorrectedSlot, symbols: list[str]
    ) -> set[str] | None:
        """Which of *symbols* the trader would signal at the slot now; None where that cannot be said."""
        slot_ms = timeframes.epoch_ms(corrected.slot)
        try:
            plan = load_plan(trader.plan)
            if plan.forming or plan.calls_each or not timeframes.closes_at(slot_ms, plan.due_every):
                return None
            async with self._pool.connection() as connection:
                stretch = await history.load(
                    connection, plan, bars=BARS_LOOKED_AT, until=corrected.slot, symbols=symbols
                )
            frequency: Frequency = "on_enter" if trader.frequency == "on_enter" else "every_bar"
            hits = await asyncio.to_thread(
                lambda: evaluate_range(stretch.panel(), plan, slot_ms, slot_ms, symbols, frequency)
            )
        except (PlanError, OperatorError) as error:
            log.info("not screened again", trader_id=str(trader.trader_id), reason=str(error))
            return None
        return set(hits.symbols)
