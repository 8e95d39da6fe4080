"""
The traders this machine holds, in memory, kept equal to the database's view of its leases.

Decided here: loading and validating plans, dropping what was lost, failing what cannot be loaded. Not decided here: who owns what.
A plan comes out of a table that people can edit, so it is validated again before it is evaluated, and refused when it is not the one
that was saved (its hash tells). One of an older version of the format is compiled anew from its source: :meth:`LoadedTraders.recompile`, apart
from :meth:`LoadedTraders.sync`, so that no slot waits for a compiler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from uuid import UUID

import msgspec
import structlog

from app.coordination.progress import Progress
from app.metrics import WorkerMetrics
from app.store import leases, trader_state, trader_versions, traders
from app.store.machines import fenced
from app.store.pool import Pool
from app.store.trader_state import Failure, OwnedChanges, OwnedTrader
from app.store.traders import Recompiled, StoredPlan
from sandbox.engine.screen import Evaluator
from sandbox.language.compiler import Compiled
from sandbox.plan.document import PLAN_VERSION, Plan, PlanError, load_plan

log = structlog.get_logger(__name__)
# Loading so many holds the event loop for 40 ms; a transaction open meanwhile is ended after 500 ms.
PLANS_AT_ONCE = 200
RECOMPILE_S = 1.0  # compiling at a stretch; then what is ready is loaded


@dataclass(slots=True)
class LoadedTrader:
    """
    A trader on this machine. ``resume_after`` counts only until it has caught up with the machine.

    ``due_every`` and ``bar`` are timeframes: how often it is screened, and the bar on which it signals.
    """

    trader_id: UUID
    epoch: int
    revision: int
    plan_hash: str
    cooldown_s: float | None
    due_every: str
    bar: str
    resume_after: datetime
    caught_up: bool

    @property
    def lease(self) -> tuple[UUID, int]:
        return self.trader_id, self.epoch


class _Versioned(msgspec.Struct):
    """The part of a plan that says how to read the rest."""

    version: int


_read_version = msgspec.json.Decoder(_Versioned).decode


@dataclass(frozen=True, slots=True)
class _Outdated:
    """A trader whose plan is of an older version, and the source to make it anew from."""

    entry: OwnedTrader
    filter: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a sync did."""

    loaded: int
    dropped: int
    failed: int


