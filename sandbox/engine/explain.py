"""
Why a plan matched a symbol at a slot, or why not, as far as the plan alone says.

Decided here: which term is to blame, and in which words. Not decided here: what a match is (`sandbox.engine.matching`), what a
trader's circumstances add (its symbols, frequency, coverage), which the service knows. Pure: candles in, explanation out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from sandbox.engine.candles.frame import Frame
from sandbox.engine.candles.panel import Panel
from sandbox.engine.matching import closing_bar, matches
from sandbox.engine.replay import held_before, node_values
from sandbox.engine.screen import Value
from sandbox.engine.warm_up import Readiness, readiness
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis
from sandbox.plan.document import Node, Plan, Term
from sandbox.plan.operators import FIELDS, OPERATORS
from sandbox.plan.operators.kind import Choice, Each, Logic, Shift


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
    bar of each timeframe, where the symbol has one, `forming` the forming bar of those that the plan reads so.
    """

    matched: bool
    matched_before: bool
    blame: str | None
    terms: list[TermValue]
    values: dict[str, Value]
    bars: dict[str, Bar]
    forming: dict[str, Bar]


class _Case(msgspec.Struct, frozen=True):
    """One symbol at one slot, with the values of all nodes."""

    plan: Plan
    panel: Panel
    row: int
    values: Sequence[Value]
    ready: Readiness

    def is_short(self, node: int) -> bool:
        return self.ready.is_short(node, self.row)


def explain(  # noqa: PLR0917 - the keyword-only rest would split what belongs together
    plan: Plan,
    terms: Sequence[Term],
    panel: Panel,
    slot_ms: int,
    symbol: str,
    each: EachRunner | None = None,
) -> Explanation:
    """
    What a screen of *plan* at *slot_ms* sees of *symbol*.

    *terms* may be empty (when the plan's source is unknown); those that are not nodes of the plan are left out. The panel holds
    `plan.need` bars at least, or the symbol's whole history.

    Raises:
        KeyError: The panel does not have the symbol.
        OperatorError: An operator failed.
    """
    row = panel.index[symbol]
    frame = panel.frame(plan.due_every)
    newest = closing_bar(frame, slot_ms)
    bars = _bars(map(Axis, plan.timeframes), panel, slot_ms, row)
    forming = _bars([Axis(timeframe, forming=True) for timeframe in plan.forming], panel, slot_ms, row)
    known = [term for term in terms if 0 <= min(term.nodes) <= max(term.nodes) < len(plan.nodes)]
    if newest is None:
        blank = [TermValue(term.text, term.line, None) for term in known]
        blame = f"bar missing: no symbol has a {plan.due_every} bar that closed then"
        return Explanation(False, False, blame, blank, dict.fromkeys(plan.show), bars, forming)
    values = node_values(panel, plan, slot_ms, symbol, each)
    before = held_before(panel, plan, slot_ms, symbol, each)
    own_candle = frame.present[row, newest]
    matched = bool(matches(np.bool_(values[plan.signal] is True), own_candle))
    reason: str | None = None
    if not own_candle:
        reason = f"bar missing: {symbol} has no {plan.due_every} candle of its own that closed then"
    elif not matched:
        reason = _false(_Case(plan, panel, row, values, readiness(plan, panel, slot_ms)), known)
    return Explanation(
        matched,
        before,
        reason,
        [TermValue(term.text, term.line, _value(term, values)) for term in known],
        {name: values[node] for name, node in plan.show.items()},
        bars,
        forming,
    )


def _value(term: Term, values: Sequence[Value]) -> Value:
    """The value of a term; of several conditions, whether all are true."""
    return all(values[node] is True for node in term.nodes) if term.also else values[term.node]


def _bars(wanted: Iterable[Axis], panel: Panel, slot_ms: int, row: int) -> dict[str, Bar]:
    """The newest bar of each axis, by its timeframe, where the symbol has one."""
    found: dict[str, Bar] = {}
    for axis in wanted:
        timeframe = axis.timeframe
        frame: Frame = panel.frame(timeframe)
        if axis.forming:
            shown = panel.forming(timeframe, slot_ms)
            if not shown.is_forming:
                continue
            frame = shown
        end = frame.bars_closed_at(slot_ms)
        values = [float(frame.field(name)[row, end - 1]) for name in FIELDS] if end else []
        if values and not math.isnan(values[3]):
            found[timeframe] = Bar(int(frame.open_time[end - 1]), *values)
    return found


