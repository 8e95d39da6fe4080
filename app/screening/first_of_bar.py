"""
Drops repeat matches on a forming bar before they reach the database. Optimisation only: trigger `keep_first_of_bar` is the rule.

A filter that reads the forming bar goes on matching minute after minute, and the table keeps the first signal of each bar.
With 1000 such traders and 40 symbols each, this spares the database 40,000 rows a minute.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from app.domain import timeframes
from app.store.signals import Match

_Bar = tuple[UUID, int, str]
"""A lease, and the timeframe of the bar."""


class FirstOfBar:
    """What this machine has committed of the bars that are forming now."""

    def __init__(self) -> None:
        self._signalled: dict[_Bar, tuple[int, set[str]]] = {}

    def news(self, slot: datetime, matches: Iterable[Match]) -> list[Match]:
        """*matches* at *slot* without those whose bar has its signal already."""
        return [match for match in matches if not match.forming or self._is_news(slot, match)]

    def remember(self, slot: datetime, matches: Iterable[Match]) -> None:
        """
        *matches* at *slot* are committed.

        Those with a cooldown are not remembered: they may have been refused for it and be due later in the
        bar.
        """
        for match in matches:
            if match.forming and match.cooldown_s is None:
                closes_ms, symbols = self._signalled.get(_bar(match), (0, set()))
                if closes_ms != _closes_ms(slot, match):
                    symbols = set()
                symbols.add(match.symbol)
                self._signalled[_bar(match)] = _closes_ms(slot, match), symbols
        slot_ms = timeframes.epoch_ms(slot)
        self._signalled = {bar: kept for bar, kept in self._signalled.items() if kept[0] > slot_ms}

    def clear(self) -> None:
        """Another identity: nothing committed before counts."""
        self._signalled.clear()

    def _is_news(self, slot: datetime, match: Match) -> bool:
        closes_ms, symbols = self._signalled.get(_bar(match), (0, set()))
        return closes_ms != _closes_ms(slot, match) or match.symbol not in symbols


def _bar(match: Match) -> _Bar:
    return match.trader_id, match.epoch, match.timeframe


def _closes_ms(slot: datetime, match: Match) -> int:
    """Close of the bar that *slot* lies in."""
    length_ms = timeframes.length_ms(match.timeframe)
    return timeframes.bar_of_slot_ms(timeframes.epoch_ms(slot), length_ms) + length_ms
