"""
The audit of a trader: stored slots are replayed and held against its signals.

In five steps, for "312 live, 312 replayed, 0 differ, 1440 of 1440 slots accounted for":

1. One snapshot of what is on record: the ledger, coverage, the versions that screened the trader, its signals.
2. Per version, the slots inside the coverage that it screened (`_spans`).
3. The matches at these slots, by the process that evaluates previews, in pieces of `PIECE_BARS` bars.
4. A slot that closed before one of its candles was corrected is replayed again with the candles of then. Whether it was screened
   before the correction or after it is not on record: it is held to the nearer of the two.
5. Cooldowns and forming bars over all of it in order (`app/domain/audit`), and the comparison.

Left out: pairs of which a signal was refused (they wait in ``signals_failed``), slots with a digest (their trader flooded, and stored
no signals; `app/screening/standing_audit` holds digests to their counts), and what lies before the candles and rows that are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import numpy as np

from app import history
from app.domain.audit import Difference, Rule, Seen, differences, expected
from app.domain.coverage import SLOT, Gap, Pause, Range
from app.domain.timeframes import epoch_ms, instant
from app.errors import CommandFailed
from app.preview import wire
from app.preview.process import EvaluatingProcess
from app.preview.question import question_about
from app.retention import CANDLE_BARS_KEPT
from app.store import (
    candles,
    leases,
    prunings,
    signal_digests,
    signals,
    signals_failed,
    slots,
    trader_versions,
)
from app.store.candles import Correction
from app.store.pool import Connection, Pool
from app.store.signals import CommittedSignal
from app.store.slots import LedgerSlot
from app.store.trader_versions import ScreenedVersion
from sandbox.plan.document import Plan, PlanError, load_plan
from sandbox.plan.timeframes import TIMEFRAMES

PIECE_BARS = 240  # evaluated at once
HITS_MAX = 1_000_000
SEEN_THEN_MAX = (
    60  # slots replayed once more, each alone, with the candles of then; further ones are left out
)
COOLDOWN_REACH_MAX_S = 30 * 86_400.0


class DifferingSignal(msgspec.Struct):
    """A signal that only one side has. Of one with another price or other values, each side has its own."""

    symbol: str
    triggered_at: datetime
    only_in: str


class Audit(msgspec.Struct, rename={"since": "from"}):
    """
    Whether a trader's signals are what replaying its slots gives.

    `slots_expected` counts the minutes from `from` (exclusive) through `through` in which the trader was to run,
    `slots_accounted` those of them that a machine accounted for. `live` and `replayed` count signals.
    """

    trader_id: UUID
    since: datetime
    through: datetime
    slots_expected: int
    slots_accounted: int
    live: int
    replayed: int
    differ: list[DifferingSignal]


class NotAudited(CommandFailed):
    """The audit cannot be made, and why, in a sentence."""


@dataclass(frozen=True)
class _Record:
    """What is on record of a trader between two slots."""

    after: datetime
    through: datetime
    ledger: Sequence[LedgerSlot]
    ranges: Sequence[Range]
    outages: Sequence[Gap]
    pauses: Sequence[Pause]
    versions: Sequence[ScreenedVersion]
    live: Sequence[CommittedSignal]
    earlier: Sequence[CommittedSignal]
    refused: frozenset[str]
    digested: frozenset[datetime]


@dataclass(frozen=True)
class _Span:
    """The slots that one version screened, oldest first, none of them an outage."""

    version: ScreenedVersion
    plan: Plan
    slots: Sequence[datetime]

    @property
    def rule(self) -> Rule:
        frequency = self.version.frequency
        return Rule(
            float(frequency["cooldown_s"]) if isinstance(frequency, dict) else None, bool(self.plan.forming)
        )


async def audit(
    pool: Pool, process: EvaluatingProcess, trader_id: UUID, *, after: datetime, through: datetime
) -> Audit:
    """
    Replay the slots with *after* < slot ≤ *through* of one trader.

    Raises:
        NotAudited: a version's plan is not valid, or cannot be evaluated over this stretch.
        OutOfTime, Crashed: by the evaluating process.
    """
    async with pool.connection() as connection, connection.transaction():
        await slots.see_one_snapshot(connection)
        record = await _record(connection, trader_id, after, through)
    spans = _spans(record)
    replayed: list[Seen] = []
    earlier = [_seen(signal) for signal in record.earlier]
    unsure: set[datetime] = set()
    for span in spans:
        async with pool.connection() as connection:
            matches, left_out = await _matches(connection, process, span, record)
        unsure |= left_out
        matches = [match for match in matches if match.at not in record.digested]
        replayed += expected(matches, [*earlier, *replayed], span.rule)
    live = [_seen(signal) for signal in record.live if signal.triggered_at not in unsure]
    replayed = [seen for seen in replayed if seen.at not in unsure]
    found = differences(live, replayed, record.refused)
    expected_slots, accounted = _accounted(record)
    return Audit(
        trader_id=trader_id,
        since=record.after,
        through=record.through,
        slots_expected=expected_slots,
        slots_accounted=accounted,
        live=len(live),
        replayed=len(replayed),
        differ=[one for difference in found for one in _told(difference)],
    )


async def _record(connection: Connection, trader_id: UUID, after: datetime, through: datetime) -> _Record:
    versions = await trader_versions.list_screened(connection, trader_id)
    newest = await slots.newest_closed(connection) or through
    after = max(after, _oldest_replayable(versions, newest))
    through = min(through, newest)
    ranges, outages, pauses = await leases.read_coverage(connection, trader_id)
    reach_s = max([_reach_s(version) for version in versions], default=0.0)
    reach = timedelta(seconds=min(reach_s, COOLDOWN_REACH_MAX_S))
    kept_from = await prunings.audited_from(connection)
    if kept_from is not None:  # earlier signals, which may hold a later one back, count from there on
        after = max(after, kept_from + reach)
    before = after - reach
    digests = await signal_digests.list_between(connection, trader_id, after, through)
    failed = await signals_failed.list_between(connection, trader_id, before, through)
    return _Record(
        after=after,
        through=through,
        ledger=await slots.list_between(connection, after, through),
        ranges=ranges,
        outages=outages,
        pauses=pauses,
        versions=versions,
        live=await signals.list_between(connection, trader_id, after, through),
        earlier=await signals.list_between(connection, trader_id, before, after),
        refused=frozenset(symbol for symbol, _ in failed),
        digested=frozenset(digest.slot for digest in digests),
    )


def _oldest_replayable(versions: Iterable[ScreenedVersion], newest: datetime) -> datetime:
    """After which slot the candles that the plans look back on are kept."""
    oldest = [
        newest - (CANDLE_BARS_KEPT - bars) * timedelta(seconds=TIMEFRAMES[timeframe])
        for version in versions
        for timeframe, bars in _plan(version).need.items()
    ]
    return max(oldest, default=newest - timedelta(days=1))


def _reach_s(version: ScreenedVersion) -> float:
    plan, frequency = _plan(version), version.frequency
    cooldown_s = float(frequency["cooldown_s"]) if isinstance(frequency, dict) else 0.0
    return max(cooldown_s, float(TIMEFRAMES[plan.trigger]) if plan.forming else 0.0)


def _plan(version: ScreenedVersion) -> Plan:
    try:
        return load_plan(version.plan)
    except PlanError as error:
        raise NotAudited(f"The plan of version {version.number} is not valid: {error.message}.") from error


def _spans(record: _Record) -> list[_Span]:
    """Each version's own slots: those after its first, until a later version began, inside the coverage."""
    spans = []
    ends = record.through + SLOT
    covered = [
        slot.slot
        for slot in record.ledger
        if slot.state == "complete" and any(r.first <= slot.slot <= r.last for r in record.ranges)
    ]
    for version in reversed(record.versions):
        own = [slot for slot in covered if version.screened_after < slot < ends]
        ends = min(ends, version.screened_after + SLOT)
        if own:
            spans.append(_Span(version, _plan(version), own))
    return spans[::-1]


