"""
The process that evaluates previews: ``python -m app.preview.child``. It reads questions on stdin and writes answers on stdout.

It holds no secret, no database connection and no file but its pipes.
A question may use ``CPU_S_MAX`` of its CPU time, after which the kernel ends it, inside a C loop too; the functions of a filter
run in an interpreter process with limits of its own.
"""

from __future__ import annotations

import io
import signal
import sys

import msgspec

from app.bounded.confine import confine
from app.bounded.process import LENGTH
from app.preview.evaluation import CPU_S_MAX, each_runner, evaluate
from app.preview.wire import Answer, Refused, answer_message, read_question

MEMORY_BYTES_MAX = 3 << 30
"""Of address space: 600 symbols x 6,000 bars are 200 MB of candles, their intermediate arrays some more."""
READING_CPU_S = 1.0  # the candles of a question, before its own time begins


def main() -> None:
    """Answer questions until stdin ends."""
    confinement = confine(memory_bytes=MEMORY_BYTES_MAX)
    questions = io.BufferedReader(io.FileIO(0))
    with each_runner() as each:
        ready = msgspec.json.encode(confinement)
        _write(LENGTH.pack(len(ready)) + ready)
        # the timer starts with the first byte of a question, so that an idle child lives on
        while questions.peek(1):
            signal.setitimer(signal.ITIMER_PROF, READING_CPU_S + CPU_S_MAX)
            message = read_question(questions.read)
            if message is None:
                return
            try:
                for answer in evaluate(*message, each):
                    _write(answer_message(answer))
            except MemoryError:
                _write(answer_message(_too_large()))
            signal.setitimer(signal.ITIMER_PROF, 0)


def _too_large() -> Answer:
    return Refused("The filter needs more memory over this history than a preview may take.")


def _write(message: bytes) -> None:
    sys.stdout.buffer.write(message)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
