"""
What a sender does about each destination that has something due: send so many, hold it, or gather a digest.

The order of destinations comes from the table (every user's first before anyone's second); here it is turned into numbers that keep
within pace, room, and one user's share of a process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app.delivery.rules.pacing import SERVICES, after, allowed, next_free, pace_of
from app.delivery.rules.quiet import quiet_until

GATHER_S = 3.0  # matches of one close arrive within; a digest of a bar close waits for the slowest machine
UNTOLD_EVERY_S = 300.0
DISABLED_HOLD_S = 60.0
UNREADABLE_HOLD_S = 600.0
PER_DESTINATION_MAX = 16


@dataclass(frozen=True, kw_only=True)
class Ready:
    """
    A destination with something due, its queue locked.

    ``due_count``: deliveries to send one by one, counted up to ``PER_DESTINATION_MAX``. ``first_signal_at``: of a digest's waiting
    signals, when the first was queued.
    """

    destination_id: UUID
    user_id: UUID
    kind: str
    enabled: bool
    quiet_hours: Mapping[str, str] | None
    digest: Mapping[str, Any] | None
    rate: Mapping[str, Any] | None
    last_digest_at: datetime
    paced_until: datetime
    failures: int
    service_key: str | None
    first_signal_at: datetime | None
    has_untold: bool
    due_count: int
    now: datetime


@dataclass
class Plan:
    """
    Counts by destination, and what moves.

    Args:
        counts: How many to send now.
        digesting: Destinations whose signals are not sent one by one.
        paced_until, held_until: New values of the queues, with the reason of each hold.
        postponed: Until when the waiting signals of a digest wait on.
        gathers: Destinations that get a digest now; True: with its waiting signals, False: only with what expired.
        service_paced_until: New values of the shared limits.
    """

    counts: dict[UUID, int] = field(default_factory=dict)
    digesting: set[UUID] = field(default_factory=set)
    paced_until: dict[UUID, datetime] = field(default_factory=dict)
    held_until: dict[UUID, tuple[datetime, str]] = field(default_factory=dict)
    postponed: dict[UUID, datetime] = field(default_factory=dict)
    gathers: dict[UUID, bool] = field(default_factory=dict)
    service_paced_until: dict[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a process can begin now: in all, for one user, and what is under way per destination and user."""

    total: int
    per_user: int
    of_destinations: Mapping[UUID, int]
    of_users: Mapping[UUID, int]


def plan_taking(ready: Sequence[Ready], room: Room, services: Mapping[str, datetime]) -> Plan:
    """What to do about *ready*, in their order; *services* are the shared limits by key."""
    plan = Plan(service_paced_until=dict(services))
    left = room.total
    users: Counter[UUID] = Counter(room.of_users)
    for one in ready:
        if not one.enabled:
            plan.held_until[one.destination_id] = (one.now + timedelta(seconds=DISABLED_HOLD_S), "disabled")
            continue
        try:
            until = quiet_until(one.quiet_hours, one.now)
            pace_of(one.kind, one.rate)
            _plan_digest(plan, one)
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            # edited by hand into what no check let through: it alone waits, and says why
            plan.held_until[one.destination_id] = (
                one.now + timedelta(seconds=UNREADABLE_HOLD_S),
                "unreadable rules",
            )
            continue
        if until is not None:
            plan.held_until[one.destination_id] = (until, "quiet hours")
            plan.gathers.pop(one.destination_id, None)
            plan.postponed.pop(one.destination_id, None)
            continue
        due = one.due_count + (one.destination_id in plan.gathers)
        wanted = min(due, left, room.per_user - users[one.user_id])
        count = _count(
            plan, one, min(wanted, _at_once(one) - room.of_destinations.get(one.destination_id, 0))
        )
        if count > 0:
            plan.counts[one.destination_id] = count
            left -= count
            users[one.user_id] += count
    plan.service_paced_until = {k: v for k, v in plan.service_paced_until.items() if v != services[k]}
    return plan


def _at_once(one: Ready) -> int:
    """A destination that fails is asked with one delivery at a time."""
    return 1 if one.failures else min(pace_of(one.kind, one.rate).at_once, PER_DESTINATION_MAX)


def _count(plan: Plan, one: Ready, most: int) -> int:
    """How many the paces allow, at most *most*; they are counted, and a pace that is used up holds the destination."""
    if most <= 0:
        return 0
    pace, service = pace_of(one.kind, one.rate), SERVICES.get(one.kind)
    free = allowed(pace, one.paced_until, one.now)
    if free == 0:
        plan.held_until[one.destination_id] = (next_free(pace, one.paced_until, one.now), "pace")
        return 0
    count = min(most, free)
    if service is not None and one.service_key is not None:
        shared = plan.service_paced_until[one.service_key]
        count = min(count, allowed(service, shared, one.now))
        if count == 0:
            plan.held_until[one.destination_id] = (next_free(service, shared, one.now), "pace of the service")
            return 0
        plan.service_paced_until[one.service_key] = after(service, shared, one.now, count)
    plan.paced_until[one.destination_id] = after(pace, one.paced_until, one.now, count)
    return count


def _plan_digest(plan: Plan, one: Ready) -> None:
    if one.digest is None:
        if (
            one.has_untold
            and not one.failures
            and one.last_digest_at + timedelta(seconds=UNTOLD_EVERY_S) <= one.now
        ):
            plan.gathers[one.destination_id] = False
        return
    plan.digesting.add(one.destination_id)
    if one.first_signal_at is None:
        return
    until = one.first_signal_at + timedelta(seconds=GATHER_S)
    every_s = one.digest.get("every_s")
    if every_s is not None and one.last_digest_at > one.now - timedelta(seconds=every_s):
        until = max(until, one.last_digest_at + timedelta(seconds=every_s))
    if until <= one.now:
        plan.gathers[one.destination_id] = True
    else:
        plan.postponed[one.destination_id] = until
