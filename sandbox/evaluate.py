"""
From plans to hits: which traders match which symbols at a slot.

Decided here: what is due, what a match is, what traders share, what is kept from slot to slot. Not decided here: what
an operator's value is (`sandbox.compute`), and cooldowns, which need to know earlier signals and are applied in SQL.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from sandbox.compute import Calls, Computation, OperatorError, Ref
from sandbox.operators.model import Array
from sandbox.panel import TIMEFRAMES, Bools, Floats, Ints, Panel
from sandbox.plan import Plan

Frequency = Literal["every_bar", "on_enter"] | Mapping[str, int]
Value = float | bool | None

HISTORY_SLACK_BARS = 64
"""Bars kept beyond the need: a symbol without candles at the oldest bars needed still reads flat at its last close."""


class Hits(msgspec.Struct, frozen=True):
    """One trader's matches in one slot: symbols in panel order, the trigger bar's close, the shown values (NaN: None)."""

    key: Any
    timeframe: str
    symbols: list[str]
    prices: Floats
    values: dict[str, list[Value]]


class Slot(msgspec.Struct, frozen=True):
    """
    What a slot yielded. `evaluated` counts the due traders, failed ones included; `failed` says why by trader.

    `nodes_asked` counts plan nodes of the due traders, `nodes_computed` the calls computed for all of them.
    """

    hits: list[Hits]
    failed: dict[Any, str]
    evaluated: int
    nodes_asked: int
    nodes_computed: int


class RangeHits(msgspec.Struct, frozen=True):
    """
    Matches of one plan over many bars, oldest first, then in panel order: parallel columns.

    `triggered_at_ms` is the close time of the trigger bar; `bars` counts the trigger bars looked at.
    """

    timeframe: str
    bars: int
    triggered_at_ms: Ints
    symbols: list[str]
    prices: Floats
    values: dict[str, list[Value]]


class _Trader(msgspec.Struct):
    key: Any
    plan: Plan
    refs: tuple[Ref, ...]
    symbols: frozenset[str] | None
    on_enter: bool
    mask: Bools | None = None
    mask_of: int = -1  # the number of panel symbols the mask was made for


class Evaluator:
    """All traders of one machine over one panel; equal expressions of all of them are computed once per slot."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self._calls = Calls()
        self._traders: dict[Any, _Trader] = {}
        self._by_trigger: dict[str, dict[Any, _Trader]] = {timeframe: {} for timeframe in TIMEFRAMES}

    def __len__(self) -> int:
        return len(self._traders)

    def put(self, key: Any, plan: Plan, symbols: frozenset[str] | None, frequency: Frequency) -> None:
        """
        Add a trader, or replace it: from the next evaluation on it is screened by this plan.

        `symbols` None means all; those the panel does not have are ignored. A cooldown is applied by whoever stores
        signals, so here it means every bar. Costs O(nodes of the plan).
        """
        self.drop(key)
        trader = _Trader(key, plan, self._calls.add(plan), symbols, frequency == "on_enter")
        self._traders[key] = trader
        self._by_trigger[plan.trigger][key] = trader

    def drop(self, key: Any) -> None:
        """Forget a trader; an unknown one is no error."""
        trader = self._traders.pop(key, None)
        if trader is not None:
            del self._by_trigger[trader.plan.trigger][key]
            self._calls.drop(trader.refs)

    def needed(self) -> dict[str, int]:
        """How many bars of each timeframe the panel must hold for exact answers."""
        need: dict[str, int] = {}
        for trader in self._traders.values():
            for timeframe, bars in trader.plan.need.items():
                need[timeframe] = max(need.get(timeframe, 0), bars + HISTORY_SLACK_BARS)
        return need

    def evaluate(self, slot_ms: int, keys: Iterable[Any] | None = None) -> Slot:
        """
        Screen the slot: every due trader (or those of *keys* that are due), seeing bars with close_time <= *slot_ms*.

        A later slot may have been appended already; the answer is the same. Unknown keys are ignored.
        """
        due = self._due(slot_ms, keys)
        computation = Computation(self.panel, slot_ms)
        alive = [trader for trader in due if self._bar_closes(trader.plan.trigger, slot_ms)]
        for trader in alive:
            _want(computation, trader, bars=2 if trader.on_enter else 1)
        computation.run()
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        for trader in alive:
            try:
                found = self._hits(computation, trader)
            except OperatorError as error:
                failed[trader.key] = str(error)
                continue
            if found is not None:
                hits.append(found)
        asked = sum(len(trader.plan.nodes) for trader in alive)
        return Slot(hits, failed, len(due), asked, computation.computed)

    def _due(self, slot_ms: int, keys: Iterable[Any] | None) -> list[_Trader]:
        timeframes = [t for t, seconds in TIMEFRAMES.items() if slot_ms % (seconds * 1000) == 0]
        if keys is None:
            return [trader for t in timeframes for trader in self._by_trigger[t].values()]
        chosen = (self._traders[key] for key in dict.fromkeys(keys) if key in self._traders)
        return [trader for trader in chosen if trader.plan.trigger in timeframes]

    def _bar_closes(self, timeframe: str, slot_ms: int) -> bool:
        frame = self.panel.frame(timeframe)
        closed = frame.bars_closed_at(slot_ms)
        return closed > 0 and int(frame.open_time[closed - 1]) + frame.step_ms == slot_ms

    def _hits(self, computation: Computation, trader: _Trader) -> Hits | None:
        trigger = trader.plan.trigger
        frame, end = self.panel.frame(trigger), computation.end(trigger)
        first = end - 2 if trader.on_enter else end - 1
        condition: Any = computation.values(trader.refs[trader.plan.signal], first, trigger)
        matched = _entered(condition)[:, 0] if trader.on_enter else condition[:, 0]
        matched = np.broadcast_to(matched, len(self.panel.symbols)) & frame.present[:, end - 1]
        if trader.symbols is not None:
            matched &= self._mask(trader, trader.symbols)
        rows = np.flatnonzero(matched)
        if not len(rows):
            return None
        values = {
            name: _told(
                _at(computation.values(trader.refs[node], end - 1, trigger), rows, np.zeros_like(rows))
            )
            for name, node in trader.plan.show.items()
        }
        names = self.panel.symbols
        return Hits(
            trader.key, trigger, [names[row] for row in rows], frame.field("close")[rows, end - 1], values
        )

    def _mask(self, trader: _Trader, symbols: frozenset[str]) -> Bools:
        names = self.panel.symbols
        if trader.mask is None or trader.mask_of != len(names):
            trader.mask = np.array([name in symbols for name in names], dtype=np.bool_)
            trader.mask_of = len(names)
        return trader.mask


