"""
The standing audit: a sample of every slot is evaluated again from the candles and compared with what was committed.

It starts after the commit, in five steps:

1. `note` keeps which traders a slot was screened for, as they were.
2. A rotating sample of those that were due is taken, as large as the budget allows (`SHARE` of the time that passes).
3. Their plans are read from ``trader_versions``, by the version that screened the slot, and their signals from ``signals``.
4. A new evaluator computes the slot over the machine's candles; nothing that was carried from slot to slot is used.
5. Cooldowns and forming bars are applied (`app/domain/audit`), and the two sides compared, with prices and values.

No verdict is given where the two sides may rightly differ: the candles were corrected meanwhile, the trader or its version is
gone, a function ran out of time, a signal was refused. A slot with a digest is held to the digest: so many matches, these pairs first. A difference is an incident: this machine carries nothing from slot to
slot from then on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
import structlog

from app.domain import timeframes
from app.domain.audit import Difference, Rule, Seen, differences, digest_differences, expected
from app.metrics import WorkerMetrics
from app.screening.loaded_traders import LoadedTrader
from app.screening.screener import Screener
from app.store import incidents, signal_digests, signals, signals_failed, slots, trader_versions
from app.store.pool import Pool
from app.store.signal_digests import Digest
from app.store.signals import CommittedSignal
from app.store.trader_versions import VersionPlan
from sandbox.engine.screen import Evaluator, Slot
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import Plan, PlanError, load_plan

log = structlog.get_logger(__name__)
SHARE = 0.01  # of the time that passes
BUDGET_S_MAX = 0.6  # a minute's worth: what an idle machine saves up for its next slot
SAMPLE_MAX = 200
AT_ONCE = 8  # traders evaluated while the next slot has to wait: a few milliseconds each
FIRST_COST_S = 0.02  # a trader's audit, until one was measured


@dataclass(frozen=True, slots=True)
class _Noted:
    """A committed slot, and the traders that it was screened for."""

    boot_id: int
    slot: datetime
    traders: Sequence[LoadedTrader]
    corrections: int


@dataclass(frozen=True, slots=True)
class _Case:
    """One trader at the slot, with all that is known of it."""

    trader: LoadedTrader
    version: VersionPlan
    plan: Plan
    committed: Sequence[CommittedSignal]
    digest: Digest | None
    left_out: frozenset[str]  # pairs of which a signal was refused, or whose candle came late


class StandingAudit:
    """
    Args:
        pool: Connections for short reads.
        screener: Whose slots are audited, over whose candles.
        each: Runs the functions of filters that use `each`.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        pool: Pool,
        screener: Screener,
        metrics: WorkerMetrics,
        each: EachRunner,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._screener = screener
        self._metrics = metrics
        self._each = each
        self._clock = clock
        self._noted: _Noted | None = None
        self._is_noted = asyncio.Event()
        self._is_over = False
        self._cursor = 0
        self._budget_s = BUDGET_S_MAX
        self._budget_at = clock()
        self._cost_s = FIRST_COST_S

    def note(self, boot_id: int, slot: datetime) -> None:
        """The screener has committed *slot*; called with its lock held."""
        traders = [trader for trader in self._screener.traders.by_id.values() if trader.caught_up]
        self._noted = _Noted(boot_id, slot, traders, self._screener.evaluation.panel.corrections)
        self._is_noted.set()

    async def run(self) -> None:
        """Audit slot after slot until :meth:`stop`; slots that come faster than the audit are left out."""
        while not self._is_over:
            await self._is_noted.wait()
            self._is_noted.clear()
            await self.audit()

    def stop(self) -> None:
        """Let :meth:`run` return after the sample it is at."""
        self._is_over = True
        self._noted = None
        self._is_noted.set()

    async def audit(self) -> int:
        """Audit the newest slot as far as the budget allows; returns how many traders got a verdict."""
        noted, self._noted = self._noted, None
        if noted is None:
            return 0
        sample = self._sample(noted, self._affordable())
        verdicts = 0
        for start in range(0, len(sample), AT_ONCE):
            began_at = self._clock()
            piece = sample[start : start + AT_ONCE]
            verdicts += await self._audit(noted, piece)
            spent_s = self._clock() - began_at
            self._budget_s -= spent_s
            self._cost_s += 0.2 * (spent_s / len(piece) - self._cost_s)
            if self._budget_s < 0:
                break
        self._metrics.audited.inc(verdicts)
        return verdicts

    def _affordable(self) -> int:
        """How many traders the budget pays for; at least one whenever it is not overdrawn."""
        now = self._clock()
        self._budget_s = min(BUDGET_S_MAX, self._budget_s + SHARE * (now - self._budget_at))
        self._budget_at = now
        if self._budget_s <= 0:
            return 0
        return max(1, min(SAMPLE_MAX, int(self._budget_s / max(self._cost_s, 1e-6))))

    def _sample(self, noted: _Noted, size: int) -> list[LoadedTrader]:
        """The next *size* of the traders that were due, going round."""
        slot_ms = timeframes.epoch_ms(noted.slot)
        due = [t for t in noted.traders if slot_ms % timeframes.length_ms(t.due_every) == 0]
        if not due:
            return []
        start = self._cursor % len(due)
        self._cursor = start + size
        return (due[start:] + due[:start])[:size]

    async def _audit(self, noted: _Noted, piece: Sequence[LoadedTrader]) -> int:
        cases = await self._cases(noted.slot, piece)
        async with self._screener.slot_lock:
            if not self._is_comparable(noted):
                return 0
            ready = [case for case in cases if self._has_candles(case.plan, noted.slot)]
            slot = await asyncio.to_thread(self._evaluate, ready, timeframes.epoch_ms(noted.slot))
        verdicts = 0
        for case in ready:
            if case.trader.trader_id in slot.failed:
                continue
            verdicts += 1
            found = _differences(case, slot, noted.slot)
            if found:
                await self._report(noted, case.trader, found)
        return verdicts

    async def _cases(self, slot: datetime, piece: Sequence[LoadedTrader]) -> list[_Case]:
        async with self._pool.connection() as connection:
            versions = await trader_versions.plans(connection, [(t.trader_id, t.revision) for t in piece])
            plans = {v.trader_id: plan for v in versions if (plan := _plan(v)) is not None}
            reaches_s = {
                t.trader_id: _rule(t, plans[t.trader_id]).reach_s(_bar_s(t))
                for t in piece
                if t.trader_id in plans
            }
            committed = await signals.list_at(connection, slot, reaches_s)
            digests = await signal_digests.list_at(connection, slot, list(reaches_s))
            refused = await signals_failed.symbols_of(connection, list(reaches_s))
            late = {u.symbol for u in await slots.unscreened(connection, slot, slot) if u.symbol is not None}
        by_id = {v.trader_id: v for v in versions}
        return [
            _Case(
                trader,
                by_id[trader.trader_id],
                plans[trader.trader_id],
                [signal for signal in committed if signal.trader_id == trader.trader_id],
                digests.get(trader.trader_id),
                frozenset(symbol for trader_id, symbol in refused if trader_id == trader.trader_id) | late,
            )
            for trader in piece
            if trader.trader_id in plans
        ]

    def _is_comparable(self, noted: _Noted) -> bool:
        """Whether the candles in memory are those of the slot, and the identity is the same."""
        panel = self._screener.evaluation.panel
        return (
            self._screener.boot_id == noted.boot_id
            and panel.corrections == noted.corrections
            and panel.through is not None
            and panel.through >= noted.slot
        )

    def _has_candles(self, plan: Plan, slot: datetime) -> bool:
        """They may have been let go since, with the last trader that needed them."""
        panel = self._screener.evaluation.panel
        return all(panel.is_deep_enough(timeframe, bars, slot) for timeframe, bars in plan.need.items())

    def _evaluate(self, cases: Sequence[_Case], slot_ms: int) -> Slot:
        evaluator = Evaluator(self._screener.evaluation.panel.panel, self._each)
        for case in cases:
            symbols = None if case.version.symbols is None else frozenset(case.version.symbols)
            enters = case.version.frequency == "on_enter"
            evaluator.put(
                case.trader.trader_id,
                case.plan,
                symbols,
                "on_enter" if enters else "every_bar",
                case.trader.trader_id,
            )
        return evaluator.evaluate(slot_ms, [case.trader.trader_id for case in cases])

    async def _report(self, noted: _Noted, trader: LoadedTrader, found: Sequence[Difference]) -> None:
        self._metrics.audit_mismatches.inc()
        self._metrics.incremental.set(0)
        self._screener.evaluation.incremental = False
        places = ", ".join(f"{d.symbol} only in {d.only_in}" for d in found[:5])
        message = f"{len(found)} signals of trader {trader.trader_id} differ at {noted.slot:%Y-%m-%d %H:%M}: {places}"
        log.error(
            "audit mismatch, computing every slot from the candles from now on",
            trader_id=str(trader.trader_id),
            slot=noted.slot.isoformat(),
            epoch=trader.epoch,
            revision=trader.revision,
            differs=places,
        )
        async with self._pool.connection() as connection:
            await incidents.insert(
                connection,
                "audit mismatch",
                noted.boot_id,
                message,
                trader_id=trader.trader_id,
                slot=noted.slot,
            )


