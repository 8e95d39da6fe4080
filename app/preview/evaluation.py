"""
The answer to a preview's question: the production evaluator over a panel made of the question's candles. Pure.

A filter with functions is answered in pieces, the newest bars first: its functions are asked for every pair and bar,
which may take minutes. What there is no CPU time for is left out, and the answer says how many bars that is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from app.preview.wire import Answer, Columns, Found, Hit, Question, Refused
from sandbox.engine.calls import OperatorError
from sandbox.engine.candles.frame import Frame
from sandbox.engine.candles.panel import Bools, Panel
from sandbox.engine.replay import RangeHits, evaluate_range, signalled
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import Plan, PlanError, load_plan
from sandbox.plan.timeframes import TIMEFRAMES

CPU_S_MAX = 5.0  # for one preview, functions included; what is over by then is told
WALL_S_MAX = 8.0  # the same on a machine that has no time: requests wait for 20 s, most of it in line
PIECE_S = 0.4  # of CPU, that a piece is meant to take
FIRST_PIECE_BARS = 4  # live, a function may take 0.25 s a bar; so this is at most a second
GROWTH_MAX = 4


def each_runner() -> EachRunner:
    """What a preview runs the functions of a filter with; whoever asks for it closes it, or ends."""
    return EachRunner(node_seconds=CPU_S_MAX, slot_seconds=CPU_S_MAX)


def unlimited_runner() -> EachRunner:
    """The same on a user's own machine: an hour is a limit only for what never ends."""
    return EachRunner(node_seconds=3600.0, slot_seconds=3600.0)


@dataclass(frozen=True)
class Budget:
    """What a preview may take; None: as much as it wants, as on the command line."""

    cpu_s: float
    wall_s: float


DEFAULT_BUDGET = Budget(CPU_S_MAX, WALL_S_MAX)


def evaluate(
    question: Question, frames: Sequence[Columns], each: EachRunner, budget: Budget | None = DEFAULT_BUDGET
) -> Iterator[Answer]:
    """
    Exactly the matches that live screening would have found (or did) at each of the slots; what cannot be answered is refused.

    Yields pieces, the newest bars first; a refusal is the last one. The plan is validated here, wherever it has been
    before. *each* runs the functions of a filter that uses `each`.
    """
    try:
        plan = load_plan(question.plan)
    except PlanError as error:
        yield Refused(f"The plan is not valid: {error.message}.")
        return
    try:
        panel = panel_of(question, frames)
    except ValueError as error:
        yield Refused(f"The candles are not valid: {error}.")
        return
    axis = panel.frame(plan.due_every)
    end = axis.bars_closed_at(question.until_ms)
    start = max(0, end - question.bars)
    if start == end:
        yield Found(plan.trigger, plan.due_every, 0, [], 0, 0.0)
        return
    try:
        yield from _pieces(question, plan, panel, (start, end), each, budget)
    except OperatorError as error:
        yield Refused(f"The filter cannot be evaluated: {error}.")


def _pieces(  # noqa: PLR0917 a generator over what `evaluate` has made ready
    question: Question,
    plan: Plan,
    panel: Panel,
    span: tuple[int, int],
    each: EachRunner,
    budget: Budget | None,
) -> Iterator[Found]:
    axis, (start, end) = panel.frame(plan.due_every), span
    meter = _Meter(each)
    size = FIRST_PIECE_BARS if plan.calls_each and budget is not None else end - start
    while end > start:
        first = _whole_bars(plan, axis, max(start, end - size), start)
        before_s, began_at = meter.cpu_s, time.perf_counter()
        first_ms = int(axis.open_time[first]) + axis.step_ms
        last_ms = min(question.until_ms, int(axis.open_time[end - 1]) + axis.step_ms)
        found = evaluate_range(panel, plan, first_ms, last_ms, question.matched, question.frequency, each)
        meter.add_functions()
        took_s = meter.cpu_s - before_s
        grown = int(size * PIECE_S / max(took_s, 1e-6))
        size = max(1, min(grown, size * GROWTH_MAX))
        end = first
        spent = budget is not None and meter.is_over(budget, next_s=took_s)
        evaluated_ms = (time.perf_counter() - began_at) * 1000
        yield _told(question, found, evaluated_ms, bars_left=end - start, is_last=spent or end == start)
        if spent:
            return


def _whole_bars(plan: Plan, axis: Frame, first: int, start: int) -> int:
    """*first* or an earlier bar: a trigger's bar in progress signals once, so a piece holds all of its minutes."""
    if not plan.forming:
        return first
    length_ms = TIMEFRAMES[plan.trigger] * 1000
    while first > start and int(axis.open_time[first]) % length_ms:
        first -= 1
    return first


class _Meter:
    """The CPU time of a preview: of this process, and of the interpreter's since the functions run there."""

    def __init__(self, each: EachRunner) -> None:
        self._each = each
        self._began_s = time.process_time()
        self._began_at = time.monotonic()
        self._functions_s = 0.0

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._began_s + self._functions_s

    def add_functions(self) -> None:
        """Count what the functions of the last piece took; each piece has a time of its own."""
        self._functions_s += self._each.process_s

    def is_over(self, budget: Budget, *, next_s: float) -> bool:
        """Whether another piece that takes *next_s* would not fit."""
        wall_s = time.monotonic() - self._began_at
        return self.cpu_s + min(next_s, PIECE_S) > budget.cpu_s or wall_s > budget.wall_s


def _told(
    question: Question, found: RangeHits, evaluated_ms: float, *, bars_left: int, is_last: bool
) -> Found:
    counted = np.flatnonzero(_screened(found, question))
    if not question.every_match:
        counted = signalled(found, counted)
    newest = counted[max(0, len(counted) - question.hits_max) :].tolist()
    hits = [
        Hit(
            found.symbols[i],
            int(found.triggered_at_ms[i]),
            float(found.prices[i]),
            {name: values[i] for name, values in found.values.items()},
        )
        for i in newest
    ]
    return Found(
        found.timeframe,
        found.due_every,
        found.bars,
        hits,
        len(counted),
        round(evaluated_ms, 3),
        bars_left,
        is_last,
    )


def merged(newer: Found, older: Found, hits_max: int) -> Found:
    """Two pieces of an answer, one behind the other, as one."""
    hits = [*older.hits, *newer.hits]
    return Found(
        newer.trigger,
        newer.due_every,
        newer.bars + older.bars,
        hits[max(0, len(hits) - hits_max) :],
        newer.hit_count + older.hit_count,
        round(newer.evaluated_ms + older.evaluated_ms, 3),
        older.bars_left,
        older.is_last,
    )


def panel_of(question: Question, frames: Sequence[Columns]) -> Panel:
    """
    Raises:
        ValueError: the candles are not what a panel takes.
    """
    panel = Panel(question.symbols)
    for frame, columns in zip(question.frames, frames, strict=True):
        panel.load(frame.timeframe, *columns)
    return panel


def _screened(found: RangeHits, question: Question) -> Bools:
    """Which hits are at slots that live screening did not pass over."""
    counts = ~np.isin(found.triggered_at_ms, np.array(question.outages_ms, dtype=np.int64))
    if question.late:
        late = set(question.late)
        pairs = zip(found.symbols, found.triggered_at_ms.tolist(), strict=True)
        counts &= np.array([pair not in late for pair in pairs], dtype=np.bool_)
    return counts