def _false(case: _Case, terms: Sequence[Term]) -> str:
    """Why the condition is false: the first conjunct that is, and what kept it from having a value."""
    plan = case.plan
    place, blamed = "the signal", plan.signal
    conjuncts = [(term, node) for term in terms for node in term.nodes]
    for term, node in conjuncts:
        if plan.node_bools[node] and case.values[node] is not True and _is_conjunct(plan, node):
            place, blamed = f"line {term.line}: {term.text}", node
            break
    kind, why = _missing(case, blamed) or ("condition false", "")
    return f"{kind}: {place}: {why}" if why else f"{kind}: {place}"


def _missing(case: _Case, condition: int) -> tuple[str, str] | None:
    """What a condition that is not true lacks: kind of reason and the words for it; None when it has all its numbers."""
    if case.is_short(condition):
        return _short(case, condition)
    blank = _without_value(case.plan, case.values, condition)
    if blank is None:
        return None
    if case.is_short(blank):
        return _short(case, blank)
    node, name = case.plan.nodes[blank], _name(case.plan, blank)
    if isinstance(OPERATORS[node.op].kind, Each) and case.values[node.args[0]] is not True:
        return _missing(case, node.args[0]) or (
            "condition false",
            f"{name} was not called: its when= is false",
        )
    axis = case.plan.node_axes[blank]
    if OPERATORS[node.op].kind.needs_own_bar and not case.ready.has_bar(axis, case.row):
        symbol, timeframe = (
            case.panel.symbols[case.row],
            "1m" if axis is Axis.NOW else axis.timeframe,
        )
        return "bar missing", f"{name} counts those with a {timeframe} candle of their own, {symbol} has none"
    return "condition false", f"{name} has no value at this bar"


def _short(case: _Case, node: int) -> tuple[str, str]:
    """Too little history: of what, and whose; a symbol that the filter names may not be there at all."""
    origin = case.ready.origin(node, case.row)
    leaf = case.ready.source(origin, case.row)
    symbol, timeframe = str(leaf.params["symbol"]), str(leaf.params["timeframe"])
    if symbol and symbol not in case.panel.index:
        return "symbol missing", f"the market has no {symbol}"
    row = case.panel.index[symbol] if symbol else case.row
    frame = case.panel.frame(timeframe)
    held = int(frame.present[row, : frame.bars_closed_at(case.ready.instant_ms)].sum())
    lacks = "is unknown" if case.plan.node_bools[origin] else "has no value"
    whose = f" of {symbol}" if symbol else ""
    return "not enough history", f"{_name(case.plan, origin)} {lacks} after {held} bars of {timeframe}{whose}"


def _is_conjunct(plan: Plan, node: int) -> bool:
    """Whether the signal is false whenever the node is; a shown condition may be no part of it."""
    signal, inner = plan.nodes[plan.signal], plan.nodes[node]
    parts: Mapping[int, None] = dict.fromkeys(signal.args if _is_conjunction(signal) else (plan.signal,))
    return node in parts or (_is_conjunction(inner) and all(arg in parts for arg in inner.args))


def _is_conjunction(node: Node) -> bool:
    kind = OPERATORS[node.op].kind
    return isinstance(kind, Logic) and not kind.decisive


def _without_value(plan: Plan, values: Sequence[Value], condition: int) -> int | None:
    """
    The first number without a value among those that a condition looks at; None when all have one.

    Where it has none because a number it is made of has none, that one: the function, not the sum that it is part of.
    """
    pending = [condition]
    while pending:
        at = pending.pop()
        if plan.node_bools[at]:
            pending += reversed(plan.nodes[at].args)
        elif values[at] is None:
            return _first_blank(plan, values, at)
    return None


def _first_blank(plan: Plan, values: Sequence[Value], number: int) -> int:
    while True:
        node = plan.nodes[number]
        args = node.args
        if isinstance(OPERATORS[node.op].kind, Choice):
            args = args[1:2] if values[args[0]] is True else args[2:]
        blank = next((arg for arg in args if not plan.node_bools[arg] and values[arg] is None), None)
        if blank is None:
            return number
        number = blank


def _name(plan: Plan, node: int) -> str:
    """A node in a few words: its operator and constant parameters."""
    at = plan.nodes[node]
    kind = OPERATORS[at.op].kind
    if isinstance(kind, Shift):
        ago = kind.lookback(at.params)
        return f"{_name(plan, at.args[0])} {ago} bar{'s' if ago > 1 else ''} ago"
    if isinstance(kind, Each):
        return f"each({at.params['name']})"
    params = ", ".join(str(value) for value in at.params.values() if value != "")
    return f"{at.op}({params})" if params else at.op
