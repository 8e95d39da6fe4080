"""
What Monty's type checker says, in the words of the language.

The checker reads the rewritten text, so its ranges are mapped back. Only rules that are certain are kept: the run
itself decides whether a filter works, the checker adds what the run did not get to.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from sandbox.language.rewrite import Rewritten
from sandbox.language.vocabulary import (
    FIELDS,
    GLOBALS,
    SERIES_HINTS,
    TA_FUNCTIONS,
    arguments_hint,
    function_hint,
)
from sandbox.plan.text.diagnostics import DIAGNOSTICS_MAX, Diagnostic, diagnostic, nearest


class _Location(msgspec.Struct):
    row: int
    column: int


class _Finding(msgspec.Struct):
    code: str
    message: str
    location: _Location
    end_location: _Location


Sentence = tuple[str, str, str]
"""Code, message, hint."""
_CERTAIN = frozenset({"V101", "V102", "V103", "V201"})
_ARGUMENTS = frozenset(
    {"unknown-argument", "missing-argument", "too-many-positional-arguments", "parameter-already-assigned"}
)
_QUOTED = re.compile(r"`([^`]*)`")


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A finding of the checker; `certain` ones hold even in code that never ran."""

    finding: Diagnostic
    certain: bool


def from_checker(report: str, rewritten: Rewritten, bound: set[str]) -> list[Suspicion]:
    """Findings for the checker's JSON *report*; *bound* are the names the filter defines."""
    try:
        findings = msgspec.json.decode(report, type=list[_Finding])
    except msgspec.MsgspecError:
        return []
    return [item for finding in findings[:DIAGNOSTICS_MAX] for item in _translated(finding, rewritten, bound)]


def _translated(finding: _Finding, rewritten: Rewritten, bound: set[str]) -> Iterator[Suspicion]:
    span = rewritten.origin(
        finding.location.row, finding.location.column, finding.end_location.row, finding.end_location.column
    )
    quoted = _QUOTED.findall(finding.message)
    what = _sentence(finding.code, quoted, bound)
    if what is not None:
        certain = what[0] in _CERTAIN and not (
            what[0] == "V102" and quoted[0] not in {"TA", "Bars", "Series"}
        )
        yield Suspicion(diagnostic(span, *what), certain)


def _sentence(rule: str, quoted: list[str], bound: set[str]) -> Sentence | None:
    """The sentence for a rule and the parts quoted in its message; None for rules that are not kept."""
    if rule == "unresolved-reference" and quoted:
        return unknown_name(quoted[0], bound)
    if rule == "unresolved-attribute" and len(quoted) > 1:
        return unknown_attribute(quoted[0], quoted[1])
    if rule in _ARGUMENTS and quoted:
        return _arguments(rule, quoted)
    if rule == "invalid-argument-type" and len(quoted) > 2:
        return _argument_type(quoted[0].split(".")[-1], quoted[-2], quoted[-1])
    if rule == "unsupported-operator" and len(quoted) > 2:
        return _operator(*quoted[:3])
    return _MISUSES.get((rule, quoted[0] if quoted else "")) or _MISUSES.get((rule, ""))


def _arguments(rule: str, quoted: list[str]) -> Sentence:
    function = quoted[-1].split(".")[-1]
    word = {"unknown-argument": f"has no argument {quoted[0]}", "missing-argument": f"needs {quoted[0]}"}
    return "V103", f"{function}() {word.get(rule, 'is given too many arguments')}.", arguments_hint(function)


def _argument_type(function: str, wanted: str, given: str) -> Sentence | None:
    if function == "__getitem__":
        return "V206", "s[n] takes a whole number of bars.", "highest(s, n) and lowest(s, n) look at a range."
    if function.startswith("__"):
        return "V204", f"A series cannot be combined with {_plain(given)}.", ""
    if "Bars" in given:
        return "V204", f"{function}() takes a series, not all the fields of bars().", FIELD_HINT
    if given.startswith("tuple[Series"):
        return "V204", f"{function}() takes one series, not several.", TUPLE_HINT
    if wanted.startswith("Literal["):
        return None  # a timeframe: the run says it better
    return "V104", f"{function}() takes {_plain(wanted)} here, not {_plain(given)}.", ""


def _operator(operator: str, left: str, right: str) -> Sentence:
    if "Bars" in (left, right):
        return "V204", f"`{operator}` cannot combine all the fields of bars().", FIELD_HINT
    return "V104", f"`{operator}` cannot combine {_plain(left)} and {_plain(right)}.", ""


_MISUSED = (
    "V203",
    "A series cannot be used like this: it has one value per symbol and bar.",
    "s[n] looks n bars back.",
)
_MISUSES: dict[tuple[str, str], Sentence] = {
    ("unsupported-bool-conversion", ""): (
        "V201",
        "This needs one answer, but a series has one per symbol and bar.",
        "Write `x if condition else y` or where(condition, x, y); combine conditions with `and`, `or`, `not`.",
    ),
    ("not-iterable", "Series"): _MISUSED,
    ("call-non-callable", "Series"): _MISUSED,
    ("not-subscriptable", "Bars"): ("V204", "bars() has no [n] of its own.", "Choose a field: m15.close[1]."),
}
"""(rule, the type it is about or "" for any) -> what is said."""
FIELD_HINT = "Choose a field: .close, .high, .low, .open or .volume."
TUPLE_HINT = "Functions with several outputs give a tuple: upper, middle, lower = ta.bbands(m15.close)."
_PLAIN: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "Series": "a series",
    "Series | int | float": "a series or number",
    "Series | float": "a series or number",
    "str": "text",
    "None": "None",
    "bool": "True or False",
}


def _plain(name: str) -> str:
    literal = re.fullmatch(r"Literal\[(.*)\]", name)
    return literal[1] if literal else _PLAIN.get(name, name)


def unknown_name(name: str, bound: set[str]) -> Sentence:
    """(code, message, hint) for a name nobody defined."""
    hint = function_hint(name)
    meant = "" if hint else nearest(name, bound | GLOBALS)
    if meant:
        hint = f"Did you mean {meant}?"
    return "V101", f"There is no name {name!r}.", hint


def unknown_attribute(owner: str, name: str) -> Sentence:
    """The sentence for an attribute that *owner*, a type's or module's name, does not have."""
    if owner == "TA":
        meant = nearest(name, TA_FUNCTIONS)
        hint = f"Did you mean ta.{meant}?" if meant else "docs/language/reference.md lists them."
        return "V102", f"There is no function ta.{name}.", function_hint(name) if name in FIELDS else hint
    if owner == "Bars":
        meant = nearest(name, FIELDS)
        hint = f"Did you mean .{meant}?" if meant else f"There are: {', '.join(FIELDS)}."
        return "V102", f"bars() has no field {name!r}.", hint
    if owner == "Series":
        field = f"{name!r} is a field of bars(), not of a series." if name in FIELDS else ""
        hint = SERIES_HINTS.get(name, field or "Functions take it: highest(s, 20).")
        return "V102", f"A series has no .{name}.", hint
    if owner == "Symbol":
        return "V102", f"symbol() has no .{name}.", "Write symbol('BTCUSDT').bars('1h').close."
    return "V102", f"{_plain(owner)} has no attribute {name!r}.", ""
