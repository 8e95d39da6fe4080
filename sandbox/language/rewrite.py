"""
Rewriting a filter's text so that Python's own syntax works on series.

Monty's classes overload arithmetic and indexing, but neither comparisons nor truth: `a < b`, `and`, `or`, `not`,
`x if c else y` and every place that asks for truth (`if`, `while`, `assert`, comprehension and match guards) become
calls of the prelude (`sandbox.language.prelude`). The text is spliced, never regenerated: every token the user
wrote stays on its line, and `Rewritten.origin` maps a position in the new text back to the user's.

Decided here: what is spliced where, which expressions are terms of the signal. Not decided here: what the calls
mean (`prelude`), which constructs a filter may use (`syntax`).

Theory of operation: the syntax tree is walked without recursion; each construct contributes edits (replace bytes
[start, end) by text). Replaced ranges hold only the construct's own operators, parentheses, comments and line ends;
the line ends are kept. Where edits meet at one position, outer constructs open first and close last.
"""

import ast
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sandbox.plan.text.source import Source, Span

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.In: "in",
    ast.NotIn: "not_in",
    ast.Is: "is",
    ast.IsNot: "is_not",
}
_ARGUMENTS_MAX = 120
"""Monty's calls take at most 255 arguments; a link of a chain takes two. Longer ones are given as a list."""
_IDENTITY = (ast.Is, ast.IsNot)
_MARKED = (
    ast.Assign,
    ast.AugAssign,
    ast.AnnAssign,
    ast.Expr,
    ast.Return,
    ast.Assert,
    ast.Raise,
    ast.Pass,
    ast.Continue,
)


@dataclass(frozen=True, slots=True)
class TermSite:
    """An expression whose value `explain` shows: a conjunct of the signal (name None) or a shown value."""

    name: str | None
    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Capture:
    """
    A function given to `each`: the text that defines it, apart from the `values` found when `each` is reached.

    It takes *least* to *most* lists (-1: any number). A refused one has mistakes that were told already. *places*
    are where its definitions stand in the filter: what runs there sees plain values.
    """

    name: str
    text: str
    values: tuple[str, ...]
    least: int
    most: int
    is_condition: bool
    is_refused: bool
    places: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: bytes
    depth: float
    opens: bool
    node_start: int
    node_end: int

    @property
    def order(self) -> tuple[int, int, float]:
        # Among edits at one position: closing ones first (inner before outer), then opening ones (outer before inner).
        return (self.start, int(self.opens), self.depth if self.opens else -self.depth)


@dataclass(slots=True)
class Rewritten:
    """The text that Monty runs, and the way back to the user's."""

    text: str
    source: Source
    statements: list[Span]
    terms: list[TermSite]
    functions: list[Capture]
    _new: Source
    _pieces: list[tuple[int, int, int, bool]] = field(repr=False)
    """(start in the new text, start in the user's text, end in the user's text, copied unchanged), ascending."""

    def origin(self, line: int, column: int, end_line: int, end_column: int) -> Span:
        """The user's range for a range of the new text; one within spliced text maps to its whole construct."""
        first = self._new.offset_of_character(line, column)
        last = max(self._new.offset_of_character(end_line, end_column) - 1, first)
        start, _ = self._locate(first)
        _, end = self._locate(last)
        return self.source.span(start, max(start, end))

    def _locate(self, offset: int) -> tuple[int, int]:
        index = max(bisect_right(self._pieces, offset, key=lambda piece: piece[0]) - 1, 0)
        new_start, start, end, copied = self._pieces[index]
        if not copied:
            return start, end
        at = start + offset - new_start
        return at, at + 1


def rewrite(
    source: Source, tree: ast.Module, captures: Mapping[int, Capture] = MappingProxyType({})
) -> Rewritten:
    """
    Splice the prelude's calls into *source*, whose syntax tree is *tree*.

    *captures* are the functions given to `each`, by the id of the argument's node.

    Expects what `syntax` accepts: a tree of bounded depth, no reserved names. Returns text with the same lines.
    """
    terms = list(_find_terms(tree, source))
    writer = _Writer(source, {id(node): index for index, (node, _) in enumerate(terms)}, captures)
    writer.visit(tree)
    text, pieces = _splice(source.raw, writer.edits)
    return Rewritten(
        text=text,
        source=source,
        statements=writer.statements,
        terms=[site for _, site in terms],
        functions=writer.functions,
        _new=Source(text),
        _pieces=pieces,
    )


def rewrite_expression(text: str) -> str:
    """*text*, one expression, with the prelude's calls spliced in."""
    source = Source(text)
    writer = _Writer(source, {}, {})
    writer.visit(ast.parse(text, mode="eval"))
    return _splice(source.raw, writer.edits)[0]


