"""
The text of a function that a plan carries for `each`: what it may say.

Decided here: size, constructs and names, for texts taken out of a filter as well as for those that somebody wrote
into a plan by hand. Not decided here: how a text is taken out of a filter (`sandbox.language.extract_function`), nor how it
is run (`sandbox.interpreter.functions`).

Such a text defines plain values, functions and imports, nothing else, and keeps nothing from call to call: every
call runs the definitions again, so a value is a fact of its inputs.
"""

import ast
import functools
from collections.abc import Iterator

from sandbox.plan.text import syntax
from sandbox.plan.text.diagnostics import Diagnostic

FUNCTION_BYTES_MAX = 4096
"""A plan is data that every machine holds for every trader; a page of code says what no operator can."""
UNREPEATABLE = frozenset({"id", "hash"})
"""Builtins whose answer depends on more than their arguments."""


@functools.lru_cache(maxsize=1024)
def refusal(text: str, name: str) -> str | None:
    """Why *text* is not the definition of a function *name* that `each` may call; None when it is."""
    size = len(text.encode(errors="surrogatepass"))
    if size > FUNCTION_BYTES_MAX:
        return f"the function has {size} bytes, at most {FUNCTION_BYTES_MAX} are allowed"
    parsed = syntax.parse(text)
    if isinstance(parsed, Diagnostic):
        return f"the function's text cannot be read: line {parsed.line}: {parsed.message.rstrip('.')}"
    source, tree = parsed
    for finding in syntax.lint(source, tree):
        if finding.fatal:
            found = finding.diagnostic
            return f"the function's text is refused: line {found.line}: {found.message.rstrip('.')}"
    reason = next(_misplaced(tree), None) or next((why for _, why in unrepeatable(tree)), None)
    if reason is not None:
        return reason
    if not name.isidentifier() or name not in _functions(tree):
        return f"the text defines no function {name[:64]!r}"
    return None


def unrepeatable(tree: ast.AST) -> Iterator[tuple[ast.Name | ast.Global, str]]:
    """What in *tree* would let a call depend on more than its inputs, and why."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield node, f"`global {', '.join(node.names)}`: nothing is kept from one call to the next"
        elif isinstance(node, ast.Name) and node.id in UNREPEATABLE:
            yield node, f"{node.id}() does not give the same answer every time"


def _misplaced(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        match statement:
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef():
                pass
            case ast.Assign(targets=[ast.Name()]):
                pass
            case _:
                yield f"line {statement.lineno}: only functions, plain values and imports stand outside a function"


def _functions(tree: ast.Module) -> set[str]:
    """Names that *tree*, each statement of which is well placed, binds to functions."""
    names = {statement.name for statement in tree.body if isinstance(statement, ast.FunctionDef)}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
            names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return names
