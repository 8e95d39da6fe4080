"""
How fast each kind of destination may be sent to, as data, and the arithmetic of it (a generic cell rate).

The one number that is kept, ``paced_until``, is when all sends so far would have ended had they been spaced evenly. A burst may run
ahead of the clock by ``burst`` intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Pace:
    """At most *burst* at once, then one per *interval_s*; *at_once*: attempts under way in one process."""

    interval_s: float
    burst: int
    at_once: int


PACES: dict[str, Pace] = {
    "webhook": Pace(interval_s=0.01, burst=200, at_once=16),
    "telegram": Pace(
        interval_s=1.0, burst=3, at_once=1
    ),  # core.telegram.org/bots/faq: 1 message a second in one chat
    "discord": Pace(interval_s=0.4, burst=5, at_once=1),  # 5 requests in 2 s per webhook
    "slack": Pace(
        interval_s=1.0, burst=3, at_once=1
    ),  # api.slack.com/docs/rate-limits: 1 a second, short bursts
    "email": Pace(interval_s=2.0, burst=5, at_once=1),
    "ntfy": Pace(interval_s=5.0, burst=60, at_once=2),  # docs.ntfy.sh: 60 requests, then one per 5 s
    "pushover": Pace(interval_s=0.5, burst=5, at_once=2),  # pushover.net/api: at most 2 connections at a time
    "apprise": Pace(interval_s=1.0, burst=5, at_once=1),
}
SERVICES: dict[str, Pace] = {
    "telegram": Pace(interval_s=1 / 30, burst=30, at_once=30),  # 30 messages a second of one bot
}


def pace_of(kind: str, rate: Mapping[str, Any] | None) -> Pace:
    """The pace of a destination: its kind's, or its owner's *rate* where that is slower."""
    pace = PACES[kind]
    if rate is None:
        return pace
    interval_s = float(rate["per_s"]) / int(rate["messages"])
    return (
        pace if interval_s <= pace.interval_s else Pace(interval_s=interval_s, burst=1, at_once=pace.at_once)
    )


def allowed(pace: Pace, paced_until: datetime, now: datetime) -> int:
    """How many may be sent now."""
    if paced_until <= now:
        return pace.burst
    ahead_s = (paced_until - now).total_seconds()
    return max(0, int((pace.burst * pace.interval_s - ahead_s) / pace.interval_s + 1e-9))


def after(pace: Pace, paced_until: datetime, now: datetime, count: int) -> datetime:
    """``paced_until`` once *count* more have been sent."""
    return max(paced_until, now) + timedelta(seconds=count * pace.interval_s)


def next_free(pace: Pace, paced_until: datetime, now: datetime) -> datetime:
    """When the next one may be sent."""
    return max(now, paced_until + timedelta(seconds=(1 - pace.burst) * pace.interval_s))
