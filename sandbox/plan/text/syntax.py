"""
What can be said about a filter by looking at its syntax tree, before anything runs.

Decided here: which constructs, modules and names a filter may use, how deep it may nest. A finding marked fatal
keeps the filter from being run (it would not get through Monty, or must not be tried).
"""

import ast
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.plan.text.diagnostics import DIAGNOSTICS_MAX, Diagnostic, diagnostic, nearest
from sandbox.plan.text.source import RESERVED_PREFIX, Source, Span

SOURCE_BYTES_MAX = 64 * 1024
DEPTH_MAX = 150
"""Levels of nesting. Monty's parser gives up near 200, after the rewriting has added its own."""
PARTS_MAX = 20_000
"""Nodes of the syntax tree: ten times the longest filter in docs/. Looking at so many takes some 0.3 s."""

MODULES = frozenset(
    {"math", "itertools", "functools", "collections", "typing", "dataclasses", "re", "json", "__future__"}
)
_MODULE_HINTS = {
    "talib": "ta is already there, in lower case: ta.rsi(m15.close, 14).",
    "ta": "ta is already there: ta.rsi(m15.close, 14).",
    "numpy": "Series are arrays already: write m15.close > ta.sma(m15.close, 20).",
    "pandas": "Series are columns already: write m15.close > ta.sma(m15.close, 20).",
    "random": "A filter must give the same answer every time.",
    "time": "A filter sees candles, not a clock.",
    "datetime": "A filter sees candles, not a clock.",
}
UNAVAILABLE = frozenset(
    [
        "eval",
        "exec",
        "open",
        "input",
        "compile",
        "globals",
        "locals",
        "vars",
        "dir",
        "breakpoint",
        "exit",
        "quit",
        "help",
        "callable",
        "issubclass",
        "super",
        "memoryview",
        "object",
        "__import__",
    ]
)
_CONSTRUCTS: dict[type[ast.AST], tuple[str, str]] = {
    ast.AsyncFunctionDef: ("async functions", "Write a plain function."),
    ast.AsyncFor: ("async loops", "Write a plain loop."),
    ast.AsyncWith: ("`async with`", ""),
    ast.Await: ("`await`", "Everything a filter needs is there at once."),
    ast.Yield: ("generators", "Return a list."),
    ast.YieldFrom: ("generators", "Return a list."),
    ast.Delete: ("`del`", "Use another name."),
    ast.With: ("`with`", "A filter has no files."),
    ast.TryStar: ("`except*`", "Use `except`."),
}

# Warnings about odd escapes belong to the user's text, not to this process; the filter list is process-wide.
_parsing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Finding:
    diagnostic: Diagnostic
    fatal: bool


def parse(source: str) -> tuple[Source, ast.Module] | Diagnostic:
    """The syntax tree of a filter, or why there is none. Never raises, whatever the text."""
    whole = Span(1, 1, 1, 1)
    size = len(source.encode(errors="surrogatepass"))
    if size > SOURCE_BYTES_MAX:
        message = f"The filter has {size} bytes; at most {SOURCE_BYTES_MAX} are allowed."
        return diagnostic(whole, "V002", message, "Put repeated parts into functions and loops.")
    text = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        for column, character in enumerate(line, 1):
            if character == "\0" or "\ud800" <= character <= "\udfff":
                where = Span(number, column, number, column + 1)
                return diagnostic(where, "V004", f"Character {ord(character):#06x} is not text.", "")
    try:
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        return _syntax(error, text)
    except (RecursionError, MemoryError):
        return diagnostic(whole, "V003", "The filter is nested too deeply.", "Give parts of it names.")
    except ValueError as error:
        return diagnostic(whole, "V001", f"Not valid Python: {error}.", "")
    found = Source(text)
    return _too_large(found, tree) or _misplaced(tree, text) or (found, tree)


_FOREIGN_SIGNS = {
    "!(": "Write `not`.",
    "&&": "Write `and`.",
    "||": "Write `or`.",
    " AND ": "Write `and`, in lower case.",
    " OR ": "Write `or`, in lower case.",
    "=>": "Write >=.",
    "=<": "Write <=.",
    "<>": "Write !=.",
}


