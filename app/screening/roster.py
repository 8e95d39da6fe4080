"""
The traders this machine holds, in memory, kept equal to the database's view of its leases.

Decided here: loading and validating plans, dropping what was lost, failing what cannot be loaded. Not decided here: who owns what.
A plan comes out of a table that people can edit, so it is validated again before it is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from uuid import UUID

import structlog

from app.store import machines
from app.store import roster as store
from app.store.pool import Pool
from app.store.roster import Entry, Failure, StoredPlan
from app.store.screening import fenced
from sandbox.evaluate import Evaluator
from sandbox.plan import Plan, PlanError, load_plan

log = structlog.get_logger(__name__)
PLANS_AT_ONCE = 1000  # plans are up to a few kB each: bounds the answer


@dataclass(slots=True)
class Held:
    """A trader on this machine. ``resume_after`` counts only while it is not in step with the machine."""

    trader_id: UUID
    epoch: int
    revision: int
    plan: Plan
    cooldown_s: float | None
    resume_after: datetime
    in_step: bool

    @property
    def lease(self) -> tuple[UUID, int]:
        return self.trader_id, self.epoch


@dataclass(frozen=True, slots=True)
class Change:
    """What a sync did."""

    loaded: int
    dropped: int
    failed: int


class Roster:
    """
    Args:
        pool: Connections for short transactions.
        evaluator: Where loaded plans are put, keyed by trader id.
    """

    def __init__(self, pool: Pool, evaluator: Evaluator) -> None:
        self._pool = pool
        self._evaluator = evaluator
        self._digest: tuple[int, int] | None = None
        self.held: dict[UUID, Held] = {}

    def clear(self) -> None:
        """Forget everything: this boot was buried, or has left."""
        for trader_id in self.held:
            self._evaluator.drop(trader_id)
        self.held.clear()
        self._digest = None

    async def sync(self, boot_id: int) -> Change | None:
        """
        Make memory equal to the leases in the database; None when nothing had changed.

        The caller makes sure that no slot is in hand. Stopping traders are let go (and thereby stopped), starting ones become running.

        Raises:
            Fenced: this boot is dead.
        """
        async with self._pool.connection() as connection:
            digest = await store.digest(connection, boot_id)
            if digest == self._digest:
                return None
            entries = await store.roster(connection, boot_id)
        stopping = [e.trader_id for e in entries if e.state == "stopping"]
        wanted = {e.trader_id: e for e in entries if e.state != "stopping"}
        dropped = self._drop_lost(wanted)
        failures = await self._load([e for e in wanted.values() if self._is_stale(e)])
        failed_ids = {f.trader_id for f in failures}
        starting = [
            (e.trader_id, e.epoch)
            for e in wanted.values()
            if e.state == "starting" and e.trader_id not in failed_ids
        ]
        if stopping or failures or starting:
            await self._settle(boot_id, stopping, failures, starting)
        else:
            self._digest = digest  # our own writes change the digest: the next sync confirms it
        return Change(len(wanted), dropped, len(failures))

    def _is_stale(self, entry: Entry) -> bool:
        held = self.held.get(entry.trader_id)
        return held is None or (held.epoch, held.revision) != (entry.epoch, entry.revision)

    def _drop_lost(self, wanted: dict[UUID, Entry]) -> int:
        lost = [trader_id for trader_id in self.held if trader_id not in wanted]
        for trader_id in lost:
            self.drop(trader_id)
        return len(lost)

    def drop(self, trader_id: UUID) -> None:
        if self.held.pop(trader_id, None) is not None:
            self._evaluator.drop(trader_id)

    async def _load(self, entries: Sequence[Entry]) -> list[Failure]:
        failures: list[Failure] = []
        for batch in _batches(entries, PLANS_AT_ONCE):
            async with self._pool.connection() as connection:
                stored = {p.trader_id: p for p in await store.plans(connection, [e.trader_id for e in batch])}
            for entry in batch:
                plan = stored.get(entry.trader_id)
                if plan is None:
                    continue  # deleted a moment ago; its row and lease are gone with it
                try:
                    self._put(entry, plan)
                except PlanError as error:
                    failures.append(
                        Failure(
                            entry.trader_id,
                            entry.epoch,
                            "plan refused",
                            f"The stored plan is not valid: {error}. Save the filter again.",
                        )
                    )
                    self.drop(entry.trader_id)
        return failures

    def _put(self, entry: Entry, stored: StoredPlan) -> None:
        plan = load_plan(stored.plan)
        symbols = frozenset(stored.symbols) if stored.symbols is not None else None
        cooldown_s = float(stored.frequency["cooldown_s"]) if isinstance(stored.frequency, dict) else None
        self._evaluator.put(
            entry.trader_id,
            plan,
            symbols,
            "every_bar" if isinstance(stored.frequency, dict) else stored.frequency,
        )
        before = self.held.get(entry.trader_id)
        same_lease = before is not None and before.epoch == entry.epoch
        self.held[entry.trader_id] = Held(
            trader_id=entry.trader_id,
            epoch=entry.epoch,
            revision=entry.revision,
            plan=plan,
            cooldown_s=cooldown_s,
            resume_after=before.resume_after if before and same_lease else entry.resume_after,
            in_step=before.in_step if before and same_lease else entry.in_step,
        )

    async def _settle(
        self, boot_id: int, stopping: list[UUID], failures: list[Failure], starting: list[tuple[UUID, int]]
    ) -> None:
        async with fenced(self._pool, boot_id) as connection:
            if stopping:
                await machines.release(connection, boot_id, stopping)
            if failures:
                await store.fail(connection, boot_id, failures)
            if starting:
                await store.mark_running(connection, boot_id, starting)
        for failure in failures:
            log.warning("trader failed to load", trader_id=str(failure.trader_id), reason=failure.message)


def _batches(entries: Sequence[Entry], size: int) -> Iterator[list[Entry]]:
    iterator: Iterable[Entry] = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch
