"""Functions with a memory: one run for each block of bars, continued by TA-Lib bar by bar."""

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, OperatorError, Ref, is_own_field
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.runs import begins_block, blocks, open_streams, opened_run, run_rows, run_start, stream_of
from sandbox.engine.view import View
from sandbox.plan.axis import Axis
from sandbox.plan.operators.kind import Array


def first_input(call: Call, view: View) -> int:
    """Where the run begins that gives the first bar wanted its value; of a running total, the newest bar."""
    frame, newest = view.newest(call.axis)
    if not len(frame):
        return 0
    first = newest if call.operator.kind.total else max(0, min(view.starts[call], newest))
    return run_start(frame, first, call.operator, call.params)


def over(call: Call, view: View) -> tuple[Array, ...]:
    """Block by block, each by its own runs."""
    axis, start = call.axis, view.start(call)
    frame, end = view.frame(axis), view.end(axis)
    origin = max(0, first_input(call, view))
    inputs = [np.asarray(view.values(ref, origin, axis), dtype=np.float64) for ref in call.args]
    rows = max(len(values) for values in inputs)
    results = tuple(np.full((rows, end - start), np.nan) for _ in call.operator.outputs)
    is_total = call.operator.kind.total
    for block, last in [(start, end)] if is_total else blocks(frame, start, end, call.operator):
        if block == last:
            continue
        begin = max(0, run_start(frame, last - 1, call.operator, call.params))
        first = max(block, begin)
        pieces = [values[:, begin - origin : last - origin] for values in inputs]
        outputs = [result[:, first - start : last - start] for result in results]
        if not (view.keep_streams and last == end and stream_of(call)):
            run_rows(call, pieces, outputs)
            continue
        view.streams[call] = [None] * rows
        if view.is_closed(axis):
            run_rows(call, pieces, outputs, view.streams[call])
        else:
            run_rows(call, pieces, outputs)
            open_streams(call, [piece[:, :-1] for piece in pieces], view.streams[call])
    return results


class Runs(CallGroup):
    """
    TA-Lib functions continued by TA-Lib's own streaming handles, one for each symbol.

    A handle holds the state behind the last closed bar: `update` takes a closed bar in, `peek` looks at a forming one and
    leaves no trace.
    """

    is_incremental = True

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        if stream_of(call) is None or any(ref.call.is_bool for ref in call.args):
            return None
        return call.operator.name

    def __init__(self, shared: Shared, axis: Axis, level: int) -> None:
        super().__init__(shared, axis, level)
        self._handles: dict[Call, list[Any]] = {}

    def remove(self, call: Call) -> None:
        super().remove(call)
        self._handles.pop(call, None)

    def restarts(self, event: Event) -> Collection[Call]:
        if self.axis not in event.moving:
            return ()
        if self.axis in event.opened and begins_block(*event.view.newest(self.axis)):
            return self.calls
        return [call for call in self.calls if call not in self._handles]

    def load(self, call: Call, view: View) -> None:
        super().load(call, view)
        handles = view.streams.get(call)
        if handles is None:
            self._handles.pop(call, None)
        else:
            self._handles[call] = handles

    def step(self, event: Event) -> Iterable[Call]:
        lost = []
        for call in self.calls:
            if call in event.recomputed:
                continue
            try:
                if not self._continue(call, event):
                    lost.append(call)
            except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
                self.shared.failed[call] = OperatorError(f"{call.operator.name}: {error}")
                self._handles.pop(call, None)
        return lost

    def _continue(self, call: Call, event: Event) -> bool:
        """False where the call must be recomputed."""
        handles = self._handles[call]
        inputs = [self._list(ref, event) for ref in call.args]
        stream = stream_of(call)
        update = stream.update if event.view.is_closed(call.axis) else stream.peek
        if len(handles) == 1:
            inputs = [(values[:1], finite) for values, finite in inputs]
        if all(finite for _, finite in inputs) and None not in handles:
            outputs: Any = list(map(update, handles, *(values for values, _ in inputs)))
        else:
            outputs = self._with_gaps(call, handles, [values for values, _ in inputs], event)
            if outputs is None:
                return False
        table = np.array(outputs, dtype=np.float64)
        table = table[None] if table.ndim == 1 else table.T
        table[np.isinf(table)] = np.nan
        for ref in call.refs:
            self.shared.rows.set_newest(ref, table[ref.out])
        return True

    def _list(self, ref: Ref, event: Event) -> tuple[list[float], bool]:
        row = self.shared.rows.of(ref)
        kept = event.lists.get(row)
        if kept is None:
            values = self.shared.rows.floats[row]
            kept = event.lists[row] = (values.tolist(), bool(np.isfinite(values).all()))
        return kept

    def _with_gaps(self, call: Call, handles: list[Any], inputs: Sequence[list[float]], event: Event) -> Any:
        """
        Where symbols are too young, or a series has a gap: row by row.

        None where a computed series has a value again after a gap: its new run cannot be begun from the newest values alone.
        """
        nothing = (np.nan,) * len(call.operator.outputs)
        blank: Any = nothing if len(nothing) > 1 else np.nan
        reads_candles = all(is_own_field(ref.call) and ref.call.axis == call.axis for ref in call.args)
        is_closed = event.view.is_closed(call.axis)
        stream = stream_of(call)
        update = stream.update if is_closed else stream.peek
        outputs = []
        for row, handle in enumerate(handles):
            values = [column[row] for column in inputs]
            finite = all(-np.inf < value < np.inf for value in values)
            if handle is not None and finite:
                outputs.append(update(handle, *values))
            elif not finite:
                if is_closed:
                    handles[row] = None
                outputs.append(blank)
            elif reads_candles:
                value = self._young(call, row, handles, event)
                outputs.append(blank if value is None else value)
            else:
                return None
        return outputs

    @staticmethod
    def _young(call: Call, row: int, handles: list[Any], event: Event) -> Any:
        """A symbol whose run has not begun: try to begin it with the candles there are."""
        frame, newest = event.view.newest(call.axis)
        begin = max(0, run_start(frame, newest, call.operator, call.params))
        rows = [frame.field(str(ref.call.params["field"]))[row, begin : newest + 1] for ref in call.args]
        first = int(np.argmax(np.isfinite(rows[0])))
        if newest + 1 - begin - first <= call.lookback:
            return None
        handle, outputs = opened_run(call, [values[first:] for values in rows])
        if event.view.is_closed(call.axis):
            handles[row] = handle
        last = tuple(float(output[-1]) for output in outputs)
        return last if len(last) > 1 else last[0]
