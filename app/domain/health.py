"""
Whether a trader's screening can be believed, in one word and one sentence.

``running`` is a state somebody set; health is what the ledger of slots proves. Decided here: the words, their
order of precedence and their thresholds. Not decided here: where the facts come from
(``app/store/markets.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.lifecycle import ACTIVE, TraderState

PATIENCE_S = 120.0  # market seconds: two one-minute bars, the promise of docs/design.md, 7
PATIENCE_WALL_S = (
    2.0  # at speed 600 two bars pass in 0.2 s, less than a screening takes; allow it this much of real time
)
SLOT_S = 60.0


NOT_BEGUN = "no minute of the market has closed yet"


class Condition(StrEnum):
    """How the market itself stands, for everybody."""

    OK = "ok"
    STARTING = "starting"
    DEGRADED = "degraded"


class Health(StrEnum):
    OK = "ok"
    WAITING = "waiting"
    LAGGING = "lagging"
    DATA_OUTAGE = "data_outage"
    FAILING = "failing"


@dataclass(frozen=True, kw_only=True)
class MarketFacts:
    """
    Where the market's clock and the ledger of slots stand; None where there is no market or no such slot yet.
    """

    market_at: datetime | None = None
    ends_at: datetime | None = None
    speed: float = 1.0
    newest_closed: datetime | None = None
    newest_closed_is_outage: bool = False
    outage_reason: str | None = None
    oldest_open: datetime | None = None
    first_slot: datetime | None = None
    stage: str | None = None
    stage_reason: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.ends_at is not None and self.market_at is not None and self.market_at >= self.ends_at

    @property
    def patience(self) -> timedelta:
        """Market time by which something may be late before it is called so."""
        return timedelta(seconds=max(PATIENCE_S, PATIENCE_WALL_S * self.speed))


def lag_s(state: TraderState, screened_through: datetime | None, facts: MarketFacts) -> float:
    """
    Market seconds between the newest closed slot and the last one screened; 0 for a trader that is not
    active.
    """
    if state not in ACTIVE or screened_through is None or facts.newest_closed is None:
        return 0.0
    return max(0.0, (facts.newest_closed - screened_through).total_seconds())


def service_reasons(
    *, machines_alive: int, lag_s: float, overdue: Sequence[str], silent: Sequence[str], facts: MarketFacts
) -> list[str]:
    """
    Why the whole service is not well, a sentence each; empty when it is.

    Decided by what was done, not by who answers: *overdue* are tasks without progress in their own bound, *silent* machines
    without a heartbeat, *lag_s* market seconds between the newest closed slot and the machine that is farthest behind.
    """
    reasons = [] if machines_alive else ["no machine screens"]
    if lag_s > facts.patience.total_seconds():
        reasons.append(f"screening is {lag_s:.0f} s of market time behind")
    condition, why = condition_of(facts)
    if condition is Condition.DEGRADED and why:
        reasons.append(why)
    return [*reasons, *silent, *overdue]


def _outage(facts: MarketFacts) -> str | None:
    """What is wrong with the market data itself, if anything."""
    if facts.has_ended:
        return None
    if facts.newest_closed_is_outage:
        return f"no market data for the newest slot: {facts.outage_reason or 'the exchange sent no candle'}"
    if facts.market_at is None:
        return "there is no market yet"
    if facts.oldest_open is not None and facts.market_at - facts.oldest_open > facts.patience:
        return f"the slot of {facts.oldest_open:%Y-%m-%d %H:%M} UTC is still waiting for its candles"
    # A minute passes before the next slot closes, so the newest closed one is up to 60 s old when all is
    # well.
    if facts.newest_closed is not None and facts.market_at - facts.newest_closed > facts.patience + timedelta(
        seconds=SLOT_S
    ):
        return f"no slot has closed since {facts.newest_closed:%Y-%m-%d %H:%M} UTC"
    return None


def condition_of(facts: MarketFacts) -> tuple[Condition, str | None]:
    """How the market stands, and why when it is not well: starting until the first slot has closed, degraded in an outage or a hold."""
    if facts.newest_closed is None:
        return Condition.STARTING, facts.stage_reason or NOT_BEGUN
    if facts.stage == "held":
        return Condition.DEGRADED, facts.stage_reason
    if outage := _outage(facts):
        return Condition.DEGRADED, outage
    return Condition.OK, None


def _not_begun(screened_through: datetime | None, facts: MarketFacts) -> str | None:
    """Why nothing has been screened at all yet, if so: running is proved from the first second."""
    if facts.newest_closed is None:
        return facts.stage_reason or NOT_BEGUN
    if screened_through is None or (facts.first_slot is not None and screened_through < facts.first_slot):
        return "its first slot has closed and is being screened"
    return None


def health_of(
    state: TraderState,
    *,
    is_owned: bool,
    screened_through: datetime | None,
    last_error: str | None,
    facts: MarketFacts,
) -> tuple[Health, str | None]:
    """
    Health and its reason; the reason is None when there is nothing to say.

    The first that holds wins: failing, not active (ok), waiting, data outage, lagging, ended (ok), ok. A
    trader without an owner waits, whatever the data do: nothing else can be known about it.
    """
    if state is TraderState.ERROR:
        return Health.FAILING, last_error or "it could not be loaded or evaluated"
    if state not in ACTIVE:
        return Health.OK, None
    if not is_owned or state is TraderState.STARTING:
        return (
            Health.WAITING,
            "a machine is loading its plan" if is_owned else "waiting for a machine to claim it",
        )
    if waiting := _not_begun(screened_through, facts):
        return Health.WAITING, waiting
    return _health_of_running(lag_s(state, screened_through, facts), facts)


def _health_of_running(lag: float, facts: MarketFacts) -> tuple[Health, str | None]:
    if outage := _outage(facts):
        return Health.DATA_OUTAGE, outage
    if lag > facts.patience.total_seconds():
        return Health.LAGGING, f"screening is {lag:.0f} s of market time behind"
    return Health.OK, "the market's candles have ended" if facts.has_ended else None
