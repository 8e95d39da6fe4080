"""
Which signals a trader's matches must have become, and how that differs from those it has.

Pure. A match becomes a signal unless an earlier signal of its pair is too near: within the cooldown, or in the same forming
bar. With a cooldown of 120 s, matches at 10:01, 10:02 and 10:03 are signals at 10:01 and 10:03.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from app.domain.timeframes import bar_of_slot_ms, epoch_ms


@dataclass(frozen=True)
class Seen:
    """A match or a signal: its pair, slot and bar's timeframe in seconds, and what is compared beside (price, values)."""

    symbol: str
    at: datetime
    bar_s: int
    content: object = None


@dataclass(frozen=True)
class Rule:
    """When a match is no signal. ``is_forming``: the filter reads forming bars, of which each has one signal."""

    cooldown_s: float | None
    is_forming: bool

    @property
    def is_plain(self) -> bool:
        return self.cooldown_s is None and not self.is_forming

    def reach_s(self, bar_s: int) -> float:
        """How far back an earlier signal counts, in seconds."""
        return max(self.cooldown_s or 0.0, float(bar_s) if self.is_forming else 0.0)


@dataclass(frozen=True)
class Difference:
    """A signal that one side has and the other has not, or has with another price or other values."""

    symbol: str
    at: datetime
    only_in: Literal["live", "replayed", "both"]


def expected(matches: Iterable[Seen], earlier: Iterable[Seen], rule: Rule) -> list[Seen]:
    """
    The matches that become signals, oldest first.

    Args:
        matches: Any number of slots, oldest slot first.
        earlier: Signals before the first of them, as far back as the rule reaches.
        rule: Of the trader that matched.
    """
    if rule.is_plain:
        return list(matches)
    newest: dict[str, datetime] = {}
    newest_of_bar: dict[tuple[str, int], datetime] = {}
    for signal in sorted(earlier, key=lambda seen: seen.at):
        newest[signal.symbol] = newest_of_bar[signal.symbol, signal.bar_s] = signal.at
    signals = []
    for match in matches:
        if _cools(match, newest.get(match.symbol), rule.cooldown_s):
            continue
        if rule.is_forming and _same_bar(match, newest_of_bar.get((match.symbol, match.bar_s))):
            continue
        signals.append(match)
        newest[match.symbol] = newest_of_bar[match.symbol, match.bar_s] = match.at
    return signals


def differences(
    live: Iterable[Seen], replayed: Iterable[Seen], but: Collection[str] = ()
) -> list[Difference]:
    """What differs between two sets of signals, oldest first; pairs named in *but* are left out."""
    by_place = {(seen.symbol, seen.at): seen for seen in live if seen.symbol not in but}
    others = {(seen.symbol, seen.at): seen for seen in replayed if seen.symbol not in but}
    found = [Difference(*place, only_in="live") for place in by_place.keys() - others.keys()]
    found += [Difference(*place, only_in="replayed") for place in others.keys() - by_place.keys()]
    found += [
        Difference(*place, only_in="both")
        for place in by_place.keys() & others.keys()
        if by_place[place].content != others[place].content
    ]
    return sorted(found, key=lambda difference: (difference.at, difference.symbol, difference.only_in))


def digest_differences(
    count: int, first: Sequence[str], at: datetime, replayed: Iterable[str]
) -> list[Difference]:
    """
    What differs between a digest and the pairs that a recomputation matches at its slot.

    Args:
        count: Matches that the digest counts.
        first: The first of them by name; all of them when there are few.
        at: The slot.
        replayed: Every pair that matches, in any order.

    Returns:
        A pair per difference that shows; where only the counts differ, the first pair that the digest does not name.
    """
    names = sorted(replayed)
    found = [Difference(symbol, at, "live") for symbol in first if symbol not in names]
    found += [Difference(symbol, at, "replayed") for symbol in names[: len(first)] if symbol not in first]
    if not found and len(names) != count:
        unnamed = names[len(first)] if len(names) > len(first) else first[-1]
        found.append(Difference(unnamed, at, "replayed" if len(names) > count else "live"))
    return found


def _cools(match: Seen, earlier: datetime | None, cooldown_s: float | None) -> bool:
    return (
        cooldown_s is not None and earlier is not None and match.at - earlier < timedelta(seconds=cooldown_s)
    )


def _same_bar(match: Seen, earlier: datetime | None) -> bool:
    """Whether an earlier slot lies in the bar of the match."""
    open_ms = bar_of_slot_ms(epoch_ms(match.at), match.bar_s * 1000)
    return earlier is not None and epoch_ms(earlier) > open_ms
