"""Which findings are told when several steps of a compile found something, and in which order."""

from collections.abc import Sequence

import msgspec

from sandbox.language import type_errors
from sandbox.language.attempt import Attempt, crashed
from sandbox.language.recording import plan_of
from sandbox.plan.document import Plan, Term
from sandbox.plan.text import syntax
from sandbox.plan.text.diagnostics import DIAGNOSTICS_MAX, Diagnostic, diagnostic
from sandbox.plan.text.source import Source, Span


def merge_findings(
    attempt: Attempt, linted: Sequence[Diagnostic], *, runs: bool
) -> tuple[Plan | None, list[Diagnostic], list[Term]]:
    """Everything found, each place once, in the order of the text; the plan when nothing is an error."""
    ran = runs and not attempt.found and attempt.record is not None
    found = [*(item for item in linted if item.severity == "error"), *attempt.found]
    found = _with_suspicions(found, attempt.typed, ran=ran)
    found += _missing_signal(attempt, ran=ran)
    if attempt.record is not None and not _has_error(found):
        plan, terms, more = plan_of(attempt.record, attempt.rewritten)
        found += more
        if plan is not None:
            found += (item for item in linted if item.severity == "warning")
            return plan, _in_order(found), terms
    if not _has_error(found):
        found.append(crashed(timed_out=False))
    return None, _in_order(found), []


def _with_suspicions(
    found: list[Diagnostic], typed: Sequence[type_errors.Suspicion], *, ran: bool
) -> list[Diagnostic]:
    """*found* and what the checker adds: all of it when the run failed, else what is certain about unused code."""
    merged = list(found)
    for suspicion in typed:
        item = suspicion.finding
        same = [other for other in merged if _overlap(item, other)]
        if [other.code for other in same] == [item.code] and _within(item, same[0]):
            merged.remove(same[0])  # the checker knows the expression, the run only the statement
        elif same or any(other.code == item.code and other.line == item.line for other in merged):
            continue
        if not ran:
            merged.append(item)
        elif suspicion.certain:
            merged.append(msgspec.structs.replace(item, severity="warning"))
    return merged


def _has_error(found: Sequence[Diagnostic]) -> bool:
    return any(item.severity == "error" for item in found)


def _in_order(found: Sequence[Diagnostic]) -> list[Diagnostic]:
    """The first findings of the text; errors go before warnings when there are too many."""
    kept = sorted(found, key=lambda item: (item.severity, item.line, item.column))[:DIAGNOSTICS_MAX]
    return sorted(kept, key=lambda item: (item.line, item.column, item.code))


def _missing_signal(attempt: Attempt, *, ran: bool) -> list[Diagnostic]:
    source = attempt.rewritten.source
    if not syntax.calls_signal(attempt.tree):
        return [_no_signal(source, "The filter never calls signal(condition), so it can never match.")]
    if ran and attempt.record is not None and attempt.record.signal is None:
        return [_no_signal(source, "signal(condition) is never reached, so the filter can never match.")]
    return []


def _no_signal(source: Source, message: str) -> Diagnostic:
    last = max((n for n, line in enumerate(source.lines, 1) if line.strip()), default=1)
    span = Span(last, 1, last, len(source.lines[last - 1]) + 1)
    return diagnostic(
        span, "V220", message, "End with signal(condition), for example signal(m15.close > m15.open)."
    )


def _within(inner: Diagnostic, outer: Diagnostic) -> bool:
    starts = (outer.line, outer.column) <= (inner.line, inner.column)
    ends = (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)
    return starts and ends and msgspec.structs.astuple(inner)[:4] != msgspec.structs.astuple(outer)[:4]


def _overlap(a: Diagnostic, b: Diagnostic) -> bool:
    start = max((a.line, a.column), (b.line, b.column))
    return start < min((a.end_line, a.end_column), (b.end_line, b.end_column))
