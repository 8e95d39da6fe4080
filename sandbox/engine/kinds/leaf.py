"""Candle fields, their values some bars ago and their changes: columns of the panel, read without computing."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from sandbox.engine.calls import Call, constant_value, is_own_field
from sandbox.engine.kinds.kind import CallGroup, Event, Shared
from sandbox.engine.view import View
from sandbox.plan.operators.kind import Array, Change


def constant_over(call: Call, view: View) -> tuple[Array, ...]:  # noqa: ARG001 - the same in every view
    """One number for all bars."""
    return (constant_value(call.refs[0]),)


def over(call: Call, view: View) -> tuple[Array, ...]:
    """The field's columns; of a symbol that the panel does not have, NaN."""
    axis = call.axis
    values = view.frame(axis).field(str(call.params["field"]))[:, view.start(call) : view.end(axis)]
    symbol = str(call.params["symbol"])
    if symbol:
        row = view.panel.index.get(symbol)
        if row is None:
            return (np.full((1, values.shape[1]), np.nan),)
        values = values[row : row + 1]
    # A frame with a forming bar may be asked for another instant.
    return (values.copy() if axis.forming else values,)


class CandleFields(CallGroup):
    """Candle fields, their values some bars ago, and their changes."""

    @classmethod
    def shape(cls, call: Call, shared: Shared) -> Hashable | None:  # noqa: ARG003 - as every kind is asked
        return () if all(is_own_field(ref.call) for ref in call.args) else None

    def step(self, event: Event) -> Iterable[Call]:
        for call in self.calls:
            field = call.args[0].call if call.args else call
            frame, newest = event.view.newest(call.axis)
            values = frame.field(str(field.params["field"]))
            value = self._column(field, values, newest - call.lookback)
            if isinstance(call.operator.kind, Change):
                value = self._column(field, values, newest) - value
            self.shared.rows.set_newest(call.refs[0], value)
        return ()

    def _column(self, field: Call, values: Any, position: int) -> Any:
        if position < 0:
            return np.nan
        symbol, index = str(field.params["symbol"]), self.shared.panel.index
        if not symbol:
            return values[:, position]
        return values[index[symbol], position] if symbol in index else np.nan
