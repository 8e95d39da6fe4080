"""
The process in which a web process has filters compiled and explained: ``python -m app.bounded.filter_child``.

It reads questions on stdin and writes answers on stdout. A question may use ``CPU_S_MAX`` of this process's CPU time, after
which the kernel ends it; the interpreter processes that it starts have limits of their own (`sandbox.language.compiler`).
"""

from __future__ import annotations

import io
import signal
import sys
from contextlib import ExitStack

import msgspec

from app.bounded import questions
from app.bounded.confine import confine
from app.bounded.process import LENGTH
from app.bounded.questions import Answer, Compile, Compiled, Explain, Explained, Question
from sandbox.engine.calls import OperatorError
from sandbox.engine.explain import explain
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import FilterCompiler
from sandbox.plan.document import PlanError, load_plan

CPU_S_MAX = 1.0
"""The longest filter of 64 KiB takes 0.5 s here, the others 5 ms; an explanation 20 ms."""
MEMORY_BYTES_MAX = 2 << 30  # of address space: 600 symbols x 5,000 bars are 170 MB of candles


def main() -> None:
    """Answer questions until stdin ends."""
    confinement = confine(memory_bytes=MEMORY_BYTES_MAX)
    asked, answers = io.BufferedReader(io.FileIO(0)), sys.stdout.buffer
    with ExitStack() as opened:
        each = opened.enter_context(EachRunner())
        compiler = opened.enter_context(FilterCompiler(processes=1))
        compiler.compile("signal(bars('1h').close > ta.sma(bars('1h').close, 2))")  # starts its processes
        ready = msgspec.json.encode(confinement)
        answers.write(LENGTH.pack(len(ready)) + ready)
        answers.flush()
        while prefix := asked.read(LENGTH.size):
            question = questions.read_question(asked.read(LENGTH.unpack(prefix)[0]))
            signal.setitimer(
                signal.ITIMER_PROF, CPU_S_MAX
            )  # its default action ends the process, in a C loop too
            answer = answered(question, compiler, each)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(questions.message(answer))
            answers.flush()


def answered(question: Question, compiler: FilterCompiler, each: EachRunner) -> Answer:
    """The answer to one question; raises nothing that the question's text could bring about."""
    if isinstance(question, Compile):
        compiled = compiler.compile(question.source)
        plan = None if compiled.plan is None else questions.summarised(compiled.plan)
        return Compiled(plan, compiled.diagnostics, compiled.terms)
    return _explained(question, each)


def _explained(question: Explain, each: EachRunner) -> Explained:
    try:
        plan = load_plan(question.plan)
        panel = questions.panel_of(question)
        found = explain(plan, question.terms, panel, question.slot_ms, question.symbol, each)
    except PlanError as error:
        return Explained(None, f"the plan is not valid: {error.message}")
    except OperatorError as error:
        return Explained(None, str(error))
    except MemoryError:
        return Explained(None, "it needs more memory than an explanation may take")
    return Explained(found, None)


if __name__ == "__main__":
    main()
