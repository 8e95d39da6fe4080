"""
What goes over the wire: the JSON of ``docs/contract.md`` as types. OpenAPI, validation and encoding all
follow from these.

Requests refuse unknown fields. NUL is refused wherever text reaches Postgres, which cannot store it.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType, field

from app.domain.health import Health
from app.domain.lifecycle import TraderState

BIGINT_MAX = 2**63 - 1
COOLDOWN_S_MAX = 30 * 24 * 3600  # a month; what lasts longer is another trader
FILTER_BYTES_MAX = 64 * 1024
SYMBOLS_MAX = 2000  # more than the exchange lists

# What has no width: soft hyphen, joiners, direction marks, fillers, variation selectors. A name of these alone cannot be seen.
_UNSEEN = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
)
Name = Annotated[
    str, Meta(min_length=1, max_length=120, pattern=rf"^[^\x00]*[^\s\x00-\x1f\x7f{_UNSEEN}][^\x00]*$")
]
Description = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")]
Filter = Annotated[str, Meta(min_length=1, max_length=FILTER_BYTES_MAX, pattern=r"^[^\x00]*$")]
Symbol = Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^[^\s\x00]+$")]
Symbols = Annotated[list[Symbol], Meta(min_length=1, max_length=SYMBOLS_MAX)]
Instant = Annotated[datetime, Meta(tz=True)]
Cursor = Annotated[str, Meta(min_length=1, max_length=200)]
Values = dict[str, float | bool | None]  # what a filter shows, by its own names; null: not known at that bar
Timeframe = Literal["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"]


class Cooldown(Struct, forbid_unknown_fields=True):
    """After a signal a symbol is silent for this long, in market time."""

    cooldown_s: Annotated[int, Meta(ge=1, le=COOLDOWN_S_MAX)]


Frequency = Literal["every_bar", "on_enter"] | Cooldown


class NewTrader(Struct, forbid_unknown_fields=True):
    name: Name
    filter: Filter
    description: Description = ""
    symbols: Symbols | None = None
    frequency: Frequency = "every_bar"


class TraderChange(Struct, forbid_unknown_fields=True):
    """What is left out stays as it is; ``symbols: null`` means every pair."""

    name: Name | UnsetType = UNSET
    filter: Filter | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    symbols: Symbols | UnsetType | None = UNSET
    frequency: Frequency | UnsetType = UNSET


class FilterRun(Struct, forbid_unknown_fields=True):
    """
    A filter to run over the newest ``bars`` slots at which it is due, by ``until`` (null: now): its
    trigger's bars, or minutes.
    """

    filter: Filter
    bars: Annotated[int, Meta(ge=1, le=1000)] = 200
    symbols: Symbols | None = None
    until: Instant | None = None


class PlanSummary(Struct):
    trigger: str | None = None
    timeframes: list[str] = []
    forming: list[str] = []
    due_every: str | None = None
    operators: list[str] = []
    lookback_bars: int = 0
    cost: float = 0
    calls_each: bool = False


class Diagnostic(Struct):
    line: int
    column: int
    end_line: int
    end_column: int
    severity: Literal["error", "warning"]
    code: str
    message: str
    hint: str | None


class FilterCheck(Struct, forbid_unknown_fields=True):
    """A filter to look at, as it stands in an editor."""

    filter: Filter


class Check(Struct):
    """What is wrong or odd about a filter; ``plan`` is null exactly if a diagnostic is an error."""

    diagnostics: list[Diagnostic]
    plan: PlanSummary | None


class TraderSummary(Struct, kw_only=True):
    """A trader in a list; its filter only with `include=filter`."""

    id: UUID
    name: str
    description: str
    filter: str | UnsetType = UNSET
    symbols: list[str] | None
    frequency: Frequency
    state: TraderState
    health: Health
    plan: PlanSummary
    created_at: datetime
    updated_at: datetime
    version: int
    revision: int


class Trader(TraderSummary, kw_only=True):
    filter: str


class SavedTrader(Trader, kw_only=True):
    """A trader as it was just saved, with what its filter's author should know."""

    warnings: list[Diagnostic]


class Status(Struct, kw_only=True):
    """
    ``signals_today`` counts the UTC day of market time; at ``signals_per_day`` (null: unlimited) the trader floods: from
    ``flooding_since`` on until midnight each slot stores one summary instead of signals.
    """

    trader_id: UUID
    state: TraderState
    health: Health
    reason: str | None
    machine_id: str | None
    started_at: datetime | None
    stopped_at: datetime | None
    last_error: str | None
    error_count: int
    retry_at: datetime | None
    signal_count: int
    last_signal_at: datetime | None
    signals_today: int
    signals_per_day: int | None
    flooding_since: datetime | None
    screened_through: datetime | None
    lag_s: float
    version: int


