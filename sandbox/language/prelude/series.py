"""
What the interpreter runs before a filter, part 1: symbolic series that record a graph instead of computing it.

The service imports none of the parts; `sandbox.language.prelude.assemble` joins their texts and appends the functions
generated from the operator registry. So they keep to what the interpreter understands (no inheritance, properties,
decorators on methods, `yield`, `del`) and to nothing that compares or tests a series by Python's own rules. Imports of
one part by another are for the type checker only and are cut out.

Decided here: what a filter's expressions record, and every mistake that only running the filter can show. Whatever
leaves here is untrusted: the host reads it as data and validates it again (`sandbox.plan.document`).
"""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.language.prelude.logic import vyx_arithmetic, vyx_bitwise, vyx_not
    from sandbox.language.prelude.operators import vyx_shift
    from sandbox.language.prelude.statements import vyx_bars

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
