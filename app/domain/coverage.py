"""
Which slots a trader was screened in, and why not in the others.

Pure: spans of minute slots in, ranges and gaps out. Both ends of every span are slots and belong to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

SLOT = timedelta(minutes=1)
STOPPED = "stopped"
NOT_SCREENED = "not screened"


@dataclass(frozen=True)
class Range:
    """Slots accounted for by one lease, from its first complete slot through its last."""

    first: datetime
    last: datetime
    machine_id: str
    epoch: int


@dataclass(frozen=True)
class Gap:
    first: datetime
    last: datetime
    reason: str


@dataclass(frozen=True)
class Pause:
    """From when until when (market time) a trader was stopped; an end of None is still going on."""

    begin_at: datetime
    end_at: datetime | None


def gaps_between(ranges: Sequence[Range], outages: Sequence[Gap], pauses: Iterable[Pause]) -> list[Gap]:
    """
    The slots between the first and the last span that belong to no range, as gaps with a reason, oldest
    first.

    Args:
        ranges: Not overlapping, in any order.
        outages: Slots inside leases for which the exchange had no candle, one gap per slot or per run of
            slots.
        pauses: When the trader was stopped.

    Returns:
        Neighbouring gaps of the same reason are one. What lies between two spans and is no outage was not
        screened at all: reason ``stopped`` when a pause overlaps it, else ``not screened``.
    """
    pauses = list(pauses)
    gaps: list[Gap] = []
    spans: list[Range | Gap] = sorted([*ranges, *outages], key=lambda span: span.first)
    for before, after in zip([None, *spans], spans, strict=False):
        if before is not None and after.first - before.last > SLOT:
            _append(gaps, _hole(before.last + SLOT, after.first - SLOT, pauses))
        if isinstance(after, Gap):
            _append(gaps, after)
    return gaps


def _hole(first: datetime, last: datetime, pauses: Iterable[Pause]) -> Gap:
    stopped = any(p.begin_at <= last and (p.end_at is None or p.end_at > first - SLOT) for p in pauses)
    return Gap(first, last, STOPPED if stopped else NOT_SCREENED)


def _append(gaps: list[Gap], gap: Gap) -> None:
    if gaps and gaps[-1].reason == gap.reason and gap.first - gaps[-1].last <= SLOT:
        gaps[-1] = replace(gaps[-1], last=gap.last)
    else:
        gaps.append(gap)
