"""Filters compiled and explained by the code of the bounded child, in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from app.bounded.filter_child import answered
from app.bounded.questions import Answer, Compile, Explain, Question
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import FilterCompiler


class InProcessFilters:
    """Stands in for `BoundedFilters` where its processes are not what is tested."""

    def __init__(self, compiler: FilterCompiler, each: EachRunner) -> None:
        self.compiler = compiler
        self._each = each

    async def compile(self, source: str) -> Answer:
        return await self._answered(Compile(source))

    async def explain(self, question: Explain) -> Answer:
        return await self._answered(question)

    async def _answered(self, question: Question) -> Answer:
        return await asyncio.to_thread(answered, question, self.compiler, self._each)


@contextlib.contextmanager
def in_process_filters() -> Iterator[InProcessFilters]:
    with FilterCompiler(processes=1) as compiler, EachRunner() as each:
        yield InProcessFilters(compiler, each)