def _splice(raw: bytes, edits: list[_Edit]) -> tuple[str, list[tuple[int, int, int, bool]]]:
    out: list[bytes] = []
    pieces: list[tuple[int, int, int, bool]] = []
    position = length = 0
    for edit in sorted(edits, key=lambda edit: edit.order):
        if edit.start > position:
            pieces.append((length, position, edit.start, True))
            out.append(raw[position : edit.start])
            length += edit.start - position
        text = edit.text + b"\n" * raw.count(b"\n", edit.start, edit.end)
        if edit.opens and raw[edit.start - 1 : edit.start].isalpha():
            text = b" " + text  # the keyword of `return(a) < b` must not grow
        if text:
            pieces.append((length, edit.node_start, edit.node_end, False))
            out.append(text)
            length += len(text)
        position = edit.end
    pieces.append((length, position, len(raw), True))
    out.append(raw[position:])
    return b"".join(out).decode(), pieces


def _bindings(tree: ast.Module) -> dict[str, int]:
    """How many times each name is bound anywhere in the filter."""
    counts: dict[str, int] = {}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.Global | ast.Nonlocal):
            names = node.names * 2
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _definitions(tree: ast.Module) -> dict[str, ast.Assign]:
    """Names bound exactly once, at top level, by a plain `name = expression`."""
    counts = _bindings(tree)
    found: dict[str, ast.Assign] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name) and counts[target.id] == 1:
                found[target.id] = statement
    return found


def _find_terms(tree: ast.Module, source: Source) -> Iterator[tuple[ast.expr, TermSite]]:
    """The conjuncts of every `signal(...)`, looking through names to their one definition, and the shown values."""
    definitions = _definitions(tree)
    seen: set[int] = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            if call.func.id == "signal":
                condition = [*call.args[:1], *(keyword.value for keyword in call.keywords[:1])]
                sites = [
                    (part, TermSite(None, source.span_of(whole), source.segment(whole)))
                    for part, whole in _conjuncts(condition, definitions)
                ]
            elif call.func.id == "show":
                sites = [
                    (k.value, TermSite(k.arg, source.span_of(k.value), source.segment(k.value)))
                    for k in call.keywords
                    if k.arg is not None
                ]
            else:
                continue
            yield from (site for site in sites if id(site[0]) not in seen)
            seen |= {id(part) for part, _ in sites}


def _conjuncts(
    conditions: list[ast.expr], definitions: dict[str, ast.Assign]
) -> Iterator[tuple[ast.expr, ast.expr | ast.stmt]]:
    """Each conjunct, in order, with the text that stands for it: its definition when it is only named."""
    seen: set[int] = set()
    pending = list(conditions)
    while pending:
        node = pending.pop(0)
        definition = definitions.get(node.id) if isinstance(node, ast.Name) else None
        expression = definition.value if definition else node
        if id(expression) in seen or isinstance(expression, ast.Starred):
            continue
        seen.add(id(expression))
        if isinstance(expression, ast.BoolOp) and isinstance(expression.op, ast.And):
            pending = [*expression.values, *pending]
        else:
            yield expression, definition or node