def _syntax(error: SyntaxError, text: str) -> Diagnostic:
    lines = text.split("\n")
    line = min(max(error.lineno or 1, 1), len(lines))
    column = min(max(error.offset or 1, 1), len(lines[line - 1]) + 1)
    end_line = min(max(error.end_lineno or line, line), len(lines))
    end_column = error.end_offset or 0
    if end_line == line and end_column <= column:
        end_column = column + 1
    message = (error.msg or "invalid syntax").rstrip(".?")
    hint = ""
    if "too many nested" in message or "parser stack overflow" in message.lower():
        return diagnostic(
            Span(line, column, end_line, end_column),
            "V003",
            "The filter is nested too deeply.",
            "Give parts of it names.",
        )
    for sign, instead in _FOREIGN_SIGNS.items():
        if sign in lines[line - 1]:
            hint = instead
    if "Maybe you meant '=='" in message:
        hint = "== compares, = gives a name."
    return diagnostic(Span(line, column, end_line, end_column), "V001", f"Not valid Python: {message}.", hint)


def _misplaced(tree: ast.Module, text: str) -> Diagnostic | None:
    """What Python notices only after parsing: `return` outside a function, an argument named twice …"""
    try:
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(tree, "filter", "exec", dont_inherit=True)
    except SyntaxError as error:
        return _syntax(error, text)
    except (RecursionError, MemoryError, ValueError):
        return diagnostic(
            Span(1, 1, 1, 1), "V003", "The filter is nested too deeply.", "Give parts of it names."
        )
    return None


def _too_large(source: Source, tree: ast.Module) -> Diagnostic | None:
    """What keeps the tree from being looked at: too many levels, or too many parts."""
    level: list[ast.AST] = [tree]
    depth = parts = 0
    while level:
        parts += len(level)
        if parts > PARTS_MAX:
            message = f"The filter has more than {PARTS_MAX} names, numbers and operators."
            return diagnostic(
                Span(1, 1, 1, 1), "V002", message, "Put repeated parts into functions and loops."
            )
        if depth > DEPTH_MAX:
            place = next((node for node in level if isinstance(node, ast.expr | ast.stmt)), None)
            span = source.span_of(place) if place is not None else Span(1, 1, 1, 1)
            return diagnostic(
                span,
                "V003",
                f"Nested more than {DEPTH_MAX} levels deep.",
                "Give parts of it names, or use a loop.",
            )
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        depth += 1
    return None


def lint(source: Source, tree: ast.Module) -> list[Finding]:
    """Every finding in the order of the text."""
    bound = bound_names(tree)
    found: list[Finding] = []
    for node in ast.walk(tree):
        found += (Finding(item, fatal=True) for item in _constructs(source, node))
        found += (Finding(item, fatal=True) for item in _names(source, node, bound))
    found += (Finding(item, fatal=True) for item in _conditional_bindings(source, tree))
    found += (Finding(item, fatal=False) for item in _unused(source, tree))
    return sorted(found, key=lambda item: (item.diagnostic.line, item.diagnostic.column))


