"""Functions of users: values that only an interpreter process can give (by step: `recomputed`)."""

import numpy as np

from sandbox.engine.calls import Call, OperatorError
from sandbox.engine.view import View
from sandbox.interpreter.functions import each_values
from sandbox.plan.operators.kind import Array


def over(call: Call, view: View) -> tuple[Array, ...]:
    """The function's answers for the symbols that anyone asks about, NaN for the others."""
    if view.each is None:
        raise OperatorError("each() cannot be evaluated here: there is no interpreter to run its function")
    first = view.start(call) - call.lookback
    args = [view.values(ref, first, call.axis) for ref in call.args]
    names, asked = view.panel.symbols, args[0]
    if view.each_symbols is not None and max(map(len, args)) == len(names):
        chosen = np.array([[name in view.each_symbols] for name in names])
        asked = np.logical_and(asked, chosen)
    return (each_values(view.each, call.params, [asked, *args[1:]], names, call),)
