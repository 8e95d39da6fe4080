"""
From a filter's text to a plan, or to everything that is wrong with it.

Decided here: the order of the steps, the limits, and which findings are told when several steps found something.
User code runs nowhere but inside Monty's worker processes, which inherit no environment and hold no file or socket
but their pipe; what comes back is data that `sandbox.plan` validates.

Steps: parse, lint, rewrite, type-check and run (one Monty session), build the plan. A statement that fails does
not end the run: what it would have defined is replaced by a value that accepts everything, and the rest runs on,
so that one compile tells all mistakes.
"""

import ast
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec
from pydantic_monty import (
    CollectString,
    Monty,
    MontyCrashedError,
    MontyRuntimeError,
    MontySession,
    MontySyntaxError,
    ResourceLimits,
)

from sandbox.cpu_time import CpuWatch
from sandbox.interpreter import limit_worker
from sandbox.language import lint, runtime, typing_errors
from sandbox.language.capture import captures
from sandbox.language.checker import TypeChecker
from sandbox.language.diagnostics import DIAGNOSTICS_MAX, Diagnostic, diagnostic
from sandbox.language.prelude import functions_table, prelude
from sandbox.language.record import Recorded, Term, plan_of, read_record
from sandbox.language.rewrite import Rewritten, Source, Span, rewrite
from sandbox.plan import Plan

RUN_SECONDS_MAX = 0.8
"""Of CPU. Monty's own limit is in wall-clock time; a run that strikes it on a busy machine is given another chance."""
PATIENT_SECONDS_MAX = 8.0
"""Of wall-clock time, for that second run; its CPU time is limited as before."""
CHECK_CPU_SECONDS_MAX = 0.4
"""For the type checker: 20 times what the longest filter in docs/ takes. Beyond it the run alone says what is wrong."""
RETRY_CPU_SECONDS_MAX = 0.2
"""A crash later than this is the filter's own: it is not tried again."""
MEMORY_BYTES_MAX = 64_000_000
RECURSION_MAX = 200
OUTPUT_BYTES_MAX = 64 * 1024
REQUEST_SECONDS_MAX = 10.0
"""The host's own deadline behind the sandbox's, in wall-clock time: after it the worker is killed."""
WORKER_BYTES_MAX = 2 << 30
"""Address space of a worker process: Monty's limit counts the filter's heap only, not the type checker's."""
CHECKOUTS_PER_WORKER_MAX = 500
FAILURES_MAX = 20

_LIMITS: ResourceLimits = {
    "max_feed_duration_secs": RUN_SECONDS_MAX,
    "max_memory": MEMORY_BYTES_MAX,
    "max_recursion_depth": RECURSION_MAX,
}
_PATIENT_LIMITS: ResourceLimits = {**_LIMITS, "max_feed_duration_secs": PATIENT_SECONDS_MAX}
_SESSION_LOST = (MontyRuntimeError, RuntimeError)
"""A session at its limits: Monty reports a limit struck, or (RuntimeError) that the worker is gone already."""
_START = Span(1, 1, 1, 1)


class Compiled(msgspec.Struct):
    """
    What became of a filter: `plan` is None exactly if a diagnostic is an error.

    `terms` are the conjuncts of the signal, in their order, then the shown values: plan node, line, the user's text.
    """

    plan: Plan | None
    diagnostics: list[Diagnostic]
    terms: list[Term] = []


