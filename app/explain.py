"""
Why a trader did or did not signal a symbol at a slot, from stored candles and the trader's own past.

Decided here: the order of reasons (first what the market says, then the trader's circumstances), and that the
plan explained is the stored one, which is what is screened. What the plan alone tells is
``sandbox/engine/explain.py``; nothing here is screened or written.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from app import history
from app.access import check_own
from app.bounded import questions
from app.domain.timeframes import bar_of_slot_ms, epoch_ms, instant, length_ms
from app.errors import Kind, Refused
from app.store import leases, signal_revisions, signals, slots, symbols, traders
from app.store.pool import Connection, Pool
from app.store.signals import StoredSignal
from app.store.slots import SlotState
from app.store.traders import ExplainedTrader
from app.turns import SharedQueue
from sandbox.engine.explain import Explanation
from sandbox.plan.document import Plan, PlanError, Term, load_plan
from sandbox.plan.timeframes import TIMEFRAMES

TERMS_KEPT = 256  # of filters explained lately: a page that explains bar after bar compiles once
BARS_LOOKED_AT = 2  # the slot's, and the one before, which on_enter compares with


@dataclass(frozen=True)
class Explained:
    """
    ``reason`` is None exactly if it matched; else the first reason in force, beginning with its kind and a
    colon.
    """

    at: datetime
    reason: str | None
    explanation: Explanation | None
    revision: Literal["missing", "new"] | None = None


@dataclass(frozen=True)
class _Past:
    """What is on record about a trader's slot."""

    slot: SlotState | None
    is_late: bool
    is_covered: bool
    signals: Sequence[StoredSignal]
    revision: Literal["missing", "new"] | None


@dataclass(frozen=True)
class _Case:
    """One trader, symbol and slot, with all that is known of them."""

    trader: ExplainedTrader
    plan: Plan
    symbol: str
    slot: datetime
    explanation: Explanation
    past: _Past


class Filters(Protocol):
    """Compiles and explains outside this process."""

    async def compile(self, source: str) -> questions.Compiled: ...
    async def explain(self, question: questions.Explain) -> questions.Explained: ...


class Explaining:
    """
    Args:
        filters: Compiles filters, for the places of their terms, and looks at the candles; in bounded children.
        queue: Whose question is answered next.
    """

    def __init__(self, pool: Pool, filters: Filters, queue: SharedQueue) -> None:
        self._pool = pool
        self._filters = filters
        self._queue = queue
        self._terms: OrderedDict[str, tuple[str, Sequence[Term]]] = OrderedDict()

    async def explain(self, user_id: UUID, trader_id: UUID, symbol: str, at: datetime | None) -> Explained:
        """
        Explain the slot *at* (None: the newest one at which the trader is due) for one symbol.

        Raises:
            Refused: NOT_FOUND (trader or symbol), FORBIDDEN, REQUEST_INVALID for a slot that has not closed
                yet, UNAVAILABLE, BUSY.
        """
        async with self._queue.turn(user_id):
            return await self._explained(user_id, trader_id, symbol, at)

    async def _explained(self, user_id: UUID, trader_id: UUID, symbol: str, at: datetime | None) -> Explained:
        async with self._pool.connection() as connection:
            trader = await _own_trader(connection, user_id, trader_id)
            if not await symbols.symbol_exists(connection, symbol):
                raise Refused(Kind.NOT_FOUND, f"The market has no {symbol}.")
            newest = await slots.newest_closed(connection)
        slot = _closed(at, newest)
        try:
            plan = load_plan(trader.plan)
        except PlanError as error:
            return Explained(
                slot, f"plan refused: the stored plan is not valid ({error}); save the filter again", None
            )
        if at is None:
            slot -= timedelta(seconds=slot.timestamp() % TIMEFRAMES[plan.due_every])
        terms = await self._terms_of(trader.filter, plan)
        async with self._pool.connection() as connection:
            stretch = await history.load(connection, plan, bars=BARS_LOOKED_AT, until=slot, symbols=[symbol])
            past = await _past(connection, trader_id, trader, symbol, slot, _bar_began(plan, slot))
        found = await self._filters.explain(_question(trader, terms, stretch, slot, symbol))
        if found.explanation is None:
            return Explained(slot, f"evaluation failed: {found.problem}", None)
        reason = _reason(_Case(trader, plan, symbol, slot, found.explanation, past))
        return Explained(slot, reason, found.explanation, past.revision)

    async def _terms_of(self, source: str, plan: Plan) -> Sequence[Term]:
        """The terms of *source* where it compiles to *plan*; none where the stored plan is of something else."""
        key = hashlib.sha256(source.encode()).hexdigest()
        if key not in self._terms:
            compiled = await self._filters.compile(source)
            if compiled.plan is None:
                return ()
            self._terms[key] = (compiled.plan.hash, compiled.terms)
            if len(self._terms) > TERMS_KEPT:
                self._terms.popitem(last=False)
        self._terms.move_to_end(key)
        plan_hash, terms = self._terms[key]
        return terms if plan_hash == plan.hash else ()


