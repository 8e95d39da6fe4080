"""
How long rows are kept, and which kinds of rows there are.

Pure. Decided here: the meaning of ``VYX_KEEP_DAYS`` and from when on each kind is kept. Not decided here: how rows are deleted
(``app/retention.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta

DAYS_MAX = 3650

KINDS = (
    "signals",
    "signal_digests",
    "signal_revisions",
    "signals_failed",
    "events",
    "leases",
    "slots",
    "candles",
    "candle_corrections",
    "candle_refusals",
    "trader_versions",
    "incidents",
    "machines",
    "deliveries",
    "previews",
    "idempotent_answers",
    "rate_limits",
    "jobs",
)
"""What is pruned, in this order: a row goes before those it names (an incident before its machine)."""

PREVIEWS_KEPT = timedelta(hours=1)
ANSWERS_KEPT = timedelta(hours=24)  # docs/contract.md: an Idempotency-Key holds for a day
CALLS_KEPT = timedelta(days=1)  # the longest window of a rate limit is a minute


@dataclass(frozen=True, kw_only=True)
class KeepDays:
    """Whole days, 1 … 3650, of each part of ``VYX_KEEP_DAYS``."""

    signals: int = 90
    events: int = 90
    deliveries: int = 30
    slots: int = 90
    leases: int = 90

    def __str__(self) -> str:
        """As the setting is written."""
        return ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """The wall's clock and the market's, both the database's; a market that holds no slot yet has none."""

    wall: datetime
    market: datetime | None


def read_keep_days(text: str) -> KeepDays:
    """
    The days in a text such as ``signals=30,events=14``; what it does not name keeps its default.

    Raises:
        ValueError: a sentence about the first part that is wrong.
    """
    keep, seen = KeepDays(), set[str]()
    names = [field.name for field in fields(KeepDays)]
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, raw = (piece.strip() for piece in part.partition("="))
        if not equals or name not in names:
            raise ValueError(f"{part!r} is not one of {', '.join(f'{n}=DAYS' for n in names)}")
        if name in seen:
            raise ValueError(f"{name} is given twice")
        if not (raw.isascii() and raw.isdigit() and 1 <= int(raw[:9]) <= DAYS_MAX):
            raise ValueError(f"{name} must be whole days between 1 and {DAYS_MAX}, got {raw!r}")
        seen.add(name)
        keep = replace(keep, **{name: int(raw)})
    return keep


def kept_from(kind: str, keep: KeepDays, clocks: Clocks) -> datetime | None:
    """
    From when on rows of *kind* are kept; None: nothing may go, because the market has no time yet.

    Signals, digests, revisions and slots are of market time, all other kinds of the wall's.
    """
    if kind in ("signals", "signal_digests", "signal_revisions", "slots"):
        days = keep.slots if kind == "slots" else keep.signals
        return None if clocks.market is None else clocks.market - timedelta(days=days)
    return clocks.wall - _KEPT[kind](keep)


_KEPT: dict[str, Callable[[KeepDays], timedelta]] = {
    "signals_failed": lambda keep: timedelta(days=keep.signals),
    "events": lambda keep: timedelta(days=keep.events),
    "leases": lambda keep: timedelta(days=keep.leases),
    "candle_corrections": lambda keep: timedelta(days=keep.slots),
    "candle_refusals": lambda keep: timedelta(days=keep.slots),
    # a version is what its slots and signals are audited with
    "trader_versions": lambda keep: timedelta(days=max(keep.slots, keep.signals)),
    "incidents": lambda keep: timedelta(days=keep.events),
    "machines": lambda keep: timedelta(days=keep.leases),
    "deliveries": lambda keep: timedelta(days=keep.deliveries),
    "previews": lambda _: PREVIEWS_KEPT,
    "idempotent_answers": lambda _: ANSWERS_KEPT,
    "rate_limits": lambda _: CALLS_KEPT,
    "jobs": lambda keep: timedelta(days=keep.events),
}