class Signal(Struct, kw_only=True):
    """
    ``forming``: the filter reads bars in progress, so that what matched may not hold any more when the bar
    closes.
    """

    id: int
    trader_id: UUID
    symbol: str
    timeframe: str
    triggered_at: datetime
    price: float
    values: Values
    screened_at: datetime
    created_at: datetime
    late: bool
    forming: bool


class TraderIds(Struct, forbid_unknown_fields=True):
    """Which of your traders; null: all that it makes a difference to."""

    ids: Annotated[list[UUID], Meta(min_length=1, max_length=1000)] | None


class TraderEvent(Struct, kw_only=True):
    """A change of state, as the stream tells it."""

    id: int
    trader_id: UUID
    from_state: TraderState = field(name="from")
    state: TraderState
    reason: str | None
    version: int
    at: datetime


class CoverageRange(Struct, kw_only=True):
    """Slots screened by one machine, from the first through the last."""

    first: datetime = field(name="from")
    through: datetime
    machine_id: str
    epoch: int


class CoverageGap(Struct, kw_only=True):
    first: datetime = field(name="from")
    through: datetime
    reason: str


class CoverageLack(Struct, kw_only=True):
    """A slot that was screened without some of the trader's symbols, and why each had no candle; at most 20 are named."""

    slot: datetime
    symbols: dict[str, str]
    count: int


class Coverage(Struct, kw_only=True):
    """`lacking` holds the newest 100 such slots."""

    trader_id: UUID
    ranges: list[CoverageRange]
    gaps: list[CoverageGap]
    lacking: list[CoverageLack]


class Rate(Struct):
    """Lifecycle calls: the limit in any 60 s, what is left, and when all of it is free again."""

    limit: int
    remaining: int
    reset_s: float


class Me(Struct, kw_only=True):
    user_id: UUID
    tier: str
    running: int
    max_running: int | None
    stored: int
    max_stored: int | None
    max_streams: int
    signals_per_day: int | None
    rate: Rate


class Scope(StrEnum):
    """What a key may do: read; read and change; all of it, keys and the account included."""

    READ = "read"
    TRADE = "trade"
    ADMIN = "admin"


class NewKey(Struct, forbid_unknown_fields=True):
    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=3)]
    expires_at: Instant | None = None


class Key(Struct, kw_only=True):
    """An API key as it is listed; ``last_used_at`` to the minute."""

    id: UUID
    name: str
    scopes: list[Scope]
    hint: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class MadeKey(Key, kw_only=True):
    """A new key with its secret, which no other answer holds."""

    key: str


class KeyList(Struct):
    items: list[Key]


class Pair(Struct):
    """`screened`: its history is whole. `reason`: why it does not trade, or what a pair that is not screened waits for."""

    symbol: str
    base: str
    quote: str
    trading: bool
    screened: bool
    listed_at: datetime
    halted_at: datetime | None
    reason: str | None


class Candle(Struct):
    open_time: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float


class TermValue(Struct):
    """A part of the signal, or a shown value: the filter's own text and line, and its value at the bar."""

    text: str
    line: int
    value: float | bool | None


class Explain(Struct, kw_only=True):
    """
    ``reason`` is null exactly if it matched. ``bars`` are the newest closed ones of each timeframe at the
    slot, ``forming`` the bars in progress of those that the filter reads so. ``revision`` says that a candle
    was corrected after the slot had been screened, and the signal stored would now be ``missing``, or there
    would be a ``new`` one.
    """

    trader_id: UUID
    symbol: str
    at: datetime
    matched: bool
    reason: str | None
    terms: list[TermValue]
    values: Values
    bars: dict[str, Candle]
    forming: dict[str, Candle]
    revision: Literal["missing", "new"] | None


class Tier(Struct, kw_only=True):
    """What a tier allows; null is unlimited."""

    tier: str
    max_running: int | None
    max_stored: int | None
    max_streams: int
    signals_per_day: int | None


class TierList(Struct):
    items: list[Tier]


class Version(Struct, kw_only=True):
    """A saved version of a trader. ``number`` is the trader's ``revision`` at that time."""

    number: int
    filter: str
    symbols: list[str] | None
    frequency: Frequency
    saved_at: datetime
    plan_hash: str


