"""
Which slot can be closed now, and what has to be asked for first. Pure: candles and a monotonic instant in, decisions out.

A slot closes when every expected symbol has a candle or an excuse (why it has none); or, once the first candle of it (or of a later
one) has been here for the grace time, after one repair by REST, with what is still missing on record. A slot of which nobody has a
candle waits: only when a later one exists has the exchange itself been out. Which symbols are expected changes at any time: one that
halts is not waited for from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from app.market.candles import Candle

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Ready:
    """Slots first … last (ms, inclusive) may be closed; *repair* says whether REST must be asked for what is missing."""

    first: int
    last: int
    repair: bool


@dataclass(frozen=True, slots=True)
class Excuse:
    """Why a symbol has no candle in a slot. *is_settled*: the exchange was asked, so nothing will come of asking again."""

    reason: str
    is_settled: bool = True


NO_CANDLE = Excuse("the exchange has no candle")
NOT_SETTLED = Excuse("its minute had not ended by the exchange's clock and ours", is_settled=False)


class Taken(NamedTuple):
    """What a closed slot consists of: candles by symbol, and excuses of the expected symbols without one."""

    candles: dict[str, Candle]
    excuses: dict[str, Excuse]


class Assembly:
    """
    Args:
        expected: Symbols that should have a candle each minute.
        newest: The last closed slot, in ms.
        grace_s: How long stragglers may take after the first candle of a slot.
    """

    def __init__(self, expected: Iterable[str], newest: int, grace_s: float) -> None:
        self.expected = set(expected)
        self.newest = newest
        self._grace_s = grace_s
        self._pending: dict[int, dict[str, Candle]] = {}
        self._first_seen: dict[int, float] = {}
        self._excuses: dict[int, dict[str, Excuse]] = {}

    def join(self, symbol: str) -> None:
        """Slots after the newest closed one wait for *symbol*, too."""
        self.expected.add(symbol)

    def drop(self, symbol: str) -> None:
        """No slot waits for *symbol* any more, and none takes its candle."""
        self.expected.discard(symbol)

    def excuse(self, symbol: str, slot: int, excuse: Excuse) -> None:
        """The slot need not wait for *symbol*; a candle that comes after all is taken nevertheless."""
        if slot > self.newest:
            self._excuses.setdefault(slot, {})[symbol] = excuse

    def add(self, candle: Candle, now_s: float) -> bool:
        """Take a closed 1m candle, the newest copy of it; False when its slot has closed already: it is late."""
        slot = candle.open_time + MINUTE_MS
        if slot <= self.newest:
            return False
        self._pending.setdefault(slot, {})[candle.symbol] = candle
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
        return Ready(first, last, repair=True)

    def wait_s(self, now_s: float) -> float | None:
        """How long until stragglers run out of grace; None while nothing is pending."""
        if not self._first_seen:
            return None
        return max(0.0, min(self._first_seen.values()) + self._grace_s - now_s)

    def lacking(self, first: int, last: int) -> dict[str, int]:
        """Symbols that lack a candle between the two slots and have no excuse, each with the first slot it lacks."""
        lacking: dict[str, int] = {}
        for slot in range(first, last + 1, MINUTE_MS):
            for symbol in self.expected - self._accounted(slot):
                lacking.setdefault(symbol, slot)
        return lacking

    def repaired(
        self, first: int, last: int, troubles: Mapping[str, str] | None = None, *, settled: int | None = None
    ) -> None:
        """
        REST has been asked for what the slots first … last lack.

        Of symbols in *troubles* it gave no answer, for these reasons; of slots after *settled* (ms) it could give none.
        """
        for slot in range(first, last + 1, MINUTE_MS):
            for symbol in self.expected - self._accounted(slot):
                trouble = (troubles or {}).get(symbol)
                excuse = NO_CANDLE if settled is None or slot <= settled else NOT_SETTLED
                if trouble is not None:
                    excuse = Excuse(trouble, is_settled=False)
                self._excuses.setdefault(slot, {})[symbol] = excuse

    def take(self, first: int, last: int) -> dict[int, Taken]:
        """Close the slots: what each consists of. The newest closed slot is *last* from now on."""
        taken = {slot: self._take(slot) for slot in range(first, last + 1, MINUTE_MS)}
        self.newest = last
        return taken

    def _take(self, slot: int) -> Taken:
        self._first_seen.pop(slot, None)
        pending, excuses = self._pending.pop(slot, {}), self._excuses.pop(slot, {})
        candles = {symbol: candle for symbol, candle in pending.items() if symbol in self.expected}
        lacking = self.expected - candles.keys()
        return Taken(candles, {symbol: excuses.get(symbol, NO_CANDLE) for symbol in lacking})

    def _accounted(self, slot: int) -> set[str]:
        return self._pending.get(slot, {}).keys() | self._excuses.get(slot, {}).keys()

    def _is_full(self, slot: int) -> bool:
        return self.expected <= self._accounted(slot)
