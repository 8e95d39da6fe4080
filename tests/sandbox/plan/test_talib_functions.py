"""Every TA-Lib function through the engine against TA-Lib itself, and against tables nobody here computed."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import talib

from sandbox.engine.calls import Calls
from sandbox.engine.ranges import Computation
from sandbox.engine.runs import run_start
from sandbox.plan.axis import Axis
from sandbox.plan.document import build_plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.talib_functions import WARMUP_MAX_BARS

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "indicators"
FUNCTIONS = [name for name in OPERATORS if name.startswith("ta.")]
INDEXES = {"ta.maxindex", "ta.minindex", "ta.minmaxindex"}


def field_of(name, position):
    """The candle field a TA-Lib input is fed with here."""
    return {"real": "close", "real0": "high", "real1": "low", "periods": "volume"}.get(name, name)


def one_call(op, timeframe="1m", params=None):
    operator = OPERATORS[op]
    nodes = [
        {"op": "bars", "params": {"timeframe": timeframe, "field": field_of(name, at)}}
        for at, name in enumerate(operator.inputs)
    ]
    args = list(range(len(nodes)))
    nodes += [
        {"op": op, "args": args, "params": params or {}, "out": out} for out in range(len(operator.outputs))
    ]
    nodes += [{"op": "eq", "args": [0, 0]}]
    show = {f"o{out}": len(args) + out for out in range(len(operator.outputs))}
    plan = build_plan(nodes, len(nodes) - 1, show)
    refs = Calls().add(plan)
    return [refs[plan.show[f"o{out}"]] for out in range(len(operator.outputs))]


def test_every_function_of_the_installed_ta_lib_is_an_operator():
    assert {f"ta.{name.lower()}" for name in talib.get_functions()} == set(FUNCTIONS)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_a_value_is_ta_libs_own_on_the_run_of_its_block(op, market, panel_of):
    """
    At every one of the last 300 bars: TA-Lib run from the block's run start to that bar, last value. A running total is
    one run for all of them, the newest block's.
    """
    candles = market("1m", 2, 2700, seed=7, first_ms=91 * 60_000 * 977)
    panel = panel_of(candles)
    frame = panel.frame("1m")
    operator, refs = OPERATORS[op], one_call(op)
    params = {param.name: param.default for param in operator.params}
    computation = Computation(panel, int(frame.open_time[-1]) + frame.step_ms)
    for ref in refs:
        computation.want(ref.call, 2400)
    computation.run()
    outputs = [computation.values(ref, 2400, Axis("1m")) for ref in refs]

    function = getattr(talib, op[3:].upper())
    lookback = operator.kind.lookback(params)
    for bar in range(2400, 2700, 37):
        start = max(0, run_start(frame, 2699 if operator.kind.total else bar, operator, params))
        for row in range(2):
            rows = [frame.field(field_of(n, i))[row, start : bar + 1] for i, n in enumerate(operator.inputs)]
            expected = function(*rows, **params)
            expected = expected if isinstance(expected, tuple) else (expected,)
            for got, wanted in zip(outputs, expected, strict=True):
                value = float(wanted[-1])
                if op in INDEXES:
                    value = bar - start - value
                if math.isinf(value) or bar - start < lookback:
                    value = math.nan
                np.testing.assert_array_equal(got[row, bar - 2400], value)


# A running total remembers its start for ever, and its documentation says so.
FORGETFUL = [op for op in FUNCTIONS if not OPERATORS[op].kind.total]


@pytest.mark.parametrize("op", FORGETFUL)
def test_the_warm_up_makes_the_start_of_the_run_forgotten(op, market):
    """
    With the stated warm-up a value differs from one with 2,000 bars more by at most 1e-6 of its scale; a function
    said to need none really needs none.
    """
    operator = OPERATORS[op]
    params = {param.name: param.default for param in operator.params}
    behind = operator.kind.lookback(params) + operator.kind.warmup(params)
    candles = market("1m", 1, 4000, seed=11)
    rows = [candles.fields[field_of(n, i)][0] for i, n in enumerate(operator.inputs)]
    function = getattr(talib, op[3:].upper())
    for bar in range(3400, 4000, 59):
        short = function(*[row[bar - behind : bar + 1] for row in rows], **params)
        long = function(*[row[max(0, bar - behind - 2000) : bar + 1] for row in rows], **params)
        if op in INDEXES:
            continue
        for a, b in zip(np.atleast_2d(short), np.atleast_2d(long), strict=True):
            scale = float(np.nanmax(np.abs(b[-200:]), initial=1e-9))
            assert abs(a[-1] - b[-1]) <= 1e-6 * scale or (math.isnan(a[-1]) and math.isnan(b[-1])), (
                bar,
                a[-1],
                b[-1],
            )


def test_warm_up_is_bounded():
    for name in FUNCTIONS:
        operator = OPERATORS[name]
        widest = {
            param.name: param.high if param.kind == "int" and not param.choices else param.default
            for param in operator.params
        }
        assert operator.kind.warmup(widest) <= WARMUP_MAX_BARS


# Not here: EMA and what is built on it, ATR, OBV (the libraries seed them differently), ADX (Tulip's has no close).
TULIP = {
    "ad": "ad", "adosc": "adosc:fastperiod,slowperiod", "aroon": "aroon:timeperiod", "aroonosc": "aroonosc:timeperiod",
    "avgprice": "avgprice", "bop": "bop", "cci": "cci:timeperiod", "hma": "hma:timeperiod", "kama": "kama:timeperiod",
    "linreg": "linearreg:timeperiod", "max": "max:timeperiod", "medprice": "medprice", "mfi": "mfi:timeperiod",
    "min": "min:timeperiod", "mom": "mom:timeperiod", "rocr": "rocr:timeperiod", "rsi": "rsi:timeperiod",
    "sma": "sma:timeperiod", "stddev": "stddev:timeperiod", "sum": "sum:timeperiod", "trima": "trima:timeperiod",
    "tsf": "tsf:timeperiod", "typprice": "typprice", "ultosc": "ultosc:timeperiod1,timeperiod2,timeperiod3",
    "var": "var:timeperiod", "vhf": "vhf:timeperiod", "vwma": "vwma:timeperiod", "wcprice": "wclprice",
    "wilders": "rma:timeperiod", "willr": "willr:timeperiod", "wma": "wma:timeperiod",
}  # fmt: skip


def tulip_cases():
    """(name, options, vectors) of the blocks whose function TA-Lib has too."""
    for file in ("atoz.txt", "untest.txt", "extra.txt"):
        path = DATA / "tulip" / file
        if not path.exists():
            return
        for block in re.split(r"\n\s*\n", path.read_text()):
            lines = [line for line in block.splitlines() if line and not line.startswith("#")]
            if not lines or lines[0].split()[0] not in TULIP:
                continue
            name, *options = lines[0].split()
            vectors = [
                np.array([float(v) for v in line.strip("{} ").split(",")])
                for line in lines[1:]
                if line.startswith("{")
            ]
            yield pytest.param(
                file, name, [float(o) for o in options], vectors, id=f"{file}:{lines[0]}:{len(vectors[0])}"
            )


def test_the_tulip_vectors_are_there():
    if not DATA.exists():
        pytest.skip("needs ../shared/data, which is not part of the repository")
    assert len(list(tulip_cases())) > 45


@pytest.mark.parametrize(("file", "name", "options", "vectors"), list(tulip_cases()))
def test_tulips_published_vectors_come_out(file, name, options, vectors, series):
    """Wherever both libraries define a value the same way, to the vectors' own precision."""
    op, _, names = TULIP[name].partition(":")
    operator = OPERATORS[f"ta.{op}"]
    params = {}
    for key, value in zip(names.split(",") if names else [], options, strict=True):
        params[key] = int(value)
    inputs, outputs = vectors[: len(operator.inputs)], vectors[len(operator.inputs) :]
    got = series(f"ta.{op}", inputs, params)
    for mine, theirs in zip(got, outputs, strict=False):
        tail = mine[0, -len(theirs) :]
        both = ~np.isnan(tail)
        np.testing.assert_allclose(tail[both], theirs[both], rtol=2e-4, atol=2e-3)
        assert both.any()


