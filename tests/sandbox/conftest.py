"""Synthetic markets, panels made from them, and one operator computed on given series."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sandbox.engine.calls import Calls
from sandbox.engine.candles.panel import Panel
from sandbox.engine.ranges import Computation
from sandbox.language.compiler import Compiled, FilterCompiler
from sandbox.plan.axis import Axis
from sandbox.plan.document import build_plan
from sandbox.plan.operators import FIELDS, OPERATORS
from sandbox.plan.timeframes import TIMEFRAMES

EPOCH_MS = 1024 * 86_400_000 * 16  # a block boundary of every timeframe and every block length


@dataclass
class Market:
    """Candles of one timeframe: `fields` of shape (symbols, bars); where `present` is false there is no candle."""

    timeframe: str
    open_time: np.ndarray
    present: np.ndarray
    fields: dict[str, np.ndarray]

    def columns(self, chosen: np.ndarray | None = None) -> tuple[Any, ...]:
        rows, bars = np.nonzero(self.present if chosen is None else self.present & chosen)
        return rows, self.open_time[bars], *(self.fields[name][rows, bars] for name in FIELDS)


def make_market(
    timeframe: str, symbols: int, bars: int, seed: int, *, first_ms: int = EPOCH_MS, missing: float = 0.0
) -> Market:
    """A random walk per symbol with consistent open, high, low, close; a share *missing* of the candles is left out."""
    rng = np.random.default_rng(seed)
    step = TIMEFRAMES[timeframe] * 1000
    close = np.round(100 * np.cumprod(1 + rng.normal(0, 2e-3, (symbols, bars)), axis=1), 4)
    opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    spread = np.round(rng.exponential(0.1, (2, symbols, bars)), 4)
    fields = {
        "open": opened,
        "high": np.maximum(opened, close) + spread[0],
        "low": np.minimum(opened, close) - spread[1],
        "close": close,
        "volume": np.round(rng.lognormal(3, 1, (symbols, bars)), 3),
    }
    present = rng.random((symbols, bars)) >= missing
    return Market(timeframe, first_ms + step * np.arange(bars), present, fields)


def make_panel(*markets: Market, until_ms: int | None = None) -> Panel:
    """A panel with the candles closed at *until_ms*."""
    panel = Panel([f"S{row}" for row in range(len(markets[0].present))])
    for market in markets:
        step = TIMEFRAMES[market.timeframe] * 1000
        closed = None if until_ms is None else (market.open_time + step <= until_ms)[None, :]
        panel.load(market.timeframe, *market.columns(closed))
    return panel


def compute_series(
    op: str,
    inputs: list[Any],
    params: dict[str, Any] | None = None,
    *,
    timeframe: str = "1m",
    first_ms: int = EPOCH_MS,
) -> list[np.ndarray]:
    """
    All outputs of an operator over a whole history.

    *inputs* are series of shape (symbols, bars) or (bars,); NaN, as well as bool, is made inside the graph from
    numbers. The first bar begins a block of every length, so up to 1024 bars are one run.
    """
    series = [np.atleast_2d(np.asarray(values, dtype=float)) for values in inputs]
    symbols, bars = series[0].shape
    step = TIMEFRAMES[timeframe] * 1000
    panel = Panel([f"S{row}" for row in range(symbols)])
    hidden = -7.25e300  # stands for NaN, which no candle can hold
    filled = [np.where(np.isnan(values), hidden, values) for values in series]
    filled += [np.zeros((symbols, bars))] * (5 - len(filled))
    rows, times = np.repeat(np.arange(symbols), bars), np.tile(first_ms + step * np.arange(bars), symbols)
    panel.load(timeframe, rows, times, *(values.ravel() for values in filled))
    operator = OPERATORS[op]
    nodes: list[dict[str, Any]] = [
        {"op": "const", "params": {"value": hidden}},
        {"op": "const", "params": {"value": 0}},
        {"op": "bars", "params": {"timeframe": timeframe, "field": "close"}},
        {"op": "sub", "args": [2, 2]},
        {"op": "div", "args": [3, 3]},
    ]
    args = []
    for index in range(len(series)):
        start = len(nodes)
        nodes += [
            {"op": "bars", "params": {"timeframe": timeframe, "field": FIELDS[index]}},
            {"op": "eq", "args": [start, 0]},
            {"op": "where", "args": [start + 1, 4, start]},
            {"op": "ne", "args": [start, 1]},
        ]
        args.append(start + 3 if operator.input_kind(index) == "bool" else start + 2)
    first_output = len(nodes)
    for out in range(len(operator.outputs)):
        nodes.append({"op": op, "args": args, "params": params or {}, "out": out})
    nodes.append({"op": "eq", "args": [2, 2]})
    plan = build_plan(
        nodes, len(nodes) - 1, {f"o{out}": first_output + out for out in range(len(operator.outputs))}
    )
    refs = Calls().add(plan)
    computation = Computation(panel, int(times.max()) + step)
    shown = [refs[plan.show[f"o{out}"]] for out in range(len(operator.outputs))]
    for ref in shown:
        computation.want(ref.call, 0)
    computation.run()
    return [
        np.array(np.broadcast_to(computation.values(ref, 0, Axis(timeframe)), (symbols, bars)))
        for ref in shown
    ]


@pytest.fixture(scope="session")
def market() -> Callable[..., Market]:
    return make_market


@pytest.fixture(scope="session")
def panel_of() -> Callable[..., Panel]:
    return make_panel


@pytest.fixture(scope="session")
def series() -> Callable[..., list[np.ndarray]]:
    return compute_series


@pytest.fixture(scope="module")
def compiled() -> Iterator[Callable[[str], Compiled]]:
    """Compiles a filter that is right."""
    with FilterCompiler(processes=1) as compiler:

        def compile_filter(source: str) -> Compiled:
            done = compiler.compile(source)
            assert done.plan is not None, done.diagnostics
            return done

        yield compile_filter
