"""Plans for tests, written as nodes."""

from __future__ import annotations

from sandbox.plan.document import build_plan
from sandbox.plan.operators import FIELDS


def bars(timeframe="1m", field="close", **more):
    """A field of the closed candles."""
    return {"op": "bars", "params": {"timeframe": timeframe, "field": field, **more}}


def forming(timeframe="1m", field="close", **more):
    """The same with the bar in progress as the last one."""
    return {"op": "forming", "params": {"timeframe": timeframe, "field": field, **more}}


def node(op, *args, out=0, **params):
    return {"op": op, "args": list(args), "params": params, "out": out}


def const(value):
    return node("const", value=value)


def plan_of(operator, timeframe, *, gaps, leaf=bars, missing_below=25):
    """
    Every output of an operator over plain candles (made by *leaf*), or over series that have gaps where the volume is small, shown
    wherever there is a candle.
    """
    field = {"real0": "high", "real1": "low", "periods": "volume"}
    nodes = [leaf(timeframe), const(0), node("sub", 0, 0), node("div", 2, 2)]  # 3: NaN
    args = []
    for at, name in enumerate(operator.inputs * (2 if operator.variadic else 1)):
        chosen = field.get(name, name if name in FIELDS else "close")
        nodes.append(leaf(timeframe, chosen))
        if gaps:
            nodes += [
                leaf(timeframe, "volume"),
                const(missing_below + at),
                node("lt", len(nodes), len(nodes) + 1),
                node("where", len(nodes) + 2, 3, len(nodes) - 1),
            ]
        if operator.input_kind(at) == "bool":
            nodes += [node("shift", len(nodes) - 1, n=1), node("gt", len(nodes) - 1, len(nodes))]
        args.append(len(nodes) - 1)
    params = {p.name: 5 for p in operator.params if p.default is None}
    first = len(nodes)
    nodes += [node(operator.name, *args, out=out, **params) for out in range(len(operator.outputs))]
    show = {f"o{out}": first + out for out in range(len(operator.outputs))}
    return build_plan([*nodes, node("eq", 0, 0)], len(nodes), show)