async def _matches(
    connection: Connection, process: EvaluatingProcess, span: _Span, record: _Record
) -> tuple[list[Seen], set[datetime]]:
    """The matches at the slots of *span*, oldest first, and the slots of which no verdict can be given."""
    due = [slot for slot in span.slots if not epoch_ms(slot) % (TIMEFRAMES[span.plan.due_every] * 1000)]
    by_slot: dict[datetime, list[Seen]] = {slot: [] for slot in due}
    for start in range(0, len(due), PIECE_BARS):
        piece = due[start : start + PIECE_BARS]
        bars = (piece[-1] - piece[0]) // timedelta(seconds=TIMEFRAMES[span.plan.due_every]) + 1
        for seen in await _ask(connection, process, span, bars, piece[-1], ()):
            if seen.at in by_slot:
                by_slot[seen.at].append(seen)
    unsure = set()
    corrections = await _corrections(connection, span, record)
    for number, (slot, unseen) in enumerate(sorted(corrections.items())):
        if number >= SEEN_THEN_MAX:
            unsure.add(slot)
        elif slot in by_slot:
            then = [s for s in await _ask(connection, process, span, 1, slot, unseen) if s.at == slot]
            live = {_place(_seen(signal)) for signal in record.live if signal.triggered_at == slot}
            # who caught up after the correction saw the candles of now: the nearer of the two is the one to hold it to
            by_slot[slot] = min(then, by_slot[slot], key=lambda seen: len(live ^ {_place(s) for s in seen}))
    return [seen for slot in due for seen in by_slot[slot]], unsure


async def _corrections(
    connection: Connection, span: _Span, record: _Record
) -> dict[datetime, list[Correction]]:
    """Of each slot that was screened before candles it can see were corrected: those corrections."""
    closed_at = {slot.slot: slot.closed_at for slot in record.ledger if slot.closed_at is not None}
    reach = max(timedelta(seconds=TIMEFRAMES[tf]) * (bars + 1) for tf, bars in span.plan.need.items())
    first_closed = min(closed_at[slot] for slot in span.slots)
    found = await candles.list_corrections(connection, first_closed, span.slots[0] - reach, span.slots[-1])
    unseen: dict[datetime, list[Correction]] = {}
    for correction in found:
        closes_at = correction.open_time + timedelta(seconds=TIMEFRAMES[correction.timeframe])
        for slot in span.slots:
            if closes_at <= slot and closed_at[slot] < correction.corrected_at:
                unseen.setdefault(slot, []).append(correction)
    return unseen


