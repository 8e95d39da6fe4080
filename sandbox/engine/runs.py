"""
Anchored runs: where the run that gives a bar its value begins, and TA-Lib over the rows of a panel.

`sandbox.engine.ranges` states the rules.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat
from typing import Any

import numpy as np
import talib

from sandbox.engine.calls import Call
from sandbox.engine.candles.frame import Frame
from sandbox.plan.operators import Operator, Params
from sandbox.plan.operators.kind import BLOCK_BARS, Run, Session

DAY_MS = 86_400_000
_InsufficientHistory: type[Exception] = talib.InsufficientHistory  # type: ignore[attr-defined]


def run_kind(call: Call) -> Run | Session:
    """The kind of a call that is computed by runs."""
    kind = call.operator.kind
    return kind if isinstance(kind, Session) else call.kind_as(Run)


def stream_of(call: Call) -> Any:
    """TA-Lib's class that continues the call's run bar by bar; None where there is none."""
    kind = call.operator.kind
    return kind.stream if isinstance(kind, Run) else None


def run_start(frame: Frame, bar: int, operator: Operator, params: Params) -> int:
    """Position at which the run that gives *bar* its value begins; below 0 when that lies before the history held."""
    length_ms = DAY_MS if isinstance(operator.kind, Session) else BLOCK_BARS * frame.step_ms
    block_ms = int(frame.open_time[bar]) // length_ms * length_ms
    first = int(np.searchsorted(frame.open_time, block_ms))
    warmup = operator.kind.warmup(params) if isinstance(operator.kind, Run) else 0
    return first - operator.kind.lookback(params) - warmup


def blocks(frame: Frame, start: int, end: int, operator: Operator) -> Iterator[tuple[int, int]]:
    """The pieces of [start, end) that share a run."""
    length_ms = DAY_MS if isinstance(operator.kind, Session) else BLOCK_BARS * frame.step_ms
    number = frame.open_time[start:end] // length_ms
    cuts = [start, *(start + 1 + np.flatnonzero(np.diff(number))).tolist(), end]
    return ((a, b) for a, b in pairwise(cuts) if a < b)


def run_rows(
    call: Call, pieces: Sequence[Any], results: Sequence[Any], streams: list[Any] | None = None
) -> None:
    """
    Run each symbol's row and keep the last columns, as many as *results* have.

    *streams*, when given, gets the handle of each row whose run reaches the last column.
    """
    kind = run_kind(call)
    lookback = kind.lookback(call.params)
    length, kept = pieces[0].shape[1], results[0].shape[1]
    finite = np.isfinite(pieces[0])
    for piece in pieces[1:]:
        finite = finite & np.isfinite(piece)
    alike = all(len(piece) == len(results[0]) for piece in pieces)
    if alike and length > lookback + kept + 1 and finite.all() and _run_all(call, pieces, results, streams):
        return
    whole = finite.all(axis=1).tolist()
    for row in range(len(results[0])):
        rows = [piece[row if len(piece) > 1 else 0] for piece in pieces]
        complete = whole[row if len(whole) > 1 else 0]
        spans = [(0, length)] if complete else _finite_spans(finite[row if len(finite) > 1 else 0])
        for begin, end in spans:
            first = max(begin + lookback, length - kept)  # before it lies warm-up, or what nobody asked for
            if first >= end:
                continue
            stretch = rows if end - begin == length else [values[begin:end] for values in rows]
            if streams is not None and end == length:
                streams[row], outputs = opened_run(call, stretch)
            else:
                outputs = kind.run(*stretch, **call.params)
            for result, output in zip(results, outputs, strict=True):
                result[row, first - length + kept : end - length + kept] = output[first - begin :]
    for result in results:
        result[np.isinf(result)] = np.nan


def open_streams(call: Call, pieces: Sequence[Any], streams: list[Any]) -> None:
    """Leave the runs over *pieces*, which end before the forming bar, open in *streams*."""
    if pieces[0].shape[1]:
        run_rows(call, pieces, [np.empty((len(streams), 1)) for _ in call.operator.outputs], streams)


def _run_all(call: Call, pieces: Sequence[Any], results: Sequence[Any], streams: list[Any] | None) -> bool:
    """
    The common case in few Python steps: every row is finite and long enough.

    False, with nothing done, when TA-Lib wants more history to leave the runs open.
    """
    kept = results[0].shape[1]
    # By position: half the cost of a call.
    params = [repeat(call.params[param.name]) for param in call.operator.params]
    kind = run_kind(call)
    if streams is not None and kept == 1:
        try:
            streams[:] = map(stream_of(call), *pieces, *params)
        except _InsufficientHistory:
            return False
        outputs: Any = np.array([stream.value for stream in streams], dtype=np.float64).reshape(
            len(streams), -1, 1
        )
    elif streams is not None:
        opened = [opened_run(call, rows) for rows in zip(*pieces, strict=True)]
        streams[:] = [handle for handle, _ in opened]
        outputs = [[output[-kept:] for output in outputs] for _, outputs in opened]
    else:
        outputs = [[output[-kept:] for output in outputs] for outputs in map(kind.run, *pieces, *params)]
    for out, result in enumerate(results):
        result[:] = [values[out] for values in outputs]
        result[np.isinf(result)] = np.nan
    return True


def opened_run(call: Call, rows: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """One run over finite *rows* and the handle that continues it; no handle where TA-Lib wants more history."""
    try:
        handle, outputs = stream_of(call).open_and_fill(*rows, **call.params)
    except _InsufficientHistory:
        return None, run_kind(call).run(*rows, **call.params)
    return handle, outputs if isinstance(outputs, tuple) else (outputs,)


def _finite_spans(finite: Any) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def begins_block(frame: Frame, newest: int) -> bool:
    """Whether the newest bar is the first one held of its block."""
    length_ms = BLOCK_BARS * frame.step_ms
    times = frame.open_time
    return newest < 1 or int(times[newest]) // length_ms != int(times[newest - 1]) // length_ms