class _Writer:
    """Collects the edits of one text."""

    def __init__(self, source: Source, terms: dict[int, int], captures: Mapping[int, Capture]) -> None:
        self.source = source
        self.terms = terms
        self.captures = captures
        self.functions: list[Capture] = []
        self.edits: list[_Edit] = []
        self.statements: list[Span] = []

    def visit(self, root: ast.AST) -> None:
        pending: list[tuple[ast.AST, int]] = [(root, 0)]
        unmarked: set[int] = set()
        while pending:
            node, depth = pending.pop()
            if isinstance(node, _MARKED) and id(node) not in unmarked:
                self._mark(node, depth)
            if isinstance(node, ast.ClassDef):
                unmarked |= {id(statement) for statement in node.body}  # Monty takes only plain ones there
            if id(node) in self.terms and isinstance(node, ast.expr):
                self._wrap(node, f"vyx_term({self.terms[id(node)]}, (", "))", depth - 0.25)
            if id(node) in self.captures and isinstance(node, ast.expr):
                self._function(node, depth)
            if self._construct(node, depth):
                pending += [(child, depth + 1) for child in reversed(list(_children(node)))]

    def _construct(self, node: ast.AST, depth: int) -> bool:  # noqa: C901 - one case per construct, in one place
        """Add the edits of *node* itself; false when its children must not be visited."""
        match node:
            case ast.JoinedStr():
                self._text(node, depth)
                return False
            case ast.Compare(ops=[op]) if not isinstance(op, _IDENTITY):
                name = _COMPARISONS[type(op)]
                self._call(node, depth, f"vyx_{name}((", ["), ("], [node.left, *node.comparators])
            case ast.Compare(ops=ops) if len(ops) > 1:
                gaps = [f"), '{_COMPARISONS[type(op)]}', lambda: (" for op in ops]
                self._call(node, depth, "vyx_chain((", gaps, [node.left, *node.comparators])
            case ast.BoolOp(op=op, values=values):
                name = "and" if isinstance(op, ast.And) else "or"
                self._call(node, depth, f"vyx_{name}((", ["), lambda: ("] * (len(values) - 1), values)
            case ast.UnaryOp(op=ast.Not()):
                self._call(node, depth, "vyx_not((", [], [node.operand])
            case ast.IfExp():
                parts = [node.body, node.test, node.orelse]
                self._call(node, depth, "vyx_choose(lambda: (", ["), (", "), lambda: ("], parts)
            case ast.If() | ast.While() | ast.Assert():
                self._truth(node.test, type(node).__name__.lower(), depth)
            case ast.comprehension(ifs=ifs):
                for test in ifs:
                    self._truth(test, "if", depth)
            case ast.match_case(guard=ast.expr() as guard):
                self._truth(guard, "if", depth)
            case ast.Match(subject=subject):
                self._truth(subject, "match", depth)
            case _:
                pass
        return True

    def _mark(self, node: ast.stmt, depth: int) -> None:
        start, end = self.source.range_of(node)
        text = f"vyx_at({len(self.statements)}); ".encode()
        self.edits.append(_Edit(start, start, text, depth - 0.5, True, start, end))
        self.statements.append(self.source.span_of(node))

    def _function(self, node: ast.expr, depth: int) -> None:
        capture = self.captures[id(node)]
        values = "".join(f"{name!r}: ({name}), " for name in capture.values)
        self._wrap(node, f"vyx_function({len(self.functions)}, (", f"), lambda: {{{values}}})", depth - 0.25)
        self.functions.append(capture)

    def _truth(self, test: ast.expr, word: str, depth: int) -> None:
        self._wrap(test, "vyx_truth((", f"), '{word}')", depth + 0.5)

    def _wrap(self, node: ast.expr, before: str, after: str, depth: float) -> None:
        start, end = self.source.range_of(node)
        self.edits.append(_Edit(start, start, before.encode(), depth, True, start, end))
        self.edits.append(_Edit(end, end, after.encode(), depth, False, start, end))

    def _call(self, node: ast.expr, depth: int, head: str, gaps: list[str], parts: list[ast.expr]) -> None:
        """Turn `a OP b OP c` into head a gap b gap c ))."""
        start, end = self.source.range_of(node)
        ranges = [self.source.range_of(part) for part in parts]
        tail = "))"
        if len(parts) > _ARGUMENTS_MAX:
            head, tail = head.replace("(", "(*[", 1), ")])"
        cuts = [(start, ranges[0][0], head, True)]
        cuts += [
            (left[1], right[0], gap, False)
            for gap, left, right in zip(gaps, ranges[:-1], ranges[1:], strict=True)
        ]
        cuts.append((ranges[-1][1], end, tail, False))
        for at, to, text, opens in cuts:
            self.edits.append(_Edit(at, to, text.encode(), depth, opens, start, end))

    def _text(self, node: ast.JoinedStr, depth: int) -> None:
        """
        Replace an f-string that compares or decides inside its braces by a call.

        Python before 3.12 does not say where the parts of an f-string stand, so it is replaced as a whole.
        """
        if not any(_is_rewritten(part) for part in ast.walk(node)):
            return
        start, end = self.source.range_of(node)
        self.edits.append(_Edit(start, end, _joined(node).encode(), depth, True, start, end))


def _is_rewritten(node: ast.AST) -> bool:
    match node:
        case ast.Compare(ops=ops):
            return len(ops) > 1 or not isinstance(ops[0], _IDENTITY)
        case ast.UnaryOp(op=op):
            return isinstance(op, ast.Not)
        case ast.BoolOp() | ast.IfExp() | ast.comprehension(ifs=[_, *_]):
            return True
    return False


def _joined(node: ast.JoinedStr) -> str:
    """An expression of the prelude that gives the same text as the f-string *node*, on one line."""
    parts: list[str] = []
    for value in node.values:
        if isinstance(value, ast.FormattedValue):
            expression = rewrite_expression(ast.unparse(value.value))
            spec = _joined(value.format_spec) if isinstance(value.format_spec, ast.JoinedStr) else "''"
            parts.append(f"vyx_format(({expression}), {value.conversion}, {spec})")
        elif isinstance(value, ast.Constant):
            parts.append(repr(value.value))
    return f"''.join(({''.join(part + ', ' for part in parts)}))"


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The children that may hold constructs: no annotations, no match patterns."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "pattern", "type_params"}:
            continue
        if isinstance(value, ast.AST):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, ast.AST))