async def _ask(  # noqa: PLR0917 where to ask, and what
    connection: Connection,
    process: EvaluatingProcess,
    span: _Span,
    bars: int,
    until: datetime,
    unseen: Collection[Correction],
) -> list[Seen]:
    """The matches at the newest *bars* slots by *until*, over the candles without what the corrections changed."""
    version, plan = span.version, span.plan
    stretch = await history.load(connection, plan, bars=bars, until=until, symbols=version.symbols)
    if unseen:
        stretch = replace(
            stretch,
            frames={tf: _as_then(stretch.symbols, tf, c, unseen) for tf, c in stretch.frames.items()},
        )
    question, frames = await question_about(
        connection, plan, stretch, bars=bars, until=until, symbols=version.symbols
    )
    question = msgspec.structs.replace(
        question,
        hits_max=HITS_MAX,
        every_match=True,
        frequency="on_enter" if version.frequency == "on_enter" else "every_bar",
    )
    answer = await process.evaluate(question, frames)
    if isinstance(answer, wire.Refused):
        raise NotAudited(answer.problem)
    if answer.bars_left:
        return await _ask_by_halves(connection, process, span, bars, until, unseen)
    bar_s = TIMEFRAMES[answer.trigger]
    return [
        Seen(hit.symbol, instant(hit.triggered_at_ms), bar_s, (hit.price, hit.values)) for hit in answer.hits
    ]


async def _ask_by_halves(  # noqa: PLR0917 as `_ask`
    connection: Connection,
    process: EvaluatingProcess,
    span: _Span,
    bars: int,
    until: datetime,
    unseen: Collection[Correction],
) -> list[Seen]:
    """The same where functions used up the CPU time of one question: two questions, about half of the slots each."""
    if bars == 1:
        raise NotAudited("The functions of the filter take too long over one slot.")
    half = bars // 2
    middle = until - half * timedelta(seconds=TIMEFRAMES[span.plan.due_every])
    older = await _ask(connection, process, span, bars - half, middle, unseen)
    newer = await _ask(connection, process, span, half, until, unseen)
    return [*older, *(seen for seen in newer if seen.at > middle)]


def _as_then(
    symbols: Sequence[str], timeframe: str, columns: wire.Columns, unseen: Iterable[Correction]
) -> wire.Columns:
    """A frame's columns with the candles that *unseen* corrections put in or changed as they were before."""
    row_of = {name: row for row, name in enumerate(symbols)}
    columns = tuple(np.array(column) for column in columns)
    kept = np.ones(len(columns[0]), dtype=np.bool_)
    first: dict[tuple[int, int], Correction] = {}
    for correction in unseen:
        if correction.timeframe == timeframe and correction.symbol in row_of:
            first.setdefault((row_of[correction.symbol], epoch_ms(correction.open_time)), correction)
    for (row, open_ms), correction in first.items():
        at = np.flatnonzero((columns[0] == row) & (columns[1] == open_ms))
        if correction.open is None:
            kept[at] = False
            continue
        was = (correction.open, correction.high, correction.low, correction.close, correction.volume)
        for column, value in zip(columns[2:], was, strict=True):
            column[at] = value
    return tuple(column[kept] for column in columns)


def _accounted(record: _Record) -> tuple[int, int]:
    """How many slots of the span the trader was to be screened at, and how many were accounted for."""
    spans: list[Range | Gap] = [*record.ranges, *record.outages]
    begun = min((span.first for span in spans), default=None)
    if begun is None:
        return 0, 0
    closed = {slot.slot for slot in record.ledger if slot.state != "open"}
    wanted = accounted = 0
    slot = max(begun, record.after + SLOT)
    while slot <= record.through:
        is_accounted = slot in closed and any(span.first <= slot <= span.last for span in spans)
        accounted += is_accounted
        wanted += is_accounted or not any(_is_paused(slot, pause) for pause in record.pauses)
        slot += SLOT
    return wanted, accounted


def _is_paused(slot: datetime, pause: Pause) -> bool:
    return pause.begin_at - SLOT < slot and (pause.end_at is None or slot < pause.end_at + SLOT)


def _place(seen: Seen) -> tuple[str, datetime]:
    return seen.symbol, seen.at


def _seen(signal: CommittedSignal) -> Seen:
    content = (signal.price, dict(signal.shown))
    return Seen(signal.symbol, signal.triggered_at, TIMEFRAMES[signal.timeframe], content)


def _told(difference: Difference) -> list[DifferingSignal]:
    sides = ("live", "replayed") if difference.only_in == "both" else (difference.only_in,)
    return [DifferingSignal(difference.symbol, difference.at, side) for side in sides]
