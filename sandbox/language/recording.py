"""
What a run recorded, read with distrust, and the plan it makes.

Decided here: how nodes of the run become nodes of the plan, which statement is blamed when the plan is refused, and
what the signal's terms are.
"""

import ast
from collections.abc import Callable, Mapping, Sequence

import msgspec

from sandbox.language.bounds import certain_truth
from sandbox.language.rewrite import Rewritten
from sandbox.plan.axis import Axis
from sandbox.plan.document import Node, Plan, PlanError, Term, build_plan_and_map
from sandbox.plan.graph import facts_of
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import Each
from sandbox.plan.text.diagnostics import Diagnostic, diagnostic
from sandbox.plan.text.source import Span

RECORD_BYTES_MAX = 8 << 20
_TERM_CHARS_MAX = 200
_CHECK_HINT = "Check the numbers: both sides may be the same, or out of reach (RSI lies between 0 and 100)."


class RecordedNode(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    op: str
    args: list[int]
    params: dict[str, int | float | str]
    out: int
    statement: int


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The run's own account of itself; nothing in it is believed before `plan_of` has checked it."""

    nodes: list[RecordedNode]
    signal: int | None
    show: dict[str, int]
    terms: list[tuple[int, int]]


def read_record(answer: object) -> Recorded | None:
    """The record in the text a run ended with; None when it is not one."""
    if not isinstance(answer, str) or len(answer) > RECORD_BYTES_MAX:
        return None
    try:
        return msgspec.json.decode(answer, type=Recorded)
    except msgspec.MsgspecError:
        return None


def plan_of(record: Recorded, rewritten: Rewritten) -> tuple[Plan | None, list[Term], list[Diagnostic]]:
    """The plan of a run that met no error, its terms, and what is wrong or odd about it."""
    if record.signal is None:
        return None, [], []
    kept = _reachable(record)
    if kept is None:
        return None, [], [diagnostic(Span(1, 1, 1, 1), "V390", "The filter's record is damaged.")]
    position = {node: at for at, node in enumerate(kept)}
    nodes = [
        Node(node.op, tuple(position[arg] for arg in node.args), dict(node.params), node.out)
        for node in (record.nodes[at] for at in kept)
    ]
    spans = [_statement(rewritten, record.nodes[at].statement) for at in kept]
    try:
        show = {name: position[node] for name, node in record.show.items()}
        plan, found = build_plan_and_map(nodes, position[record.signal], show)
    except PlanError as error:
        return None, [], [_refusal(error, nodes, spans, rewritten)]
    terms, odd = _terms(record, rewritten, plan, {node: found[at] for node, at in position.items()})
    truth = certain_truth(plan)[plan.signal]
    if truth is not None:
        return None, [], [_constant(rewritten, truth=truth)]
    return plan, terms, odd


def _reachable(record: Recorded) -> list[int] | None:
    """Indices of the nodes that signal and show use, ascending; None when the record refers to what is not there."""
    count = len(record.nodes)
    pending = [index for index in (record.signal, *record.show.values()) if index is not None]
    seen: set[int] = set()
    while pending:
        index = pending.pop()
        if not 0 <= index < count or any(arg >= index for arg in record.nodes[index].args):
            return None
        if index not in seen:
            seen.add(index)
            pending += record.nodes[index].args
    return sorted(seen)


def _statement(rewritten: Rewritten, index: int) -> Span:
    return rewritten.statements[index] if 0 <= index < len(rewritten.statements) else Span(1, 1, 1, 1)


def _terms(
    record: Recorded, rewritten: Rewritten, plan: Plan, found: Mapping[int, tuple[int, ...]]
) -> tuple[list[Term], list[Diagnostic]]:
    """The terms that are nodes of the plan, and a warning for each that is decided before any candle is seen."""
    truth = certain_truth(plan)
    terms: list[Term] = []
    odd: list[Diagnostic] = []
    recorded = dict(record.terms)
    for at, site in sorted(enumerate(rewritten.terms), key=lambda item: item[1].name is not None):
        nodes = found.get(recorded.get(at, -1))
        if not nodes:
            continue
        node, *also = nodes
        text = site.text if site.name is None else f"{site.name}={site.text}"
        terms.append(Term(node, site.span.line, " ".join(text.split())[:_TERM_CHARS_MAX], tuple(also)))
        if site.name is None and not also and truth[node] is not None:
            answer = "true" if truth[node] else "false"
            message = f"This is always {answer}: its values can never be otherwise."
            odd.append(diagnostic(site.span, "V225", message, _CHECK_HINT))
    return terms, odd


def _signal_span(rewritten: Rewritten) -> Span:
    """Where the signal is: the span of its only term, or of the call."""
    for node in ast.walk(ast.parse(rewritten.source.text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "signal":
            return rewritten.source.span_of(node)
    return Span(1, 1, 1, 1)


def _constant(rewritten: Rewritten, *, truth: bool) -> Diagnostic:
    span = _signal_span(rewritten)
    if truth:
        return diagnostic(
            span,
            "V222",
            "The signal is always true: its values can never be otherwise.",
            _CHECK_HINT,
        )
    return diagnostic(
        span,
        "V224",
        "The signal can never be true.",
        _CHECK_HINT,
    )


def _refusal(
    error: PlanError, nodes: Sequence[Node], spans: Sequence[Span], rewritten: Rewritten
) -> Diagnostic:
    """The diagnostic for a refused plan, at the statement of the node at fault or of the costliest one."""
    begins_with_code = "[" in error.message.split()[0]
    first = error.message[0] if begins_with_code else error.message[0].upper()
    message = f"{first}{error.message[1:]}."
    if error.node is None and error.code in _LIMITS:
        code, hint, weight = _LIMITS[error.code]
        span = _busiest(spans, [weight(node) for node in nodes])
        return diagnostic(span, code, message, hint)
    span = _signal_span(rewritten) if error.node is None else spans[error.node]
    code, hint = _REFUSED.get(error.code, ("V390", ""))
    return diagnostic(span, code, message, hint)


def _cost(node: Node) -> int:
    facts = facts_of(0, node.op, node.out, node.params)
    return (1 + facts.bars_behind(Axis("1d"))) * facts.cost_ns


_LIMITS: Mapping[str, tuple[str, str, Callable[[Node], int]]] = {
    "nodes": ("V302", "Most of them come from here.", lambda _node: 1),
    "calls": (
        "V302",
        "Let one function do more, or ask less.",
        lambda node: isinstance(OPERATORS[node.op].kind, Each),
    ),
    "cost": ("V301", "The costliest part is here: shorten its periods.", _cost),
    "lookback": ("V303", "The longest look back is about here: use a coarser timeframe.", _cost),
}
"""Limits of a plan as a whole: code, hint, and what a node adds to it, by `PlanError.code`."""
_REFUSED = {
    "params": ("V211", ""),
    "lookback": ("V303", ""),
    "kind": ("V202", ""),
    "constant": ("V222", ""),
    "forming": (
        "V216",
        "Look back on each series first and combine then, or take all of them from bars(..., forming=True) of one timeframe.",
    ),
}


def _busiest(spans: Sequence[Span], costs: Sequence[int]) -> Span:
    """The statement whose nodes cost most together."""
    totals: dict[tuple[int, int], int] = {}
    places: dict[tuple[int, int], Span] = {}
    for span, cost in zip(spans, costs, strict=True):
        key = (span.line, span.column)
        totals[key] = totals.get(key, 0) + cost
        places[key] = span
    return places[max(totals, key=lambda key: totals[key])] if totals else Span(1, 1, 1, 1)
