"""
Taking the functions that a filter gives to `each` out of its text.

Decided here: which functions can be taken, and what goes with them: the functions and imports they use as text, plain
values as they are when `each` is reached. Not decided here: what such a text may say (`sandbox.language.function`),
what `each` records (`inside`).

A function is taken as it was written, not as the rewriting leaves it: inside, every value is a plain number.
"""

import ast
import builtins
import copy
import symtable
from collections.abc import Iterator, Mapping

from sandbox.language.diagnostics import Diagnostic, diagnostic
from sandbox.language.function import FUNCTION_BYTES_MAX, unrepeatable
from sandbox.language.lint import UNAVAILABLE, Finding, bound_names
from sandbox.language.rewrite import Capture, Source
from sandbox.language.typing_errors import unknown_name
from sandbox.language.vocabulary import LANGUAGE

_FUNCTION_HINT = (
    "Write each(f, series, …), where f is defined by `def f(…):` at top level, or a lambda in its place."
)
_SERIES_HINT = "Inside, values are plain numbers: compute the series outside and give it to each()."
_PLAIN = frozenset(dir(builtins)) - UNAVAILABLE
_Function = ast.FunctionDef | ast.Lambda
_Definition = ast.FunctionDef | ast.Assign | ast.Import | ast.ImportFrom


def captures(source: Source, tree: ast.Module) -> tuple[dict[int, Capture], list[Finding]]:
    """
    The functions given to `each`, by the id of the argument's node, and what is wrong with them.

    A function with a mistake is captured as refused, so that running the filter does not tell of it again.
    """
    bound = bound_names(tree)
    if "each" in bound:
        return {}, []
    definitions = _definitions(tree)
    taken: dict[int, Capture] = {}
    found: list[Diagnostic] = []
    for call, around in _calls(tree):
        if not any(keyword.arg in {None, "when"} for keyword in call.keywords):
            message = "each() without `when` calls the function for every symbol, in every slot."
            hint = "Give it what must hold anyway: when=m15.volume > 2 * ta.sma(m15.volume, 20)."
            found.append(diagnostic(source.span_of(call.func), "V243", message, hint))
        if not call.args or isinstance(call.args[0], ast.Starred):
            continue
        taking = _Taking(source, definitions, bound, around)
        capture = taking.take(call.args[0])
        found += taking.found
        if capture is not None:
            taken[id(call.args[0])] = capture
    kept = dict.fromkeys(found)  # one function given to several calls has its mistakes once
    return taken, [Finding(item, fatal=False) for item in kept]


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, frozenset[str]]]:
    """Every call of `each`, with the names that the functions and comprehensions around it bind."""
    pending: list[tuple[ast.AST, frozenset[str]]] = [(tree, frozenset())]
    while pending:
        node, around = pending.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "each":
            yield node, around
        scopes = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
        if isinstance(node, scopes):
            around = around.union(*map(bound_names, ast.iter_child_nodes(node)))
        pending += [(child, around) for child in reversed(list(ast.iter_child_nodes(node)))]


def _definitions(tree: ast.Module) -> Mapping[str, _Definition]:
    """Functions and modules by name: those bound exactly once, at top level."""
    counts: dict[str, int] = {}
    for node in ast.walk(tree):
        for name in _bound_by(node):
            counts[name] = counts.get(name, 0) + 1
    found: dict[str, _Definition] = {}
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name):
                found[name] = statement
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Lambda()):
                found[name] = statement
            case ast.Import() | ast.ImportFrom():
                for alias in statement.names:
                    only = copy.copy(statement)
                    only.names = [alias]
                    found[alias.asname or alias.name.split(".")[0]] = only
            case _:
                pass
    return {name: definition for name, definition in found.items() if counts[name] == 1}


