"""
The parent's side of the evaluating process: started when first needed, kept for the next question, killed at
its time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from app.preview import wire

TIME_LIMIT_S = 5.0
START_LIMIT_S = 10.0  # importing on a busy machine, at low priority
PIECE_BYTES = 256 * 1024  # written at once: the event loop is free between two pieces

log = structlog.get_logger(__name__)
_COMMAND = (sys.executable, "-m", "app.preview.child")
_ENVIRONMENT = {
    # all of it: the child inherits nothing of ours, which holds the database's address
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class TimedOut(Exception):
    """The evaluation took longer than its limit; its process is gone."""


class Crashed(Exception):
    """The evaluating process died, or said something that is no answer."""


class EvaluatingProcess:
    """
    One child process, one question at a time.

    Args:
        command: The child; another one in tests.
        time_limit_s: For one question, from its first byte to the answer's last.
    """

    def __init__(self, *, command: Sequence[str] = _COMMAND, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._command = command
        self._time_limit_s = time_limit_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the living child; None while there is none."""
        return None if self._process is None else self._process.pid

    async def evaluate(self, question: wire.Question, frames: Sequence[wire.Columns]) -> wire.Answer:
        """
        Ask the child.

        Raises:
            TimedOut: no answer within the limit. Crashed: the child died. In both cases the next question
                gets a new one.
        """
        async with self._turn:
            done = False
            try:
                process = await self._running()
                async with asyncio.timeout(self._time_limit_s):
                    answer = await _ask(process, question, frames)
                done = True
                return answer
            except TimeoutError as error:
                raise TimedOut(f"no answer within {self._time_limit_s:g} s") from error
            except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
                raise Crashed(str(error) or type(error).__name__) from error
            finally:
                if (
                    not done
                ):  # half a message may stand in the pipes: no child outlives a failure, or a cancellation
                    await self.close()

    async def close(self) -> None:
        """End the child, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 asked for above
        async with asyncio.timeout(START_LIMIT_S):
            await process.stdout.readexactly(1)
        log.info("preview process started", pid=process.pid)
        return process


async def _ask(
    process: asyncio.subprocess.Process, question: wire.Question, frames: Sequence[wire.Columns]
) -> wire.Answer:
    assert process.stdin is not None  # noqa: S101 asked for at the start
    assert process.stdout is not None  # noqa: S101 asked for at the start
    for part in wire.question_message(question, frames):
        for start in range(0, len(part), PIECE_BYTES):
            process.stdin.write(part[start : start + PIECE_BYTES])
            await process.stdin.drain()
    length = wire.header_length(await process.stdout.readexactly(wire.LENGTH.size))
    return wire.read_answer(await process.stdout.readexactly(length))
