"""
What an answer means for its delivery and for its destination.

Decided here: the retry schedule, which answers throttle, which end a delivery, which end a destination. Not decided here: whether a
retry still comes before the expiry; the table compares clocks (``record_receipts``), this module only avoids pointless retries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["pending", "sent", "failed", "expired"]

RETRY_S = (0.0, 2.0, 10.0, 30.0, 120.0, 600.0)
"""Wait before the first, second, … attempt; the last one repeats until the delivery expires."""

FAILING_HOLDS_S = (0.0, 0.0, 2.0, 10.0, 30.0, 120.0, 600.0)
"""How long a destination rests after so many failures in a row: a dead one costs at most 144 attempts a day."""

FAILING_DAYS_MAX = 5
ANSWER_BYTES_MAX = 200
RETRY_AFTER_S_MAX = 3600.0
THROTTLED = frozenset({429, 502, 503, 504})
GONE = {
    "webhook": frozenset({410}),
    "discord": frozenset({404, 410}),  # the webhook was deleted
    "slack": frozenset({404, 410}),
    "telegram": frozenset({403, 404}),  # the bot was blocked, or its token is not valid any more
}
REFUSED = {  # a body or a token that will not be taken at the next attempt either
    "discord": frozenset({400, 401, 403}),
    "slack": frozenset({400, 403}),
    "telegram": frozenset({400, 401}),
    "pushover": frozenset({400}),
    "ntfy": frozenset({400, 401, 403}),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """
    What came back from one attempt.

    Args:
        status: The HTTP status; None when there was no answer.
        text: The first bytes of the answer, or why there was none.
        took_s: From the beginning of the attempt to its answer.
        retry_after_s: What the receiver asked for.
        is_final: Trying again cannot help: a refused address, a template that fails.
        is_ours: This process could not even try, as without the right key; it says nothing about the destination.
    """

    status: int | None
    text: str
    took_s: float
    retry_after_s: float | None = None
    is_final: bool = False
    is_ours: bool = False

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """
    What follows from an answer.

    Args:
        state: The delivery's; `pending` waits *delay_s* for its next attempt.
        is_ok: The destination works; None: the answer says nothing about it.
        hold_s: Nothing is sent to the destination for so long.
        disable: Why the destination is disabled; None: it stays.
    """

    state: State
    delay_s: float = 0.0
    is_ok: bool | None = None
    hold_s: float = 0.0
    disable: str | None = None


def judge(kind: str, answer: Answer, *, attempts: int, remaining_s: float, is_test: bool = False) -> Outcome:
    """
    The outcome of attempt number *attempts* (from 1) of a delivery that expires in *remaining_s*.

    A test is tried once and says nothing about the destination.
    """
    if is_test:
        return Outcome(state="sent" if answer.is_success else "failed")
    if answer.is_success:
        return Outcome(state="sent", is_ok=True, hold_s=_asked_for(answer))
    if answer.status in GONE.get(kind, ()):
        return Outcome(
            state="failed", is_ok=False, disable=f"it answered {answer.status}: {answer.text[:80]}"
        )
    if answer.is_final or answer.status in REFUSED.get(kind, ()):
        return Outcome(state="failed", is_ok=None if answer.status is None else False)
    return _retried(answer, attempts, remaining_s)


def _retried(answer: Answer, attempts: int, remaining_s: float) -> Outcome:
    """A later attempt may arrive. 429 is the receiver's own pace: it says nothing against the destination."""
    is_pace = answer.status == 429
    asked_for_s = _asked_for(answer) if answer.status in THROTTLED else 0.0
    delay_s = max(asked_for_s, 1.0) if is_pace else max(asked_for_s, retry_delay_s(attempts))
    return Outcome(
        state="expired" if delay_s >= remaining_s else "pending",
        delay_s=delay_s,
        is_ok=None if is_pace or answer.is_ours else False,
        hold_s=delay_s if is_pace else asked_for_s,
    )


def retry_delay_s(attempts: int) -> float:
    """The wait after so many attempts."""
    return RETRY_S[min(attempts, len(RETRY_S) - 1)]


def clipped(text: str) -> str:
    """The part of an answer that a receipt keeps: without control characters, at most ``ANSWER_BYTES_MAX`` bytes."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.encode("utf-8", "replace")[:ANSWER_BYTES_MAX].decode("utf-8", "ignore").strip()


def _asked_for(answer: Answer) -> float:
    return min(max(answer.retry_after_s or 0.0, 0.0), RETRY_AFTER_S_MAX)