def evaluate_range(  # noqa: PLR0917 - the keyword-only rest would split what belongs together
    panel: Panel,
    plan: Plan,
    first_ms: int,
    last_ms: int,
    symbols: Iterable[str] | None = None,
    frequency: Frequency = "every_bar",
) -> RangeHits:
    """
    The matches of a plan at every slot of [*first_ms*, *last_ms*]: bit for bit what `Evaluator.evaluate` finds slot by slot.

    Raises:
        OperatorError: An operator failed.
    """
    frame = panel.frame(plan.trigger)
    start, end = frame.bars_closed_at(first_ms - 1), frame.bars_closed_at(last_ms)
    on_enter = frequency == "on_enter"
    trader = _Trader(None, plan, Calls().add(plan), None, on_enter)
    computation = Computation(panel, last_ms)
    first = start - 1 if on_enter else start
    _want(computation, trader, bars=end - first)
    computation.run()
    condition: Any = computation.values(trader.refs[plan.signal], first, plan.trigger)
    matched = (_entered(condition) if on_enter else condition) & frame.present[:, start:end]
    if symbols is not None:
        chosen = frozenset(symbols)
        matched = matched & np.array([[name in chosen] for name in panel.symbols])
    columns, rows = np.nonzero(matched.T)
    values = {
        name: _told(_at(computation.values(trader.refs[node], start, plan.trigger), rows, columns))
        for name, node in plan.show.items()
    }
    return RangeHits(
        plan.trigger,
        end - start,
        frame.open_time[start + columns] + frame.step_ms,
        [panel.symbols[row] for row in rows],
        frame.field("close")[rows, start + columns],
        values,
    )


def node_values(panel: Panel, plan: Plan, slot_ms: int, symbol: str) -> list[Value]:
    """
    The value of every node of a plan for one symbol as seen at *slot_ms*: what `explain` tells. NaN is None.

    Raises:
        KeyError: The panel does not have the symbol.
        OperatorError: An operator failed.
    """
    row = panel.index[symbol]
    computation = Computation(panel, slot_ms)
    refs = Calls().add(plan)
    end = computation.end(plan.trigger)
    for ref in refs:
        if ref.call.timeframe is not None:
            computation.want(ref.call, computation.end(ref.call.timeframe) - 1)
    computation.run()
    told: list[Value] = []
    for ref in refs:
        seen = computation.values(ref, end - 1, plan.trigger)
        told.extend(_told(_at(seen, np.array([row]), np.array([0]))) if end else [None])
    return told


def _want(computation: Computation, trader: _Trader, bars: int) -> None:
    """Ask for the last *bars* trigger bars of the condition and the shown values."""
    trigger = trader.plan.trigger
    first = computation.end(trigger) - bars
    for node in (trader.plan.signal, *trader.plan.show.values()):
        call = trader.refs[node].call
        if call.timeframe is not None:
            computation.want(call, computation.seen_from(trigger, first, call.timeframe))


def _entered(condition: Any) -> Any:
    """True now, not true on the bar before; one column shorter."""
    return condition[:, 1:] & ~condition[:, :-1]


def _at(values: Array, rows: Ints, columns: Ints) -> Array:
    picked: Array = values[np.minimum(rows, len(values) - 1), columns]
    return picked


def _told(values: Array) -> list[Value]:
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - only NaN differs from itself
