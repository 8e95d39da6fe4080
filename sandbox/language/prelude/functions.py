"""Part 4 of what runs before a filter (see `series`): the functions that a filter gives to `each`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.language.prelude.logic import vyx_combine, vyx_compare
    from sandbox.language.prelude.operators import vyx_input, vyx_needed, vyx_param
    from sandbox.language.prelude.series import (
        VYX_INT_MAX,
        VYX_LITERAL_DEPTH_MAX,
        Bars,
        Series,
        Symbol,
        vyx_called,
        vyx_fail,
        vyx_functions,
        vyx_is_finite,
        vyx_limits,
        vyx_missing,
        vyx_operators,
        vyx_poison,
        vyx_record,
    )


class Function:
    """A function given to `each`: the text that defines it with the values it uses."""

    def __init__(self, vyx_name: str, vyx_text: str, vyx_least: int, vyx_most: int) -> None:
        self.vyx_name = vyx_name
        self.vyx_text = vyx_text
        self.vyx_least = vyx_least
        self.vyx_most = vyx_most
        self.vyx_is_condition = False


def vyx_function(function: int, fn: Any, values: Any) -> Any:
    """What `each` is given for the function *fn*: its text out of the filter, and the values it uses now."""
    captured = vyx_functions[function]
    if captured is None or isinstance(fn, Series):
        return vyx_poison()
    name, text, least, most, is_condition = captured
    lines = []
    for value_name, value in values().items():
        lines.append(value_name + " = " + vyx_literal(value_name, value, 0) + "\n")
    text = "".join(lines) + text
    if len(text.encode()) > vyx_limits["function"]:
        vyx_fail(
            "V242",
            f"The function has {len(text.encode())} bytes with the values it uses; "
            f"at most {vyx_limits['function']} are allowed.",
            "Give it fewer values.",
        )
    made = Function(name, text, least, most)
    made.vyx_is_condition = is_condition
    return made


def vyx_literal(name: str, value: Any, depth: int) -> str:
    """Python text for a plain value that a function given to `each` uses."""
    if depth > VYX_LITERAL_DEPTH_MAX:
        vyx_fail("V240", name + " is nested too deeply to be carried.")
    if value is None or isinstance(value, (bool, str)):
        return repr(value)
    if isinstance(value, (int, float)):
        return vyx_literal_number(name, value)
    if isinstance(value, (list, tuple, set)):
        items = "".join([vyx_literal(name, item, depth + 1) + ", " for item in value])
        text = "[" + items + "]" if isinstance(value, list) else "(" + items + ")"
        return "set(" + text + ")" if isinstance(value, set) else text
    if isinstance(value, dict):
        pairs = [(vyx_literal(name, key, depth + 1), value[key]) for key in value]
        return "{" + "".join([k + ": " + vyx_literal(name, v, depth + 1) + ", " for k, v in pairs]) + "}"
    return vyx_not_carried(name, value)


def vyx_literal_number(name: str, value: Any) -> str:
    if isinstance(value, int) and abs(value) >= VYX_INT_MAX:
        vyx_fail("V240", name + " is a number too large to be carried.")
    return repr(value) if vyx_is_finite(value) else "float('" + str(value) + "')"


def vyx_not_carried(name: str, value: Any) -> str:
    if isinstance(value, Series) and value.vyx_kind == "poison":
        return "None"
    if isinstance(value, (Series, Bars, Symbol)):
        vyx_fail(
            "V241",
            name + " is a series, or has some; a function given to each() sees plain numbers.",
            "Give it to each() and let the function take one list more.",
        )
    vyx_fail(
        "V240",
        name + " is a " + type(value).__name__ + ", which cannot be carried with a function.",
        "Plain values, functions of the top level and modules can.",
    )
    return ""


def vyx_each(fn: Any, series: Any, bars: Any, when: Any) -> Any:
    """One use of `each`: numbers, or a condition when the function gives nothing but truths."""
    vyx_needed("each", ["fn"], [fn])
    if isinstance(fn, Series) and fn.vyx_kind == "poison":
        return fn
    if not isinstance(fn, Function):
        vyx_fail(
            "V240",
            "each() takes a function of the filter first, not " + vyx_called(fn) + ".",
            "Write each(f, series, ...), where f is defined at top level, or a lambda in its place.",
        )
    vyx_fits(fn, len(series))
    inputs = [vyx_input("each", "series", "any", value) for value in series]
    given = [value for value in series if isinstance(value, Series)]
    if not given:
        vyx_fail("V204", "each() needs a series, for example m15.close, where m15 = bars('15m').")
    bars = vyx_param("each", vyx_operators["each"][2][0], bars)
    if when is vyx_missing:
        when = vyx_combine("and", [vyx_record("eq", (s.vyx_node, s.vyx_node), {}, 0, "bool") for s in given])
    else:
        when = vyx_input("each", "when", "bool", when)
    for value in [*given, when]:
        if value.vyx_kind == "poison":
            return value
    args = tuple([when.vyx_node] + [value.vyx_node for value in inputs])
    params = {"source": fn.vyx_text, "name": fn.vyx_name, "bars": bars}
    value = vyx_record("each", args, params, 0, "float")
    return vyx_compare("ne", value, 0) if fn.vyx_is_condition else value


def vyx_fits(fn: Any, count: int) -> None:
    """The function takes *count* lists."""
    if count == 0:
        vyx_fail("V103", "each() needs a series after the function.", "Write each(f, m15.close, bars=3).")
    if count < fn.vyx_least or (fn.vyx_most >= 0 and count > fn.vyx_most):
        wanted = str(fn.vyx_least)
        if fn.vyx_most != fn.vyx_least:
            wanted = "at least " + wanted if fn.vyx_most < 0 else wanted + " to " + str(fn.vyx_most)
        vyx_fail(
            "V103",
            f"The function given to each() takes {wanted} lists, and each() is given {count} series.",
            "It gets one list for each series.",
        )
