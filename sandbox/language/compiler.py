"""
From a filter's text to a plan, or to everything that is wrong with it.

Decided here: the order of the steps, the limits, and which findings are told when several steps found something.
User code runs nowhere but inside Monty's worker processes, which inherit no environment and hold no file or socket
but their pipe; what comes back is data that `sandbox.plan.document` validates.

Steps: parse, lint, rewrite, type-check and run (one Monty session), build the plan. A statement that fails does
not end the run: what it would have defined is replaced by a value that accepts everything, and the rest runs on,
so that one compile tells all mistakes.
"""

import ast
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec
from pydantic_monty import (
    Monty,
    MontyCrashedError,
    ResourceLimits,
)

from sandbox.interpreter.cpu_time import CpuWatch
from sandbox.interpreter.limits import limit_worker
from sandbox.language import type_errors
from sandbox.language.attempt import RUN_SECONDS_MAX, Attempt
from sandbox.language.extract_function import captures
from sandbox.language.merge_findings import merge_findings
from sandbox.language.prelude.assemble import prelude
from sandbox.language.rewrite import Rewritten, rewrite
from sandbox.language.typecheck import TypeChecker
from sandbox.plan.document import Plan, Term
from sandbox.plan.text import syntax
from sandbox.plan.text.diagnostics import Diagnostic

PATIENT_SECONDS_MAX = 8.0
"""Of wall-clock time, for that second run; its CPU time is limited as before."""
CHECK_CPU_SECONDS_MAX = 0.4
"""For the type checker: 20 times what the longest filter in docs/ takes. Beyond it the run alone says what is wrong."""
RETRY_CPU_SECONDS_MAX = 0.2
"""A crash later than this is the filter's own: it is not tried again."""
MEMORY_BYTES_MAX = 64_000_000
RECURSION_MAX = 200
REQUEST_SECONDS_MAX = 10.0
"""The host's own deadline behind the sandbox's, in wall-clock time: after it the worker is killed."""
WORKER_BYTES_MAX = 2 << 30
"""Address space of a worker process: Monty's limit counts the filter's heap only, not the type checker's."""
CHECKOUTS_PER_WORKER_MAX = 500
_LIMITS: ResourceLimits = {
    "max_feed_duration_secs": RUN_SECONDS_MAX,
    "max_memory": MEMORY_BYTES_MAX,
    "max_recursion_depth": RECURSION_MAX,
}
_PATIENT_LIMITS: ResourceLimits = {**_LIMITS, "max_feed_duration_secs": PATIENT_SECONDS_MAX}


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
        parsed = syntax.parse(source)
        if isinstance(parsed, Diagnostic):
            return Compiled(None, [parsed])
        text, tree = parsed
        captured, mistakes = captures(text, tree)
        findings = [*syntax.lint(text, tree), *mistakes]
        rewritten = rewrite(text, tree, captured)
        runs = not any(finding.fatal for finding in findings)
        attempt = self._attempted(rewritten, tree, runs=runs)
        return Compiled(*merge_findings(attempt, [finding.diagnostic for finding in findings], runs=runs))

    def _attempted(self, rewritten: Rewritten, tree: ast.Module, *, runs: bool) -> "Attempt":
        """The filter checked and run: once more where the first run says nothing about the filter."""
        first = Attempt(rewritten, tree)
        first.typed = self._typed(first)
        if not runs:
            return first
        spent_s = self._run(first, self._state)
        had_no_time = first.is_out_of_time and not first.is_crashed and spent_s < RUN_SECONDS_MAX * 0.9
        if not had_no_time and not (first.is_crashed and spent_s < RETRY_CPU_SECONDS_MAX):
            return first
        second = Attempt(rewritten, tree)
        second.typed = first.typed
        self._run(second, self._patient_state)
        return first if had_no_time and second.is_crashed else second  # the first one knows the place

    def _typed(self, attempt: "Attempt") -> list[type_errors.Suspicion]:
        """What the checker suspects; nothing when it gives up on the text."""
        for _ in range(2):  # a kept session may have lost its worker while it was idle
            with suppress(MontyCrashedError, RuntimeError):
                report = self._checker.check(attempt.rewritten.text)
                if not report:
                    return []
                typed = type_errors.from_checker(report, attempt.rewritten, attempt.bound)
                return [item for item in typed if not _about_plain_values(item, attempt.rewritten)]
        return []

    def _run(self, attempt: "Attempt", state: bytes) -> float:
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


def _about_plain_values(item: type_errors.Suspicion, rewritten: Rewritten) -> bool:
    """The checker takes what a function given to `each` sees for series, which it never is."""
    finding = item.finding
    return finding.code.startswith("V2") and any(
        (place.line, place.column) <= (finding.line, finding.column)
        and (finding.end_line, finding.end_column) <= (place.end_line, place.end_column)
        for function in rewritten.functions
        for place in function.places
    )
