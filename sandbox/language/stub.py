"""
What Monty's type checker is told about the language: a `.pyi` text generated from the operator registry.

`__bool__` of a series is declared as not callable, so the checker reports every place that asks for its truth; the
prelude's calls that the rewriting splices in are declared so that a series stays a series through them.
"""

import functools

from sandbox.language.prelude.assemble import HAND_WRITTEN, MA_TYPES
from sandbox.plan.operators import OPERATORS, Operator
from sandbox.plan.timeframes import TIMEFRAMES

_ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow"]
_TYPES = {"int": "int", "float": "float", "str": "str"}

_HEAD = """
from typing import Any as VyxAny, Callable as VyxCallable, Iterable as VyxIterable, Literal as VyxLiteral
from typing import TypeVar as VyxTypeVar, overload as vyx_overload
VyxT = VyxTypeVar("VyxT")
"""

_REWRITING = """
def vyx_at(statement: int) -> None: ...
def vyx_truth(value: VyxT, word: str) -> VyxT: ...
def vyx_term(term: int, value: VyxT) -> VyxT: ...
def vyx_function(function: int, fn: VyxT, values: VyxCallable[[], object]) -> VyxT: ...
def vyx_chain(first: object, *rest: object) -> VyxAny: ...
def vyx_format(value: object, conversion: int, spec: str) -> str: ...
def vyx_in(a: object, b: VyxIterable[object]) -> bool: ...
def vyx_not_in(a: object, b: VyxIterable[object]) -> bool: ...
@vyx_overload
def vyx_not(value: Series) -> Series: ...
@vyx_overload
def vyx_not(value: object) -> bool: ...
@vyx_overload
def vyx_choose(yes: VyxCallable[[], object], condition: Series, no: VyxCallable[[], object]) -> Series: ...
@vyx_overload
def vyx_choose(yes: VyxCallable[[], object], condition: object, no: VyxCallable[[], object]) -> VyxAny: ...
def format(value: object, spec: str = "") -> str: ...
def getattr(owner: object, name: str, default: object = None) -> VyxAny: ...
def hasattr(owner: object, name: str) -> bool: ...
def setattr(owner: object, name: str, value: object) -> None: ...
def filter(test: object, items: VyxIterable[object]) -> VyxAny: ...
def map(function: VyxCallable[..., object], *items: VyxIterable[object]) -> VyxAny: ...
def all(items: VyxIterable[object]) -> VyxAny: ...
def any(items: VyxIterable[object]) -> VyxAny: ...
def sum(items: VyxIterable[object], start: object = 0) -> VyxAny: ...
def min(*args: VyxAny, **options: VyxAny) -> VyxAny: ...
def max(*args: VyxAny, **options: VyxAny) -> VyxAny: ...
"""

_PUBLIC = """
ta: TA
def bars(timeframe: VyxLiteral[{timeframes}], forming: bool = False) -> Bars: ...
class Symbol:
    def bars(self, timeframe: VyxLiteral[{timeframes}], forming: bool = False) -> Bars: ...
def symbol(name: str) -> Symbol: ...
def where(condition: Series | bool, yes: Series | float, no: Series | float) -> Series: ...
def each(fn: VyxCallable[..., object], *series: Series | float, bars: int = 1, when: Series = ...) -> Series: ...
def signal(condition: Series | bool) -> None: ...
def show(**values: Series | float) -> None: ...
"""


@functools.cache
def stub() -> str:
    """The whole text, built once."""
    timeframes = ", ".join(map(repr, TIMEFRAMES))
    return "\n".join([
        _HEAD, *_series(), *_bars(), *_logic(), _REWRITING, *_ta(), _PUBLIC.format(timeframes=timeframes),
        *(
            f"def {name}({_arguments(operator)}) -> {_result(operator)}: ..."
            for name, operator in OPERATORS.items()
            if not operator.internal and not name.startswith("ta.") and name not in HAND_WRITTEN
        ),
    ])  # fmt: skip


def _series() -> list[str]:
    operators = [f"__{side}{name}__" for name in _ARITHMETIC for side in ("", "r")]
    lines = ["class Series:", "    __bool__: None"]
    lines += [f"    def {name}(self, other: Series | float) -> Series: ..." for name in operators]
    lines += [
        f"    def __{n}__(self, other: Series | bool) -> Series: ..." for n in ("and", "rand", "or", "ror")
    ]
    lines += [f"    def __{name}__(self) -> Series: ..." for name in ("neg", "pos", "abs", "invert")]
    return [*lines, "    def __getitem__(self, n: int) -> Series: ..."]


def _bars() -> list[str]:
    fields = ("open", "high", "low", "close", "volume", "hl2", "hlc3", "ohlc4")
    return ["class Bars:", "    timeframe: str", *(f"    {name}: Series" for name in fields)]


def _logic() -> list[str]:
    lines: list[str] = []
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        for a, b, result in (
            ("Series", "object", "Series"),
            ("object", "Series", "Series"),
            ("object", "object", "bool"),
        ):
            lines += ["@vyx_overload", f"def vyx_{name}(a: {a}, b: {b}) -> {result}: ..."]
    for name in ("and", "or"):
        for first, result in (("Series", "Series"), ("object", "VyxAny")):
            later = "*rest: VyxCallable[[], object]"
            lines += ["@vyx_overload", f"def vyx_{name}(first: {first}, {later}) -> {result}: ..."]
    return lines


def _ta() -> list[str]:
    lines = [
        "class MA_Type:",
        *(f"    {name}: int" for name in MA_TYPES),
        "class TA:",
        "    MA_Type: MA_Type",
    ]
    for name, operator in OPERATORS.items():
        if name.startswith("ta.") and not operator.internal:
            lines.append(f"    def {name[3:]}(self, {_arguments(operator)}) -> {_result(operator)}: ...")
    return lines


def _arguments(operator: Operator) -> str:
    inputs = [f"{name}: Series | float" for name in operator.inputs]
    for at, name in enumerate(operator.inputs):
        if operator.input_kind(at) == "bool":
            inputs[at] = f"{name}: Series"
    params = [
        f"{p.name}: {_TYPES[p.kind]}" + ("" if p.default is None else f" = {p.default!r}")
        for p in operator.params
    ]
    return ", ".join([*inputs, *params])


def _result(operator: Operator) -> str:
    count = len(operator.outputs)
    return "Series" if count == 1 else f"tuple[{', '.join(['Series'] * count)}]"