def spy(name):
    """Columns of one of LEAN's tables; empty cells are NaN."""
    path = DATA / "lean" / name
    if not path.exists():
        pytest.skip("needs ../shared/data, which is not part of the repository")
    with path.open(encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    columns = {}
    for at, title in enumerate(rows[0]):
        try:
            columns[title.strip()] = np.array(
                [float(row[at] or "nan") for row in rows[1:] if len(row) == len(rows[0])]
            )
        except ValueError:
            continue
    return columns


LEAN = [
    ("spy_aroon_oscillator.txt", "ta.aroonosc", {"timeperiod": 14}, {"Aroon Oscillator 14": 0}),
    ("spy_atr_wilder.txt", "ta.atr", {"timeperiod": 14}, {"Average True Range 14": 0}),
    ("spy_cmf.txt", "ta.cmf", {"timeperiod": 20}, {"CMF_20": 0}),
    ("spy_bollinger_bands.txt", "ta.bbands", {"timeperiod": 20}, {"Bollinger Bands® 20 2 Top": 0, "Moving Average 20": 1, "Bollinger Bands® 20 2 Bottom": 2}),
    ("spy_hma.txt", "ta.hma", {"timeperiod": 16}, {"HMA_16": 0}),
    ("spy_kama.txt", "ta.kama", {"timeperiod": 5}, {"KAMA_5": 0}),
    ("spy_mfi.txt", "ta.mfi", {"timeperiod": 20}, {"Money Flow Index 20": 0}),
    ("spy_ultosc.txt", "ta.ultosc", {}, {"ULTOSC_7_14_28": 0}),
    ("spy_with_adx.txt", "ta.adx", {"timeperiod": 14}, {"ADX 14": 0}),
    ("spy_with_cci.txt", "ta.cci", {"timeperiod": 14}, {"Commodity Channel Index (CCI) 14": 0}),
    ("spy_with_don50.txt", "ta.donchian", {"timeperiod": 50}, {"Donchian Channels 50 Top": 0, "Donchian Channels 50 Mean": 1, "Donchian Channels 50 Bottom": 2}),
    ("spy_with_roc50.txt", "ta.mom", {"timeperiod": 50}, {"Rate of Change 50": 0}),
    ("spy_with_indicators.txt", "ta.rsi", {"timeperiod": 14}, {"RSI 14 Wilder": 0}),
    ("spy_with_indicators.txt", "ta.sma", {"timeperiod": 14}, {"SMA14": 0}),
    ("spy_with_indicators.txt", "ta.ema", {"timeperiod": 14}, {"EMA14": 0}),
    ("spy_with_stoch12k3.txt", "ta.stoch", {"fastk_period": 12, "slowk_period": 3, "slowd_period": 5}, {"Stochastics 12 %K 3": 0, "%D 5": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "op", "params", "columns"), LEAN, ids=[f"{row[0]}-{row[1]}" for row in LEAN]
)
def test_charting_tables_that_lean_is_tested_with_come_out(file, op, params, columns, series):
    """Once 200 bars are past, whatever the table's program seeded with; to the table's 4 to 7 digits."""
    table = spy(file)
    inputs = [table[field_of(name, at).capitalize()] for at, name in enumerate(OPERATORS[op].inputs)]
    got = series(op, inputs, params, timeframe="1d")
    for title, out in columns.items():
        expected = table[title]
        later = (np.arange(len(expected)) > min(200, len(expected) // 2)) & ~np.isnan(expected)
        assert later.sum() > 20
        np.testing.assert_allclose(got[out][0, later], expected[later], rtol=2e-3, atol=2e-3)


def test_candlestick_patterns_come_out_as_in_leans_table(series):
    table = spy("spy_candle_patterns.txt")
    candles = [table[name] for name in ("Open", "High", "Low", "Close")]
    names = [title for title in table if title.startswith("CDL")]
    seen = 0
    for name in names:
        got = series(f"ta.{name.lower()}", candles)[0][0]
        both = (
            ~np.isnan(got) & ~np.isnan(table[name]) & (np.abs(got) != 80)
        )  # 80: a weaker match, newer than the table
        np.testing.assert_array_equal(got[both], table[name][both], err_msg=name)
        seen += int((table[name][both] != 0).sum())
    assert len(names) > 55
    assert seen > 100
