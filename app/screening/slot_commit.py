"""
One slot's transaction: the signals, the failures and the progress of some traders, all or nothing.

Decided here: what the transaction holds and in which order, and that the matches of a trader that floods become a digest. A slot of 600 matches and one row that a constraint refuses ends
as 599 signals and one row of ``signals_failed``: the refused transaction is tried again with the rows halved until the one to
blame is found. What comes of the machine's memory afterwards is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
import structlog

from app.errors import Fenced
from app.screening.loaded_traders import LoadedTrader
from app.store import machines, signal_digests, signals, signals_failed, trader_state
from app.store.pool import Connection, Pool
from app.store.signals import Match, RefusedMatch
from app.store.trader_state import Failure

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What came of a slot for *traders*, before it is committed.

    ``advances_from`` is where the machine stands when the slot is its next one; None when only these traders catch up.
    """

    slot: datetime
    traders: Sequence[LoadedTrader]
    matches: Sequence[Match]
    failures: Sequence[Failure]
    advances_from: datetime | None

    @property
    def moved(self) -> list[LoadedTrader]:
        """The traders that were behind and have now been screened through the slot."""
        failed = {f.trader_id for f in self.failures}
        return [t for t in self.traders if t.trader_id not in failed and not t.caught_up]


@dataclass(frozen=True, slots=True)
class Committed:
    """How many signals are new, which matches were set aside, and which are in digests instead."""

    inserted: int
    refused: Sequence[RefusedMatch]
    digested: Sequence[Match]


async def commit(pool: Pool, boot_id: int, outcome: Outcome) -> Committed:
    """
    Commit *outcome* in one fenced transaction, or in a second one when the database refuses rows of the first.

    Raises:
        Fenced: the boot is dead, or does not stand where it believes. Unjoined: a match's lease has changed. Nothing is
            committed in both cases.
        psycopg.OperationalError: the transaction may or may not have been committed; the machine's row knows.
    """
    try:
        async with machines.fenced(pool, boot_id) as connection:
            matches, digested = await _put_digests(connection, boot_id, outcome)
            inserted = await signals.insert_signals(connection, boot_id, outcome.slot, matches)
            await _advance(connection, boot_id, outcome)
            return Committed(inserted, [], digested)
    except psycopg.Error as error:
        if not signals.is_row_refused(error):
            raise
        log.warning("rows refused, looking for them", slot=outcome.slot.isoformat(), reason=str(error))
    async with machines.fenced(pool, boot_id) as connection:
        await signals.keep_signal_partition(connection, outcome.slot)  # a missing one refuses all rows
        matches, digested = await _put_digests(connection, boot_id, outcome)
        inserted, refused = await signals.insert_signals_bisecting(connection, boot_id, outcome.slot, matches)
        await signals_failed.put(connection, outcome.slot, refused)
        await _advance(connection, boot_id, outcome)
        return Committed(inserted, refused, digested)


async def _put_digests(
    connection: Connection, boot_id: int, outcome: Outcome
) -> tuple[list[Match], list[Match]]:
    """Store the digests of traders that flood; returns the matches that become signals, and those that do not."""
    if not outcome.matches:
        return [], []
    traders = {match.trader_id for match in outcome.matches}
    flooding = await signal_digests.find_flooding(connection, outcome.slot, traders)
    digested = [match for match in outcome.matches if match.trader_id in flooding]
    if digested:
        await signal_digests.put(connection, boot_id, outcome.slot, digested)
    return [match for match in outcome.matches if match.trader_id not in flooding], digested


async def _advance(connection: Connection, boot_id: int, outcome: Outcome) -> None:
    """Failures first: the trigger that ends their leases reads how far they were screened."""
    slot, moved = outcome.slot, [trader.lease for trader in outcome.moved]
    if outcome.failures:
        await trader_state.fail(connection, boot_id, outcome.failures)
    if outcome.advances_from is None:
        if moved:
            await trader_state.advance_traders(connection, boot_id, slot, moved)
        return
    if not await machines.advance_machine(connection, boot_id, slot, outcome.advances_from):
        raise Fenced(f"boot {boot_id} no longer stands at {outcome.advances_from}")
    if moved:
        await trader_state.put_in_step(connection, boot_id, slot, moved)