def _bound_by(node: ast.AST) -> set[str]:
    """The names that *node* itself binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.arg() | ast.Module() | ast.Lambda():
            return set()  # an argument hides a name inside its function only
        case ast.alias(name=name, asname=alias):
            return {alias or name.split(".")[0]}
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return {name}
    return set()


class _Taking:
    """One function on its way out of the filter."""

    def __init__(
        self,
        source: Source,
        definitions: Mapping[str, _Definition],
        bound: set[str],
        around: frozenset[str],
    ) -> None:
        self.found: list[Diagnostic] = []
        self._source = source
        self._definitions = definitions
        self._bound = bound
        self._around = around

    def take(self, given: ast.expr) -> Capture | None:
        """The capture of the function *given*; None where running the filter will tell what is wrong."""
        function, name = self._function(given)
        if function is None:
            return Capture("", "", (), 0, -1, False, True, ()) if self.found else None
        parts, values = self._parts(function, name)
        places = tuple(self._source.span_of(part) for part in parts if isinstance(part, ast.expr | ast.stmt))
        for part in parts:
            self._mistakes(part)
        if name is None:
            name = "fn"
            while name in values or name in {_name_of(part) for part in parts}:
                name += "_"
            parts[-1] = ast.Assign([ast.Name(name, ast.Store())], given)
        text = "\n".join(ast.unparse(ast.fix_missing_locations(_plain(part))) for part in parts) + "\n"
        if len(text.encode()) > FUNCTION_BYTES_MAX:
            self._add(given, "V242", *_too_long(len(text.encode())))
        least, most = _arguments(function)
        refused = bool(self.found)
        return Capture(
            name, text, tuple(sorted(values)), least, most, _is_condition(function), refused, places
        )

    def _function(self, given: ast.expr) -> tuple[_Function | None, str | None]:
        """The definition of the function *given* and its name, if it has one."""
        if isinstance(given, ast.Lambda):
            return given, None
        if isinstance(given, ast.Name):
            definition = None if given.id in self._around else self._definitions.get(given.id)
            if isinstance(definition, ast.FunctionDef):
                return definition, given.id
            if isinstance(definition, ast.Assign) and isinstance(definition.value, ast.Lambda):
                return definition.value, given.id
            if given.id not in self._bound | _PLAIN | LANGUAGE:
                return None, None  # a name nobody defined
        message = "each() takes a function that can be read in the filter's text, which this is not."
        self._add(given, "V240", message, _FUNCTION_HINT)
        return None, None

    def _parts(self, function: _Function, name: str | None) -> tuple[list[ast.AST], set[str]]:
        """The definitions to take, the function's own last, and the names whose values are taken."""
        own: ast.AST = function if name is None else self._definitions[name]
        parts: dict[str, ast.AST] = {}
        values: set[str] = set()
        pending = [(own, self._around if name is None else frozenset())]
        while pending:
            part, local = pending.pop()
            for free in sorted(_free_names(part)):
                if free == name or free in parts or free in values:
                    continue
                definition = None if free in local else self._definitions.get(free)
                if definition is not None:
                    parts[free] = definition
                    pending.append((definition, frozenset()))
                elif free in self._bound:
                    values.add(free)
                    if free in self._around and free not in local:
                        self._hidden(part, free)
        imports = [part for part in parts.values() if isinstance(part, ast.Import | ast.ImportFrom)]
        others = [part for part in parts.values() if not isinstance(part, ast.Import | ast.ImportFrom)]
        in_order = sorted(others, key=lambda part: part.lineno)  # type: ignore[attr-defined]
        return [*sorted(imports, key=ast.dump), *in_order, own], values

    def _hidden(self, part: ast.AST, name: str) -> None:
        node = next(n for n in ast.walk(part) if isinstance(n, ast.Name) and n.id == name)
        message = f"{name} is another one where each() is called."
        self._add(node, "V240", message, "Give one of them another name.")

    def _mistakes(self, part: ast.AST) -> None:
        """What the text of *part* uses and a function given to `each` cannot."""
        for used, why in unrepeatable(part):
            self._add(used, "V240", f"A function given to each() cannot use this: {why}.", "")
        foreign = _free_names(part) - self._bound
        for node in ast.walk(part):
            if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load) or node.id not in foreign:
                continue
            if node.id in LANGUAGE:
                message = f"{node.id} makes series, which a function given to each() has none of."
                self._add(node, "V241", message, _SERIES_HINT)
            elif node.id not in _PLAIN | UNAVAILABLE:
                self._add(node, *unknown_name(node.id, self._bound))

    def _add(self, node: ast.expr | ast.stmt, code: str, message: str, hint: str) -> None:
        self.found.append(diagnostic(self._source.span_of(node), code, message, hint))


def _too_long(size: int) -> tuple[str, str]:
    message = f"The function has {size} bytes with all it uses; at most {FUNCTION_BYTES_MAX} are allowed."
    return message, "Say what you can with series, and leave to each() what is left."


def _name_of(part: ast.AST) -> str:
    match part:
        case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return ""


def _free_names(part: ast.AST) -> set[str]:
    """The names that a definition or lambda finds outside itself."""
    text = ast.unparse(ast.fix_missing_locations(_plain(part)))
    free: set[str] = set()
    own: set[str] = set()
    tables = [symtable.symtable(text, "function", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        is_module = str(table.get_type()) == "module"
        for symbol in table.get_symbols():
            if is_module and (symbol.is_assigned() or symbol.is_imported()):
                own.add(symbol.get_name())
            elif symbol.is_referenced() and (is_module or symbol.is_global()):
                free.add(symbol.get_name())
    return free - own


def _plain(part: ast.AST) -> ast.AST:
    """A copy without annotations, which say nothing to whoever runs it."""
    part = copy.deepcopy(part)
    for node in ast.walk(part):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return part


def _arguments(function: _Function) -> tuple[int, int]:
    """How many lists the function takes at least and at most (-1: any number)."""
    args = function.args
    count = len(args.posonlyargs) + len(args.args)
    return count - len(args.defaults), -1 if args.vararg else count


def _is_condition(function: _Function) -> bool:
    """Whether every answer of the function is True, False or None, as far as its text shows."""
    if isinstance(function, ast.Lambda):
        return _is_truth(function.body)
    if isinstance(function.returns, ast.Name):
        return function.returns.id == "bool"
    answers = [node.value for node in _own_nodes(function) if isinstance(node, ast.Return)]
    told = [a for a in answers if a is not None and not (isinstance(a, ast.Constant) and a.value is None)]
    return bool(told) and all(_is_truth(answer) for answer in told)


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The function's own statements and what is in them, without functions inside."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            pending += ast.iter_child_nodes(node)


def _is_truth(value: ast.expr) -> bool:
    match value:
        case ast.Compare() | ast.UnaryOp(op=ast.Not()) | ast.Constant(value=bool()):
            return True
        case ast.BoolOp(values=values):
            return all(_is_truth(part) for part in values)
        case ast.IfExp(body=body, orelse=orelse):
            return all(
                _is_truth(p) or (isinstance(p, ast.Constant) and p.value is None) for p in (body, orelse)
            )
        case ast.Call(func=ast.Name(id=name)):
            return name in {"any", "all", "bool", "isinstance"}
    return False
