"""
Type-checking filters in sessions that are kept.

A fresh Monty session loads its checker's built-in types anew (12 ms); one that is kept checks a filter in 1 to 2 ms.
Nothing of a filter stays behind in it: a session remembers only text that ran, and what is fed here ends in a
construct that Monty's compiler refuses, so that it is checked and never run.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pydantic_monty import (
    Monty,
    MontyCrashedError,
    MontyError,
    MontySession,
    MontyTypingError,
    ResourceLimits,
)

from sandbox.interpreter.cpu_time import CpuWatch
from sandbox.language.stub import stub

_NEVER_RUN = "\nclass VyxNever(int): pass"
"""Inheritance: well-typed, and unknown to Monty."""
CHECKS_PER_SESSION_MAX = 1000


class _Kept:
    """One open session and how often it was used."""

    def __init__(self, session: MontySession) -> None:
        self.session = session
        self.checks = 0


class TypeChecker:
    """
    Up to *sessions* kept sessions of *pool*.

    `prepare` is called with each new worker's process id; a check that uses more than *cpu_s* ends its worker.
    """

    def __init__(
        self,
        pool: Monty,
        limits: ResourceLimits,
        *,
        sessions: int,
        prepare: Callable[[int | None], None],
        watch: CpuWatch,
        cpu_s: float,
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._prepare = prepare
        self._watch = watch
        self._cpu_s = cpu_s
        self._free = threading.Semaphore(sessions)
        self._lock = threading.Lock()
        self._idle: list[_Kept] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for kept in idle:
            kept.session.__exit__(None, None, None)

    def check(self, text: str) -> str:
        """
        The checker's report on *text* as JSON, or an empty string when it has nothing to say.

        Raises:
            MontyCrashedError: The worker died or took too long; it will be replaced.
            RuntimeError: The same, of a worker that died while its session was idle.
        """
        with self._free:
            kept = self._taken()
            try:
                with self._watch.limit(kept.session.worker_pid, self._cpu_s):
                    report = self._report(kept, text)
            except (
                MontyCrashedError,
                RuntimeError,
            ):  # RuntimeError: the worker died while the session was idle
                kept.session.__exit__(None, None, None)
                raise
            self._give_back(kept)
        return report

    def _report(self, kept: _Kept, text: str) -> str:
        kept.checks += 1
        try:
            kept.session.feed_run(text + _NEVER_RUN)
        except MontyCrashedError:
            raise
        except MontyTypingError as error:
            return error.display()
        except MontyError:
            return ""
        raise AssertionError("text that must never run has run")

    def _taken(self) -> _Kept:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        session = self._pool.checkout(
            limits=self._limits,
            type_check=True,
            type_check_stubs=stub(),
            type_check_format="json",
            script_name="filter.py",
        )
        session.__enter__()
        self._prepare(session.worker_pid)
        return _Kept(session)

    def _give_back(self, kept: _Kept) -> None:
        if kept.checks >= CHECKS_PER_SESSION_MAX:
            kept.session.__exit__(None, None, None)
            return
        with self._lock:
            self._idle.append(kept)
