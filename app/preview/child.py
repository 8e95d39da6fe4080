"""
The process that evaluates previews: ``python -m app.preview.child``. It reads questions on stdin and writes
answers on stdout.

It runs below everything else on its machine (nice), holds no secret, no database connection and no file but
its pipes, and has limits of its own behind those of its parent: memory, and a timer that ends it even when
the parent is gone.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import sys

from app.preview.evaluation import each_runner, evaluate
from app.preview.wire import Refused, answer_message, read_question

NICE = 10  # a slot's evaluation gets nine tenths of a core that both want
MEMORY_BYTES_MAX = (
    3 << 30
)  # of address space: 600 symbols x 6,000 bars are 200 MB of candles, their intermediate arrays some more
ALARM_S = 8  # behind the parent's limit of 5 s; its default action ends the process, inside a C loop too


def main() -> None:
    """Answer questions until stdin ends."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    questions, answers = io.BufferedReader(io.FileIO(0)), sys.stdout.buffer
    answers.write(b"\n")  # ready: everything is imported
    answers.flush()
    each = each_runner()
    while True:
        # the timer starts with the first byte of a question, so that an idle child lives on
        if not questions.peek(1):
            return
        signal.alarm(ALARM_S)
        message = read_question(questions.read)
        if message is None:
            return
        try:
            answer = evaluate(*message, each)
        except MemoryError:
            answer = Refused("The filter needs more memory over this history than a preview may take.")
        answers.write(answer_message(answer))
        answers.flush()
        signal.alarm(0)


if __name__ == "__main__":
    main()
