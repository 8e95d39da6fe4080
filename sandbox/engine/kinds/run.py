"""Functions with a memory, carried on by TA-Lib."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, OperatorError, Ref, is_own_field
from sandbox.engine.kinds.kind import CallGroup, Event, State
from sandbox.engine.runs import begins_block, carried_run, run_start, stream_of


class Runs(CallGroup):
    """TA-Lib functions carried on by TA-Lib's own streaming handles, one for each symbol."""

    carried = True

    def __init__(self, state: State, axis: str | None) -> None:
        super().__init__(state, axis)
        self._handles: dict[Call, list[Any]] = {}

    def release(self, call: Call) -> None:
        self._handles.pop(call, None)

    def restarts(self, event: Event) -> Iterable[Call]:
        if self.axis is None or self.axis not in event.moving:
            return ()
        frame, newest = event.frame(self.axis)
        turned = self.axis in event.turned
        return [
            call
            for call in self.calls
            if call not in self._handles or (turned and begins_block(frame, newest))
        ]

    def load(self, call: Call, event: Event) -> None:
        super().load(call, event)
        handles = event.computation.streams.get(call)
        if handles is None:
            self._handles.pop(call, None)
        else:
            self._handles[call] = handles

    def step(self, event: Event) -> None:
        for call in self.calls:
            if call in event.loaded:
                continue
            try:
                self._carry(call, event)
            except Exception as error:  # noqa: BLE001 - whatever an operator raises fails its own traders only
                self.state.failed[call] = OperatorError(f"{call.operator.name}: {error}")
                self._handles.pop(call, None)

    def _carry(self, call: Call, event: Event) -> None:
        handles = self._handles[call]
        inputs = [self._list(ref, event) for ref in call.args]
        stream = stream_of(call)
        update = stream.update if event.settled(call.axis) else stream.peek
        if len(handles) == 1:
            inputs = [(values[:1], finite) for values, finite in inputs]
        if all(finite for _, finite in inputs) and None not in handles:
            outputs: Any = list(map(update, handles, *(values for values, _ in inputs)))
        else:
            outputs = self._with_gaps(call, handles, [values for values, _ in inputs], event)
            if outputs is None:
                return
        table = np.array(outputs, dtype=np.float64)
        table = table[None] if table.ndim == 1 else table.T
        table[np.isinf(table)] = np.nan
        for ref in call.refs:
            if ref.row >= 0:
                self.state.rows.floats[ref.row] = table[ref.out]

    def _list(self, ref: Ref, event: Event) -> tuple[list[float], bool]:
        kept = event.lists.get(ref.row)
        if kept is None:
            values = self.state.rows.floats[ref.row]
            kept = event.lists[ref.row] = (values.tolist(), bool(np.isfinite(values).all()))
        return kept

    def _with_gaps(self, call: Call, handles: list[Any], inputs: Sequence[list[float]], event: Event) -> Any:
        """Where symbols are too young, or a series has a gap: row by row. None when all was computed anew."""
        nothing = (np.nan,) * len(call.operator.outputs)
        blank: Any = nothing if len(nothing) > 1 else np.nan
        plain = all(is_own_field(ref.call) and ref.call.axis == call.axis for ref in call.args)
        settled = event.settled(call.axis)
        stream = stream_of(call)
        update = stream.update if settled else stream.peek
        outputs = []
        for row, handle in enumerate(handles):
            values = [column[row] for column in inputs]
            finite = all(-np.inf < value < np.inf for value in values)
            if handle is not None and finite:
                outputs.append(update(handle, *values))
            elif not finite:
                if settled:
                    handles[row] = None
                outputs.append(blank)
            elif plain:
                value = self._young(call, row, handles, event)
                outputs.append(blank if value is None else value)
            else:
                self.state.recompute(call, event)
                return None
        return outputs

    @staticmethod
    def _young(call: Call, row: int, handles: list[Any], event: Event) -> Any:
        """A symbol whose run has not begun: try to begin it with the candles there are."""
        frame, newest = event.frame(call.axis or "")
        begin = max(0, run_start(frame, newest, call.operator, call.params))
        rows = [frame.field(str(ref.call.params["field"]))[row, begin : newest + 1] for ref in call.args]
        first = int(np.argmax(np.isfinite(rows[0])))
        if newest + 1 - begin - first <= call.operator.kind.lookback(call.params):
            return None
        handle, outputs = carried_run(call, [values[first:] for values in rows])
        if event.settled(call.axis):
            handles[row] = handle
        last = tuple(float(output[-1]) for output in outputs)
        return last if len(last) > 1 else last[0]
