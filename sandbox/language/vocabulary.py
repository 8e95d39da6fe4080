"""
The words of the language, and what people coming from elsewhere write for them.

Decided here: hints for foreign names. The words themselves follow from the operator registry.
"""

from sandbox.plan.operators import OPERATORS, Operator

FIELDS = ("open", "high", "low", "close", "volume", "hl2", "hlc3", "ohlc4", "timeframe")
FUNCTIONS = frozenset(
    name for name, operator in OPERATORS.items() if not operator.internal and "." not in name
)
TA_FUNCTIONS = frozenset(name[3:] for name in OPERATORS if name.startswith("ta."))
GLOBALS = (
    FUNCTIONS
    | {"ta", "bars", "symbol", "signal", "show", "where", "MA_Type"}
    | {
        "abs",
        "all",
        "any",
        "bool",
        "dict",
        "enumerate",
        "filter",
        "float",
        "int",
        "isinstance",
        "len",
        "list",
        "map",
        "max",
        "min",
        "range",
        "reversed",
        "round",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
        "zip",
    }
)
"""Every name a filter finds defined."""
LANGUAGE = FUNCTIONS | {"ta", "bars", "symbol", "signal", "show", "where"}
"""Those of them that know series only."""

SERIES_HINTS = {
    "shift": "s[1] is the value one bar ago.",
    "iloc": "s[1] is the value one bar ago, s[0] or s the current one.",
    "rolling": "ta.sma(s, 20), highest(s, 20), lowest(s, 20), ta.stddev(s, 20).",
    "ewm": "ta.ema(s, 20).",
    "mean": "ta.sma(s, 20) is the mean of the last 20 bars.",
    "std": "ta.stddev(s, 20).",
    "max": "highest(s, 20) is the largest of the last 20 bars.",
    "min": "lowest(s, 20) is the smallest of the last 20 bars.",
    "sum": "ta.sum(s, 20) is the sum of the last 20 bars.",
    "diff": "change(s) is s - s[1].",
    "pct_change": "ta.rocp(s, 1), or s / s[1] - 1.",
    "abs": "abs(s).",
    "fillna": "nz(s, 0).",
    "any": "barssince(condition) < 20 says whether it held in the last 20 bars.",
    "all": "ta.min(where(condition, 1, 0), 20) == 1 says whether it held for 20 bars.",
    "values": "A filter does not see values; compare the series itself.",
    "tail": "highest, lowest and ta.* look at the last n bars.",
    "append": "A series cannot be changed.",
}
_FOREIGN = {
    "close": "m15 = bars('15m'), then m15.close.",
    "open": "m15 = bars('15m'), then m15.open.",
    "high": "m15 = bars('15m'), then m15.high.",
    "low": "m15 = bars('15m'), then m15.low.",
    "volume": "m15 = bars('15m'), then m15.volume.",
    "talib": "ta.rsi(m15.close, 14): ta is TA-Lib, in lower case.",
    "np": "Series are arrays already: m15.close > ta.sma(m15.close, 20).",
    "pd": "Series are columns already: m15.close > ta.sma(m15.close, 20).",
    "math": "import math",
    "alert": "signal(condition)",
    "alertcondition": "signal(condition)",
    "plot": "show(name=value)",
    "ref": "s[n] is the value n bars ago.",
    "cross": "crossover(a, b) or crossunder(a, b).",
    "crosses_above": "crossover(a, b)",
    "crosses_below": "crossunder(a, b)",
    "cross_above": "crossover(a, b)",
    "cross_below": "crossunder(a, b)",
    "crossed_above": "crossover(a, b)",
    "crossed_below": "crossunder(a, b)",
    "iff": "where(condition, x, y), or x if condition else y.",
    "true": "True",
    "false": "False",
    "null": "None",
    "none": "None",
    "na": "A comparison with a missing value is false; nz(s, 0) replaces it.",
    "hhv": "highest(s, n)",
    "llv": "lowest(s, n)",
    "avg": "(a + b) / 2",
}


def function_hint(name: str) -> str:
    """What to write for a name that is not defined but means something elsewhere: `rsi` is ta.rsi."""
    if name in _FOREIGN:
        return _FOREIGN[name]
    if name.lower() in TA_FUNCTIONS:
        return f"Did you mean ta.{name.lower()}?"
    return ""


_SIGNATURES = {
    "bars": ("timeframe",),
    "symbol": ("name",),
    "signal": ("condition",),
    "show": ("name=value",),
    "each": ("fn", "*series", "bars=1", "when=condition"),
}


def argument_names(function: str) -> tuple[str, ...]:
    """The arguments of a function of the language in order, or nothing when it is not one."""
    operator = _operator(function)
    if operator is None:
        return _SIGNATURES.get(function.rsplit(".", 1)[-1], ())
    return (*operator.inputs, *(param.name for param in operator.params))


def arguments_hint(function: str) -> str:
    """How to call a function of the language."""
    operator = _operator(function)
    if operator is None:
        given = _SIGNATURES.get(function)
        return f"Write {function}({', '.join(given)})." if given else ""
    return f"Write {operator.name}({signature_text(operator)})."


def signature_text(operator: Operator) -> str:
    """The arguments of an operator's function as people write them: inputs, then parameters with defaults."""
    given = _SIGNATURES.get(operator.name)
    if given is not None:
        return ", ".join(given)
    params = [p.name if p.default is None else f"{p.name}={_default(p.default)}" for p in operator.params]
    return ", ".join([*operator.inputs, *params])


def _default(value: float | str) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}"


def _operator(function: str) -> Operator | None:
    operator = OPERATORS.get(function) or OPERATORS.get(f"ta.{function}")
    if function in _SIGNATURES:
        return None
    return None if operator is None or operator.internal else operator
