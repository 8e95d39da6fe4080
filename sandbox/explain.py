"""
Why a plan matched a symbol at a slot, or why not: what the plan alone can tell.

Decided here: which term is to blame, and in which words. Not decided here: what a trader's circumstances add (its symbols,
frequency, coverage), which the service knows. Pure: candles in, explanation out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from sandbox import axes
from sandbox.each import EachRunner
from sandbox.evaluate import Value, close_before, node_values
from sandbox.frame import Frame
from sandbox.operators import FIELDS
from sandbox.panel import Panel
from sandbox.plan import Plan


class TermLike(Protocol):
    """A conjunct of the signal or a shown value, as the compiler tells it: plan node, line and text of the filter."""

    @property
    def node(self) -> int: ...
    @property
    def line(self) -> int: ...
    @property
    def text(self) -> str: ...


class TermValue(msgspec.Struct, frozen=True):
    """A term with its value at the bar; None where there is none (NaN)."""

    text: str
    line: int
    value: Value


class Bar(msgspec.Struct, frozen=True):
    """A bar as the symbol's row of the panel has it: flat at the previous close where it had no candle of its own."""

    open_time_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Explanation(msgspec.Struct, frozen=True):
    """
    `matched` is the condition on a bar of the symbol's own, before any frequency; `blame` says why not, None when it matched.

    `matched_before` is the same condition on the trigger bar before, which on_enter compares with. `bars` holds the newest closed
    bar of each timeframe, where the symbol has one, `forming` the bar in progress of those that the plan reads so.
    """

    matched: bool
    matched_before: bool
    blame: str | None
    terms: list[TermValue]
    values: dict[str, Value]
    bars: dict[str, Bar]
    forming: dict[str, Bar]


def explain(  # noqa: PLR0917 - the keyword-only rest would split what belongs together
    plan: Plan,
    terms: Sequence[TermLike],
    panel: Panel,
    slot_ms: int,
    symbol: str,
    each: EachRunner | None = None,
) -> Explanation:
    """
    What a screen of *plan* at *slot_ms* sees of *symbol*.

    *terms* may be empty (of a plan whose source is not at hand); those that are not nodes of the plan are left out. The panel holds
    `plan.need` bars at least, or the symbol's whole history.

    Raises:
        KeyError: The panel does not have the symbol.
        OperatorError: An operator failed.
    """
    row = panel.index[symbol]
    frame = panel.frame(plan.due_every)
    end = frame.bars_closed_at(slot_ms)
    closes = end > 0 and int(frame.open_time[end - 1]) + frame.step_ms == slot_ms
    bars = _bars(plan.timeframes, panel, slot_ms, row)
    forming = _bars([axes.forming_axis(timeframe) for timeframe in plan.forming], panel, slot_ms, row)
    known = [term for term in terms if 0 <= term.node < len(plan.nodes)]
    if not closes:
        blank = [TermValue(term.text, term.line, None) for term in known]
        blame = f"bar missing: no symbol has a {plan.due_every} bar that closed then"
        return Explanation(False, False, blame, blank, dict.fromkeys(plan.show), bars, forming)
    told = node_values(panel, plan, slot_ms, symbol, each)
    before_ms = close_before(panel, plan.trigger, slot_ms)
    before = before_ms is not None and _is_true(panel, plan, before_ms, symbol, each)
    reason: str | None = None
    if not frame.present[row, end - 1]:
        reason = f"bar missing: {symbol} has no {plan.due_every} candle of its own that closed then"
    elif told[plan.signal] is not True:
        held = {t: _bars_held(panel, t, slot_ms, row) for t in plan.need}
        reason = _false(plan, known, told, held)
    return Explanation(
        reason is None,
        before,
        reason,
        [TermValue(term.text, term.line, told[term.node]) for term in known],
        {name: told[node] for name, node in plan.show.items()},
        bars,
        forming,
    )


def _is_true(panel: Panel, plan: Plan, instant_ms: int, symbol: str, each: EachRunner | None) -> bool:
    return node_values(panel, plan, instant_ms, symbol, each)[plan.signal] is True


def _bars(wanted: Iterable[str], panel: Panel, slot_ms: int, row: int) -> dict[str, Bar]:
    """The newest bar of each axis, by its timeframe, where the symbol has one."""
    found: dict[str, Bar] = {}
    for axis in wanted:
        timeframe = axes.timeframe_of(axis)
        frame: Frame = panel.frame(timeframe)
        if axes.is_forming(axis):
            shown = panel.forming(timeframe, slot_ms)
            if not shown.in_progress:
                continue
            frame = shown
        end = frame.bars_closed_at(slot_ms)
        values = [float(frame.field(name)[row, end - 1]) for name in FIELDS] if end else []
        if values and not math.isnan(values[3]):
            found[timeframe] = Bar(int(frame.open_time[end - 1]), *values)
    return found


def _bars_held(panel: Panel, timeframe: str, slot_ms: int, row: int) -> int:
    """How many candles of its own the symbol has in the panel by then."""
    frame = panel.frame(timeframe)
    return int(frame.present[row, : frame.bars_closed_at(slot_ms)].sum())


def _false(plan: Plan, terms: Sequence[TermLike], told: Sequence[Value], held: Mapping[str, int]) -> str:
    """Why the condition is false: the first conjunct that is, and what kept it from having a value."""
    place, blamed = "the signal", plan.signal
    for term in terms:
        if plan.node_bools[term.node] and told[term.node] is not True and _is_conjunct(plan, term.node):
            place, blamed = f"line {term.line}: {term.text}", term.node
            break
    blank = _without_value(plan, told, blamed)
    if blank is None:
        return f"condition false: {place}"
    axis = plan.node_axes[blank]
    timeframe = plan.trigger if axis is None or axis == axes.NOW else axes.timeframe_of(axis)
    name = _name(plan, blank)
    if held[timeframe] < plan.need[timeframe]:
        return f"not enough history: {place}: {name} has no value after {held[timeframe]} bars of {timeframe}"
    return f"condition false: {place}: {name} has no value at this bar"


def _is_conjunct(plan: Plan, node: int) -> bool:
    """Whether the signal is false whenever the node is; a shown condition may be no part of it."""
    signal = plan.nodes[plan.signal]
    parts: Mapping[int, None] = dict.fromkeys(signal.args if signal.op == "and" else (plan.signal,))
    inner = plan.nodes[node]
    return node in parts or (inner.op == "and" and all(arg in parts for arg in inner.args))


def _without_value(plan: Plan, told: Sequence[Value], node: int) -> int | None:
    """The first number without a value among those that a condition looks at directly; None when all have one."""
    pending = [node]
    while pending:
        at = pending.pop()
        if not plan.node_bools[at]:
            if told[at] is None:
                return at
            continue
        pending += reversed(plan.nodes[at].args)
    return None


def _name(plan: Plan, node: int) -> str:
    """A node in a few words: its operator and constant parameters."""
    at = plan.nodes[node]
    while at.op == "shift":
        at = plan.nodes[at.args[0]]
    if at.op == "each":
        return f"each({at.params['name']})"
    told = ", ".join(str(value) for value in at.params.values() if value != "")
    return f"{at.op}({told})" if told else at.op