def _plan(version: VersionPlan) -> Plan | None:
    """None for a plan that is not what was saved: the machine says so when it loads it."""
    try:
        plan = load_plan(version.plan)
    except PlanError:
        return None
    return plan if plan.hash == version.plan_hash else None


def _rule(trader: LoadedTrader, plan: Plan) -> Rule:
    return Rule(trader.cooldown_s, bool(plan.forming))


def _bar_s(trader: LoadedTrader) -> int:
    return timeframes.length_ms(trader.bar) // 1000


def _differences(case: _Case, slot: Slot, at: datetime) -> list[Difference]:
    bar_s = _bar_s(case.trader)
    live = [signal for signal in case.committed if signal.triggered_at == at]
    if any(signal.plan_hash != case.trader.plan_hash for signal in live):
        return []  # the slot was screened twice, by two versions: the first one's signals stand
    earlier = [_seen(signal) for signal in case.committed if signal.triggered_at < at]
    matches = list(_matches(slot, case.trader.trader_id, at, bar_s))
    if case.digest is not None:
        return _digest_differences(case, case.digest, at, matches)
    signalled = expected(matches, earlier, _rule(case.trader, case.plan))
    return differences([_seen(signal) for signal in live], signalled, case.left_out)


def _digest_differences(
    case: _Case, digest: Digest, at: datetime, matches: Sequence[Seen]
) -> list[Difference]:
    """None where the digest may rightly count less: a forming bar that has its signal, pairs left out, another version."""
    if case.plan.forming or case.left_out or digest.plan_hash != case.trader.plan_hash:
        return []
    return digest_differences(digest.matches, digest.symbols, at, [match.symbol for match in matches])


def _seen(signal: CommittedSignal) -> Seen:
    bar_s = timeframes.length_ms(signal.timeframe) // 1000
    return Seen(signal.symbol, signal.triggered_at, bar_s, (signal.price, signal.shown))


def _matches(slot: Slot, trader_id: UUID, at: datetime, bar_s: int) -> Iterator[Seen]:
    for hits in slot.hits:
        if hits.key == trader_id:
            for i, symbol in enumerate(hits.symbols):
                shown: Mapping[str, object] = {name: values[i] for name, values in hits.values.items()}
                stored = msgspec.json.decode(msgspec.json.encode(shown))  # as jsonb gives it back
                yield Seen(symbol, at, bar_s, (float(hits.prices[i]), stored))