def bound_names(tree: ast.AST) -> set[str]:
    """Every name bound anywhere in *tree*."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=alias):
                names.add(alias or name.split(".")[0])
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                names.add(name)
            case _:
                pass
    return names


def assigned_names(statement: ast.stmt) -> set[str]:
    """The names that running *statement* at top level may bind."""
    return bound_names(ast.Module(body=[statement], type_ignores=[]))


def loaded_names(node: ast.AST) -> set[str]:
    """The names that *node* reads."""
    return {
        part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)
    }


def calls_signal(tree: ast.Module) -> bool:
    return "signal" in loaded_names(tree)


def _constructs(source: Source, node: ast.AST) -> Iterator[Diagnostic]:
    if type(node) in _CONSTRUCTS and isinstance(node, ast.expr | ast.stmt):
        yield _refused(source, node, *_CONSTRUCTS[type(node)])
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        if any(part.is_async for part in node.generators):
            yield _refused(source, node, "async loops", "Write a plain loop.")
    elif isinstance(node, ast.ClassDef):
        yield from _class(source, node)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield from _module(source, node, alias.name)
    elif isinstance(node, ast.ImportFrom):
        yield from _module(source, node, "." * node.level + (node.module or ""))


def _class(source: Source, node: ast.ClassDef) -> Iterator[Diagnostic]:
    for base in [*node.bases, *(keyword.value for keyword in node.keywords)]:
        yield _refused(source, base, "inheritance", "Write a plain class or functions.")
    for item in node.body:
        if not isinstance(item, ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.Pass | ast.Expr):
            yield _refused(
                source, item, "statements in classes but methods and names", "Move it out of the class."
            )
        if isinstance(item, ast.FunctionDef) and item.decorator_list:
            hint = "Write a plain method, or a function."
            yield _refused(source, item.decorator_list[0], "decorators on methods", hint)


def _sometimes_evaluated(node: ast.AST) -> list[ast.expr]:
    """Parts of *node* that Python may skip; the rewriting puts them into functions of their own."""
    match node:
        case ast.BoolOp(values=[_, *later]) | ast.Compare(comparators=[_, *later]):
            return later
        case ast.IfExp(body=body, orelse=orelse):
            return [body, orelse]
    return []


def _refused(source: Source, node: ast.expr | ast.stmt, what: str, hint: str) -> Diagnostic:
    span = source.span_of(node)
    if span.end_line > span.line:
        span = Span(span.line, span.column, span.line, len(source.lines[span.line - 1]) + 1)
    return diagnostic(span, "V010", f"Filters do not have {what}.", hint)


def _module(source: Source, node: ast.stmt, name: str) -> Iterator[Diagnostic]:
    top = name.split(".", maxsplit=1)[0]
    if name not in MODULES and top != "collections":
        known = ", ".join(sorted(MODULES - {"__future__"}))
        hint = _MODULE_HINTS.get(top) or f"There are: {known}."
        yield diagnostic(source.span_of(node), "V011", f"Filters have no module {name!r}.", hint)


def _conditional_bindings(source: Source, tree: ast.Module) -> Iterator[Diagnostic]:
    """Every `:=` in a part that Python may skip; one pass, however deep the parts are nested."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, is_skippable = pending.pop()
        if is_skippable and isinstance(node, ast.NamedExpr):
            message = f"`:=` cannot stand where it may not be evaluated: {node.target.id} might not exist afterwards."
            hint = f"Write {node.target.id} = … on a line before."
            yield diagnostic(source.span_of(node), "V014", message, hint)
        skippable = {id(part) for part in _sometimes_evaluated(node)}
        pending += ((child, is_skippable or id(child) in skippable) for child in ast.iter_child_nodes(node))


def _names(source: Source, node: ast.AST, bound: set[str]) -> Iterator[Diagnostic]:
    for name in _identifiers(node):
        if name.lower().startswith(RESERVED_PREFIX):
            message = f"Names beginning with {RESERVED_PREFIX} are reserved."
            yield diagnostic(_place(source, node), "V012", message, "Choose another name.")
    match node:
        case ast.Name(id=name, ctx=ast.Load()) if name in UNAVAILABLE and name not in bound:
            hint = "docs/language/reference.md lists what there is."
            yield diagnostic(source.span_of(node), "V013", f"Filters have no {name}().", hint)
        case ast.Attribute(attr=name) if name.startswith("__"):
            yield diagnostic(source.span_of(node), "V013", f"Filters have no {name}.", "")
        case _:
            pass


def _identifiers(node: ast.AST) -> Iterator[str]:
    """Every identifier of *node* itself (in whatever field), not the text of constants."""
    if isinstance(node, ast.Constant):
        return
    for _, value in ast.iter_fields(node):
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, str))


def _place(source: Source, node: ast.AST) -> Span:
    if isinstance(
        node, ast.expr | ast.stmt | ast.arg | ast.keyword | ast.alias | ast.ExceptHandler | ast.pattern
    ):
        start = source.offset(node.lineno, node.col_offset)
        end = source.offset(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
        span = source.span(start, end)
        if span.end_line > span.line:
            span = Span(span.line, span.column, span.line, len(source.lines[span.line - 1]) + 1)
        return span
    return Span(1, 1, 1, 1)


def _unused(source: Source, tree: ast.Module) -> Iterator[Diagnostic]:
    """Top-level assignments none of whose names is ever read."""
    read = loaded_names(tree) | {
        name for node in ast.walk(tree) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names
    }
    read |= {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    used = bound_names(tree) & read
    unused = 0
    for statement in tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or unused >= DIAGNOSTICS_MAX:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [
            part
            for target in targets
            for part in ast.walk(target)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        ]
        if not names or any(part.id in read or part.id.startswith("_") for part in names):
            continue
        unused += 1
        first = names[0]
        meant = nearest(first.id, used, cutoff=0.8)
        hint = (
            f"Was it meant where {meant} is used?"
            if meant
            else "Use it in signal() or show(), or leave it out."
        )
        yield diagnostic(source.span_of(first), "V230", f"{first.id} is never used.", hint)
