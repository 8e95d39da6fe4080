"""Quiet hours: a span of the day in a time zone, during which a destination gets nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo


def parse(rule: Mapping[str, str]) -> tuple[time, time, ZoneInfo]:
    """
    From, until and zone of ``{"from": "22:00", "until": "07:00", "zone": "Europe/Berlin"}``.

    Raises:
        ValueError: one of them is not a time of day or a zone; the text says which.
    """
    try:
        start, end = (time.fromisoformat(rule[name]) for name in ("from", "until"))
    except ValueError as error:
        raise ValueError(f"quiet_hours: a time of day looks like 22:00 ({error})") from None
    if start == end:
        raise ValueError("quiet_hours: from and until are the same; leave quiet_hours out instead")
    try:
        return start, end, ZoneInfo(rule["zone"])
    except (KeyError, OSError, ValueError):
        raise ValueError(
            f"quiet_hours: there is no time zone {rule['zone']!r}; one is Europe/Berlin"
        ) from None


def quiet_until(rule: Mapping[str, str] | None, now: datetime) -> datetime | None:
    """When the quiet hours that hold at *now* end; None outside of them. A span over midnight belongs to both days."""
    if rule is None:
        return None
    start, end, zone = parse(rule)
    local = now.astimezone(zone)
    for day in (local.date() - timedelta(days=1), local.date()):
        begins = datetime.combine(day, start, zone)
        ends = datetime.combine(day if end > start else day + timedelta(days=1), end, zone)
        if begins <= local < ends:
            return ends.astimezone(now.tzinfo)
    return None
