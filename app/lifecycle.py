"""
What a user does to a trader: save, change, delete, start, stop. Every door to these (HTTP today) goes
through here.

Decided here: the order of checks and whom a change wakes afterwards. What is allowed is decided by Postgres
(transitions, quotas); what a filter means by ``sandbox``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from app.access import admit, count_call, find_own, find_own_status, known_symbols
from app.bounded.questions import Compiled, CompiledPlan
from app.coordination.hints import Channel, Hints
from app.domain.lifecycle import ACTIVE, TraderState
from app.errors import Kind, Refused
from app.store import accounts, signals, trader_state, traders
from app.store.pool import Connection, Pool
from app.store.rate_limits import LIFECYCLE, SAVE
from app.store.refusals import still_stopping
from app.store.trader_state import Outcome, TraderStatus
from app.store.traders import Frequency, PlanColumns, Trader
from app.turns import SharedQueue
from sandbox.plan.document import Term
from sandbox.plan.text.diagnostics import Diagnostic

DELETED_AT_ONCE = 5000  # signals, in some 100 ms
FILTER_BYTES_MAX = 64 * 1024


class Filters(Protocol):
    """Compiles filters outside this process."""

    async def compile(self, source: str) -> Compiled: ...


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A new trader as its user wrote it."""

    name: str
    description: str
    filter: str
    symbols: list[str] | None
    frequency: Frequency


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is None stays as it is; ``symbols`` counts only when ``set_symbols``."""

    name: str | None = None
    description: str | None = None
    filter: str | None = None
    set_symbols: bool = False
    symbols: list[str] | None = None
    frequency: Frequency | None = None

    @property
    def is_empty(self) -> bool:
        return self == Change()


@dataclass(frozen=True)
class CompiledFilter:
    """A filter that compiles."""

    plan: CompiledPlan
    warnings: Sequence[Diagnostic]
    terms: Sequence[Term]


@dataclass(frozen=True)
class Saved:
    trader: Trader
    warnings: Sequence[Diagnostic]


class Lifecycle:
    """
    The operations, over the stores.

    Args:
        filters: Compiles, in a bounded child.
        queue: Whose filter is compiled next.
        active_traders_max: The limit over all users.
        on_compiled: Called with the seconds that each compilation took.
    """

    def __init__(
        self,
        pool: Pool,
        hints: Hints,
        filters: Filters,
        queue: SharedQueue,
        *,
        active_traders_max: int | None,
        on_compiled: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._hints = hints
        self._filters = filters
        self._queue = queue
        self._active_traders_max = active_traders_max
        self._on_compiled = on_compiled

    async def save(self, user_id: UUID, draft: Draft) -> Saved:
        """
        Compile and store a new trader.

        Raises:
            Refused: FILTER_INVALID, REQUEST_INVALID, RATE_LIMITED, BUSY, UNAVAILABLE.
        """
        async with self._pool.connection() as connection:
            await count_call(connection, user_id, SAVE)
            symbols = await known_symbols(connection, draft.symbols)
        columns, warnings = await self._compile(user_id, draft.filter)
        async with self._pool.connection() as connection:
            trader_id = await traders.insert_trader(
                connection,
                user_id,
                name=draft.name,
                description=draft.description,
                filter=draft.filter,
                symbols=symbols,
                frequency=draft.frequency,
                compiled=columns,
            )
            return Saved(await find_own(connection, user_id, trader_id), warnings)

    async def change(self, user_id: UUID, trader_id: UUID, change: Change) -> Saved:
        """
        Change a trader. One that runs is screened by the new text from its next slot on.

        Raises:
            Refused: as ``save``, and FORBIDDEN or NOT_FOUND.
        """
        async with self._pool.connection() as connection:
            await admit(connection, user_id, SAVE, trader_id)
            trader = await find_own(connection, user_id, trader_id)
            if change.is_empty:
                return Saved(trader, [])
            symbols = await known_symbols(connection, change.symbols)
        columns: PlanColumns | None = None
        warnings: Sequence[Diagnostic] = []
        if change.filter is not None:
            columns, warnings = await self._compile(user_id, change.filter)
        async with self._pool.connection() as connection:
            await traders.update_trader(
                connection,
                user_id,
                trader_id,
                name=change.name,
                description=change.description,
                filter=change.filter,
                compiled=columns,
                frequency=change.frequency,
                set_symbols=change.set_symbols,
                symbols=symbols,
            )
            self._hints.send(Channel.TRADER)
            return Saved(await find_own(connection, user_id, trader_id), warnings)

    async def delete(self, user_id: UUID, trader_id: UUID) -> None:
        """
        Remove a trader in any state, with its signals and history.

        Raises:
            Refused: FORBIDDEN, NOT_FOUND, RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            await admit(connection, user_id, SAVE, trader_id)
            await traders.delete_trader(connection, user_id, trader_id)
        self._hints.send(Channel.TRADER)

    async def delete_user(self, user_id: UUID) -> None:
        """
        Remove the user and everything of theirs. Signals go first, in pieces: a cascade over millions would
        be one long transaction.

        Raises:
            Refused: RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            await count_call(connection, user_id, SAVE)
            while await signals.delete_signals(connection, user_id, limit=DELETED_AT_ONCE):
                pass
            await accounts.delete_user(connection, user_id)
        self._hints.send(Channel.TRADER)

    async def start(self, user_id: UUID, trader_id: UUID) -> TraderStatus:
        """
        Ask for a trader to run; repeating it is harmless and is not counted.

        Raises:
            Refused: FORBIDDEN, NOT_FOUND, TRANSITION_NOT_ALLOWED (it is stopping: try again in a moment),
                QUOTA_EXCEEDED, SERVICE_FULL, RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            status = await find_own_status(connection, user_id, trader_id)
            if TraderState(status.state) in ACTIVE:
                return status
            if status.state == TraderState.STOPPING:
                raise still_stopping()
            try:
                await admit(connection, user_id, LIFECYCLE, trader_id)
            except Refused as refused:
                if refused.kind is Kind.RATE_LIMITED:
                    await _check_quota(connection, user_id, trader_id)
                raise
            status = await trader_state.start_trader(
                connection, trader_id, active_traders_max=self._active_traders_max
            )
        self._hints.send(Channel.TRADER, Channel.FEED)
        return status

    async def stop(self, user_id: UUID, trader_id: UUID) -> TraderStatus:
        """
        Ask for a trader to stop; repeating it is harmless. It is never counted: who wants less is not made
        to wait.

        Raises:
            Refused: FORBIDDEN, NOT_FOUND.
        """
        async with self._pool.connection() as connection:
            await find_own_status(connection, user_id, trader_id)
            status = await trader_state.stop_trader(connection, trader_id)
        self._hints.send(Channel.TRADER, Channel.FEED)
        return status

    async def start_many(self, user_id: UUID, trader_ids: Sequence[UUID] | None) -> list[Outcome]:
        """
        Ask for these traders, or (None) for all that do not run, to run: one call to the limit, each with
        an outcome of its own.

        Raises:
            Refused: RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            await count_call(connection, user_id, LIFECYCLE)
            outcomes = await trader_state.start_traders(
                connection, user_id, trader_ids, active_traders_max=self._active_traders_max
            )
        self._hints.send(Channel.TRADER, Channel.FEED)
        return outcomes

    async def stop_many(self, user_id: UUID, trader_ids: Sequence[UUID] | None) -> list[Outcome]:
        """Ask for these traders, or (None) for all that run, to stop; never counted."""
        async with self._pool.connection() as connection:
            outcomes = await trader_state.stop_traders(connection, user_id, trader_ids)
        self._hints.send(Channel.TRADER, Channel.FEED)
        return outcomes

    async def _compile(self, user_id: UUID, source: str) -> tuple[PlanColumns, Sequence[Diagnostic]]:
        filter_ = await self.compile(user_id, source)
        plan = filter_.plan
        columns = PlanColumns(plan=plan.encode(), plan_hash=plan.hash, plan_summary=plan.summary())
        return columns, filter_.warnings

    async def check(self, user_id: UUID, source: str) -> Compiled:
        """
        Compile a filter when it is the user's turn; what is wrong with it is in the answer.

        Raises:
            Refused: REQUEST_INVALID for a text that is too long, BUSY, UNAVAILABLE.
        """
        if len(source.encode()) > FILTER_BYTES_MAX:
            raise Refused(Kind.REQUEST_INVALID, f"A filter has at most {FILTER_BYTES_MAX // 1024} KiB.")
        async with self._queue.turn(user_id):
            began_at = time.perf_counter()
            compiled = await self._filters.compile(source)
            self._on_compiled(time.perf_counter() - began_at)
        return compiled

    async def compile(self, user_id: UUID, source: str) -> CompiledFilter:
        """
        Compile a filter that has to be right.

        Raises:
            Refused: FILTER_INVALID with the diagnostics, and as ``check``.
        """
        compiled = await self.check(user_id, source)
        plan = compiled.plan
        if plan is None or any(d.severity == "error" for d in compiled.diagnostics):
            raise Refused(
                Kind.FILTER_INVALID,
                "The filter does not compile; see diagnostics.",
                diagnostics=[describe_diagnostic(d) for d in compiled.diagnostics],
            )
        return CompiledFilter(plan, compiled.diagnostics, compiled.terms)


def describe_diagnostic(diagnostic: Diagnostic) -> dict[str, Any]:
    """As the contract's Diagnostic."""
    return {
        name: getattr(diagnostic, name)
        for name in ("line", "column", "end_line", "end_column", "severity", "code", "message", "hint")
    }


async def _check_quota(connection: Connection, user_id: UUID, trader_id: UUID) -> None:
    """A start that was rate-limited but would meet a full quota anyway says so: retrying would not help."""
    full = await accounts.full_quota(connection, user_id, trader_id)
    if full is not None:
        raise Refused(
            Kind.QUOTA_EXCEEDED,
            f"The {full.tier} tier runs at most {full.limit} traders and {full.used} are active.",
            quota="running_traders",
            limit=full.limit,
            used=full.used,
            tier=full.tier,
            next_tier=full.next_tier,
        )
