"""
Replay: one plan over a range of past slots, or one symbol at one slot.

Decided here: in which pieces the bars can be computed at once, so that the outcome is exactly what screening slot by slot
found, or would have found. Not decided here: what a match is (`sandbox.engine.matching`), why there was none
(`sandbox.engine.explain`).

Example: 1,000 bars of a plan with a running total over 1m bars are computed in 8 pieces, one for each block of 128.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from sandbox.engine.calls import Calls, OperatorError, Ref
from sandbox.engine.candles.frame import Floats, Ints
from sandbox.engine.candles.panel import Panel
from sandbox.engine.matching import (
    Frequency,
    chosen_symbols,
    condition_before,
    firsts_of_bars,
    held_at_previous_close,
    matches,
    view_axis,
)
from sandbox.engine.ranges import Computation
from sandbox.engine.screen import Evaluator, Value, as_values, gathered
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis
from sandbox.plan.document import Plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import BLOCK_BARS, AcrossMarket


class RangeHits(msgspec.Struct, frozen=True):
    """
    Matches of one plan over many bars, oldest first, then in panel order: parallel columns.

    `triggered_at_ms` is the slot, the close time of a bar of `due_every`; `bars` counts those bars looked at.
    """

    timeframe: str
    due_every: str
    forming: bool
    bars: int
    triggered_at_ms: Ints
    symbols: list[str]
    prices: Floats
    values: dict[str, list[Value]]


def evaluate_range(  # noqa: PLR0917 - the keyword-only rest would split what belongs together
    panel: Panel,
    plan: Plan,
    first_ms: int,
    last_ms: int,
    symbols: Collection[str] | None = None,
    frequency: Frequency = "every_bar",
    each: EachRunner | None = None,
) -> RangeHits:
    """
    The matches of a plan at every slot of [*first_ms*, *last_ms*]: bit for bit what `Evaluator.evaluate` finds slot by slot.

    Raises:
        OperatorError: An operator failed.
    """
    if each is not None:
        each.begin()
    if plan.forming:
        return _slot_by_slot(panel, plan, (first_ms, last_ms), symbols, frequency, each)
    frame = panel.frame(plan.trigger)
    start, end = frame.bars_closed_at(first_ms - 1), frame.bars_closed_at(last_ms)
    calls = Calls()
    refs = calls.add(plan)
    before = condition_before(calls, plan, refs[plan.signal]) if frequency == "on_enter" else None
    totals = frozenset[Axis]().union(*(ref.call.totals for ref in refs))
    found = [
        _bars_at_once(panel, plan, refs, before, (first, last), symbols, each)
        for first, last in _stretches(panel, plan.trigger, totals, start, end)
    ]
    return RangeHits(
        plan.trigger,
        plan.due_every,
        False,
        end - start,
        np.concatenate([part.triggered_at_ms for part in found] or [np.empty(0, dtype=np.int64)]),
        [symbol for part in found for symbol in part.symbols],
        np.concatenate([part.prices for part in found] or [np.empty(0)]),
        {name: [value for part in found for value in part.values[name]] for name in plan.show},
    )


def _stretches(
    panel: Panel, trigger: str, totals: Collection[Axis], start: int, end: int
) -> Iterator[tuple[int, int]]:
    """[start, end) of the trigger's bars in pieces at which each running total is one and the same run."""
    frame = panel.frame(trigger)
    closes = frame.open_time[start:end] + frame.step_ms
    begins = np.zeros(len(closes), dtype=np.bool_)
    for seen in (panel.frame(axis.timeframe) for axis in totals if len(panel.frame(axis.timeframe))):
        newest = np.searchsorted(seen.open_time, closes - seen.step_ms, side="right") - 1
        block = seen.open_time[np.maximum(newest, 0)] // (BLOCK_BARS * seen.step_ms)
        begins[1:] |= np.diff(block) != 0
    cuts = [start, *(start + np.flatnonzero(begins)).tolist(), end]
    return ((first, last) for first, last in pairwise(cuts) if first < last)


def _bars_at_once(  # noqa: PLR0917 - as given
    panel: Panel,
    plan: Plan,
    refs: Sequence[Ref],
    before: Ref | None,
    span: tuple[int, int],
    symbols: Collection[str] | None,
    each: EachRunner | None,
) -> RangeHits:
    """The matches at the trigger's bars [start, end), in one computation."""
    frame, (start, end) = panel.frame(plan.trigger), span
    instant_ms = int(frame.open_time[end - 1]) + frame.step_ms
    computation = _computation(panel, plan, instant_ms, symbols, each)
    wanted = [refs[node] for node in (plan.signal, *plan.show.values())]
    if before is not None:
        wanted.append(before)
    view = Axis(plan.trigger)
    computation.want_seen(view, wanted, bars=end - start)
    computation.run()

    def seen(ref: Ref) -> Any:
        return computation.values(ref, start, view)

    matched = matches(
        seen(refs[plan.signal]),
        frame.present[:, start:end],
        before=None if before is None else seen(before),
        chosen=None if symbols is None else chosen_symbols(panel.symbols, frozenset(symbols))[:, None],
    )
    columns, rows = np.nonzero(matched.T)
    values = {name: as_values(gathered(seen(refs[node]), rows, columns)) for name, node in plan.show.items()}
    return RangeHits(
        plan.trigger,
        plan.due_every,
        False,
        end - start,
        frame.open_time[start + columns] + frame.step_ms,
        [panel.symbols[row] for row in rows],
        frame.field("close")[rows, start + columns],
        values,
    )


