"""
What a user does to a trader: save, change, delete, start, stop. Every door to these (HTTP today) goes through here.

Decided here: the order of checks and what is told to whom afterwards. What is allowed is decided by Postgres (transitions,
quotas); what a filter means by ``sandbox``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from app.coordination.hints import Hints
from app.domain.lifecycle import ACTIVE, TraderState
from app.errors import Kind, Refused
from app.store import accounts, market_read, rate_limits, traders
from app.store.pool import Connection, Pool
from app.store.rate_limits import LIFECYCLE, SAVE, Limit, Verdict
from app.store.refusals import still_stopping
from app.store.traders import Frequency, Outcome, PlanColumns, Trader, TraderStatus

COMPILES_MAX = 2  # at a time and process: each holds a thread and a sandbox worker
COMPILE_WAIT_S = 10.0
FILTER_BYTES_MAX = 64 * 1024


class DiagnosticLike(Protocol):
    """One remark about a filter, at a place in the user's own text; lines and columns from 1."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def end_line(self) -> int: ...
    @property
    def end_column(self) -> int: ...
    @property
    def severity(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def hint(self) -> str | None: ...


class PlanLike(Protocol):
    """What this module needs of a compiled filter."""

    def encode(self) -> bytes: ...
    @property
    def hash(self) -> str: ...
    @property
    def trigger(self) -> str: ...
    @property
    def timeframes(self) -> Sequence[str]: ...
    @property
    def forming(self) -> Sequence[str]: ...
    @property
    def due_every(self) -> str: ...
    @property
    def operators(self) -> Sequence[str]: ...
    @property
    def lookback_bars(self) -> int: ...
    @property
    def cost(self) -> float: ...
    @property
    def calls_each(self) -> bool: ...


class TermLike(Protocol):
    """A part of the signal or a shown value: its node in the plan, its place and text in the filter."""

    @property
    def node(self) -> int: ...
    @property
    def line(self) -> int: ...
    @property
    def text(self) -> str: ...


class Compiled(Protocol):
    """``plan`` is None when a diagnostic is an error."""

    @property
    def plan(self) -> PlanLike | None: ...
    @property
    def diagnostics(self) -> Sequence[DiagnosticLike]: ...
    @property
    def terms(self) -> Sequence[TermLike]: ...


class Compiler(Protocol):
    """Turns a filter's source into a plan, in a sandbox; blocks, so it is called in a thread."""

    def compile(self, source: str) -> Compiled: ...


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

    plan: PlanLike
    warnings: Sequence[DiagnosticLike]
    terms: Sequence[TermLike]


@dataclass(frozen=True)
class Saved:
    trader: Trader
    warnings: Sequence[DiagnosticLike]


class Lifecycle:
    """
    The operations, over the stores.

    Args:
        active_traders_max: The limit over all users.
        on_compiled: Told how many seconds each compilation took.
    """

    def __init__(
        self,
        pool: Pool,
        hints: Hints,
        compiler: Compiler,
        *,
        active_traders_max: int | None,
        on_compiled: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._hints = hints
        self._compiler = compiler
        self._active_traders_max = active_traders_max
        self._on_compiled = on_compiled
        self._compiles = asyncio.Semaphore(COMPILES_MAX)

    async def save(self, user_id: UUID, draft: Draft) -> Saved:
        """
        Compile and store a new trader.

        Raises:
            Refused: FILTER_INVALID, REQUEST_INVALID, RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            await count_call(connection, user_id, SAVE)
            symbols = await known_symbols(connection, draft.symbols)
        columns, warnings = await self._compile(draft.filter)
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
            await _admit(connection, user_id, SAVE, trader_id)
            trader = await find_own(connection, user_id, trader_id)
            if change.is_empty:
                return Saved(trader, [])
            symbols = await known_symbols(connection, change.symbols)
        columns: PlanColumns | None = None
        warnings: Sequence[DiagnosticLike] = []
        if change.filter is not None:
            columns, warnings = await self._compile(change.filter)
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
            self._hints.send("vyx_trader")
            return Saved(await find_own(connection, user_id, trader_id), warnings)

    async def delete(self, user_id: UUID, trader_id: UUID) -> None:
        """
        Remove a trader in any state, with its signals and history.

        Raises:
            Refused: FORBIDDEN, NOT_FOUND, RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            await _admit(connection, user_id, SAVE, trader_id)
            await traders.delete_trader(connection, user_id, trader_id)
        self._hints.send("vyx_trader")

    async def start(self, user_id: UUID, trader_id: UUID) -> TraderStatus:
        """
        Ask for a trader to run; repeating it is harmless and is not counted.

        Raises:
            Refused: FORBIDDEN, NOT_FOUND, TRANSITION_NOT_ALLOWED (it is stopping: try again in a moment), QUOTA_EXCEEDED,
                SERVICE_FULL, RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            status = await find_own_status(connection, user_id, trader_id)
            if TraderState(status.state) in ACTIVE:
                return status
            if status.state == TraderState.STOPPING:
                raise still_stopping()
            try:
                await _admit(connection, user_id, LIFECYCLE, trader_id)
            except Refused as refused:
                if refused.kind is Kind.RATE_LIMITED:
                    await _check_quota(connection, user_id, trader_id)
                raise
            status = await traders.start_trader(
                connection, trader_id, active_traders_max=self._active_traders_max
            )
        self._hints.send("vyx_trader", "vyx_feed")
        return status

    async def stop(self, user_id: UUID, trader_id: UUID) -> TraderStatus:
        """
        Ask for a trader to stop; repeating it is harmless. It is never counted: who wants less is not made to wait.

        Raises:
            Refused: FORBIDDEN, NOT_FOUND.
        """
        async with self._pool.connection() as connection:
            await find_own_status(connection, user_id, trader_id)
            status = await traders.stop_trader(connection, trader_id)
        self._hints.send("vyx_trader", "vyx_feed")
        return status

    async def start_many(self, user_id: UUID, trader_ids: Sequence[UUID] | None) -> list[Outcome]:
        """
        Ask for these traders, or (None) for all that do not run, to run: one call to the limit, each with an outcome of its own.

        Raises:
            Refused: RATE_LIMITED.
        """
        async with self._pool.connection() as connection:
            await count_call(connection, user_id, LIFECYCLE)
            outcomes = await traders.start_traders(
                connection, user_id, trader_ids, active_traders_max=self._active_traders_max
            )
        self._hints.send("vyx_trader", "vyx_feed")
        return outcomes

    async def stop_many(self, user_id: UUID, trader_ids: Sequence[UUID] | None) -> list[Outcome]:
        """Ask for these traders, or (None) for all that run, to stop; never counted."""
        async with self._pool.connection() as connection:
            outcomes = await traders.stop_traders(connection, user_id, trader_ids)
        self._hints.send("vyx_trader", "vyx_feed")
        return outcomes

    async def _compile(self, source: str) -> tuple[PlanColumns, Sequence[DiagnosticLike]]:
        filter_ = await self.compile(source)
        plan = filter_.plan
        columns = PlanColumns(plan=plan.encode(), plan_hash=plan.hash, plan_summary=summary_of(plan))
        return columns, filter_.warnings

    async def compile(self, source: str) -> CompiledFilter:
        """
        Compile a filter in the sandbox, at most ``COMPILES_MAX`` at a time.

        Raises:
            Refused: FILTER_INVALID with the diagnostics, REQUEST_INVALID, UNAVAILABLE.
        """
        if len(source.encode()) > FILTER_BYTES_MAX:
            raise Refused(Kind.REQUEST_INVALID, f"A filter has at most {FILTER_BYTES_MAX // 1024} KiB.")
        try:
            async with asyncio.timeout(COMPILE_WAIT_S):
                await self._compiles.acquire()
        except TimeoutError:
            raise Refused(Kind.UNAVAILABLE, "Too many filters are being compiled; try again.") from None
        try:
            began_at = time.perf_counter()
            compiled = await asyncio.to_thread(self._compiler.compile, source)
            self._on_compiled(time.perf_counter() - began_at)
        finally:
            self._compiles.release()
        plan = compiled.plan
        if plan is None or any(d.severity == "error" for d in compiled.diagnostics):
            raise Refused(
                Kind.FILTER_INVALID,
                "The filter does not compile; see diagnostics.",
                diagnostics=[describe_diagnostic(d) for d in compiled.diagnostics],
            )
        return CompiledFilter(plan, list(compiled.diagnostics), list(compiled.terms))


async def find_own(connection: Connection, user_id: UUID, trader_id: UUID) -> Trader:
    """
    The user's trader.

    Raises:
        Refused: NOT_FOUND where there is none, FORBIDDEN where it is someone else's.
    """
    trader = await traders.find_trader(connection, trader_id)
    check_own(None if trader is None else trader.user_id, user_id, trader_id)
    assert trader is not None  # noqa: S101 check_own refuses None
    return trader


async def find_own_status(connection: Connection, user_id: UUID, trader_id: UUID) -> TraderStatus:
    """
    The run state of the user's trader.

    Raises:
        Refused: NOT_FOUND where there is none, FORBIDDEN where it is someone else's.
    """
    status = await traders.find_status(connection, trader_id)
    check_own(None if status is None else status.user_id, user_id, trader_id)
    assert status is not None  # noqa: S101 check_own refuses None
    return status


def check_own(owner_id: UUID | None, user_id: UUID, trader_id: UUID) -> None:
    """
    Raises:
        Refused: NOT_FOUND where there is no trader, FORBIDDEN where it is someone else's.
    """
    if owner_id is None:
        raise Refused(Kind.NOT_FOUND, f"There is no trader {trader_id}.")
    if owner_id != user_id:
        raise Refused(Kind.FORBIDDEN, "This trader is someone else's.")


def describe_diagnostic(diagnostic: DiagnosticLike) -> dict[str, Any]:
    """As the contract's Diagnostic."""
    return {
        name: getattr(diagnostic, name)
        for name in ("line", "column", "end_line", "end_column", "severity", "code", "message", "hint")
    }


def summary_of(plan: PlanLike) -> dict[str, Any]:
    return {
        "trigger": plan.trigger,
        "timeframes": list(plan.timeframes),
        "forming": list(plan.forming),
        "due_every": plan.due_every,
        "operators": list(plan.operators),
        "lookback_bars": plan.lookback_bars,
        "cost": plan.cost,
        "calls_each": plan.calls_each,
    }


async def count_call(connection: Connection, user_id: UUID, limit: Limit) -> None:
    """
    Count a call that is about no trader in particular.

    Raises:
        Refused: RATE_LIMITED.
    """
    _check_allowed(await rate_limits.allow_call(connection, user_id, limit), limit)


async def _admit(connection: Connection, user_id: UUID, limit: Limit, trader_id: UUID) -> None:
    """Count a call about a trader and check whose it is: one round trip, since every start and stop begins with it."""
    verdict = await rate_limits.allow_call(connection, user_id, limit, trader_id=trader_id)
    _check_allowed(verdict, limit)
    check_own(verdict.owner_id, user_id, trader_id)


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


def _check_allowed(verdict: Verdict, limit: Limit) -> None:
    if not verdict.allowed:
        raise Refused(
            Kind.RATE_LIMITED,
            f"At most {limit.max_calls} {limit.kind} requests in any {limit.window.total_seconds():.0f} s.",
            retry_after_s=verdict.retry_after.total_seconds(),
        )


async def known_symbols(connection: Connection, symbols: Sequence[str] | None) -> list[str] | None:
    """
    Upper case, sorted, each once; None (every pair) stays None.

    Raises:
        Refused: REQUEST_INVALID with the ``symbols`` that the market does not have.
    """
    if symbols is None:
        return None
    wanted = sorted({symbol.upper() for symbol in symbols})
    unknown = await market_read.unknown_symbols(connection, wanted)
    if unknown:
        named = ", ".join(unknown[:10]) + (" …" if len(unknown) > 10 else "")
        raise Refused(Kind.REQUEST_INVALID, f"The market has no {named}.", symbols=unknown)
    return wanted