class FilterCompiler:
    """
    Compiles filters in a pool of interpreter processes; use it as a context manager.

    `compile` may be called from any number of threads; *processes* of them are served at once, each for some 10 ms
    by one worker that checks types and one that runs.
    """

    def __init__(self, *, processes: int = 2) -> None:
        self._pool = Monty(
            min_processes=1,
            max_processes=2 * processes,
            request_timeout=REQUEST_SECONDS_MAX,
            max_checkouts_per_worker=CHECKOUTS_PER_WORKER_MAX,
        )
        self._watch = CpuWatch()
        self._checker = TypeChecker(
            self._pool,
            _LIMITS,
            sessions=processes,
            prepare=_limit_worker,
            watch=self._watch,
            cpu_s=CHECK_CPU_SECONDS_MAX,
        )
        self._runs = threading.Semaphore(processes)
        self._state = self._patient_state = b""

    def __enter__(self) -> Self:
        self._pool.__enter__()
        self._state = self._prepared(_LIMITS)
        self._patient_state = self._prepared(_PATIENT_LIMITS)
        return self

    def _prepared(self, limits: ResourceLimits) -> bytes:
        """A session that has read the prelude; its limits travel with it."""
        with self._pool.checkout(limits=limits, script_name="filter.py") as session:
            session.feed_run(prelude())
            return session.dump()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checker.__exit__(kind, error, trace)
        self._pool.__exit__(kind, error, trace)

    def compile(self, source: str) -> Compiled:
        """
        Compile one filter. Raises nothing, whatever *source* says.

        Errors and warnings come in the order of the text. A worker process that dies under the filter is replaced
        and the filter tried once more before it is blamed.
        """
        parsed = lint.parse(source)
        if isinstance(parsed, Diagnostic):
            return Compiled(None, [parsed])
        text, tree = parsed
        captured, mistakes = captures(text, tree)
        findings = [*lint.lint(text, tree), *mistakes]
        rewritten = rewrite(text, tree, captured)
        runs = not any(finding.fatal for finding in findings)
        attempt = self._attempted(rewritten, tree, runs=runs)
        return _assembled(attempt, [finding.diagnostic for finding in findings], runs=runs)

    def _attempted(self, rewritten: Rewritten, tree: ast.Module, *, runs: bool) -> "_Attempt":
        """The filter checked and run: once more where the first run says nothing about the filter."""
        first = _Attempt(rewritten, tree)
        first.typed = self._typed(first)
        if not runs:
            return first
        spent_s = self._run(first, self._state)
        had_no_time = first.is_out_of_time and not first.is_crashed and spent_s < RUN_SECONDS_MAX * 0.9
        if not had_no_time and not (first.is_crashed and spent_s < RETRY_CPU_SECONDS_MAX):
            return first
        second = _Attempt(rewritten, tree)
        second.typed = first.typed
        self._run(second, self._patient_state)
        return first if had_no_time and second.is_crashed else second  # the first one knows the place

    def _typed(self, attempt: "_Attempt") -> list[typing_errors.Suspicion]:
        """What the checker suspects; nothing when it gives up on the text."""
        for _ in range(2):  # a kept session may have lost its worker while it was idle
            with suppress(MontyCrashedError, RuntimeError):
                report = self._checker.check(attempt.rewritten.text)
                if not report:
                    return []
                typed = typing_errors.from_checker(report, attempt.rewritten, attempt.bound)
                return [item for item in typed if not _about_plain_values(item, attempt.rewritten)]
        return []

    def _run(self, attempt: "_Attempt", state: bytes) -> float:
        """Run the filter once; the CPU seconds that its worker used."""
        with self._runs, self._pool.checkout() as session:
            _limit_worker(session.worker_pid)
            with self._watch.limit(session.worker_pid, RUN_SECONDS_MAX) as watched:
                try:
                    session.load_session(state)
                    attempt.run(session)
                except MontyCrashedError as error:
                    spent_s = watched.limit_s if watched.struck or error.timed_out else 0.0
                    attempt.crash(timed_out=watched.struck or error.timed_out)
                    return spent_s
                return watched.spent_s


def _limit_worker(pid: int | None) -> None:
    limit_worker(pid, WORKER_BYTES_MAX)


def _crashed(*, timed_out: bool) -> Diagnostic:
    if timed_out:
        message = f"Compiling the filter took longer than {RUN_SECONDS_MAX:g} s."
        return diagnostic(_START, "V304", message, "A filter runs once and describes one bar; keep it short.")
    return diagnostic(_START, "V307", "The interpreter gave up on the filter.", "Make it simpler.")


def _about_plain_values(item: typing_errors.Suspicion, rewritten: Rewritten) -> bool:
    """The checker takes what a function given to `each` sees for series, which it never is."""
    finding = item.finding
    return finding.code.startswith("V2") and any(
        (place.line, place.column) <= (finding.line, finding.column)
        and (finding.end_line, finding.end_column) <= (place.end_line, place.end_column)
        for function in rewritten.functions
        for place in function.places
    )


