"""
What runs inside Monty before a filter: symbolic series that record a graph instead of computing it.

This text is not imported by the service; `sandbox.language.prelude.assemble` reads it, appends the functions generated from
the operator registry, and Monty runs both. So it keeps to what Monty understands (no inheritance, properties,
decorators on methods, `yield`, `del`) and to nothing that compares or tests a series by Python's own rules.

Decided here: what a filter's expressions record, and every mistake that only running the filter can show. Whatever
leaves here is untrusted: the host reads it as data and validates it again (`sandbox.plan.document`).
"""

import json
from typing import Any

VYX_NODES_MAX = 20_000
"""Distinct nodes a run may record; a plan has at most a tenth of that, unused ones are dropped."""
VYX_SHIFT_MAX = 1000
"""Largest n of `s[n]`; the operator registry has the same bound."""

VYX_SYMBOL_CHARS_MAX = 32
VYX_LITERAL_DEPTH_MAX = 20
VYX_INT_MAX = 10**300
"""Larger whole numbers have no place in a float, and their digits none in a message."""

vyx_nodes: list[Any] = []
vyx_index: dict[Any, int] = {}
vyx_statement: list[Any] = [0]
vyx_missing: list[Any] = []
"""Stands for an argument that was not given; known by identity."""
vyx_signal: list[int] = []
vyx_shown: dict[str, int] = {}
vyx_terms: dict[int, int] = {}
vyx_limits: dict[str, int] = {}
vyx_functions: list[Any] = []
"""What `each` may be given, in the order of the text: name, text, least and most arguments, whether a condition."""
vyx_operators: dict[str, Any] = {}
vyx_timeframes: list[str] = []
vyx_timeframe_aliases: dict[str, str] = {}


def vyx_fail(code: str, message: str, hint: str = "", where: str = "") -> Any:
    """End this statement with a diagnostic; *where* names an argument ("argument:n") or operand ("operand:0")."""
    raise ValueError("vyx!" + json.dumps([code, message, hint, where]))


def vyx_at(statement: int) -> None:
    vyx_statement[0] = statement


def vyx_where_now() -> Any:
    return vyx_statement[0]


