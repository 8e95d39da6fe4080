"""
Compiling and explaining filters outside the web process: a few children, each with one question at a time.

Decided here: what is said about a filter whose child was ended. Not decided here: whose turn it is (`app.turns`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

import msgspec
import structlog

from app.bounded import questions
from app.bounded.process import BoundedProcess, Crashed, OutOfTime
from app.bounded.questions import Answer, Compile, Compiled, Explain, Explained, Question
from sandbox.plan.text.diagnostics import diagnostic
from sandbox.plan.text.source import Span

PROCESSES = 3
"""Of one user at most two are busy, so that one user alone never keeps another from a child."""
WALL_LIMIT_S = 8.0
NICE = 5  # below the web process, above previews
_COMMAND = (sys.executable, "-m", "app.bounded.filter_child")
_START = Span(1, 1, 1, 1)

log = structlog.get_logger(__name__)


def filter_process() -> BoundedProcess:
    """A child that compiles and explains."""
    return BoundedProcess(
        _COMMAND, wall_limit_s=WALL_LIMIT_S, answer_bytes_max=questions.ANSWER_BYTES_MAX, nice=NICE
    )


class BoundedFilters:
    """
    A pool of children; use it as an async context manager.

    Args:
        processes: At most; more questions at once wait for one of them, first come, first served.
        make: Makes a child; another one in tests.
    """

    def __init__(
        self, *, processes: int = PROCESSES, make: Callable[[], BoundedProcess] = filter_process
    ) -> None:
        self._idle = [make() for _ in range(processes)]
        self._all = tuple(self._idle)
        self._free = asyncio.Semaphore(processes)
        self._starting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """The children start one after the other, beside whatever else starts."""
        self._start(*reversed(self._all))
        return self

    async def __aexit__(self, *_: object) -> None:
        starting = list(self._starting)
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        for process in self._all:
            await process.close()

    def _start(self, *processes: BoundedProcess) -> None:
        """In the background: starting takes a second that nobody's question has to wait for."""
        task = asyncio.create_task(_started(processes))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def compile(self, source: str) -> Compiled:
        """Compile a filter. One that ends its child gets a diagnostic, and the next question a new child."""
        try:
            return await self._ask(Compile(source), Compiled)
        except OutOfTime:
            message, hint = (
                "Compiling the filter took too long.",
                "Put repeated parts into functions and loops.",
            )
            return Compiled(None, [diagnostic(_START, "V304", message, hint)])
        except Crashed as error:
            log.warning("filter process crashed", reason=str(error))
        return Compiled(
            None, [diagnostic(_START, "V307", "The interpreter gave up on the filter.", "Make it simpler.")]
        )

    async def explain(self, question: Explain) -> Explained:
        """Explain one symbol at one slot."""
        try:
            return await self._ask(question, Explained)
        except OutOfTime:
            return Explained(None, "it takes too long")
        except Crashed as error:
            log.warning("filter process crashed", reason=str(error))
            return Explained(None, "the evaluation broke down")

    async def _ask(self, question: Question, expected: type[questions.AnyAnswer]) -> questions.AnyAnswer:
        async with self._child() as process, process.conversation() as conversation:
            await conversation.send([questions.message(question)])
            try:
                answer: Answer = questions.read_answer(await conversation.receive())
            except msgspec.MsgspecError as error:
                raise Crashed(f"no answer: {error}") from error
            if not isinstance(answer, expected):
                raise Crashed(f"an answer to something else: {type(answer).__name__}")
            return answer

    @asynccontextmanager
    async def _child(self) -> AsyncIterator[BoundedProcess]:
        """The child that answered last goes first: it is warm."""
        async with self._free:
            process = self._idle.pop()
            try:
                yield process
            finally:
                if process.pid is None:
                    self._idle.insert(0, process)
                    self._start(process)
                else:
                    self._idle.append(process)


async def _started(processes: Sequence[BoundedProcess]) -> None:
    for process in processes:
        try:
            await process.start()
        except (
            Crashed,
            OSError,
            EOFError,
            TimeoutError,
        ) as error:  # the next question tries again, and says so
            log.warning("filter process did not start", reason=repr(error))
