"""
What is wrong with a filter, where, and what to write instead.

Decided here: the shape of a diagnostic, the stable codes and what each means (docs/language/diagnostics.md is
generated from this table). Not decided here: when one is raised (`syntax`, `prelude`, `type_errors`, `run_errors`).
A code keeps its meaning for ever; a retired one (V215) is not used again.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from sandbox.plan.text.source import Span

DIAGNOSTICS_MAX = 50
"""More findings than this help nobody; the first of the text are told."""

Severity = Literal["error", "warning"]


class Diagnostic(msgspec.Struct, frozen=True):
    """One finding: lines and columns count from 1 in characters, the end is exclusive; hint may be empty."""

    line: int
    column: int
    end_line: int
    end_column: int
    severity: Severity
    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Code:
    severity: Severity
    title: str
    example: str
    """A shortest filter, or line, that is given this code."""
    instead: str


CODES: dict[str, Code] = {
    "V001": Code("error", "Not valid Python", "signal(close >", "signal(close > open)"),
    "V002": Code("error", "The text is too long", "# more than 64 KiB", "a shorter filter"),
    "V003": Code("error", "Nested too deeply", "((((…))))", "name the parts"),
    "V004": Code("error", "Not text", "a NUL byte", "plain UTF-8 text"),
    "V010": Code(
        "error", "A construct that filters do not have", "class A(B): ...", "functions and plain classes"
    ),
    "V011": Code(
        "error", "A module that filters do not have", "import numpy", "ta, math, itertools, functools …"
    ),
    "V012": Code("error", "A reserved name", "vyx_nodes = 1", "any name that does not begin with vyx_"),
    "V013": Code(
        "error", "A function that filters do not have", "open('x')", "what docs/language/reference.md lists"
    ),
    "V014": Code(
        "error", "`:=` where it is evaluated conditionally", "a and (b := c)", "b = c on its own line"
    ),
    "V101": Code("error", "Unknown name", "clsoe > 1", "a name defined above, or one of the language"),
    "V102": Code("error", "Unknown attribute", "ta.rsii(close)", "ta.rsi(close)"),
    "V103": Code("error", "Arguments do not fit", "ta.rsi(close, period=3)", "ta.rsi(close, timeperiod=3)"),
    "V104": Code("error", "Types do not fit", "'a' + 1", "values of one type"),
    "V110": Code("error", "The filter stops with an error", "1 / 0", "code that runs through"),
    "V201": Code(
        "error", "A series where one answer is needed", "if close > open: …", "x if close > open else y"
    ),
    "V202": Code("error", "A number where a condition is needed", "signal(close)", "signal(close > open)"),
    "V203": Code("error", "A series where a plain value is needed", "for x in close: …", "highest(close, 5)"),
    "V204": Code("error", "A value that cannot be combined with a series", "m15 > 3", "m15.close > 3"),
    "V205": Code("error", "A series cannot be changed", "close[0] = 1", "where(condition, 1, close)"),
    "V206": Code("error", "s[n] takes a whole number", "close[1:3]", "highest(close, 3)[1]"),
    "V207": Code("error", "A constant that is not finite", "close > float('inf')", "a finite number"),
    "V210": Code("error", "Look-ahead", "close[-1]", "close[1]"),
    "V211": Code("error", "A parameter out of range", "ta.sma(close, 9999)", "ta.sma(close, 200)"),
    "V212": Code("error", "A parameter of the wrong kind", "ta.sma(close, 2.5)", "ta.sma(close, 2)"),
    "V213": Code("error", "Unknown timeframe", "bars('60m')", "bars('1h')"),
    "V214": Code("error", "Not a symbol", "symbol('btc')", "symbol('BTCUSDT')"),
    "V216": Code(
        "error",
        "A look back on a mix with a forming bar",
        "(bars('1h', forming=True).close - bars('1h').close)[1]",
        "look back on each, then combine",
    ),
    "V220": Code("error", "No signal", "close = bars('1m').close", "signal(close > open)"),
    "V221": Code("error", "More than one signal", "signal(a); signal(b)", "signal(a or b)"),
    "V222": Code("error", "The signal is constant", "signal(True)", "signal(close > open)"),
    "V223": Code("error", "Something that cannot be shown", "show('text')", "show(rsi=ta.rsi(close))"),
    "V224": Code(
        "error", "The signal can never be true", "signal(ta.rsi(close) > 120)", "ta.rsi(close) > 80"
    ),
    "V225": Code("warning", "A part that is always true or always false", "rsi >= 0 and …", "leave it out"),
    "V230": Code("warning", "A name that is never used", "x = ta.rsi(close)", "use it, or leave it out"),
    "V240": Code(
        "error", "A function that cannot be given to each()", "each(make(3), close)", "each(f, close, bars=3)"
    ),
    "V241": Code(
        "error",
        "A series inside a function for each()",
        "each(lambda c: c[-1] > high, close)",
        "each(lambda c, h: c[-1] > h[-1], close, high)",
    ),
    "V242": Code(
        "error", "A function for each() that is too long", "# more than 4096 bytes", "a shorter one"
    ),
    "V243": Code("warning", "each() on every symbol", "each(f, close)", "each(f, close, when=close > open)"),
    "V301": Code(
        "error", "The plan costs too much", "a thousand moving averages", "fewer, or shorter periods"
    ),
    "V302": Code("error", "The plan has too many parts", "a loop of 5000 conditions", "fewer conditions"),
    "V303": Code("error", "The plan looks too far back", "ta.sma(day, 500)[1000]", "a coarser timeframe"),
    "V304": Code("error", "The filter takes too long", "while True: pass", "a loop that ends"),
    "V305": Code("error", "The filter takes too much memory", "[0] * 10**9", "smaller data"),
    "V306": Code(
        "error", "The filter calls itself too deeply", "def f(): return f()", "a recursion that ends"
    ),
    "V307": Code("error", "The interpreter gave up on the filter", "", "a simpler filter"),
    "V390": Code("error", "The plan is refused", "", "what the message says"),
}


def diagnostic(span: Span, code: str, message: str, hint: str = "") -> Diagnostic:
    """A finding of this *code* at *span*, with the code's severity."""
    return Diagnostic(
        line=span.line,
        column=span.column,
        end_line=span.end_line,
        end_column=span.end_column,
        severity=CODES[code].severity,
        code=code,
        message=message,
        hint=hint,
    )


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.67) -> str:
    """The known name a mistyped one most likely meant, or an empty string."""
    if len(word) > _WORD_CHARS_MAX:
        return ""
    folded: dict[str, str] = {}
    for name in sorted(name for name in known if abs(len(name) - len(word)) <= _LENGTHS_APART_MAX):
        folded.setdefault(name.lower(), name)
    candidates = list(folded)[:_CANDIDATES_MAX]
    found = difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=cutoff)
    return folded[found[0]] if found else ""


_LENGTHS_APART_MAX = 3
_WORD_CHARS_MAX = 80
_CANDIDATES_MAX = 200
"""Comparing with this many names takes some 3 ms; a hostile filter may define thousands."""
