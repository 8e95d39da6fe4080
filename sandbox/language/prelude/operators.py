"""Part 3 of what runs before a filter (see `series`): looking back with s[n], and calls of operators."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.language.prelude.series import (
        VYX_INT_MAX,
        VYX_SHIFT_MAX,
        Bars,
        Series,
        vyx_called,
        vyx_constant,
        vyx_digits,
        vyx_fail,
        vyx_is_finite,
        vyx_is_number,
        vyx_missing,
        vyx_operators,
        vyx_record,
    )


def vyx_shift(series: Any, n: Any) -> Any:
    if isinstance(n, Series) and n.vyx_kind == "poison":
        return n
    if isinstance(n, bool) or not isinstance(n, int):
        hint = "s[1] is the value one bar ago; highest(s, n) and lowest(s, n) look at a range."
        if isinstance(n, Series):
            hint = "n must be known when the filter is read; valuewhen(condition, s) looks up a moment."
        vyx_fail("V206", "s[n] takes a whole number of bars, not " + vyx_called(n) + ".", hint, "index")
    if n < 0:
        vyx_fail(
            "V210",
            "s[" + vyx_digits(n) + "] looks ahead: it asks for bars that have not happened yet.",
            "s[" + vyx_digits(-n) + "] is " + vyx_digits(-n) + (" bar ago." if n == -1 else " bars ago."),
            "index",
        )
    if n > VYX_SHIFT_MAX:
        vyx_fail(
            "V211",
            "s[" + vyx_digits(n) + "] looks too far back: at most " + str(VYX_SHIFT_MAX) + " bars.",
            "Use a coarser timeframe.",
            "index",
        )
    if n == 0 or series.vyx_kind == "poison":
        return series
    return vyx_record("shift", (series.vyx_node,), {"n": n}, 0, series.vyx_kind)


def vyx_input(name: str, argument: str, wanted: str, value: Any) -> Any:
    """The series for one input of an operator."""
    if isinstance(value, Series):
        if wanted == "bool" and value.vyx_kind == "float":
            vyx_fail(
                "V202",
                name + "() takes a condition; this is a series of numbers.",
                "Compare it with something, for example x > 0.",
                "argument:" + argument,
            )
        return value
    if vyx_is_number(value) and wanted != "bool":
        return vyx_constant(value)
    hint = "For example m15.close, where m15 = bars('15m')."
    if isinstance(value, Bars):
        hint = "Choose a field: .close, .high, .low, .open or .volume."
    elif isinstance(value, bool):
        hint = "The condition must depend on candles."
    elif isinstance(value, tuple):
        hint = "Functions with several outputs give a tuple: upper, middle, lower = ta.bbands(m15.close)."
    thing = "a condition" if wanted == "bool" else "a series"
    message = name + "() takes " + thing + " for " + argument + ", not " + vyx_called(value) + "."
    return vyx_fail("V204", message, hint, "argument:" + argument)


def vyx_param(name: str, spec: Any, value: Any) -> Any:
    """A parameter of an operator in its kind and range."""
    argument, kind, low, high, choices = spec
    if isinstance(value, Series) and value.vyx_kind == "poison":
        return low if low is not None else 0
    where = "argument:" + argument
    value = vyx_of_kind(name, argument, kind, value)
    shown = f"{name}(): {argument} is {vyx_digits(value)}"
    if choices and value not in choices:
        vyx_fail("V211", f"{shown}; it can be {', '.join([str(choice) for choice in choices])}.", "", where)
    if low is not None and value < low:
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        vyx_fail("V211", f"{shown}; it must be {allowed}.", "", where)
    if high is not None and value > high:
        hint = "Use a coarser timeframe to look further back." if kind == "int" else ""
        vyx_fail("V211", f"{shown}; it must be from {low} to {high}.", hint, where)
    return value


def vyx_of_kind(name: str, argument: str, kind: str, value: Any) -> Any:
    """*value* as an int, float or text."""
    where = "argument:" + argument
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return vyx_finite(name, value, where)
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "int" and isinstance(value, float) and value % 1 == 0:
        return int(value)
    if kind == "str" and isinstance(value, str):
        return value
    wanted = {"int": "a whole number", "float": "a number", "str": "text"}[kind]
    hint = "Parameters must be known when the filter is read." if isinstance(value, (Series, Bars)) else ""
    return vyx_fail("V212", f"{name}() takes {wanted} for {argument}, not {vyx_called(value)}.", hint, where)


def vyx_finite(name: str, value: Any, where: str) -> float:
    number = float(value) if abs(value) < VYX_INT_MAX else float("inf")
    if not vyx_is_finite(number):
        vyx_fail("V207", name + "() takes finite numbers.", "", where)
    return number


def vyx_needed(name: str, names: Any, values: Any) -> None:
    """All arguments are there."""
    for i in range(len(names)):
        if values[i] is vyx_missing:
            vyx_fail(
                "V103", name + "() needs " + names[i] + ".", "Write " + name + "(" + ", ".join(names) + ")."
            )


def vyx_call(name: str, inputs: Any, params: Any) -> Any:
    """One use of an operator: a series, or a tuple of them."""
    names, kinds, specs, outputs, kind = vyx_operators[name]
    vyx_needed(name, list(names) + [spec[0] for spec in specs], list(inputs) + list(params))
    series = [vyx_input(name, names[i], kinds[i], inputs[i]) for i in range(len(inputs))]
    values = {}
    for i in range(len(specs)):
        values[specs[i][0]] = vyx_param(name, specs[i], params[i])
    given = [value for value in inputs if isinstance(value, Series)]
    if len(given) == 0 and len(inputs) > 0:
        vyx_fail(
            "V204",
            name + "() needs a series, for example m15.close, where m15 = bars('15m').",
            "The series comes first, then the parameters.",
            "argument:" + names[0],
        )
    if kind == "same":
        is_logic = all([value.vyx_kind == "bool" for value in given])  # noqa: C419 - Monty knows lists best
        kind = "bool" if is_logic else "float"
    for value in given:
        if value.vyx_kind == "poison":
            kind = "poison"
    args = tuple([value.vyx_node for value in series])
    found = [vyx_record(name, args, values, out, kind) for out in range(outputs)]
    return found[0] if outputs == 1 else tuple(found)
