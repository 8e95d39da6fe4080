"""
One machine's queue of slots: every slot of the ledger after the last accounted one, in order, each exactly once.

Decided here: the order of slots, which traders see which, when a slot is tried again. What one slot's transaction holds is
`slot_commit`. Jobs and notifications only wake this up; the ledger (``vyx.slots`` against ``vyx.machines.screened_through``)
says what is due, so that a wake-up that is lost, late or doubled changes nothing but latency.

A trader has *caught up* when it has been screened through the slot at which the machine stands. One that was just claimed may
be behind: its last owner died at 10:03, the machine stands at 10:05. It is screened at 10:04 and 10:05 first, by the same
evaluator over the same rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from itertools import groupby

import psycopg
import stamina
import structlog

from app.coordination.hints import Channel, Hints
from app.coordination.progress import Progress
from app.errors import Fenced, NotTrusted
from app.metrics import WorkerMetrics
from app.screening.first_of_bar import FirstOfBar
from app.screening.loaded_traders import LoadedTrader, LoadedTraders
from app.screening.slot_commit import Outcome, commit
from app.screening.slot_evaluation import Evaluated, SlotEvaluation
from app.store import incidents, leases, machines, slots, trader_state
from app.store.pool import Pool
from app.store.signals import Match, Unjoined
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import Compiled

log = structlog.get_logger(__name__)
SLOTS_AT_ONCE = 100  # read ahead from the ledger
STEP_BOUND_S = 120.0  # the longest step: one evaluation
TRUST_POLL_S = 0.05
TRUST_POLLS = 100
ATTEMPTS_MAX = 8  # of one slot: the waits between them grow from 20 ms to half a second
RETRY_S_MAX = 10.0  # afterwards the slot is left to the next wake-up


class Screener:
    """
    Args:
        pool: Connections for short transactions.
        hints: Wakes the feed readers after a commit.
        trusted: Whether this machine may still believe in its leases (the keeper's monotonic clock).
        compile_filter: Compiles a source, in a thread: for plans of an older version.
        each: Runs the functions of filters that use `each`, in a thread.
        progress: Where each slot, and each batch of plans loaded, is reported as a step.
        on_screened: Called with each slot that this machine has committed for all its traders.
    """

    def __init__(  # noqa: PLR0917 - what it is composed of, given once, by the composition
        self,
        pool: Pool,
        hints: Hints,
        metrics: WorkerMetrics,
        trusted: Callable[[], bool],
        compile_filter: Callable[[str], Compiled],
        each: EachRunner,
        on_screened: Callable[[int, datetime], None] = lambda _boot_id, _slot: None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress(STEP_BOUND_S)
        self._pool = pool
        self._hints = hints
        self._metrics = metrics
        self._trusted = trusted
        self._on_screened = on_screened
        self.evaluation = SlotEvaluation(pool, each)
        self.traders = LoadedTraders(pool, self.evaluation.evaluator, compile_filter, metrics, self.progress)
        self._first_of_bar = FirstOfBar()
        self.slot_lock = (
            asyncio.Lock()
        )  # held while a slot is screened, and while what slots depend on changes
        self._is_awaited = False
        self._draining = False
        self._in_doubt: datetime | None = None  # a slot whose commit was not answered
        self.boot_id: int | None = None
        self.screened_through: datetime | None = None

    @property
    def owned(self) -> int:
        return len(self.traders.by_id)

    async def begin_boot(self, boot_id: int, screened_through: datetime) -> None:
        """
        A new identity: nothing of an earlier one is held any more.

        A slot that the old one is screening is given up where it waits for trust: the new boot does not beat before this
        returns, so the wait would last its full time, and others would reap the new boot meanwhile.
        """
        self.boot_id = None
        async with self.slot_lock:
            self.traders.clear()
            self._first_of_bar.clear()
            self.evaluation.forget()
            self._metrics.incremental.set(1)
            self.boot_id = boot_id
            self.screened_through = screened_through
            self._in_doubt = None
            self._draining = False

    async def drain(self) -> None:
        """Finish the current slot and start no other."""
        self._draining = True
        async with self.slot_lock:
            return  # what is loaded stays: forgetting 100,000 traders takes longer than giving them back

    async def release_surplus(self, surplus: int) -> int:
        """Give *surplus* traders back, between two slots; returns how many."""
        async with self.slot_lock:
            ids, boot_id = list(self.traders.by_id)[:surplus], self.boot_id
            if not ids or boot_id is None:
                return 0
            async with machines.fenced(self._pool, boot_id) as connection:
                released = await leases.release(connection, boot_id, ids)
            for trader_id in ids:
                self.traders.drop(trader_id)
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
        if boot_id is not None and not self._draining and await self.traders.recompile(boot_id):
            await self._take_over()
        while await self._prepare():
            pass  # a slot that closes meanwhile comes between two pieces

    async def screen(self) -> int:
        """
        Account for every closed slot that this machine has not accounted for; returns how many there were.

        Safe to call at any time and from several tasks: one concurrent caller waits, others return 0 at once (when all
        waited they filled the job worker and no tick ran during a catch-up). An interrupted slot is simply still due.

        Raises:
            Fenced: this boot is dead. NotTrusted: the heartbeat is late. psycopg.Error: the database stayed out of reach
                for ``RETRY_S_MAX``.
        """
        if self._is_awaited:
            return 0
        self._is_awaited = True
        try:
            await self.slot_lock.acquire()
        finally:
            self._is_awaited = False
        try:
            boot_id = self.boot_id
            if boot_id is None or self._draining:
                return 0
            return await self._screen(boot_id)
        finally:
            self.progress.rest()
            self.slot_lock.release()

    async def _screen(self, boot_id: int) -> int:
        done = 0
        while True:
            due = await self._due(boot_id)
            if not due:
                return done
            for slot, state in due:
                await self._account_for(boot_id, slot, state)
                done += 1
                if self._draining:
                    return done

    async def _due(self, boot_id: int) -> list[tuple[datetime, str]]:
        """The next slots to account for; when there are none, who is behind has caught up."""
        async for attempt in _attempts():
            with attempt:
                self._step()
                await self._find_position(boot_id)
                async with self._pool.connection() as connection:
                    due = await slots.next_closed(connection, self._position(), SLOTS_AT_ONCE)
                if not due:
                    await self._catch_up(boot_id)
                return due
        return []

    async def _account_for(self, boot_id: int, slot: datetime, state: str) -> None:
        """Screen the machine's next slot; an error that passes (a deadlock, a lost connection) costs one more attempt."""
        async for attempt in _attempts():
            with attempt:
                self._step()
                if attempt.num > 1:
                    self._metrics.slot_retries.inc()
                    await self._find_position(boot_id)
                    if self._position() >= slot:
                        return
                await self._attempt(boot_id, slot, state)

    async def _attempt(self, boot_id: int, slot: datetime, state: str) -> None:
        try:
            await self._sync(boot_id)
            await self._catch_up(boot_id)
            position = self._position()
            # one that is behind waits for a slot that is still open; one that starts later has its first slot now
            due = [t for t in self.traders.by_id.values() if t.caught_up or position <= t.resume_after < slot]
            await self._screen_for(boot_id, slot, state, due, is_next=True)
        except Unjoined as error:
            self._metrics.matches_unjoined.inc(error.count)
            self.traders.read_again()
            log.warning("leases changed, screening again", slot=slot.isoformat(), reason=str(error))
            async with machines.fenced(self._pool, boot_id) as connection:
                await incidents.insert(connection, "matches without a lease", boot_id, str(error), slot=slot)
            raise

    async def _find_position(self, boot_id: int) -> None:
        """
        Read where this machine stands: a connection that broke during a commit leaves that open, and only the row knows.

        What memory believes of traders may then be a slot behind: they are screened again there, which inserts nothing.
        A row that somebody else moved forward is moved back: the slots between were not screened.
        """
        known, in_doubt = self.screened_through, self._in_doubt
        async with self._pool.connection() as connection:
            stands = await machines.position(connection, boot_id)
        if stands is None:
            raise Fenced(f"boot {boot_id} has no row")
        if known is not None and stands > known and stands != in_doubt:
            async with machines.fenced(self._pool, boot_id) as connection:
                await machines.move_back(connection, boot_id, known)
                message = f"screened_through was moved from {known} to {stands}, and was moved back"
                await incidents.insert(connection, "position moved", boot_id, message, slot=stands)
            log.warning("position moved by somebody else, moved back", stood_at=str(stands), known=str(known))
            stands = known
        self.screened_through, self._in_doubt = stands, None

    # -- between slots ------------------------------------------------------------------------------------------------

    async def _take_over(self) -> None:
        async with self.slot_lock:
            boot_id = self.boot_id
            if boot_id is None or self._draining:
                return
            try:
                self._step()
                await self._sync(boot_id)
                if not all(trader.caught_up for trader in self.traders.by_id.values()):
                    await self._find_position(boot_id)
                    await self._catch_up(boot_id)
            finally:
                self.progress.rest()

    async def _prepare(self) -> int:
        """Compute a piece of what new traders need before their first slot; returns how much is left."""
        async with self.slot_lock:
            if self.boot_id is None or self._draining or self.screened_through is None:
                return 0
            try:
                self._step()
                return await self.evaluation.prepare(self.screened_through)
            finally:
                self.progress.rest()

    async def _sync(self, boot_id: int) -> None:
        change = await self.traders.sync(boot_id)
        if change is None:
            return
        self._hints.send(Channel.FEED)
        log.debug("traders changed", loaded=change.loaded, dropped=change.dropped, failed=change.failed)

    async def _catch_up(self, boot_id: int) -> None:
        """Screen traders that are behind the machine, oldest first, until they stand where it stands."""
        position = self._position()
        behind = sorted(
            (t for t in self.traders.by_id.values() if not t.caught_up and t.resume_after <= position),
            key=lambda t: t.resume_after,
        )
        for resume_after, group in groupby(behind, key=lambda t: t.resume_after):
            late = list(group)
            async with self._pool.connection() as connection:
                missed = await slots.next_closed(connection, resume_after, 1_000_000)
                still_open = await slots.oldest_open(connection, resume_after, position)
            for slot, state in missed:
                if slot > position:
                    break
                self._step()
                here = [t for t in late if t.trader_id in self.traders.by_id]
                await self._screen_for(boot_id, slot, state, here, is_next=False)
            if still_open is not None:
                continue  # the machine joined behind a slot that is still open: they wait for it
            async with machines.fenced(self._pool, boot_id) as connection:
                await trader_state.put_in_step(connection, boot_id, position, [t.lease for t in late])
            for trader in late:
                trader.caught_up, trader.resume_after = True, position

    # -- one slot -----------------------------------------------------------------------------------------------------

    async def _screen_for(
        self, boot_id: int, slot: datetime, state: str, traders: Sequence[LoadedTrader], *, is_next: bool
    ) -> None:
        """Evaluate *traders* at *slot* and commit the outcome; the machine advances when the slot *is_next* in its queue."""
        await self._until_trusted(boot_id)
        started = time.perf_counter()
        position = self._position()
        if is_next:
            await self.evaluation.extend(slot)
        found = Evaluated([], [], 0)
        if state == "complete" and traders:
            found = await self.evaluation.evaluate(
                slot, traders, self.traders.by_id, through=max(slot, position), is_next=is_next
            )
        matches = await self._on_time(slot, found.matches, is_next=is_next)
        news = self._first_of_bar.news(slot, matches)
        outcome = Outcome(slot, traders, news, found.failures, position if is_next else None)
        await self._until_trusted(boot_id)
        inserted = await self._commit(boot_id, outcome)
        self._metrics.record_slot(
            seconds=time.perf_counter() - started,
            evaluated=found.traders_due,
            signals=inserted,
            failures=len(found.failures),
            skipped=state == "outage",
        )
        if is_next and state == "complete":
            self._on_screened(boot_id, slot)

    async def _on_time(self, slot: datetime, matches: Sequence[Match], *, is_next: bool) -> Sequence[Match]:
        """
        *matches* without those on a minute candle that came after its slot had closed.

        Who screened the slot in time did not have the candle; who catches up has, and must give the same answer.
        """
        if not matches or (is_next and not self.evaluation.panel.corrections):
            return matches
        async with self._pool.connection() as connection:
            late = {u.symbol for u in await slots.unscreened(connection, slot, slot)}
        minutely = {t.trader_id for t in self.traders.by_id.values() if t.due_every == "1m"} if late else ()
        return [m for m in matches if m.symbol not in late or m.trader_id not in minutely]

    async def _commit(self, boot_id: int, outcome: Outcome) -> int:
        """Commit; memory follows only afterwards. Returns the number of new signals."""
        slot, is_next = outcome.slot, outcome.advances_from is not None
        moved = outcome.moved
        self._in_doubt = slot if is_next else self._in_doubt
        committed = await commit(self._pool, boot_id, outcome)
        digested = {match.trader_id for match in committed.digested}
        self._first_of_bar.remember(slot, [m for m in outcome.matches if m.trader_id not in digested])
        for trader in moved:
            trader.resume_after, trader.caught_up = slot, is_next
        if is_next:
            self.screened_through, self._in_doubt = slot, None
        for failure in outcome.failures:
            self.traders.drop(failure.trader_id)
            log.warning("trader failed", trader_id=str(failure.trader_id), reason=failure.message)
        for refused in committed.refused:
            trader_id = str(refused.match.trader_id)
            log.error(
                "signal refused", trader_id=trader_id, symbol=refused.match.symbol, reason=refused.reason
            )
        self._metrics.signals_refused.inc(len(committed.refused))
        self._metrics.signals_digested.inc(len(committed.digested))
        if committed.inserted or outcome.failures or committed.refused or digested:
            self._hints.send(Channel.FEED)
        return committed.inserted

    async def _until_trusted(self, boot_id: int) -> None:
        """A late heartbeat only pauses the work; one that stays away, or another identity, ends it."""
        for _ in range(TRUST_POLLS):
            if self.boot_id != boot_id:
                raise Fenced(f"boot {boot_id} is over")
            if self._trusted():
                return
            await asyncio.sleep(TRUST_POLL_S)
        raise NotTrusted(f"no heartbeat could be renewed for {TRUST_POLLS * TRUST_POLL_S:g} s")

    def _position(self) -> datetime:
        if self.screened_through is None:
            raise RuntimeError("a machine without an identity does not screen")
        return self.screened_through

    def _step(self) -> None:
        """Report progress."""
        self.progress.step()


def _attempts() -> AsyncIterator[stamina.Attempt]:
    """One attempt after the other while errors pass, with short waits that differ from machine to machine."""
    return aiter(
        stamina.retry_context(
            on=_passes,
            attempts=ATTEMPTS_MAX,
            timeout=RETRY_S_MAX,
            wait_initial=0.02,
            wait_max=0.5,
            wait_jitter=0.05,
        )
    )


def _passes(error: Exception) -> bool:
    """
    Whether the same slot may succeed at once: a deadlock, a serialization failure, a cancelled statement, a backend that
    was terminated, a connection that was lost (40001, 40P01, 57014, 57P01, class 08 …), or leases that are read again.
    """
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError | Unjoined)
