"""
One run of a filter in an interpreter session: around failing statements, to the record of what it built.

A statement that fails does not end the run. What it would have defined is replaced by a value that accepts everything,
and the rest runs on, so that one compile tells all mistakes.
"""

import ast
from contextlib import suppress

from pydantic_monty import (
    CollectString,
    MontyRuntimeError,
    MontySession,
    MontySyntaxError,
)

from sandbox.language import run_errors, type_errors
from sandbox.language.prelude.assemble import functions_table
from sandbox.language.recording import Recorded, read_record
from sandbox.language.rewrite import Rewritten
from sandbox.plan.text import syntax
from sandbox.plan.text.diagnostics import Diagnostic, diagnostic
from sandbox.plan.text.source import Span

RUN_SECONDS_MAX = 0.8
"""Of CPU. Monty's own limit is in wall-clock time; a run that strikes it on a busy machine is given another chance."""
OUTPUT_BYTES_MAX = 64 * 1024
FAILURES_MAX = 20
_SESSION_LOST = (MontyRuntimeError, RuntimeError)
"""A session at its limits: Monty reports a limit struck, or (RuntimeError) that the worker is gone already."""
START = Span(1, 1, 1, 1)


def crashed(*, timed_out: bool) -> Diagnostic:
    """What is said about a filter whose worker died."""
    if timed_out:
        message = f"Compiling the filter took longer than {RUN_SECONDS_MAX:g} s."
        return diagnostic(START, "V304", message, "A filter runs once and describes one bar; keep it short.")
    return diagnostic(START, "V307", "The interpreter gave up on the filter.", "Make it simpler.")


class Attempt:
    """One session's work on one filter."""

    def __init__(self, rewritten: Rewritten, tree: ast.Module) -> None:
        self.rewritten = rewritten
        self.tree = tree
        self.bound = syntax.bound_names(tree)
        self.found: list[Diagnostic] = []
        self.typed: list[type_errors.Suspicion] = []
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
        self.found.append(crashed(timed_out=timed_out))

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
            failure = run_errors.from_run(
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
            return START
        statements = self.rewritten.statements
        return statements[at] if isinstance(at, int) and 0 <= at < len(statements) else START

    def _after(self, session: MontySession, failure: run_errors.Failure) -> str | None:
        """Note the failure, stand in for what its statement defines, and give the text after it."""
        line = failure.line
        failed = [s for s in self.tree.body if _first_line(s) <= line <= (s.end_lineno or s.lineno)]
        touched = {name for statement in failed for name in syntax.loaded_names(statement)}
        if failure.noticed or not touched & self._poisoned:
            self.found.append(failure.finding)
        end = max((statement.end_lineno or statement.lineno for statement in failed), default=0)
        if failure.fatal or end <= self._passed:
            return None
        self._passed = end
        names = {name for statement in failed for name in syntax.assigned_names(statement)}
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
