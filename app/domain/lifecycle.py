"""
The states of a trader. Which may follow which is decided by Postgres: ``vyx.transitions`` and its trigger.
"""

from __future__ import annotations

from enum import StrEnum


class TraderState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ERROR = "error"


ACTIVE = frozenset({TraderState.STARTING, TraderState.RUNNING})
"""States in which a machine owns the trader, or should."""

PASSING = frozenset({TraderState.STARTING, TraderState.STOPPING})
"""States a trader leaves by itself: what ``Prefer: wait`` waits for the end of."""
