"""
Which slot can be closed now, and what has to be asked for first. Pure: candles and a monotonic instant in, decisions out.

A slot closes when every expected symbol's candle is in; or, once the first candle of it (or of a later one) has been here for the
grace time, after one repair by REST, with what is still missing on record. A slot of which nobody has a candle waits: only when a
later one exists has the exchange itself been out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.market.candles import Candle

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Ready:
    """Slots first … last (ms, inclusive) may be closed; *repair* says whether REST must be asked for what is missing."""

    first: int
    last: int
    repair: bool


class Assembly:
    """
    Args:
        expected: Symbols that should have a candle each minute.
        newest: The last closed slot, in ms.
        grace_s: How long stragglers may take after the first candle of a slot.
    """

    def __init__(self, expected: Iterable[str], newest: int, grace_s: float) -> None:
        self.expected = frozenset(expected)
        self.newest = newest
        self._grace_s = grace_s
        self._pending: dict[int, dict[str, Candle]] = {}
        self._first_seen: dict[int, float] = {}
        self._repaired: set[int] = set()

    def add(self, candle: Candle, now_s: float) -> bool:
        """Take a closed 1m candle; False when its slot has closed already: it is late."""
        slot = candle.open_time + MINUTE_MS
        if slot <= self.newest:
            return False
        self._pending.setdefault(slot, {}).setdefault(candle.symbol, candle)
        self._first_seen.setdefault(slot, now_s)
        return True

    def ready(self, now_s: float) -> Ready | None:
        """What can be closed now; None: wait for more."""
        first = self.newest + MINUTE_MS
        last = None
        for slot in range(first, max(self._pending, default=self.newest) + MINUTE_MS, MINUTE_MS):
            if not self._is_full(slot):
                break
            last = slot
        if last is not None:
            return Ready(first, last, repair=False)
        overdue = [slot for slot, seen in self._first_seen.items() if now_s - seen >= self._grace_s]
        if not overdue:
            return None
        last = max(overdue)
        return Ready(first, last, repair=not self._repaired.issuperset(range(first, last + 1, MINUTE_MS)))

    def wait_s(self, now_s: float) -> float | None:
        """How long until stragglers run out of grace; None while nothing is pending."""
        if not self._first_seen:
            return None
        return max(0.0, min(self._first_seen.values()) + self._grace_s - now_s)

    def lacking(self, first: int, last: int) -> dict[str, int]:
        """Symbols that lack a candle between the two slots, each with the first slot it lacks."""
        lacking: dict[str, int] = {}
        for slot in range(first, last + 1, MINUTE_MS):
            for symbol in self.expected - self._pending.get(slot, {}).keys():
                lacking.setdefault(symbol, slot)
        return lacking

    def repaired(self, first: int, last: int) -> None:
        """REST has been asked for everything between the two slots."""
        self._repaired.update(range(first, last + 1, MINUTE_MS))

    def take(self, first: int, last: int) -> dict[int, dict[str, Candle]]:
        """Close the slots: their candles by symbol, an empty dict where nobody has one. The newest closed slot is *last* from now on."""
        taken = {slot: self._pending.pop(slot, {}) for slot in range(first, last + 1, MINUTE_MS)}
        for slot in taken:
            self._first_seen.pop(slot, None)
            self._repaired.discard(slot)
        self.newest = last
        return taken

    def _is_full(self, slot: int) -> bool:
        return self.expected <= self._pending.get(slot, {}).keys()