class Series:
    """One value per symbol and bar, known when the market is: here only its place in the graph and its kind."""

    def __init__(self, vyx_node: int, vyx_kind: str) -> None:
        self.vyx_node = vyx_node
        self.vyx_kind = vyx_kind

    def __add__(self, other: Any) -> Any:
        return vyx_arithmetic("add", "+", self, other)

    def __radd__(self, other: Any) -> Any:
        return vyx_arithmetic("add", "+", other, self)

    def __sub__(self, other: Any) -> Any:
        return vyx_arithmetic("sub", "-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return vyx_arithmetic("sub", "-", other, self)

    def __mul__(self, other: Any) -> Any:
        return vyx_arithmetic("mul", "*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return vyx_arithmetic("mul", "*", other, self)

    def __truediv__(self, other: Any) -> Any:
        return vyx_arithmetic("div", "/", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return vyx_arithmetic("div", "/", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return vyx_record("floor", (vyx_arithmetic("div", "//", self, other).vyx_node,), {}, 0, "float")

    def __rfloordiv__(self, other: Any) -> Any:
        return vyx_record("floor", (vyx_arithmetic("div", "//", other, self).vyx_node,), {}, 0, "float")

    def __mod__(self, other: Any) -> Any:
        return vyx_arithmetic("mod", "%", self, other)

    def __rmod__(self, other: Any) -> Any:
        return vyx_arithmetic("mod", "%", other, self)

    def __pow__(self, other: Any) -> Any:
        return vyx_arithmetic("pow", "**", self, other)

    def __rpow__(self, other: Any) -> Any:
        return vyx_arithmetic("pow", "**", other, self)

    def __neg__(self) -> Any:
        return vyx_record("neg", (self.vyx_node,), {}, 0, "float")

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return vyx_record("abs", (self.vyx_node,), {}, 0, "float")

    def __and__(self, other: Any) -> Any:
        return vyx_bitwise("and", "&", self, other)

    def __rand__(self, other: Any) -> Any:
        return vyx_bitwise("and", "&", other, self)

    def __or__(self, other: Any) -> Any:
        return vyx_bitwise("or", "|", self, other)

    def __ror__(self, other: Any) -> Any:
        return vyx_bitwise("or", "|", other, self)

    def __invert__(self) -> Any:
        return vyx_not(self, "~")

    def __getitem__(self, n: Any) -> Any:
        return vyx_shift(self, n)

    def __setitem__(self, n: Any, value: Any) -> None:
        vyx_fail("V205", "A series cannot be changed.", "Make a new one: where(condition, new, old).")

    def __iter__(self) -> Any:
        if self.vyx_kind == "poison":
            return iter([self, self, self])
        return vyx_fail(
            "V203",
            "A series cannot be looped over or unpacked: its values are not known when the filter is read.",
            "Look back with s[n], or use highest, lowest, change, ta.sum and the like.",
        )

    def __call__(self, *_args: Any, **_options: Any) -> Any:
        if self.vyx_kind == "poison":
            return self
        return vyx_fail("V203", "A series is not a function.", "s[n] is its value n bars ago.")

    def __len__(self) -> int:
        vyx_fail(
            "V203", "A series has no length.", "How far back it reaches is decided by the operators used."
        )
        return 0

    def __contains__(self, item: Any) -> bool:
        vyx_fail("V203", "`in` cannot look into a series.", "Compare with == or with highest and lowest.")
        return False

    def __str__(self) -> str:
        return "<series>"

    def __repr__(self) -> str:
        return "<series>"


class Bars:
    """The candles of one timeframe, field by field, and their usual averages; *vyx_op* is "bars" or "forming"."""

    def __init__(self, vyx_op: str, vyx_timeframe: str, vyx_symbol: str) -> None:
        self.timeframe = vyx_timeframe
        self.open = vyx_field(vyx_op, vyx_timeframe, "open", vyx_symbol)
        self.high = vyx_field(vyx_op, vyx_timeframe, "high", vyx_symbol)
        self.low = vyx_field(vyx_op, vyx_timeframe, "low", vyx_symbol)
        self.close = vyx_field(vyx_op, vyx_timeframe, "close", vyx_symbol)
        self.volume = vyx_field(vyx_op, vyx_timeframe, "volume", vyx_symbol)
        self.hl2 = (self.high + self.low) / 2
        self.hlc3 = (self.high + self.low + self.close) / 3
        self.ohlc4 = (self.open + self.high + self.low + self.close) / 4


class Symbol:
    """One fixed symbol, whose candles every symbol is screened beside."""

    def __init__(self, vyx_name: str) -> None:
        self.vyx_name = vyx_name

    def bars(self, timeframe: Any = vyx_missing, forming: Any = False) -> Any:
        return vyx_bars(timeframe, self.vyx_name, forming)


def vyx_record(op: str, args: Any, params: Any, out: int, kind: str) -> Any:
    """The series of this node; equal nodes are one."""
    key = (op, args, tuple(params.items()), out)
    node = vyx_index.get(key)
    if node is None:
        node = len(vyx_nodes)
        if node >= VYX_NODES_MAX:
            vyx_fail("V302", "The filter builds too many different series.", "Build fewer in loops.")
        vyx_index[key] = node
        vyx_nodes.append([op, args, params, out, vyx_statement[0]])
    return Series(node, kind)


def vyx_poison() -> Any:
    """Stands for a value whose statement failed: anything may be done with it, nothing is reported."""
    series = Series(-1, "poison")
    for name in ["open", "high", "low", "close", "volume", "hl2", "hlc3", "ohlc4", "timeframe"]:
        setattr(series, name, series)
    return series


def vyx_field(op: str, timeframe: str, name: str, symbol: str) -> Any:
    params = {"timeframe": timeframe, "field": name}
    if symbol:
        params["symbol"] = symbol
    return vyx_record(op, (), params, 0, "float")


def vyx_is_finite(number: Any) -> bool:
    return bool(number - number == 0)


def vyx_constant(value: Any) -> Any:
    number = float(value) if abs(value) < VYX_INT_MAX else float("inf")
    if not vyx_is_finite(number):
        vyx_fail("V207", "A constant must be a finite number.", "Missing values are handled with nz(series).")
    return vyx_record("const", (), {"value": number + 0.0}, 0, "float")


def vyx_is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def vyx_digits(value: Any) -> str:
    """A number or text as a message shows it, however long it is."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a very large number"
    return str(value)[:40]


def vyx_called(value: Any) -> str:
    """How a message names a value."""
    if isinstance(value, Series):
        return "a condition" if value.vyx_kind == "bool" else "a series of numbers"
    if isinstance(value, Bars):
        return "all the fields of bars()"
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float)):
        return "the number " + vyx_digits(value)
    return "text" if isinstance(value, str) else "a " + type(value).__name__


def vyx_operand(value: Any, symbol: str, where: str) -> Any:
    """The node of an operand of arithmetic or comparison."""
    if isinstance(value, Series):
        return value.vyx_node
    if vyx_is_number(value):
        return vyx_constant(value).vyx_node
    hint = "Use numbers and series."
    if isinstance(value, Bars):
        hint = "Choose a field: .close, .high, .low, .open or .volume."
    elif value is None:
        hint = "A function without `return` gives None."
    elif isinstance(value, tuple):
        hint = "Functions with several outputs give a tuple: upper, middle, lower = ta.bbands(m15.close)."
    return vyx_fail(
        "V204", "`" + symbol + "` cannot combine a series with " + vyx_called(value) + ".", hint, where
    )


def vyx_arithmetic(op: str, symbol: str, a: Any, b: Any) -> Any:
    args = (vyx_operand(a, symbol, "operand:0"), vyx_operand(b, symbol, "operand:1"))
    return vyx_record(op, args, {}, 0, "float")


def vyx_condition(value: Any, word: str, where: str) -> Any:
    """*value*, which has to be a condition."""
    if value.vyx_kind in ("bool", "poison"):
        return value
    return vyx_fail(
        "V202",
        "`" + word + "` takes conditions; this is a series of numbers.",
        "Compare it with something, for example x > 0.",
        where,
    )


def vyx_no_bars(value: Any, word: str, where: str) -> None:
    if isinstance(value, Bars):
        vyx_fail(
            "V202",
            "`" + word + "` takes conditions; this is all the fields of bars().",
            "Choose a field and compare it.",
            where,
        )


def vyx_bitwise(op: str, symbol: str, a: Any, b: Any) -> Any:
    for value in (a, b):
        is_condition = isinstance(value, bool) or (isinstance(value, Series) and value.vyx_kind != "float")
        if not is_condition:
            vyx_fail(
                "V202",
                "`" + symbol + "` combines conditions; one side is " + vyx_called(value) + ".",
                "Write `" + op + "`, which needs no parentheses: a > b " + op + " c > d.",
            )
    return vyx_combine(op, [a, b])


def vyx_combine(op: str, values: Any) -> Any:
    """`and` / `or` of conditions and Python booleans."""
    decided = op == "or"
    nodes = []
    last: Any = decided
    for value in values:
        if isinstance(value, Series):
            nodes.append(vyx_condition(value, op, "").vyx_node)
            last = value
        elif bool(value) == decided:
            return decided
    if len(nodes) == 0:
        return not decided
    if len(nodes) == 1:
        return last
    return vyx_record(op, tuple(nodes), {}, 0, "bool")


def vyx_logic(op: str, terms: Any) -> Any:
    """`a and b and c` as Python does it, lazily, as long as no series is among them."""
    decided = op == "or"
    conditions: list[Any] = []
    value: Any = None
    for position, term in enumerate(terms):
        value = term if position == 0 else term()
        if isinstance(value, Series):
            conditions.append(vyx_condition(value, op, "operand:" + str(position)))
            continue
        vyx_no_bars(value, op, "operand:" + str(position))
        if bool(value) == decided:
            return value if not conditions else decided
    if not conditions:
        return value
    return vyx_combine(op, conditions)


def vyx_and(*terms: Any) -> Any:
    return vyx_logic("and", terms)


def vyx_or(*terms: Any) -> Any:
    return vyx_logic("or", terms)


def vyx_not(value: Any, word: str = "not") -> Any:
    if isinstance(value, Series):
        return vyx_record("not", (vyx_condition(value, word, "operand:0").vyx_node,), {}, 0, "bool")
    vyx_no_bars(value, word, "operand:0")
    return not value


VYX_SYMBOLS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def vyx_compare(op: str, a: Any, b: Any) -> Any:
    if not isinstance(a, Series) and not isinstance(b, Series):
        if isinstance(a, Bars) or isinstance(b, Bars):
            vyx_fail(
                "V204",
                "`" + VYX_SYMBOLS[op] + "` cannot compare all the fields of bars() at once.",
                "Choose a field: .close, .high, .low, .open or .volume.",
            )
        return vyx_compare_plain(op, a, b)
    if op in ("eq", "ne"):
        for condition, other in ((a, b), (b, a)):
            if isinstance(other, bool) and condition.vyx_kind == "bool":
                return condition if other == (op == "eq") else vyx_not(condition)
    symbol = VYX_SYMBOLS[op]
    args = (vyx_operand(a, symbol, "operand:0"), vyx_operand(b, symbol, "operand:1"))
    return vyx_record(op, args, {}, 0, "bool")


def vyx_compare_plain(op: str, a: Any, b: Any) -> Any:
    if op == "lt":
        return a < b
    if op == "le":
        return a <= b
    if op == "gt":
        return a > b
    if op == "ge":
        return a >= b
    if op == "eq":
        return a == b
    return a != b


def vyx_lt(a: Any, b: Any) -> Any:
    return vyx_compare("lt", a, b)


def vyx_le(a: Any, b: Any) -> Any:
    return vyx_compare("le", a, b)


def vyx_gt(a: Any, b: Any) -> Any:
    return vyx_compare("gt", a, b)


def vyx_ge(a: Any, b: Any) -> Any:
    return vyx_compare("ge", a, b)


def vyx_eq(a: Any, b: Any) -> Any:
    return vyx_compare("eq", a, b)


def vyx_ne(a: Any, b: Any) -> Any:
    return vyx_compare("ne", a, b)


def vyx_in(a: Any, b: Any) -> Any:
    if isinstance(a, Series):
        vyx_fail(
            "V203",
            "`in` cannot test a series: its values are not known when the filter is read.",
            "Compare it: a == 1 or a == 2, or any([a == n for n in values]).",
            "operand:0",
        )
    return a in b


def vyx_not_in(a: Any, b: Any) -> Any:
    return not vyx_in(a, b)


def vyx_chain(first: Any, *rest: Any) -> Any:
    """`a < b <= c`: every term is evaluated once, later ones only while the plain comparisons before them hold."""
    conditions: list[Any] = []
    left = first
    for position in range(0, len(rest), 2):
        op = rest[position]
        right = rest[position + 1]()
        if op == "is":
            value: Any = left is right
        elif op == "is_not":
            value = left is not right
        elif op == "in":
            value = vyx_in(left, right)
        elif op == "not_in":
            value = vyx_not_in(left, right)
        else:
            value = vyx_compare(op, left, right)
        if isinstance(value, Series):
            conditions.append(value)
        elif not value:
            return value
        left = right
    return vyx_combine("and", conditions) if conditions else True


def vyx_choose(yes: Any, condition: Any, no: Any) -> Any:
    """`yes if condition else no`: both sides when the condition is a series, as `where` does."""
    if isinstance(condition, Series):
        return vyx_where(vyx_condition(condition, "if ... else", "operand:1"), yes(), no())
    vyx_no_bars(condition, "if ... else", "operand:1")
    return yes() if condition else no()


def vyx_where(condition: Any, yes: Any, no: Any) -> Any:
    vyx_needed("where", ["condition", "yes", "no"], [condition, yes, no])
    if not isinstance(condition, Series):
        if isinstance(condition, bool):
            return yes if condition else no
        vyx_fail(
            "V202",
            "where() takes a condition first; this is " + vyx_called(condition) + ".",
            "where(close > open, 1, -1)",
            "argument:condition",
        )
    vyx_condition(condition, "where", "argument:condition")
    is_logic = True
    for value in (yes, no):
        if not isinstance(value, bool) and not (isinstance(value, Series) and value.vyx_kind == "bool"):
            is_logic = False
    if is_logic:
        if isinstance(yes, bool) and isinstance(no, bool):
            if yes == no:
                return yes
            return condition if yes else vyx_not(condition)
        if isinstance(yes, bool):
            return vyx_combine("or", [condition, no]) if yes else vyx_combine("and", [vyx_not(condition), no])
        if isinstance(no, bool):
            return (
                vyx_combine("or", [vyx_not(condition), yes]) if no else vyx_combine("and", [condition, yes])
            )
    args = (
        condition.vyx_node,
        vyx_operand(yes, "where", "argument:yes"),
        vyx_operand(no, "where", "argument:no"),
    )
    return vyx_record("where", args, {}, 0, "bool" if is_logic else "float")


def vyx_truth(value: Any, word: str) -> Any:
    if isinstance(value, Series) and value.vyx_kind == "poison":
        return False
    if isinstance(value, (Series, Bars)):
        hint = "Write `x if condition else y` or where(condition, x, y) to choose a value,"
        hint += " and combine conditions with `and`, `or`, `not`."
        if word == "assert":
            hint = "Put what must hold into signal(...): signal(condition and ...)."
        elif word == "while":
            hint = "A filter describes one bar: look back with s[n], highest, barssince, valuewhen."
        vyx_fail(
            "V201",
            "`" + word + "` needs one answer, but a series has one per symbol and bar.",
            hint,
            "test",
        )
    return value


def vyx_format(value: Any, conversion: int, spec: str) -> str:
    if conversion in (114, 97):  # !r, !a
        value = repr(value)
    elif conversion == 115:  # !s
        value = str(value)
    return format(value, spec)


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