class _Attempt:
    """One session's work on one filter."""

    def __init__(self, rewritten: Rewritten, tree: ast.Module) -> None:
        self.rewritten = rewritten
        self.tree = tree
        self.bound = lint.bound_names(tree)
        self.found: list[Diagnostic] = []
        self.typed: list[typing_errors.Suspicion] = []
        self.record: Recorded | None = None
        self.is_crashed = False
        self._poisoned: set[str] = set()
        self._passed = 0
        self._output = CollectString(max_bytes=OUTPUT_BYTES_MAX)

    @property
    def is_out_of_time(self) -> bool:
        """A limit of time was struck."""
        return any(item.code == "V304" for item in self.found)

    def crash(self, *, timed_out: bool) -> None:
        """The worker died under the filter: what was found before still counts, the record does not."""
        self.is_crashed = True
        self.record = None
        self.found.append(_crashed(timed_out=timed_out))

    def run(self, session: MontySession) -> None:
        """Run to the end around failing statements, and read the record."""
        rest: str | None = self.rewritten.text + "\nNone"
        if self.rewritten.functions:
            session.feed_run(functions_table(self.rewritten.functions))
        while rest is not None and len(self.found) < FAILURES_MAX:
            rest = self._feed(session, rest)
        if not any(item.code in {"V304", "V305", "V306"} for item in self.found):
            with suppress(*_SESSION_LOST):
                self.record = read_record(session.feed_run("vyx_finish()"))

    def _feed(self, session: MontySession, text: str) -> str | None:
        """Run *text*; the text still to be run when one of its statements failed, else None."""
        try:
            session.feed_run(text, print_callback=self._output)
        except (MontyRuntimeError, MontySyntaxError) as error:
            failure = runtime.from_run(
                error,
                self.rewritten,
                self.tree,
                marker=self._marker(session),
                prelude_file=_PRELUDE_FILE,
                bound=self.bound,
            )
            return self._after(session, failure)
        return None

    def _marker(self, session: MontySession) -> Span:
        """The statement that ran last."""
        try:
            at: object = session.feed_run("vyx_where_now()")
        except _SESSION_LOST:
            return _START
        statements = self.rewritten.statements
        return statements[at] if isinstance(at, int) and 0 <= at < len(statements) else _START

    def _after(self, session: MontySession, failure: runtime.Failure) -> str | None:
        """Note the failure, stand in for what its statement defines, and give the text after it."""
        line = failure.line
        failed = [s for s in self.tree.body if _first_line(s) <= line <= (s.end_lineno or s.lineno)]
        touched = {name for statement in failed for name in lint.loaded_names(statement)}
        if failure.noticed or not touched & self._poisoned:
            self.found.append(failure.finding)
        end = max((statement.end_lineno or statement.lineno for statement in failed), default=0)
        if failure.fatal or end <= self._passed:
            return None
        self._passed = end
        names = {name for statement in failed for name in lint.assigned_names(statement)}
        self._poisoned |= names
        stand_ins = "".join(f"{name} = vyx_stand_in\n" for name in sorted(names))
        try:
            session.feed_run(f"vyx_stand_in = vyx_poison()\n{stand_ins}None")
        except _SESSION_LOST:
            return None
        lines = self.rewritten.text.split("\n")
        return "\n" * end + "\n".join(lines[end:]) + "\nNone"


_PRELUDE_FILE = "<python-input-0>"


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _assembled(attempt: _Attempt, linted: Sequence[Diagnostic], *, runs: bool) -> Compiled:
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
            return Compiled(plan, _in_order(found), terms)
    if not _has_error(found):
        found.append(_crashed(timed_out=False))
    return Compiled(None, _in_order(found))


def _with_suspicions(
    found: list[Diagnostic], typed: Sequence[typing_errors.Suspicion], *, ran: bool
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


def _missing_signal(attempt: _Attempt, *, ran: bool) -> list[Diagnostic]:
    source = attempt.rewritten.source
    if not lint.calls_signal(attempt.tree):
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
