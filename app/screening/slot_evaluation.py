"""
What a slot holds for some traders: their matches and failures, from the machine's panel of candles.

Decided here: which candles are in memory, and whether values are carried on from the slot before (`incremental`) or computed
from the candles alone. What is done with the outcome is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from app.screening.loaded_traders import LoadedTrader
from app.screening.panel_loader import PanelLoader
from app.store.pool import Pool
from app.store.signals import Match
from app.store.trader_state import Failure
from sandbox.engine.screen import Evaluator, Hits, Slot
from sandbox.interpreter.functions import EachRunner

TRIM_EVERY_SLOTS = 60
PREPARE_S = 0.04  # of new traders' values at a stretch: what a slot that closes meanwhile may have to wait


@dataclass(frozen=True, slots=True)
class Evaluated:
    """``traders_due`` counts those that were screened, failed ones included."""

    matches: list[Match]
    failures: list[Failure]
    traders_due: int


class SlotEvaluation:
    """
    Args:
        pool: Connections for reading candles.
        each: Runs the functions of filters that use `each`, in a thread.

    Attributes:
        incremental: Whether values are carried on from slot to slot; switched off once an audit found a difference.
    """

    def __init__(self, pool: Pool, each: EachRunner) -> None:
        self.panel = PanelLoader(pool)
        self.evaluator = Evaluator(self.panel.panel, each)
        self.incremental = True
        self._slots_since_trim = 0

    def forget(self) -> None:
        """Read everything again when it is next needed, and carry values on again."""
        self.panel.forget()
        self.incremental = True

    async def extend(self, slot: datetime) -> None:
        """Take the candles of *slot* into memory, and drop old ones now and then."""
        self._slots_since_trim += 1
        if self._slots_since_trim > TRIM_EVERY_SLOTS:
            self._slots_since_trim = 0
            self.panel.trim(self.evaluator.needed())
        await self.panel.extend(slot)

    async def prepare(self, slot: datetime) -> int:
        """
        Compute for ``PREPARE_S`` what new traders need, as of *slot*, where the machine is; returns how many calls are left.

        Without it their first slot does all of it: seconds for thousands of traders.
        """
        needed = self.evaluator.needed()
        if not (needed and self.incremental):
            return 0
        await self.panel.ensure(needed, slot, through=slot)
        return await asyncio.to_thread(self.evaluator.prepare, int(slot.timestamp() * 1000), PREPARE_S)

    async def evaluate(
        self,
        slot: datetime,
        traders: Sequence[LoadedTrader],
        loaded: Mapping[UUID, LoadedTrader],
        *,
        through: datetime,
        is_next: bool,
    ) -> Evaluated:
        """
        The matches of *traders*, some or all of those *loaded*, at *slot*.

        Only a machine's next slot (*is_next*), screened for everybody, carries values on. The first load of candles
        reaches to *through*.
        """
        await self.panel.ensure(self.evaluator.needed(), slot, through=through)
        everybody = is_next and self.incremental and len(traders) == len(loaded)
        # None, not every name: only a slot of all traders carries values on from the slot before
        keys = None if everybody else [trader.trader_id for trader in traders]
        result = await asyncio.to_thread(self.evaluator.evaluate, int(slot.timestamp() * 1000), keys)
        return Evaluated(list(_matches(result, loaded)), _failures(result, loaded), result.evaluated)


def _matches(result: Slot, loaded: Mapping[UUID, LoadedTrader]) -> Iterator[Match]:
    """One match per symbol that hit, with its shown values as JSON text."""
    return (match for hits in result.hits for match in _matches_of(hits, loaded[hits.key]))


def _matches_of(hits: Hits, trader: LoadedTrader) -> Iterable[Match]:
    for i, symbol in enumerate(hits.symbols):
        yield Match(
            trader_id=trader.trader_id,
            epoch=trader.epoch,
            symbol=symbol,
            timeframe=hits.timeframe,
            price=float(hits.prices[i]),
            shown=msgspec.json.encode({name: values[i] for name, values in hits.values.items()}).decode(),
            plan_hash=trader.plan_hash,
            forming=hits.forming,
            cooldown_s=trader.cooldown_s,
        )


def _failures(result: Slot, loaded: Mapping[UUID, LoadedTrader]) -> list[Failure]:
    return [
        Failure(trader_id, loaded[trader_id].epoch, "evaluation failed", message)
        for trader_id, message in result.failed.items()
    ]
