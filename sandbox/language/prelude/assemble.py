"""
The text that the interpreter runs before a filter: the parts beside this module and the functions generated from the operator registry.

The prelude shares its globals with the filter, and a filter may well say `range = m15.high - m15.low`. So whatever
the prelude itself needs is read through private names, which a filter cannot spell (`RESERVED_PREFIX`).
"""

import ast
import builtins
import functools
from collections.abc import Sequence
from pathlib import Path

from sandbox.language.rewrite import Capture
from sandbox.plan.document import NAME_CHARS_MAX, SHOW_MAX
from sandbox.plan.operators import OPERATORS, Operator
from sandbox.plan.text.function import FUNCTION_BYTES_MAX
from sandbox.plan.text.source import Source
from sandbox.plan.timeframes import TIMEFRAMES

_PARTS = ("series", "logic", "operators", "functions", "statements")
"""Modules beside this one, in the order in which their texts run."""
_OWN = ("json", "Series", "Bars", "Symbol", "Function")
HAND_WRITTEN = frozenset({"where", "each"})
"""Operators whose function in the prelude does more than record a node."""
_TIMEFRAME_ALIASES = {
    "60m": "1h", "120m": "2h", "240m": "4h", "360m": "6h", "480m": "8h", "720m": "12h", "1440m": "1d", "24h": "1d",
    "1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h",
    "d": "1d", "day": "1d", "daily": "1d", "h": "1h", "hour": "1h", "hourly": "1h", "m": "1m", "minute": "1m",
    "m1": "1m", "m5": "5m", "m15": "15m", "m30": "30m", "h1": "1h", "h4": "4h", "d1": "1d",
    "1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "1hour": "1h", "4hour": "4h", "1day": "1d",
}  # fmt: skip
MA_TYPES = (
    "SMA", "EMA", "WMA", "DEMA", "TEMA", "TRIMA", "KAMA", "MAMA", "T3", "HMA", "DISABLED", "DEFAULT", "ZLEMA", "RMA",
)  # fmt: skip
"""TA-Lib's MA_Type, in its numbering from 0."""


@functools.cache
def prelude() -> str:
    """The whole text, built once."""
    parts = [_protected(_joined()), _tables(), *_functions()]
    return "\n".join(parts)


def functions_table(captures: Sequence[Capture]) -> str:
    """What a run is told of the functions its filter gives to `each`."""
    table = [None if c.is_refused else (c.name, c.text, c.least, c.most, c.is_condition) for c in captures]
    return f"vyx_functions.extend({table!r})"


def _joined() -> str:
    """The parts as one text: without their docstrings, and their imports once."""
    bodies = [_body(Path(__file__).with_name(f"{part}.py").read_text(encoding="utf-8")) for part in _PARTS]
    return "import json\nfrom typing import Any\n\n" + "\n\n\n".join(bodies) + "\n"


def _body(text: str) -> str:
    """A part from its first statement on that is neither docstring nor import (`if TYPE_CHECKING` holds imports)."""
    head = (ast.Expr, ast.Import, ast.ImportFrom, ast.If)
    first = next(statement for statement in ast.parse(text).body if not isinstance(statement, head))
    return "\n".join(text.split("\n")[first.lineno - 1 :]).rstrip("\n")


def _protected(text: str) -> str:
    """*text* with every builtin, and what a filter may overwrite, read through a private name."""
    tree = ast.parse(text)
    source = Source(text)
    wanted = (set(dir(builtins)) | set(_OWN)) - {"Exception", "ValueError"}
    raw = source.raw
    used: set[str] = set()
    cuts: list[tuple[int, int, str]] = []
    skipped = {id(part) for node in ast.walk(tree) for part in _annotations(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name) or id(node) in skipped or not isinstance(node.ctx, ast.Load):
            continue
        if node.id in wanted:
            used.add(node.id)
            cuts.append((*source.range_of(node), f"vyx_own_{node.id}"))
    for start, end, name in sorted(cuts, reverse=True):
        raw = raw[:start] + name.encode() + raw[end:]
    own = [f"vyx_own_{name} = {name}" for name in sorted(used)]
    before = [line for line in own if line.rsplit(" ", 1)[1] not in _OWN]
    after = [line for line in own if line.rsplit(" ", 1)[1] in _OWN]
    return "\n".join([*before, raw.decode(), *after])


def _annotations(node: ast.AST) -> list[ast.AST]:
    roots = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [part for root in roots if isinstance(root, ast.AST) for part in ast.walk(root)]


def _tables() -> str:
    table = {}
    for name, operator in OPERATORS.items():
        if operator.internal:
            continue
        specs = [(p.name, p.kind, p.low, p.high, tuple(p.choices)) for p in operator.params]
        kinds = [operator.input_kind(i) for i in range(len(operator.inputs))]
        table[name] = (operator.inputs, kinds, specs, len(operator.outputs), operator.returns)
    lines = [f"vyx_operators[{name!r}] = {entry!r}" for name, entry in table.items()]
    limits = {"show": SHOW_MAX, "name": NAME_CHARS_MAX, "function": FUNCTION_BYTES_MAX}
    lines.append(f"vyx_limits.update({limits!r})")
    lines.append(f"vyx_timeframes.extend({list(TIMEFRAMES)!r})")
    lines.append(f"vyx_timeframe_aliases.update({_TIMEFRAME_ALIASES!r})")
    return "\n".join(lines)


def signature(operator: Operator) -> str:
    """Parameters of the function for *operator*; a missing one is noticed by `vyx_call`, at the place of the call."""
    inputs = [f"{name}=vyx_missing" for name in operator.inputs]
    params = [f"{p.name}={'vyx_missing' if p.default is None else repr(p.default)}" for p in operator.params]
    return ", ".join([*inputs, *params])


def _functions() -> list[str]:
    ta = ["class TA:", "    pass"]
    free: list[str] = []
    for name, operator in OPERATORS.items():
        if operator.internal or name in HAND_WRITTEN:
            continue
        call = f"vyx_call({name!r}, ({_tuple(operator.inputs)}), ({_tuple(p.name for p in operator.params)}))"
        if name.startswith("ta."):
            ta.append(f"    def {name[3:]}(self, {signature(operator)}): return {call}")
        else:
            free.append(f"def {name}({signature(operator)}): return {call}")
    ma_types = ["class MA_Type:", *(f"    {name} = {number}" for number, name in enumerate(MA_TYPES))]
    names = ["ta = TA()", "ta.MA_Type = MA_Type"]
    names += [f"def {name}({given}): return {call}" for name, given, call in _PUBLIC]
    names += [f"{name} = vyx_{name}" for name in ("all", "any", "sum", "min", "max", "bool", "print")]
    return [*ta, *free, *ma_types, *names]


_PUBLIC = (
    ("bars", "timeframe=vyx_missing, forming=False", "vyx_bars(timeframe, '', forming)"),
    ("symbol", "name=vyx_missing", "vyx_symbol(name)"),
    ("where", "condition=vyx_missing, yes=vyx_missing, no=vyx_missing", "vyx_where(condition, yes, no)"),
    (
        "each",
        "fn=vyx_missing, *series, bars=1, when=vyx_missing",
        "vyx_each(fn, series, bars, when)",
    ),
    ("signal", "condition=vyx_missing", "vyx_signal_call(condition)"),
    ("show", "*args, **values", "vyx_show_call(args, values)"),
)


def _tuple(names: object) -> str:
    return "".join(f"{name}, " for name in names)  # type: ignore[attr-defined]
