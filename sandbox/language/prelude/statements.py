"""Part 5 of what runs before a filter (see `series`): bars, signal, show, Python's own functions on series, the result."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.language.prelude.logic import vyx_arithmetic, vyx_logic, vyx_truth
    from sandbox.language.prelude.operators import vyx_needed
    from sandbox.language.prelude.series import (
        VYX_SYMBOL_CHARS_MAX,
        Bars,
        Series,
        Symbol,
        vyx_called,
        vyx_constant,
        vyx_fail,
        vyx_is_number,
        vyx_limits,
        vyx_missing,
        vyx_nodes,
        vyx_poison,
        vyx_shown,
        vyx_signal,
        vyx_terms,
        vyx_timeframe_aliases,
        vyx_timeframes,
    )


def vyx_symbol(name: Any) -> Any:
    vyx_needed("symbol", ["name"], [name])
    if (
        not isinstance(name, str)
        or not name.isalnum()
        or name != name.upper()
        or len(name) > VYX_SYMBOL_CHARS_MAX
    ):
        vyx_fail(
            "V214",
            "symbol() takes the exchange's name of a symbol, not " + vyx_called(name) + ".",
            "For example symbol('BTCUSDT').bars('1h').close.",
            "argument:name",
        )
    return Symbol(name)


def vyx_bars(timeframe: Any, symbol: str, forming: Any) -> Any:
    if isinstance(timeframe, Series) or isinstance(forming, Series):
        return vyx_poison()
    if not isinstance(forming, bool):
        vyx_fail(
            "V212",
            "forming must be True or False, not " + vyx_called(forming) + ".",
            "bars('1h', forming=True) has the bar in progress as its last one.",
            "argument:forming",
        )
    known = ", ".join(vyx_timeframes)
    if timeframe is vyx_missing:
        vyx_fail("V103", "bars() needs a timeframe.", "Known: " + known + ".")
    if not isinstance(timeframe, str):
        vyx_fail(
            "V213",
            "bars() takes a timeframe as text, not " + vyx_called(timeframe) + ".",
            "Known: " + known + ".",
            "argument:timeframe",
        )
    if timeframe not in vyx_timeframes:
        lower = timeframe.strip().lower()
        meant = lower if lower in vyx_timeframes else vyx_timeframe_aliases.get(lower, "")
        hint = "Known: " + known + "."
        if meant:
            hint = "Did you mean '" + meant + "'? " + hint
        vyx_fail("V213", "There is no timeframe '" + timeframe[:40] + "'.", hint, "argument:timeframe")
    return Bars("forming" if forming else "bars", timeframe, symbol)


def vyx_signal_call(condition: Any) -> None:
    vyx_needed("signal", ["condition"], [condition])
    if isinstance(condition, (bool, int, float)):
        answer = "true" if condition else "false"
        vyx_fail(
            "V222",
            "The condition of signal() is always " + answer + ": it depends on no candle.",
            "Compare a series: signal(m15.close > ta.sma(m15.close, 20)).",
            "argument:condition",
        )
    if not isinstance(condition, Series):
        vyx_fail(
            "V202",
            "signal() takes a condition, not " + vyx_called(condition) + ".",
            "Compare a series: signal(m15.close > ta.sma(m15.close, 20)).",
            "argument:condition",
        )
    if vyx_signal:
        vyx_fail(
            "V221",
            "signal() is called a second time; a filter has one signal.",
            "Combine the conditions: signal(a or b).",
        )
    if condition.vyx_kind == "float":
        vyx_fail(
            "V202",
            "signal() takes a condition; this is a series of numbers.",
            "Compare it with something, for example x > 0.",
            "argument:condition",
        )
    vyx_signal.append(condition.vyx_node)


def vyx_show_call(args: Any, values: Any) -> None:
    if args:
        vyx_fail("V223", "show() takes names: show(rsi=...).", "Write show(name=value, ...).")
    for name, value in values.items():
        where = "argument:" + name
        if name in vyx_shown:
            vyx_fail("V223", "'" + name + "' is shown twice.", "Choose another name.", where)
        if not name.isidentifier() or len(name) > vyx_limits["name"]:
            hint = f"A Python name of at most {vyx_limits['name']} characters."
            vyx_fail("V223", f"{name[:64]!r} is no name for a shown value.", hint, where)
        if len(vyx_shown) >= vyx_limits["show"]:
            vyx_fail("V223", f"At most {vyx_limits['show']} values can be shown.", "Leave some out.", where)
        if isinstance(value, Series):
            vyx_shown[name] = value.vyx_node
        elif vyx_is_number(value):
            vyx_shown[name] = vyx_constant(value).vyx_node
        else:
            hint = "Choose a field: .close, .high, .low, .open or .volume." if isinstance(value, Bars) else ""
            vyx_fail(
                "V223", "show() reports numbers and conditions, not " + vyx_called(value) + ".", hint, where
            )


def vyx_term(term: int, value: Any) -> Any:
    if isinstance(value, Series):
        vyx_terms[term] = value.vyx_node
    elif vyx_is_number(value) and not isinstance(value, bool):
        vyx_terms[term] = vyx_constant(value).vyx_node
    return value


def vyx_all(items: Any) -> Any:
    values = list(items)
    return (
        vyx_logic("and", [True] + [vyx_lazy(value) for value in values]) if vyx_has(values) else all(values)
    )


def vyx_any(items: Any) -> Any:
    values = list(items)
    return (
        vyx_logic("or", [False] + [vyx_lazy(value) for value in values]) if vyx_has(values) else any(values)
    )


def vyx_lazy(value: Any) -> Any:
    return lambda: value


def vyx_has(values: Any) -> bool:
    return any([isinstance(value, (Series, Bars)) for value in values])  # noqa: C419 - Monty knows lists best


def vyx_sum(items: Any, start: Any = 0) -> Any:
    values = list(items)
    if not vyx_has(values):
        return sum(values, start)
    total = start
    for value in values:
        total = value if vyx_is_number(total) and total == 0 else total + value
    return total


def vyx_extreme(op: str, args: Any, options: Any) -> Any:
    """min() and max(): of series, the smaller or larger at each bar; of anything else, Python's own."""
    plain = min if op == "min" else max
    if options or (len(args) == 1 and not isinstance(args[0], (list, tuple, Series))):
        return plain(*args, **options)
    values = list(args[0]) if len(args) == 1 and not isinstance(args[0], Series) else list(args)
    if not vyx_has(values):
        return plain(*args)
    if len(values) < 2:
        vyx_fail(
            "V203",
            op + "() of one series: it compares values at the same bar.",
            "highest(s, n) and lowest(s, n) look at the last n bars.",
        )
    best = values[0]
    for value in values[1:]:
        best = vyx_arithmetic(op, op + "()", best, value) if vyx_has([best, value]) else plain(best, value)
    return best


def vyx_min(*args: Any, **options: Any) -> Any:
    return vyx_extreme("min", args, options)


def vyx_max(*args: Any, **options: Any) -> Any:
    return vyx_extreme("max", args, options)


def vyx_bool(value: Any = False) -> bool:
    return bool(vyx_truth(value, "bool()"))


def vyx_print(*args: Any, **options: Any) -> None:
    """Nobody reads what a filter prints."""


def vyx_finish() -> str:
    """The run's result as JSON, for the host to distrust."""
    return json.dumps(
        {
            "nodes": vyx_nodes,
            "signal": vyx_signal[0] if vyx_signal else None,
            "show": vyx_shown,
            "terms": [[term, node] for term, node in vyx_terms.items()],
        }
    )
