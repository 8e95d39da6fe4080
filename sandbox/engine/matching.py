"""
What a match is: the one rule, for live screening, replay and explain.

A filter matches a symbol at a slot when all of this holds:

1. A bar of `due_every` closes at the slot (`closing_bar`), and the symbol has a candle of its own in it.
2. The condition is true, seen as of the slot.
3. With `on_enter`, it was not true one trigger bar ago: `condition_before` of closed bars, `ConditionsBefore` of forming ones.
4. The symbol is among the trader's.

Of a forming bar the first match of each symbol becomes the signal (`firsts_of_bars`). Cooldowns need to know earlier
signals and are applied in SQL.

Example: `signal(h1.close > 100)`, slots 10:00, 11:00 and 12:00 with closes 99, 101 and 102. It matches at 11:00 and 12:00,
with `on_enter` at 11:00 only.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sandbox.engine.calls import Calls, Ref
from sandbox.engine.candles.frame import Bools, Frame, Ints
from sandbox.engine.candles.panel import Panel
from sandbox.engine.ranges import Computation
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis
from sandbox.plan.document import Plan
from sandbox.plan.timeframes import TIMEFRAMES, bar_of_slot_ms

Frequency = Literal["every_bar", "on_enter"] | Mapping[str, int]


def matches(condition: Any, own_candle: Any, *, before: Any = None, chosen: Any = None) -> Any:
    """
    Where a condition makes a match.

    Args:
        condition: Where it is true; bools of any shape, or words of 64 symbols.
        own_candle: Where the symbol has a candle of its own in the bar that closes at the slot.
        before: Where the condition was true one trigger bar ago; None: that does not matter.
        chosen: Which symbols are the trader's; None: all.

    Returns:
        A new array of the common shape.
    """
    found = condition & own_candle
    if before is not None:
        found = found & ~before
    return found if chosen is None else found & chosen


def chosen_symbols(symbols: Sequence[str], choice: Collection[str] | None) -> Bools:
    """Which of *symbols* are a trader's (None: all); those that the panel does not have are ignored."""
    if choice is None:
        return np.ones(len(symbols), dtype=np.bool_)
    return np.array([name in choice for name in symbols], dtype=np.bool_)


def closing_bar(frame: Frame, slot_ms: int) -> int | None:
    """Position of the bar that closes at a slot; None where no symbol has one."""
    newest = frame.bars_closed_at(slot_ms) - 1
    closes = newest >= 0 and int(frame.open_time[newest]) + frame.step_ms == slot_ms
    return newest if closes else None


def view_axis(plan: Plan) -> Axis:
    """The axis on whose newest bar the values of a plan are read."""
    return Axis.NOW if plan.forming else Axis(plan.trigger)


def condition_before(calls: Calls, plan: Plan, signal: Ref) -> Ref | None:
    """
    The condition one trigger bar ago, as one more call.

    None for filters on forming bars, which keep no earlier states: see `ConditionsBefore`.
    """
    return None if plan.forming else calls.add_before(signal, plan.trigger)


def previous_close_ms(panel: Panel, trigger: str, slot_ms: int) -> int | None:
    """When the bar before the one that the slot lies in had closed; None when there is none."""
    frame = panel.frame(trigger)
    closed = frame.bars_closed_at(bar_of_slot_ms(slot_ms, frame.step_ms))
    return int(frame.open_time[closed - 1]) + frame.step_ms if closed else None


def held_at_previous_close(
    panel: Panel,
    signal: Ref,
    trigger: str,
    slot_ms: int,
    each: EachRunner | None,
    *,
    each_symbols: frozenset[str] | None = None,
) -> Bools:
    """
    Where the condition of a filter on forming bars was true when the trigger's bar before closed; shape (symbols,).

    Raises:
        OperatorError: Computing it failed.
    """
    before_ms = previous_close_ms(panel, trigger, slot_ms)
    if before_ms is None:
        return np.zeros(len(panel.symbols), dtype=np.bool_)
    computation = Computation(panel, before_ms, each=each, each_symbols=each_symbols)
    computation.want_seen(Axis.NOW, [signal], bars=1)
    computation.run()
    held: Any = computation.values(signal, 0, Axis.NOW)[:, 0]
    return np.broadcast_to(held, len(panel.symbols))


class ConditionsBefore:
    """
    Where conditions of filters on forming bars were true one trigger bar ago.

    Asked only about traders that match, and kept while that bar stays the one before, because most go on matching.
    """

    def __init__(self, panel: Panel, each: EachRunner | None) -> None:
        self._panel = panel
        self._each = each
        self._kept: dict[Hashable, tuple[tuple[int | None, ...], Bools]] = {}

    def of(self, key: Hashable, signal: Ref, trigger: str, need: Collection[str], slot_ms: int) -> Bools:
        """
        Shape (symbols,), of the trader *key*, whose filter needs these timeframes.

        Raises:
            OperatorError: Computing it failed.
        """
        panel = self._panel
        epochs = (panel.frame(timeframe).epoch for timeframe in need)
        known = (previous_close_ms(panel, trigger, slot_ms), len(panel.symbols), *epochs)
        kept = self._kept.get(key)
        if kept is None or kept[0] != known:
            held = held_at_previous_close(panel, signal, trigger, slot_ms, self._each)
            kept = self._kept[key] = known, held
        return kept[1]

    def forget(self, key: Hashable) -> None:
        """A trader is gone, or another one now."""
        self._kept.pop(key, None)


def firsts_of_bars(symbols: Sequence[str], slots_ms: Sequence[int], timeframe: str, counted: Ints) -> Ints:
    """
    Of the matches *counted* (indices, ascending in time), the first of each symbol in each bar of *timeframe*.
    """
    length_ms = TIMEFRAMES[timeframe] * 1000
    first: dict[tuple[str, int], int] = {}
    for at in counted.tolist():
        first.setdefault((symbols[at], bar_of_slot_ms(slots_ms[at], length_ms)), at)
    return np.array(list(first.values()), dtype=np.int64)
