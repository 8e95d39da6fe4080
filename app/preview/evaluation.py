"""
The answer to a preview's question: the production evaluator over a panel made of the question's candles.
Pure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from app.preview.wire import Answer, Columns, Found, Hit, Question, Refused
from sandbox.engine.calls import OperatorError
from sandbox.engine.candles.panel import Bools, Panel
from sandbox.engine.replay import RangeHits, evaluate_range, signalled
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.document import PlanError, load_plan

EACH_S = 3.0  # for the functions of a filter: what live screening asks in many slots is asked here at once


def each_runner() -> EachRunner:
    """What a preview runs the functions of a filter with; whoever asks for it closes it, or ends."""
    return EachRunner(node_seconds=EACH_S, slot_seconds=EACH_S)


def evaluate(question: Question, frames: Sequence[Columns], each: EachRunner) -> Answer:
    """
    Exactly the matches that live screening would have found (or did) at each of the slots; what cannot be
    answered is refused.

    The plan is validated here, wherever it has been before. *each* runs the functions of a filter that uses
    ``each``.
    """
    try:
        plan = load_plan(question.plan)
    except PlanError as error:
        return Refused(f"The plan is not valid: {error.message}.")
    try:
        panel = panel_of(question, frames)
    except ValueError as error:
        return Refused(f"The candles are not valid: {error}.")
    axis = panel.frame(plan.due_every)
    end = axis.bars_closed_at(question.until_ms)
    if not end:
        return Found(plan.trigger, plan.due_every, 0, [], 0, 0.0)
    first_ms = int(axis.open_time[max(0, end - question.bars)]) + axis.step_ms
    began_at = time.perf_counter()
    try:
        found = evaluate_range(
            panel, plan, first_ms, question.until_ms, question.matched, question.frequency, each
        )
    except OperatorError as error:
        return Refused(f"The filter cannot be evaluated: {error}.")
    evaluated_ms = (time.perf_counter() - began_at) * 1000
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
    return Found(plan.trigger, plan.due_every, found.bars, hits, len(counted), round(evaluated_ms, 3))


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
