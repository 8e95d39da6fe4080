"""
What stops a filter while it runs, in the words of the language.

A mistake the prelude notices arrives as a ValueError whose text begins with "vyx!" and holds code, message, hint
and which argument or operand is at fault; everything else is Python's own exception. Texts come out of the sandbox
and are treated as data: cut to length, codes checked.
"""

import ast
import re
from dataclasses import dataclass

import msgspec
from pydantic_monty import MontyRuntimeError, MontySyntaxError

from sandbox.language.rewrite import Rewritten
from sandbox.language.type_errors import FIELD_HINT, TUPLE_HINT, Sentence, unknown_attribute, unknown_name
from sandbox.language.vocabulary import argument_names, arguments_hint
from sandbox.plan.text.diagnostics import CODES, Diagnostic, diagnostic
from sandbox.plan.text.source import Source, Span

_TEXT_MAX = 300
_NOTICED = "vyx!"
_NOT_KNOWN = "The monty syntax parser does not yet support "
_RESOURCES = {"TimeoutError": "V304", "MemoryError": "V305", "RecursionError": "V306"}
_RESOURCE_TEXTS = {
    "V304": (
        "The filter runs longer than 0.8 s.",
        "A filter runs once and describes one bar; loops should be short.",
    ),
    "V305": ("The filter needs more memory than it is given.", "Series hold no data here; keep lists short."),
    "V306": ("The filter calls itself too deeply.", "Let the recursion end, or use a loop."),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a statement stopped: the finding, the line of the top-level statement, whether nothing may run after it."""

    finding: Diagnostic
    line: int
    fatal: bool
    noticed: bool
    """The prelude itself noticed it (rather than Python)."""


def from_run(
    error: MontyRuntimeError | MontySyntaxError,
    rewritten: Rewritten,
    tree: ast.Module,
    *,
    marker: Span,
    prelude_file: str,
    bound: set[str],
) -> Failure:
    """
    The failure that *error*, raised by running *rewritten*, means.

    *marker* is the statement that ran last, for errors that do not say where they happened.
    """
    text = error.display("type-msg")
    kind, _, message = text.partition(": ")
    frames = [frame for frame in error.traceback() if frame.filename != prelude_file and frame.line > 0]
    if not any(frame.function_name == "<module>" for frame in frames):
        frames = []  # a call whose arguments do not fit: Monty points at the function, not at the call
    spans = [rewritten.origin(f.line, f.column, f.end_line, f.end_column) for f in frames] or [marker]
    inner, outer = spans[-1], spans[0].line
    if _reraised(inner, marker, rewritten.source, tree):
        inner = marker
    if kind in _RESOURCES or isinstance(error, MontySyntaxError) or message.startswith(_NOT_KNOWN):
        return Failure(_fatal(kind, message, inner), outer, fatal=True, noticed=False)
    if kind == "ValueError" and message.startswith(_NOTICED):
        finding = _noticed(message.removeprefix(_NOTICED), inner, rewritten.source, tree)
        if finding is not None:
            return Failure(finding, outer, fatal=finding.code == "V302", noticed=True)
    code, sentence, hint = _translated(kind, message, bound, rewritten.source.text_at(inner))
    return Failure(diagnostic(inner, code, sentence, hint), outer, fatal=False, noticed=False)


def _reraised(span: Span, marker: Span, source: Source, tree: ast.Module) -> bool:
    """
    *span* is in a handler, but the statement that ran last is in the body of the same `try`.

    Monty names the end of the handlers as the place of an exception that none of them caught.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            first, last = source.span_of(node.body[0]), source.span_of(node.body[-1])
            if first.line <= marker.line <= last.end_line < span.line <= source.span_of(node).end_line:
                return True
    return False


def _fatal(kind: str, message: str, span: Span) -> Diagnostic:
    if kind in _RESOURCES:
        code = _RESOURCES[kind]
        return diagnostic(span, code, *_RESOURCE_TEXTS[code])
    if "nested" in message:
        return diagnostic(span, "V003", "The filter is nested too deeply.", "Give parts of it names.")
    what = message.removeprefix(_NOT_KNOWN)[:_TEXT_MAX].rstrip(".")
    return diagnostic(span, "V010", f"Filters do not have {what}.", "")


def _noticed(payload: str, span: Span, source: Source, tree: ast.Module) -> Diagnostic | None:
    try:
        code, message, hint, where = msgspec.json.decode(payload, type=tuple[str, str, str, str])
    except msgspec.MsgspecError:
        return None
    if code not in CODES:
        return None
    place = _narrowed(span, where, source, tree) if where else span
    return diagnostic(place, code, message[:_TEXT_MAX], hint[:_TEXT_MAX])


def _narrowed(span: Span, where: str, source: Source, tree: ast.Module) -> Span:
    """The argument or operand *where* of the expression at *span*, or all of it."""
    what, _, which = where.partition(":")
    start = source.offset_of_character(span.line, span.column)
    wanted = start, source.offset_of_character(span.end_line, span.end_column)
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and node.lineno == span.line and source.range_of(node) == wanted:
            part = _part(node, what, which)
            if part is not None:
                return source.span_of(part)
    return span


def _part(node: ast.expr, what: str, which: str) -> ast.expr | None:
    match node, what:
        case ast.Call(args=args, keywords=keywords, func=function), "argument":
            for keyword in keywords:
                if keyword.arg == which:
                    return keyword.value
            names = argument_names(ast.unparse(function))
            at = names.index(which) if which in names else -1
            plain = at >= 0 and not any(isinstance(arg, ast.Starred) for arg in args)
            return args[at] if plain and at < len(args) else None
        case ast.Subscript(slice=index), "index":
            return index
        case ((ast.BinOp() | ast.Compare() | ast.BoolOp() | ast.UnaryOp() | ast.IfExp()), "operand"):
            operands = _operands(node)
            return operands[int(which)] if which.isdecimal() and int(which) < len(operands) else None
    return None


def _operands(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(left=left, right=right):
            return [left, right]
        case ast.Compare(left=left, comparators=[right]):
            return [left, right]
        case ast.BoolOp(values=values):
            return values
        case ast.UnaryOp(operand=operand):
            return [operand]
        case ast.IfExp(body=body, test=test, orelse=orelse):
            return [body, test, orelse]
    return []


def _translated(kind: str, message: str, bound: set[str], text: str) -> Sentence:
    """The sentence for an exception of Python's own; *text* is the user's expression at fault."""
    message = message[:_TEXT_MAX].rstrip(".")
    name = re.search(r"(?:name|variable) '(\w+)'", message)
    if kind in {"NameError", "UnboundLocalError"} and name:
        return _missing_name(name[1], bound)
    attribute = re.match(r"(?:module )?'(\w+)'(?: object)? has no attribute '(\w+)'", message)
    if kind == "AttributeError" and attribute:
        return unknown_attribute(attribute[1], attribute[2])
    if kind == "TypeError":
        return _type_error(message, text)
    if kind == "ValueError" and "to unpack" in message:
        return "V104", f"The right side does not fit the names on the left: {message}.", TUPLE_HINT
    if kind == "NotImplementedError":
        return "V010", f"Filters do not have this: {message}.", ""
    told = f"{kind}: {message}" if message else kind
    return "V110", f"The filter stops with {told}.", ""


def _missing_name(name: str, bound: set[str]) -> Sentence:
    if name in bound:
        return "V101", f"{name} is used before it is defined.", "Move its definition up."
    return unknown_name(name, bound)


def _type_error(message: str, text: str) -> Sentence:
    if "Series" in message:
        function = re.match(r"[\w.]+(?=\()", text)
        where = f"{function[0]}() takes plain values, not a series" if function else message
        return (
            "V203",
            f"A series cannot be used here: {where}.",
            _PLAIN_HINTS.get(
                function[0] if function else "", "ta.* and the functions of the language take series."
            ),
        )
    if "Bars" in message:
        return "V204", "All the fields of bars() cannot be used here.", FIELD_HINT
    function = re.match(r"(?:[\w.]+\.)?(\w+)\(\) (.*)", message)
    if function and re.search(r"argument|positional", function[2]):
        return (
            "V103",
            f"{function[1]}() {function[2].replace(' positional ', ' ')}.",
            arguments_hint(function[1]),
        )
    return "V104", f"Types do not fit: {message}.", TUPLE_HINT if "'tuple'" in message else ""


_PLAIN_HINTS = {
    "math.log": "ta.ln(series)",
    "math.log10": "ta.log10(series)",
    "math.sqrt": "ta.sqrt(series)",
    "math.exp": "ta.exp(series)",
    "math.floor": "ta.floor(series)",
    "math.ceil": "ta.ceil(series)",
    "sorted": "max(a, b) and min(a, b) choose at each bar.",
    "round": "ta.floor(series + 0.5)",
    "len": "How far back a series reaches is decided by the operators used.",
    "range": "Loop over numbers known when the filter is read: range(1, 5).",
}
