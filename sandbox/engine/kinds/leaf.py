"""Candle fields, and what is read from them without computing."""

from typing import Any

import numpy as np

from sandbox.engine.calls import Call
from sandbox.engine.candles.frame import Frame
from sandbox.engine.candles.panel import Panel
from sandbox.engine.kinds.kind import CallGroup, Event
from sandbox.plan.operators.kind import Candles, Change


class CandleFields(CallGroup):
    """Candle fields, their values some bars ago, and their changes: columns of the panel."""

    def step(self, event: Event) -> None:
        rows = self.state.rows
        for call in self.calls:
            frame, newest = event.frame(call.axis or "")
            if isinstance(call.operator.kind, Candles):
                rows.floats[call.refs[0].row] = _column(frame, call, newest, self.state.panel)
                continue
            source = call.args[0].call
            ago = call.operator.kind.lookback(call.params)
            value = _column(frame, source, newest - ago, self.state.panel)
            if isinstance(call.operator.kind, Change):
                value = _column(frame, source, newest, self.state.panel) - value
            rows.floats[call.refs[0].row] = value


def _column(frame: Frame, call: Call, position: int, panel: Panel) -> Any:
    if position < 0:
        return np.nan
    values = frame.field(str(call.params["field"]))[:, position]
    symbol = str(call.params["symbol"])
    if not symbol:
        return values
    return values[panel.index[symbol]] if symbol in panel.index else np.nan