class VersionList(Struct):
    items: list[Version]
    next_cursor: str | None = None


class AuditQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """At most 24 hours; default: the newest hour."""

    since: Instant | None = field(name="from", default=None)
    through: Instant | None = field(name="to", default=None)


class AuditSummary(Struct, kw_only=True):
    """Machines that compute every slot from the candles because an audit found a difference there."""

    recomputing: list[str]
    mismatches: int


class TraderList(Struct):
    items: list[TraderSummary]
    next_cursor: str | None = None


class StatusList(Struct):
    items: list[Status]
    next_cursor: str | None = None


class SignalList(Struct):
    items: list[Signal]
    next_cursor: str | None = None


class PairList(Struct):
    items: list[Pair]
    next_cursor: str | None = None


class CandleList(Struct):
    items: list[Candle]
    next_cursor: str | None = None


class NoQuery(Struct, forbid_unknown_fields=True):
    """Nothing may stand behind the question mark."""


class PageQuery(Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: Cursor | None = None


class TraderQuery(Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: Cursor | None = None
    include: Literal["filter"] | None = None


class SignalQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """`since` compares with `created_at`, `from` and `until` (inclusive) with `triggered_at`."""

    since: Instant | None = None
    first: Instant | None = field(name="from", default=None)
    until: Instant | None = None
    trader_id: UUID | None = None
    symbol: Symbol | None = None
    order: Literal["oldest", "newest"] = "oldest"
    cursor: Cursor | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class CandleQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    symbol: Symbol
    timeframe: Timeframe
    limit: Annotated[int, Meta(ge=1, le=1000)] = 500
    until: Instant | None = None


class ExplainQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    symbol: Symbol
    at: Instant | None = None


class StreamQuery(Struct, forbid_unknown_fields=True):
    cursor: str | None = None


class Live(Struct):
    status: Literal["live"] = "live"


class Ready(Struct):
    status: Literal["ready"] = "ready"


class FeedSummary(Struct):
    horizon: int | None
    streams: int
    poll_age_s: float | None


class MarketSummary(Struct, kw_only=True):
    source: str | None
    speed: float | None
    time: datetime | None
    ended: bool


class ServiceSummary(Struct, kw_only=True):
    """
    `starting`: no minute of the market has closed yet. `reason`: why it is not ok, as far as the market is to blame. `reasons`: a
    sentence for each thing that is wrong; empty when it is ok or starting.
    """

    status: Literal["ok", "starting", "degraded"]
    reason: str | None
    reasons: list[str]
    database: Literal["ok", "unreachable"]
    draining: bool
    feed: FeedSummary
    machines_alive: int | None
    newest_slot: datetime | None
    lag_s: float | None
    market: MarketSummary | None
    audit: AuditSummary | None


class Problem(Struct, kw_only=True):
    """RFC 9457. ``type`` ends in the kind; further members depend on it and are written beside these."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    quota: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    used: int | UnsetType = UNSET
    tier: str | UnsetType = UNSET
    next_tier: str | UnsetType | None = UNSET
    state: TraderState | UnsetType = UNSET
    retry_after_s: int | UnsetType = UNSET
    diagnostics: list[Diagnostic] | UnsetType = UNSET
    symbols: list[str] | UnsetType = UNSET


class Outcome(Struct, kw_only=True):
    """
    What became of one trader of a call about several: how it stands now, and why it was refused if it was.
    """

    trader_id: UUID
    status: Status | None
    problem: Problem | None


class OutcomeList(Struct):
    items: list[Outcome]


class Reset(Struct):
    """
    The stream could not go on where the client asked: it goes on after ``resume_from``, and what lies
    between is not sent.
    """

    reason: str
    resume_from: int


class Bye(Struct):
    """The last event of a stream: why the server ends it."""

    reason: str


class HistoryEntry(Struct):
    """An event as the stream told it."""

    event: Literal["signal", "trader"]
    data: dict[str, Any]


class ExportedAccount(Struct, kw_only=True):
    tier: str
    max_running: int | None
    max_stored: int | None
    max_streams: int
    signals_per_day: int | None
    running: int
    stored: int


class AccountExport(Struct, kw_only=True):
    """Everything of a user."""

    exported_at: datetime
    user_id: UUID
    account: ExportedAccount
    keys: list[Key]
    traders: list[Trader]
    history: list[HistoryEntry]
