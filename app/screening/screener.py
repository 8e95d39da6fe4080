"""
One machine's screening: every slot of the ledger after the last accounted one, each in one fenced transaction.

Decided here: the order of slots, which traders see which, what a transaction holds. Jobs and notifications only wake this up; the
ledger (``vyx.slots`` against ``vyx.machines.screened_through``) says what is due, so that a wake-up that is lost, late or doubled
changes nothing but latency.

A trader is *in step* when it has been screened through the slot at which the machine stands. One that was just claimed may be behind
(its last owner died some slots ago): it catches up first, slot by slot, with the same evaluator over the same rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from uuid import UUID

import msgspec
import structlog

from app.coordination.hints import Channel, Hints
from app.errors import Fenced, NotTrusted
from app.metrics import WorkerMetrics
from app.screening.bars_in_progress import FirstOfBar
from app.screening.panel_loader import PanelLoader
from app.screening.roster import Held, Roster
from app.store import leases, machines, signals, slots, trader_state
from app.store.pool import Pool
from app.store.signals import Match
from sandbox.engine.screen import Evaluator, Hits, Slot
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import Compiled

log = structlog.get_logger(__name__)
SLOTS_AT_ONCE = 100  # read ahead from the ledger
TRIM_EVERY_SLOTS = 60
TRUST_POLL_S = 0.05
TRUST_POLLS = 100


class Screener:
    """
    Args:
        pool: Connections for short transactions.
        hints: Wakes the feed readers after a commit.
        trusted: Whether this machine may still believe in its leases (the keeper's monotonic clock).
        compile_filter: Compiles a source, in a thread: for plans of an older version.
        each: Runs the functions of filters that use `each`, in a thread.
    """

    def __init__(  # noqa: PLR0917 - what it is composed of, given once, by the composition
        self,
        pool: Pool,
        hints: Hints,
        metrics: WorkerMetrics,
        trusted: Callable[[], bool],
        compile_filter: Callable[[str], Compiled],
        each: EachRunner,
    ) -> None:
        self._pool = pool
        self._hints = hints
        self._metrics = metrics
        self._trusted = trusted
        self._panel = PanelLoader(pool)
        self.evaluator = Evaluator(self._panel.panel, each)
        self.roster = Roster(pool, self.evaluator, compile_filter, metrics)
        self._first_of_bar = FirstOfBar()
        self._hand = asyncio.Lock()  # whoever holds it has the slot in hand
        self._is_awaited = False
        self._slots_since_trim = 0
        self._draining = False
        self.boot_id: int | None = None
        self.screened_through: datetime | None = None
        self.busy_since: float | None = None

    @property
    def owned(self) -> int:
        return len(self.roster.held)

    async def adopt(self, boot_id: int, screened_through: datetime) -> None:
        """
        A new identity: nothing of an earlier one is held any more.

        A slot in hand for the old one is given up where it waits for trust: the new boot does not beat before this returns, so the
        wait would last its full time, and others would reap the new boot meanwhile.
        """
        self.boot_id = None
        async with self._hand:
            self.roster.clear()
            self._first_of_bar.clear()
            self._panel.forget()
            self.boot_id = boot_id
            self.screened_through = screened_through
            self._draining = False

    async def drain(self) -> None:
        """Finish the slot in hand and start no other."""
        self._draining = True
        async with self._hand:
            self.roster.clear()

    async def release_surplus(self, surplus: int) -> int:
        """Give *surplus* traders back, between two slots; returns how many."""
        async with self._hand:
            ids, boot_id = list(self.roster.held)[:surplus], self.boot_id
            if not ids or boot_id is None:
                return 0
            async with machines.fenced(self._pool, boot_id) as connection:
                released = await leases.release(connection, boot_id, ids)
            for trader_id in ids:
                self.roster.drop(trader_id)
            return released

    async def sync(self) -> None:
        """
        Take over what was claimed, changed or stopped, between two slots.

        What a trader missed before it came here is screened at once: the next slot may be a minute away.

        Raises:
            As :meth:`screen`.
        """
        await self._take_over()
        boot_id = self.boot_id
        if boot_id is not None and not self._draining and await self.roster.recompile(boot_id):
            await self._take_over()

    async def screen(self) -> int:
        """
        Account for every closed slot that this machine has not accounted for; returns how many there were.

        Safe to call at any time and from several tasks: one more waits for the hand and takes what came meanwhile, any further one
        would find nothing and returns at once (waiting, they held every place of the job worker and no tick ran during a catch-up).
        An interrupted slot is simply still due.

        Raises:
            Fenced: this boot is dead. NotTrusted: the heartbeat is late. psycopg.Error: the database is out of reach.
        """
        if self._is_awaited:
            return 0
        self._is_awaited = True
        try:
            await self._hand.acquire()
        finally:
            self._is_awaited = False
        try:
            boot_id = self.boot_id
            if boot_id is None or self._draining:
                return 0
            await self._find_position(boot_id)
            return await self._screen(boot_id)
        finally:
            self.busy_since = None
            self._hand.release()

    async def _screen(self, boot_id: int) -> int:
        done = 0
        while True:
            self.busy_since = time.monotonic()
            async with self._pool.connection() as connection:
                due = await slots.next_closed(connection, self._standing(), SLOTS_AT_ONCE)
            if not due:
                await self._catch_up(boot_id)
                return done
            for slot, state in due:
                self.busy_since = time.monotonic()
                await self._account_for(boot_id, slot, state)
                done += 1
                if self._draining:
                    return done

    async def _find_position(self, boot_id: int) -> None:
        """
        A connection that broke during a commit leaves open whether the slot was accounted for; only the row knows. What memory believes
        of traders may then be a slot behind: they are screened again there, which inserts nothing.
        """
        async with self._pool.connection() as connection:
            self.screened_through = await machines.position(connection, boot_id)

    # -- between slots ------------------------------------------------------------------------------------------------

    async def _take_over(self) -> None:
        async with self._hand:
            boot_id = self.boot_id
            if boot_id is None or self._draining:
                return
            await self._sync(boot_id)
            if all(held.in_step for held in self.roster.held.values()):
                return
            try:
                await self._find_position(boot_id)
                await self._catch_up(boot_id)
            finally:
                self.busy_since = None

    async def _sync(self, boot_id: int) -> None:
        change = await self.roster.sync(boot_id)
        if change is None:
            return
        self._hints.send(Channel.FEED)
        log.debug("roster changed", loaded=change.loaded, dropped=change.dropped, failed=change.failed)

    async def _catch_up(self, boot_id: int) -> None:
        """Screen traders that are behind the machine, oldest first, until they stand where it stands."""
        standing = self._standing()
        behind = sorted(
            (h for h in self.roster.held.values() if not h.in_step and h.resume_after <= standing),
            key=lambda h: h.resume_after,
        )
        for resume_after, group in groupby(behind, key=lambda h: h.resume_after):
            late = list(group)
            async with self._pool.connection() as connection:
                missed = [
                    s
                    for s in await slots.next_closed(connection, resume_after, 1_000_000)
                    if s[0] <= standing
                ]
            for slot, state in missed:
                self.busy_since = time.monotonic()
                await self._screen_for(
                    boot_id,
                    slot,
                    state,
                    [h for h in late if h.trader_id in self.roster.held],
                    machine_too=False,
                )
            async with machines.fenced(self._pool, boot_id) as connection:
                await trader_state.put_in_step(connection, boot_id, standing, [h.lease for h in late])
            for held in late:
                held.in_step, held.resume_after = True, standing

    # -- one slot -----------------------------------------------------------------------------------------------------

    async def _account_for(self, boot_id: int, slot: datetime, state: str) -> None:
        await self._sync(boot_id)
        await self._catch_up(boot_id)
        due = [h for h in self.roster.held.values() if h.in_step or h.resume_after < slot]
        await self._screen_for(boot_id, slot, state, due, machine_too=True)
        self._slots_since_trim += 1
        if self._slots_since_trim >= TRIM_EVERY_SLOTS:
            self._slots_since_trim = 0
            self._panel.trim(self.evaluator.needed())

    async def _screen_for(
        self, boot_id: int, slot: datetime, state: str, traders: Sequence[Held], *, machine_too: bool
    ) -> None:
        """Evaluate *traders* at *slot* and commit the outcome; with *machine_too* the machine advances, else only these traders do."""
        await self._until_trusted(boot_id)
        started = time.perf_counter()
        result: Slot | None = None
        if machine_too:
            await self._panel.extend(slot)
        if state == "complete" and traders:
            await self._panel.ensure(self.evaluator.needed(), slot, through=max(slot, self._standing()))
            slot_ms = int(slot.timestamp() * 1000)
            # None, not every name: only a slot of all traders carries values on from the slot before
            everybody = machine_too and len(traders) == len(self.roster.held)
            keys = None if everybody else [h.trader_id for h in traders]
            result = await asyncio.to_thread(self.evaluator.evaluate, slot_ms, keys)
        outcome = _Outcome(
            slot,
            datetime.now(UTC),
            traders,
            self._first_of_bar.news(slot, _matches(result, self.roster.held)),
            _failures(result, self.roster.held),
        )
        await self._until_trusted(boot_id)
        inserted = await self._commit(boot_id, outcome, machine_too=machine_too)
        if inserted or outcome.failures:
            self._hints.send(Channel.FEED)
        self._metrics.record_slot(
            seconds=time.perf_counter() - started,
            evaluated=result.evaluated if result else 0,
            signals=inserted,
            failures=len(outcome.failures),
            skipped=state == "outage",
        )

    async def _commit(self, boot_id: int, outcome: _Outcome, *, machine_too: bool) -> int:
        """One fenced transaction; memory follows only after it. Returns the number of new signals."""
        slot, failures = outcome.slot, outcome.failures
        failed = {f.trader_id for f in failures}
        moved = [h for h in outcome.traders if h.trader_id not in failed and not h.in_step]
        leases = [h.lease for h in moved]
        inserted = 0
        async with machines.fenced(self._pool, boot_id) as connection:
            if outcome.matches:
                inserted = await signals.insert_signals(
                    connection, boot_id, slot, outcome.screened_at, outcome.matches
                )
            if failures:  # before the machine advances: the trigger that ends their leases reads how far they were screened
                await trader_state.fail(connection, boot_id, failures)
            if machine_too and not await machines.advance_machine(
                connection, boot_id, slot, self._standing()
            ):
                raise Fenced(f"boot {boot_id} no longer stands at {self._standing()}")
            if moved and machine_too:
                await trader_state.put_in_step(connection, boot_id, slot, leases)
            elif moved:
                await trader_state.advance_traders(connection, boot_id, slot, leases)
        self._first_of_bar.remember(slot, outcome.matches)
        for held in moved:
            held.resume_after, held.in_step = slot, machine_too
        if machine_too:
            self.screened_through = slot
        for failure in failures:
            self.roster.drop(failure.trader_id)
            log.warning("trader failed", trader_id=str(failure.trader_id), reason=failure.message)
        return inserted

    async def _until_trusted(self, boot_id: int) -> None:
        """A late heartbeat only pauses the work; one that stays away, or another identity, ends it."""
        for _ in range(TRUST_POLLS):
            if self.boot_id != boot_id:
                raise Fenced(f"boot {boot_id} is over")
            if self._trusted():
                return
            await asyncio.sleep(TRUST_POLL_S)
        raise NotTrusted(f"no heartbeat could be renewed for {TRUST_POLLS * TRUST_POLL_S:g} s")

    def _standing(self) -> datetime:
        if self.screened_through is None:
            raise RuntimeError("a machine without an identity does not screen")
        return self.screened_through


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of a slot for some traders, before it is committed."""

    slot: datetime
    screened_at: datetime
    traders: Sequence[Held]
    matches: list[Match]
    failures: list[trader_state.Failure]


def _matches(result: Slot | None, held: dict[UUID, Held]) -> list[Match]:
    """One match per symbol that hit, with its shown values as JSON text."""
    if result is None:
        return []
    return [match for hits in result.hits for match in _matches_of(hits, held[hits.key])]


def _matches_of(hits: Hits, trader: Held) -> Iterable[Match]:
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


def _failures(result: Slot | None, held: dict[UUID, Held]) -> list[trader_state.Failure]:
    if result is None:
        return []
    return [
        trader_state.Failure(trader_id, held[trader_id].epoch, "evaluation failed", message)
        for trader_id, message in result.failed.items()
    ]
