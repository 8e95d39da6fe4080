"""
Taking the functions that a filter gives to `each` out of its text.

Decided here: which functions can be taken, and what goes with them: the functions and imports they use as text, plain
values as they are when `each` is reached. Not decided here: what such a text may say (`sandbox.plan.text.function`),
what `each` records (`prelude`).

A function is taken as it was written, not as the rewriting leaves it: inside, every value is a plain number.
"""

import ast
import builtins
import copy
import symtable
from collections.abc import Iterator, Mapping
from typing import cast

from sandbox.language.rewrite import Capture
from sandbox.language.type_errors import unknown_name
from sandbox.language.vocabulary import LANGUAGE
from sandbox.plan.text.diagnostics import DIAGNOSTICS_MAX, Diagnostic, diagnostic
from sandbox.plan.text.function import FUNCTION_BYTES_MAX, unrepeatable
from sandbox.plan.text.source import Source
from sandbox.plan.text.syntax import UNAVAILABLE, Finding, bound_names

CALLS_MAX = 16
"""Calls of `each` in the text; a plan has a quarter of that, the others may stand in branches not taken."""
READ_BYTES_MAX = 4 * FUNCTION_BYTES_MAX
"""How much of the text is looked at for one function: comments and spaces do not count in the end."""
_FUNCTION_HINT = (
    "Write each(f, series, …), where f is defined by `def f(…):` at top level, or a lambda in its place."
)
_SERIES_HINT = "Inside, values are plain numbers: compute the series outside and give it to each()."
_SHORTER_HINT = "Say what you can with series, and leave to each() what is left."
_PLAIN = frozenset(dir(builtins)) - UNAVAILABLE
_Function = ast.FunctionDef | ast.Lambda
_Definition = ast.FunctionDef | ast.Assign | ast.Import | ast.ImportFrom
_Part = _Definition | ast.Lambda


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
    read: dict[int, tuple[str, frozenset[str]]] = {}
    for number, (call, around) in enumerate(_calls(tree), 1):
        if number > CALLS_MAX:
            message = f"The filter calls each() in more than {CALLS_MAX} places."
            found.append(diagnostic(source.span_of(call.func), "V302", message, "Let one function do more."))
            break
        if not any(keyword.arg in {None, "when"} for keyword in call.keywords):
            message = "each() without `when` calls the function for every symbol, in every slot."
            hint = "Give it what must hold anyway: when=m15.volume > 2 * ta.sma(m15.volume, 20)."
            found.append(diagnostic(source.span_of(call.func), "V243", message, hint))
        if not call.args or isinstance(call.args[0], ast.Starred):
            continue
        if len(found) >= DIAGNOSTICS_MAX:
            break
        taking = _Taking(source, definitions, bound, around, read)
        capture = taking.take(call.args[0])
        found += taking.found
        if capture is not None:
            taken[id(call.args[0])] = capture
    kept = dict.fromkeys(found)  # one function given to several calls has its mistakes once
    return taken, [Finding(item, fatal=False) for item in kept]


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, frozenset[str]]]:
    """
    Every call of `each`, with the names that the functions and comprehensions around it bind.

    The outermost of those holds the others, so its names are all of them.
    """
    pending: list[tuple[ast.AST, frozenset[str], bool]] = [(tree, frozenset(), False)]
    while pending:
        node, around, is_within = pending.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "each":
            yield node, around
        scopes = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
        if isinstance(node, scopes) and not is_within:
            is_within = True
            around = around.union(*map(bound_names, ast.iter_child_nodes(node)))
        pending += [(child, around, is_within) for child in reversed(list(ast.iter_child_nodes(node)))]


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
    """One function on its way out of the filter; *read* keeps what was made of definitions, for the next one."""

    def __init__(
        self,
        source: Source,
        definitions: Mapping[str, _Definition],
        bound: set[str],
        around: frozenset[str],
        read: dict[int, tuple[str, frozenset[str]]],
    ) -> None:
        self.found: list[Diagnostic] = []
        self._source = source
        self._definitions = definitions
        self._bound = bound
        self._around = around
        self._read = read

    def take(self, given: ast.expr) -> Capture | None:
        """The capture of the function *given*; None where running the filter will tell what is wrong."""
        function, name = self._function(given)
        if function is None:
            return _refused() if self.found else None
        taken = self._parts(function, name)
        if taken is None:
            message = f"The function has more than {READ_BYTES_MAX} bytes with all it uses."
            self._add(given, "V242", message, _SHORTER_HINT)
            return _refused()
        parts, values = taken
        places = tuple(self._source.span_of(part) for part in parts)
        for part in parts:
            self._mistakes(part)
        texts = [self._text(part)[0] for part in parts]
        if name is None:
            name = "fn"
            while name in values or name in {_name_of(part) for part in parts}:
                name += "_"
            texts[-1] = f"{name} = {texts[-1]}"
        text = "\n".join(texts) + "\n"
        if len(text.encode()) > FUNCTION_BYTES_MAX:
            message = f"The function has {len(text.encode())} bytes with all it uses; at most {FUNCTION_BYTES_MAX} are allowed."
            self._add(given, "V242", message, _SHORTER_HINT)
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

    def _parts(self, function: _Function, name: str | None) -> tuple[list[_Part], set[str]] | None:
        """
        The definitions to take, the function's own last, and the names whose values are taken.

        None when they are longer than anybody would read.
        """
        own: _Part = self._definitions[name] if name is not None else cast("ast.Lambda", function)
        parts: dict[str, _Part] = {}
        values: set[str] = set()
        pending = [(own, self._around if name is None else frozenset[str]())]
        size = 0
        while pending:
            part, local = pending.pop()
            start, end = self._source.range_of(part)
            size += end - start
            if size > READ_BYTES_MAX:
                return None
            for free in sorted(self._text(part)[1]):
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
        in_order = sorted(parts.values(), key=lambda part: (part.lineno, part.col_offset))
        return [*in_order, own], values

    def _text(self, part: _Part) -> tuple[str, frozenset[str]]:
        """The text of a definition without its annotations, and the names it finds outside itself."""
        if id(part) not in self._read:
            text = ast.unparse(_plain(part))
            self._read[id(part)] = text, _free_names(text)
        return self._read[id(part)]

    def _hidden(self, part: _Part, name: str) -> None:
        node = next(n for n in ast.walk(part) if isinstance(n, ast.Name) and n.id == name)
        message = f"{name} is another one where each() is called."
        self._add(node, "V240", message, "Give one of them another name.")

    def _mistakes(self, part: _Part) -> None:
        """What the text of *part* uses and a function given to `each` cannot."""
        for used, why in unrepeatable(part):
            self._add(used, "V240", f"A function given to each() cannot use this: {why}.", "")
        foreign = self._text(part)[1] - self._bound
        for node in ast.walk(part):
            if len(self.found) >= DIAGNOSTICS_MAX:
                return  # each further one costs a search for the name that was meant
            if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load) or node.id not in foreign:
                continue
            if node.id in LANGUAGE:
                message = f"{node.id} makes series, which a function given to each() has none of."
                self._add(node, "V241", message, _SERIES_HINT)
            elif node.id not in _PLAIN | UNAVAILABLE:
                self._add(node, *unknown_name(node.id, self._bound))

    def _add(self, node: ast.expr | ast.stmt, code: str, message: str, hint: str) -> None:
        self.found.append(diagnostic(self._source.span_of(node), code, message, hint))


def _refused() -> Capture:
    return Capture("", "", (), 0, -1, False, True, ())


def _name_of(part: ast.AST) -> str:
    match part:
        case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return ""


def _free_names(text: str) -> frozenset[str]:
    """The names that a definition, or a lambda, finds outside itself."""
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
    return frozenset(free - own)


def _plain(definition: _Part) -> _Part:
    """A copy without annotations, which say nothing to whoever runs it."""
    part = copy.deepcopy(definition)
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