def _question(
    trader: ExplainedTrader, terms: Sequence[Term], stretch: history.Stretch, slot: datetime, symbol: str
) -> questions.Explain:
    return questions.Explain(
        plan=trader.plan,
        terms=list(terms),
        slot_ms=epoch_ms(slot),
        symbol=symbol,
        symbols=stretch.symbols,
        candles=questions.candles_of(stretch.frames),
    )


async def _own_trader(connection: Connection, user_id: UUID, trader_id: UUID) -> ExplainedTrader:
    trader = await traders.find_explained(connection, trader_id)
    check_own(None if trader is None else trader.user_id, user_id, trader_id)
    assert trader is not None  # noqa: S101 check_own refuses None
    return trader


def _closed(at: datetime | None, newest: datetime | None) -> datetime:
    if newest is None:
        raise Refused(Kind.UNAVAILABLE, "The market has no closed candle yet; try again.")
    if at is not None and at > newest:
        raise Refused(
            Kind.REQUEST_INVALID, f"at has not closed yet: the newest closed slot is {_text(newest)}."
        )
    return (newest if at is None else at).astimezone(UTC)


def _bar_began(plan: Plan, slot: datetime) -> datetime:
    """When the trigger's bar began that *slot* lies in."""
    return instant(bar_of_slot_ms(epoch_ms(slot), length_ms(plan.trigger)))


async def _past(  # noqa: PLR0917 - what is on record belongs to all of these
    connection: Connection,
    trader_id: UUID,
    trader: ExplainedTrader,
    symbol: str,
    slot: datetime,
    bar_began: datetime,
) -> _Past:
    reach_s = max(trader.cooldown_s or 0, (slot - bar_began).total_seconds())
    passed_over = await slots.unscreened(connection, slot, slot)
    return _Past(
        slot=await slots.find(connection, slot, symbol),
        revision=await signal_revisions.find(connection, trader_id, symbol, slot),
        is_late=any(u.symbol == symbol for u in passed_over),
        is_covered=await leases.is_covered(connection, trader_id, slot),
        signals=await signals.list_around(connection, trader_id, symbol, slot, reach_s=reach_s),
    )


def _reason(case: _Case) -> str | None:
    """The first reason why there is no signal; None when there is one."""
    stored = next((s for s in case.past.signals if s.triggered_at == case.slot), None)
    reason = next(_reasons_of_market(case), None)
    if reason is None and (stored is None or stored.plan_hash != case.plan.hash):
        reason = next(_reasons_of_circumstances(case), None)
    if reason is not None and stored is not None:
        reason += "; the signal stored for this bar is of another version of the filter"
    return reason


def _reasons_of_market(case: _Case) -> Iterator[str]:
    trader, due_every, past = case.trader, case.plan.due_every, case.past
    if trader.symbols is not None and case.symbol not in trader.symbols:
        yield f"symbol not among the trader's: it screens {', '.join(trader.symbols[:10])}"
    if case.slot.timestamp() % TIMEFRAMES[due_every]:
        yield f"not due: {_text(case.slot)} is no multiple of {due_every}, how often the trader is due"
    if past.slot is not None and past.slot.state == "outage":
        yield f"outage: {past.slot.reason}"
    if case.explanation.blame is not None:
        yield case.explanation.blame + _why_missing(case)
    if past.is_late and due_every == "1m":
        yield f"bar missing: the candle of {case.symbol} came after its slot had closed"
    if trader.frequency == "on_enter" and case.explanation.matched_before:
        yield "not entering: the condition was true on the bar before already"


def _why_missing(case: _Case) -> str:
    """What the slot says of a symbol whose bar is missing; nothing where it says nothing."""
    slot = case.past.slot
    is_missing = (case.explanation.blame or "").startswith("bar missing")
    return f" ({slot.missing_reason})" if is_missing and slot is not None and slot.missing_reason else ""


def _reasons_of_circumstances(case: _Case) -> Iterator[str]:
    trader, past = case.trader, case.past
    if not past.is_covered:
        yield f"not covered: the condition was true, but {_uncovered(trader, case.slot)}"
    earlier = next((s for s in past.signals if s.triggered_at < case.slot), None)
    if earlier is None:
        return
    if earlier.triggered_at > _bar_began(case.plan, case.slot):
        yield f"already signalled: at {_text(earlier.triggered_at)}, and a bar in progress signals once"
    until = earlier.triggered_at + timedelta(seconds=trader.cooldown_s or 0)
    if until > case.slot:
        yield f"cooldown: since the signal of {_text(earlier.triggered_at)}, until {_text(until)}"


def _uncovered(trader: ExplainedTrader, slot: datetime) -> str:
    through = trader.screened_through
    if trader.state in ("starting", "running", "stopping"):
        if through is not None and slot > through:
            return f"the trader has been screened only through {_text(through)} yet"
        return "the trader did not run then"
    if trader.state == "error":
        return f"the trader is in error: {trader.last_error}"
    return "the trader is stopped and did not run then"


def _text(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