def _slot_by_slot(  # noqa: PLR0917 - as given
    panel: Panel,
    plan: Plan,
    span_ms: tuple[int, int],
    symbols: Collection[str] | None,
    frequency: Frequency,
    each: EachRunner | None,
) -> RangeHits:
    """Filters on forming bars: each slot is screened on its own, because what a forming bar was is no candle."""
    frame = panel.frame(plan.due_every)
    start, end = frame.bars_closed_at(span_ms[0] - 1), frame.bars_closed_at(span_ms[1])
    slots = (frame.open_time[start:end] + frame.step_ms).tolist()
    evaluator = Evaluator(panel, each)
    evaluator.put("", plan, None if symbols is None else frozenset(symbols), frequency)
    found: list[tuple[int, str, float, list[Value]]] = []
    for slot_ms in slots:
        slot = evaluator.evaluate(slot_ms)
        if slot.failed:
            raise OperatorError(slot.failed[""])
        for hits in slot.hits:
            for at, symbol in enumerate(hits.symbols):
                values = [hits.values[name][at] for name in plan.show]
                found.append((slot_ms, symbol, float(hits.prices[at]), values))
    return RangeHits(
        plan.trigger,
        plan.due_every,
        True,
        len(slots),
        np.array([at_ms for at_ms, *_ in found], dtype=np.int64),
        [symbol for _, symbol, *_ in found],
        np.array([price for *_, price, _ in found], dtype=np.float64),
        {name: [values[at] for *_, values in found] for at, name in enumerate(plan.show)},
    )


def signalled(found: RangeHits, counted: Ints) -> Ints:
    """Which of the matches *counted* (indices, ascending) become signals: of a forming bar the first of each symbol."""
    if not found.forming:
        return counted
    return firsts_of_bars(found.symbols, found.triggered_at_ms.tolist(), found.timeframe, counted)


def node_values(
    panel: Panel, plan: Plan, slot_ms: int, symbol: str, each: EachRunner | None = None
) -> list[Value]:
    """
    The value of every node of a plan for one symbol as seen at *slot_ms*, for `explain`. NaN is None.

    Raises:
        KeyError: The panel does not have the symbol.
        OperatorError: An operator failed.
    """
    row = panel.index[symbol]
    if each is not None:
        each.begin()
    computation = _computation(panel, plan, slot_ms, [symbol], each)
    refs = Calls().add(plan)
    view = view_axis(plan)
    end = computation.end(view)
    for ref in refs:
        if ref.call.axis is not Axis.CONSTANT:
            computation.want(ref.call, computation.end(ref.call.axis) - 1)
    computation.run()
    values: list[Value] = []
    for ref in refs:
        seen = computation.values(ref, end - 1, view)
        values.extend(as_values(gathered(seen, np.array([row]), np.array([0]))) if end else [None])
    return values


def held_before(panel: Panel, plan: Plan, slot_ms: int, symbol: str, each: EachRunner | None = None) -> bool:
    """
    Whether the condition held for one symbol on the bar before the slot's, as `on_enter` sees it.

    Raises:
        KeyError: The panel does not have the symbol.
        OperatorError: An operator failed.
    """
    row = panel.index[symbol]
    if each is not None:
        each.begin()
    calls = Calls()
    signal = calls.add(plan)[plan.signal]
    before = condition_before(calls, plan, signal)
    if before is None:
        chosen = _functions_for(plan, [symbol])
        held = held_at_previous_close(panel, signal, plan.trigger, slot_ms, each, each_symbols=chosen)
        return bool(held[row])
    computation = _computation(panel, plan, slot_ms, [symbol], each)
    view = Axis(plan.trigger)
    computation.want_seen(view, [before], bars=1)
    computation.run()
    end = computation.end(view)
    if not end:
        return False
    return bool(gathered(computation.values(before, end - 1, view), np.array([row]), np.array([0]))[0])


def _computation(
    panel: Panel, plan: Plan, instant_ms: int, symbols: Collection[str] | None, each: EachRunner | None
) -> Computation:
    return Computation(panel, instant_ms, each=each, each_symbols=_functions_for(plan, symbols))


def _functions_for(plan: Plan, symbols: Collection[str] | None) -> frozenset[str] | None:
    """Functions run only for *symbols*, unless the plan ranks across the market (None: for all)."""
    across = any(isinstance(OPERATORS[node.op].kind, AcrossMarket) for node in plan.nodes)
    return None if symbols is None or across else frozenset(symbols)
