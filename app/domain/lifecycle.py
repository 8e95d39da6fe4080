"""
The life of a trader: its states, the table of transitions, and when a failed one is tried again.

The rules for this file: the transition table stands here and in ``vyx.transitions`` and nowhere else; a test holds the two
equal. Postgres decides (a trigger refuses other transitions, whoever asks); this copy explains, and lets pure code reason.
What is not decided here: who may start a trader (quotas, ``sql/migrations/*_lifecycle.sql``) and who runs it (leases).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

RETRY_FIRST = timedelta(seconds=60)
RETRY_LONGEST = timedelta(minutes=15)
RETRIES_MAX = 5  # in a row; the next failure is final until a person presses start


class TraderState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ERROR = "error"


TRANSITIONS: Mapping[tuple[TraderState, TraderState], str] = MappingProxyType(
    {
        (TraderState.STOPPED, TraderState.STARTING): "user start",
        (TraderState.STARTING, TraderState.RUNNING): "a machine claimed it and loaded its plan",
        (TraderState.STARTING, TraderState.ERROR): "cannot load or evaluate",
        (TraderState.RUNNING, TraderState.ERROR): "cannot load or evaluate",
        (TraderState.STARTING, TraderState.STOPPING): "user stop",
        (TraderState.RUNNING, TraderState.STOPPING): "user stop",
        (TraderState.STOPPING, TraderState.STOPPED): "owner finished the slot in hand, or there is none",
        (TraderState.ERROR, TraderState.STARTING): "retry_at reached, or user start",
        (TraderState.ERROR, TraderState.STOPPED): "user stop",
    }
)
"""What causes each allowed change; a pair that is missing is refused."""

ACTIVE = frozenset({TraderState.STARTING, TraderState.RUNNING})
"""States in which a machine owns the trader, or should."""

PASSING = frozenset({TraderState.STARTING, TraderState.STOPPING})
"""States a trader leaves by itself: what ``Prefer: wait`` waits for the end of."""


def may_become(current: TraderState, wanted: TraderState) -> bool:
    """Whether the table allows *current* → *wanted*."""
    return (current, wanted) in TRANSITIONS


def retry_delay(failure_count: int) -> timedelta | None:
    """
    How long a trader rests after its *failure_count*-th failure in a row.

    Args:
        failure_count: At least 1.

    Returns:
        60 s, then doubling up to 15 min; None after the fifth: it stays in error until a user starts it.
    """
    if failure_count > RETRIES_MAX:
        return None
    doubled: timedelta = RETRY_FIRST * 2 ** (failure_count - 1)
    return min(doubled, RETRY_LONGEST)