class LoadedTraders:
    """
    Args:
        pool: Connections for short transactions.
        evaluator: Where loaded plans are put, keyed by trader id.
        compile_filter: Compiles a source; called in a thread, and only for plans of an older version.
        progress: Where each batch of loaded plans is a step.
    """

    def __init__(
        self,
        pool: Pool,
        evaluator: Evaluator,
        compile_filter: Callable[[str], Compiled],
        metrics: WorkerMetrics,
        progress: Progress,
    ) -> None:
        self._progress = progress
        self._metrics = metrics
        self._pool = pool
        self._evaluator = evaluator
        self._compile = compile_filter
        self._outdated: dict[UUID, _Outdated] = {}
        self._entries: dict[
            UUID, OwnedTrader
        ] = {}  # this machine's leases, as they were when they changed last
        self._horizon: str | None = None
        self._begun: dict[
            UUID, int
        ] = {}  # versions loaded that no machine has screened, until that is on record
        self.by_id: dict[UUID, LoadedTrader] = {}

    def clear(self) -> None:
        """Forget everything: this boot is dead, or has left."""
        for trader_id in self.by_id:
            self._evaluator.drop(trader_id)
        self.by_id.clear()
        self._outdated.clear()
        self._entries.clear()
        self._begun.clear()
        self._horizon = None

    def read_again(self) -> None:
        """Let the next :meth:`sync` read every lease: one has changed without a trace in ``changed_in``."""
        self._horizon = None

    async def sync(self, boot_id: int) -> Change | None:
        """
        Make memory equal to the leases in the database; None when nothing had changed.

        The caller makes sure that no slot is being screened. Stopping traders are let go (and thereby stopped), starting ones become running.

        Raises:
            Fenced: this boot is dead.
        """
        async with self._pool.connection() as connection:
            changes = await trader_state.owned_changes(connection, boot_id, self._horizon)
            touched = self._note(changes)
            # The first time, or after one was deleted, which leaves no row that would tell.
            if self._horizon is None or len(self._entries) != changes.owned:
                touched = self._replace(await trader_state.list_owned(connection, boot_id))
        ours = [self._entries[trader_id] for trader_id in touched if trader_id in self._entries]
        stopping = [e.trader_id for e in ours if e.state == "stopping"]
        gone = [trader_id for trader_id in touched if trader_id not in self._entries]
        dropped = self._let_go([*gone, *stopping])
        failures = await self._load([e for e in ours if e.state != "stopping" and self._is_stale(e)])
        failed_ids = {f.trader_id for f in failures}
        starting = [
            (e.trader_id, e.epoch)
            for e in ours
            if e.state == "starting" and e.trader_id not in failed_ids and e.trader_id in self.by_id
        ]
        if stopping or failures or starting or self._begun:
            await self._settle(boot_id, stopping, failures, starting)
        self._horizon = changes.horizon  # only now: what an error interrupted is told again
        return Change(len(ours), dropped, len(failures)) if touched else None

    def _note(self, changes: OwnedChanges) -> set[UUID]:
        """Remember the leases that changed; those of them about which there is something to do."""
        touched = {e.trader_id for e in changes.ours if not self._is_held(e)}
        touched |= {trader_id for trader_id in changes.others if trader_id in self._entries}
        self._entries |= {e.trader_id: e for e in changes.ours}
        for trader_id in changes.others:
            self._entries.pop(trader_id, None)
        return touched

    def _replace(self, entries: Sequence[OwnedTrader]) -> set[UUID]:
        self._entries = {e.trader_id: e for e in entries}
        return self._entries.keys() | self.by_id.keys() | self._outdated.keys()

    def _is_held(self, entry: OwnedTrader) -> bool:
        return entry.state == "running" and not self._is_stale(entry)

    async def recompile(self, boot_id: int) -> int:
        """
        Compile outdated plans from their source for about ``RECOMPILE_S``; returns how many there were.

        Fails those that no longer compile. Call it with no lock held and :meth:`sync` afterwards, which loads what was stored: until
        then such a trader is not screened, and catches up later.

        Raises:
            Fenced: this boot is dead.
        """
        deadline = time.monotonic() + RECOMPILE_S
        done = 0
        while self._outdated and time.monotonic() < deadline:
            trader_id, outdated = next(iter(self._outdated.items()))
            compiled = await asyncio.to_thread(self._compile, outdated.filter)
            await self._store(boot_id, outdated.entry, compiled)
            if self._outdated.get(trader_id) is outdated:
                del self._outdated[trader_id]
            done += 1
        return done

    async def _store(self, boot_id: int, entry: OwnedTrader, compiled: Compiled) -> None:
        plan = compiled.plan
        async with fenced(self._pool, boot_id) as connection:
            if plan is None:
                failure = Failure(entry.trader_id, entry.epoch, "filter refused", _refusal(compiled))
                await trader_state.fail(connection, boot_id, [failure])
                self._metrics.trader_errors.labels(failure.reason).inc()
                log.warning("filter no longer compiles", trader_id=str(entry.trader_id))
                return
            await traders.store_recompiled(
                connection,
                Recompiled(
                    trader_id=entry.trader_id,
                    revision=entry.revision,
                    plan=plan.encode(),
                    plan_hash=plan.hash,
                    plan_summary=plan.summary(),
                ),
            )

    def _is_stale(self, entry: OwnedTrader) -> bool:
        outdated = self._outdated.get(entry.trader_id)
        if outdated is not None and outdated.entry.revision == entry.revision:
            return outdated.entry.epoch != entry.epoch
        held = self.by_id.get(entry.trader_id)
        return held is None or (held.epoch, held.revision) != (entry.epoch, entry.revision)

    def _let_go(self, trader_ids: Sequence[UUID]) -> int:
        """Hold these no longer; returns how many were held."""
        lost = [trader_id for trader_id in trader_ids if trader_id in self.by_id]
        for trader_id in lost:
            self.drop(trader_id)
        for trader_id in trader_ids:
            self._outdated.pop(trader_id, None)
        return len(lost)

    def drop(self, trader_id: UUID) -> None:
        if self.by_id.pop(trader_id, None) is not None:
            self._evaluator.drop(trader_id)

    async def _load(self, entries: Sequence[OwnedTrader]) -> list[Failure]:
        failures: list[Failure] = []
        for batch in _batches(entries, PLANS_AT_ONCE):
            async with self._pool.connection() as connection:
                stored = {
                    p.trader_id: p for p in await traders.plans(connection, [e.trader_id for e in batch])
                }
            for entry in batch:
                plan = stored.get(entry.trader_id)
                if plan is None:
                    continue  # deleted a moment ago; its row and lease are gone with it
                try:
                    self._take(entry, plan)
                except PlanError as error:
                    message = f"The stored plan is not valid: {error}. Save the filter again."
                    failures.append(Failure(entry.trader_id, entry.epoch, "plan refused", message))
                    self.drop(entry.trader_id)
            self._progress.step()
        return failures

    def _take(self, entry: OwnedTrader, stored: StoredPlan) -> None:
        """
        Hold a trader by its stored plan, or note that the plan is outdated.

        Raises:
            PlanError: the plan is not valid, or not the one that was saved.
        """
        self._outdated.pop(entry.trader_id, None)
        if _is_outdated(stored.plan):
            held = self.by_id.get(entry.trader_id)
            if held is not None and held.epoch != entry.epoch:
                self.drop(
                    entry.trader_id
                )  # within one lease it is screened by what was saved before: no slot is left out
            self._outdated[entry.trader_id] = _Outdated(entry, stored.filter)
            return
        plan = load_plan(stored.plan)
        if plan.hash != stored.plan_hash:
            raise PlanError("it was edited by hand, its hash is not the saved one", None, "format")
        self._put(entry, stored, plan)

    def _put(self, entry: OwnedTrader, stored: StoredPlan, plan: Plan) -> None:
        symbols = frozenset(stored.symbols) if stored.symbols is not None else None
        cooldown_s = float(stored.frequency["cooldown_s"]) if isinstance(stored.frequency, dict) else None
        self._evaluator.put(
            entry.trader_id,
            plan,
            symbols,
            "every_bar" if isinstance(stored.frequency, dict) else stored.frequency,
            stored.user_id,
        )
        if stored.is_new:
            self._begun[entry.trader_id] = stored.revision
        before = self.by_id.get(entry.trader_id)
        same_lease = before is not None and before.epoch == entry.epoch
        self.by_id[entry.trader_id] = LoadedTrader(
            trader_id=entry.trader_id,
            epoch=entry.epoch,
            revision=stored.revision,
            plan_hash=stored.plan_hash,
            cooldown_s=cooldown_s,
            due_every=plan.due_every,
            bar=plan.trigger,
            resume_after=before.resume_after if before and same_lease else entry.resume_after,
            caught_up=before.caught_up if before and same_lease else entry.in_step,
        )

    async def _settle(
        self, boot_id: int, stopping: list[UUID], failures: list[Failure], starting: list[tuple[UUID, int]]
    ) -> None:
        async with fenced(self._pool, boot_id) as connection:
            if stopping:
                await leases.release(connection, boot_id, stopping)
            if failures:
                await trader_state.fail(connection, boot_id, failures)
            if starting:
                await trader_state.mark_running(connection, boot_id, starting)
            if self._begun:
                await trader_versions.begin(connection, list(self._begun.items()))
        self._begun.clear()
        for failure in failures:
            self._metrics.trader_errors.labels(failure.reason).inc()
            log.warning("trader failed to load", trader_id=str(failure.trader_id), reason=failure.message)


def _is_outdated(plan: str) -> bool:
    try:
        return _read_version(plan).version < PLAN_VERSION
    except msgspec.MsgspecError:
        return False  # no plan of any version: `load_plan` says what is wrong with it


def _refusal(compiled: Compiled) -> str:
    errors = [d for d in compiled.diagnostics if d.severity == "error"]
    told = "; ".join(f"line {d.line}: {d.code} {d.message}" for d in errors[:5])
    return f"The filter does not compile with this version of the service: {told}"


def _batches(entries: Sequence[OwnedTrader], size: int) -> Iterator[list[OwnedTrader]]:
    iterator: Iterable[OwnedTrader] = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch
