"""
Every TA-Lib function as an operator `ta.<lower-case name>`, generated from TA-Lib's own metadata.

Decided here: parameter ranges (TA-Lib's own, probed, periods capped at 500), warm-up lengths of the recursive
functions, and the two deliberate divergences from TA-Lib's Python wrapper:

* positions of an extreme (MAXINDEX, MININDEX, MINMAXINDEX) are given as *bars ago* (0 = this bar), since a position in
  an array means nothing in a stream;
* warm-up is NaN for integer outputs too (candlestick patterns, HT_TRENDMODE), where TA-Lib writes 0, and an infinite
  result is NaN.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import talib
import talib.stream
from talib import _ta_lib as untyped_ta_lib
from talib import abstract as untyped_abstract

from sandbox.plan.operators.interval import Bounds, anything, of_first, within
from sandbox.plan.operators.kind import BLOCK_BARS, STEP_NS, Average, Params, ParamValue, Run, RunRow
from sandbox.plan.operators.model import Operator, Param

PERIOD_MAX = 500
"""Longest period: a longer one is a coarser timeframe's job, and would outgrow the history that is kept."""
WARMUP_MAX_BARS = 2176
"""
Most warm-up a recursive function gets: 17 blocks, what EMA(200) and a Wilder average over 104 bars need to forget their seed.
Longer ones keep some of it: 2e-4 of the seed for EMA(500).
"""
SEED_WEIGHT = 1e-9
"""What may remain of the seed after the warm-up, relative to the seed."""
REVERSALS_BARS = 256
"""Warm-up of trailing stops: they forget their start after two reversals, which this many bars nearly always hold."""
HILBERT_WARMUP_BARS = 512
"""Hilbert transform functions smooth a period estimate that follows the price; measured in test_talib_functions."""

abstract: Any = untyped_abstract  # generated at import, so its types are not known
ta_lib: Any = untyped_ta_lib

_INT, _CHOICE = (
    2,
    3,
)  # TA_OptInput_IntegerRange, TA_OptInput_IntegerList of ta_abstract.h; other types are floats
_FLOAT_PROBES = (-1e4, -1e2, -1.0, 0.0, 0.001, 0.01, 0.02, 0.5, 0.99, 1.0, 2.0, 10.0, 100.0, 1e4)
_INDEX_FUNCTIONS = frozenset({"MAXINDEX", "MININDEX", "MINMAXINDEX"})
_CUMULATIVE = frozenset({"AD", "CUMSUM", "NVI", "OBV", "PVI", "PVT", "VWAP", "WAD"})

_SCANS_ITS_WINDOW = frozenset(
    {
        "AVGDEV",
        "CCI",
        "CORREL",
        "BETA",
        "LINEARREG",
        "LINEARREG_ANGLE",
        "LINEARREG_INTERCEPT",
        "LINEARREG_SLOPE",
    }
    | {"TSF", "FOSC", "IMI", "PERCENTILE", "PERCENTRANK", "VHF", "MAVP"}
)
"""Functions whose work for one bar grows with the period."""

_RANGES: dict[str, Bounds] = {
    **dict.fromkeys(("RSI", "MFI", "ADX", "ADXR", "DX", "PLUS_DI", "MINUS_DI"), within(0.0, 100.0)),
    **dict.fromkeys(("STOCH", "STOCHF", "STOCHRSI", "AROON", "ULTOSC"), within(0.0, 100.0)),
    "WILLR": within(-100.0, 0.0),
    **dict.fromkeys(("AROONOSC", "CMO"), within(-100.0, 100.0)),
    **dict.fromkeys(("BOP", "CORREL"), within(-1.0, 1.0)),
    **dict.fromkeys(("ATR", "NATR", "TRANGE", "STDDEV", "VAR"), within(0.0, math.inf)),
}
"""Oscillators and measures whose definition keeps them in a range."""
_BETWEEN_INPUTS = frozenset({"SMA", "WMA", "TRIMA", "MAX", "MIN"})
"""Functions whose result lies between two values of their input."""

Warmup = Callable[[Mapping[str, Any]], int]


def _decay(alpha: float) -> int:
    """Bars until a seed's weight (1 - alpha)^n is at most SEED_WEIGHT."""
    return 0 if alpha >= 1 else math.ceil(math.log(SEED_WEIGHT) / math.log1p(-alpha))


def _exponential(period: int, stages: int = 1) -> int:
    return stages * _decay(2 / (period + 1))


def _wilder(period: int, stages: int = 1) -> int:
    return stages * _decay(1 / period)


_KAMA_BARS = _decay((2 / 31) ** 2)  # its slowest constant: a 30-bar EMA's, squared (Kaufman)
_MA_EMA, _MA_KAMA, _MA_MAMA, _MA_RMA, _MA_DEFAULT = 1, 6, 7, 13, 11
_MA_STAGES = {
    1: 1,
    3: 2,
    4: 3,
    8: 6,
    12: 1,
}  # TA_MAType: EMA, DEMA, TEMA, T3, ZLEMA; the others have no memory


def _mama(slow_limit: float) -> int:
    return _decay(slow_limit) + _decay(slow_limit / 2)


def _moving_average(kind: int, period: int) -> int:
    """Warm-up of TA-Lib's MA of this type."""
    if kind == _MA_KAMA:
        return _KAMA_BARS
    if kind == _MA_MAMA:
        return _mama(0.05)
    if kind in (_MA_RMA, _MA_DEFAULT):  # the function's own default: at most Wilder's
        return _wilder(period)
    return _exponential(period, _MA_STAGES[kind]) if kind in _MA_STAGES else 0


def _ema_of(name: str = "timeperiod", stages: int = 1) -> Warmup:
    return lambda p: _exponential(p[name], stages)


def _wilder_of(name: str = "timeperiod", stages: int = 1) -> Warmup:
    return lambda p: _wilder(p[name], stages)


def _fast_slow(p: Mapping[str, Any]) -> int:
    return _moving_average(p["matype"], max(p["fastperiod"], p["slowperiod"]))


def _fixed(bars: int) -> Warmup:
    return lambda _p: bars


_WARMUP: dict[str, Warmup] = {
    **dict.fromkeys(("EMA", "ZLEMA", "ERI", "EFI", "CVI"), _ema_of()),
    **dict.fromkeys(
        ("RMA", "RSI", "CMO", "ATR", "NATR", "DX", "PLUS_DI", "MINUS_DI", "PLUS_DM", "MINUS_DM", "RVI"),
        _wilder_of(),
    ),
    **dict.fromkeys(("ADX", "ADXR"), _wilder_of(stages=2)),
    **dict.fromkeys(("APO", "PPO", "PVO"), _fast_slow),
    **dict.fromkeys(
        ("HT_DCPERIOD", "HT_DCPHASE", "HT_PHASOR", "HT_SINE", "HT_TRENDLINE", "HT_TRENDMODE"),
        _fixed(HILBERT_WARMUP_BARS),
    ),
    **dict.fromkeys(("SAR", "SAREXT"), _fixed(REVERSALS_BARS)),
    **dict.fromkeys(sorted(_CUMULATIVE), _fixed(WARMUP_MAX_BARS)),
    "DEMA": _ema_of(stages=2),
    "TEMA": _ema_of(stages=3),
    "TRIX": _ema_of(stages=3),
    "T3": _ema_of(stages=6),
    "KAMA": _fixed(_KAMA_BARS),
    "MAMA": lambda p: _mama(min(p["fastlimit"], p["slowlimit"])),
    "HA": _fixed(_decay(0.5)),
    "MACD": lambda p: _exponential(max(p["fastperiod"], p["slowperiod"])) + _exponential(p["signalperiod"]),
    "MACDFIX": lambda p: _exponential(26) + _exponential(p["signalperiod"]),
    "MACDEXT": lambda p: (
        max(
            _moving_average(p["fastmatype"], p["fastperiod"]),
            _moving_average(p["slowmatype"], p["slowperiod"]),
        )
        + _moving_average(p["signalmatype"], p["signalperiod"])
    ),
    "ADOSC": lambda p: _exponential(max(p["fastperiod"], p["slowperiod"])),
    "MASSI": _ema_of("fastperiod", stages=2),
    "TSI": lambda p: _exponential(p["firstperiod"]) + _exponential(p["secondperiod"]),
    "SMI": lambda p: (
        _exponential(p["fastperiod"]) + _exponential(p["slowperiod"]) + _exponential(p["signalperiod"])
    ),
    "KC": lambda p: max(_exponential(p["timeperiod"]), _wilder(p["atrperiod"])),
    "SUPERTREND": lambda p: _wilder(p["timeperiod"]) + REVERSALS_BARS,
    "MA": lambda p: _moving_average(p["matype"], p["timeperiod"]),
    "MAVP": lambda p: _moving_average(p["matype"], p["maxperiod"]),
    "BBANDS": lambda p: _moving_average(p["matype"], p["timeperiod"]),
    "STOCHF": lambda p: _moving_average(p["fastd_matype"], p["fastd_period"]),
    "STOCHRSI": lambda p: _wilder(p["timeperiod"]) + _moving_average(p["fastd_matype"], p["fastd_period"]),
    **dict.fromkeys(
        ("STOCH", "KDJ"),
        lambda p: (
            _moving_average(p["slowk_matype"], p["slowk_period"])
            + _moving_average(p["slowd_matype"], p["slowd_period"])
        ),
    ),
}


def _input_names(info: Mapping[str, Any]) -> tuple[str, ...]:
    """TA-Lib's inputs in the order its functions take them; a lone price is called `real`, as in TA-Lib's signatures."""
    names: list[str] = []
    for key, value in info["input_names"].items():
        if isinstance(value, list):
            names.extend(value)
        else:
            names.append(key.replace("price", "real"))
    return tuple(names)


def _accepted(function: Callable[..., Any], inputs: int, params: Params) -> bool:
    """Whether TA-Lib takes these parameters. Its error names no parameter, so ranges are found by asking."""
    try:
        function(*[np.ones(3)] * inputs, **params)
    except Exception as refusal:  # TA-Lib raises nothing more precise
        if "TA_BAD_PARAM" not in str(refusal):
            raise
        return False
    return True


def _param(function: Callable[..., Any], inputs: int, info: Mapping[str, Any]) -> Param:
    """One optional input of TA-Lib with the range that TA-Lib accepts, periods capped at PERIOD_MAX."""
    name = info["name"]

    def accepts(value: ParamValue) -> bool:
        return _accepted(function, inputs, {name: value})

    if info["type"] == _CHOICE:
        kinds = tuple(kind for kind in range(32) if accepts(kind))
        return Param(name, "int", int(info["default_value"]), kinds[0], kinds[-1], kinds, info["help"])
    if info["type"] == _INT:
        low = next(value for value in range(32) if accepts(value))
        return Param(name, "int", int(info["default_value"]), low, PERIOD_MAX, (), info["help"])
    taken = [value for value in _FLOAT_PROBES if accepts(value)]
    return Param(name, "float", float(info["default_value"]), taken[0], taken[-1], (), info["help"])


def _lookback(name: str) -> Callable[[Params], int]:
    @lru_cache(maxsize=4096)
    def of(items: tuple[tuple[str, ParamValue], ...]) -> int:
        function = abstract.Function(name)
        function.set_parameters(dict(items))
        return int(function.lookback)

    return lambda params: of(tuple(sorted(params.items())))


def _capped(warmup: Warmup | None) -> Callable[[Params], int]:
    if warmup is None:
        return lambda _params: 0
    return lambda params: min(WARMUP_MAX_BARS, warmup(params))


def _bars_ago(function: RunRow) -> RunRow:
    """Turn TA-Lib's array positions into distances from the current bar."""

    def run(*rows: Any, **params: ParamValue) -> tuple[Any, ...]:
        positions: Any = function(*rows, **params)
        here = np.arange(len(rows[0]))
        return tuple(here - position for position in positions)

    return run


def _tuple_of(function: Callable[..., Any]) -> RunRow:
    def run(*rows: Any, **params: ParamValue) -> tuple[Any, ...]:
        raw = function(*rows, **params)
        return raw if isinstance(raw, tuple) else (raw,)

    return run


def _cost_ns(name: str) -> Callable[[Params], int]:
    if name not in _SCANS_ITS_WINDOW:
        return lambda _params: STEP_NS
    return lambda params: STEP_NS * (1 + int(params.get("maxperiod", params.get("timeperiod", 0))) // 4)


def _bounds(name: str) -> Bounds:
    if name in _BETWEEN_INPUTS:
        return of_first
    return _RANGES.get(name, anything)


def _memory_note(name: str) -> str:
    if name in _CUMULATIVE:
        return (
            f" A running total of the last {WARMUP_MAX_BARS} to {WARMUP_MAX_BARS + BLOCK_BARS - 1} bars or, where that is less, of all"
            " there are. However far a filter looks back, it sees one and the same total, so differences and comparisons"
            " over time mean something; its level does not."
        )
    if name in _WARMUP:
        return " Recursive: given a fixed warm-up before the block of 128 bars that holds the bar."
    return ""


def _operator(name: str) -> Operator:
    info = abstract.Function(name).info
    function = getattr(talib, name)
    inputs = _input_names(info)
    count = ta_lib._ta_getFuncInfo(name.encode())["num_opt_inputs"]  # noqa: SLF001 - the only place with parameter types
    params = tuple(
        _param(function, len(inputs), ta_lib._ta_getOptInputParameterInfo(name.encode(), index))  # noqa: SLF001 - as above
        for index in range(count)
    )

    def check(values: Params) -> str | None:
        return (
            None if _accepted(function, len(inputs), values) else "TA-Lib refuses these parameters together"
        )

    returned = _tuple_of(function)
    kind = (Average if name == "SMA" else Run)(
        run=_bars_ago(returned) if name in _INDEX_FUNCTIONS else returned,
        window=_lookback(name),
        warmup=_capped(_WARMUP.get(name)),
        stream=None if name in _INDEX_FUNCTIONS else getattr(talib.stream, name),
        total=name in _CUMULATIVE,
    )
    return Operator(
        name=f"ta.{name.lower()}",
        inputs=inputs,
        params=params,
        outputs=tuple(info["output_names"]),
        returns="float",
        category=info["group"],
        doc=f"{info['display_name']} (TA-Lib {name}). NaN until TA-Lib's lookback is filled.{_memory_note(name)}",
        kind=kind,
        input_kinds=tuple("float" for _ in inputs),
        check=check,
        bounds=_bounds(name),
        cost_ns=_cost_ns(name),
    )


def talib_operators() -> list[Operator]:
    """One operator per function of the installed TA-Lib, in TA-Lib's group order."""
    groups: dict[str, list[str]] = talib.get_function_groups()  # type: ignore[no-untyped-call]
    return [_operator(name) for names in groups.values() for name in names]
