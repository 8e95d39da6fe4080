"""
The parent's side of a bounded child: started when first needed, kept for the next question, killed with all it started
when a question ends in any other way than with its answer.

A message is its length (4 bytes, little-endian) and so many bytes; what they mean is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import structlog

START_LIMIT_S = 30.0  # importing on a busy machine, at low priority
PIECE_BYTES = 256 * 1024  # written at once: the event loop is free between two pieces
LENGTH = struct.Struct("<I")

log = structlog.get_logger(__name__)
_ENVIRONMENT = {
    # all of it: the child inherits nothing of ours, which holds the database's address
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_OUT_OF_CPU = (-signal.SIGPROF, -signal.SIGXCPU)


class OutOfTime(Exception):
    """The child used more time than the question may take; it is gone."""


class Crashed(Exception):
    """The child died, or said something that is no answer."""


class Conversation:
    """One question and its answers; made by :meth:`BoundedProcess.conversation`."""

    def __init__(self, process: asyncio.subprocess.Process, answer_bytes_max: int) -> None:
        self._process = process
        self._answer_bytes_max = answer_bytes_max

    async def send(self, parts: Iterable[bytes | memoryview]) -> None:
        """The question, in parts that are written one behind the other."""
        writer = self._process.stdin
        assert writer is not None  # noqa: S101 asked for at the start
        for part in parts:
            for start in range(0, len(part), PIECE_BYTES):
                writer.write(part[start : start + PIECE_BYTES])
                await writer.drain()

    async def receive(self) -> bytes:
        """
        The next message of the child.

        Raises:
            Crashed: it is longer than it may be.
        """
        reader = self._process.stdout
        assert reader is not None  # noqa: S101 asked for at the start
        length = int(LENGTH.unpack(await reader.readexactly(LENGTH.size))[0])
        if length > self._answer_bytes_max:
            raise Crashed(f"an answer of {length} bytes is too long")
        return await reader.readexactly(length)


class BoundedProcess:
    """
    One child process, one question at a time.

    Args:
        command: Writes one message when it is ready, then answers each question.
        wall_limit_s: For one question, from its first byte to the answer's last. The backstop behind the child's own limits
            of CPU time: on a busy machine a question takes longer than the CPU it uses.
        answer_bytes_max: Of one message of the child.
        nice: Added to the niceness of this process, from the child's first instruction on.
    """

    def __init__(
        self, command: Sequence[str], *, wall_limit_s: float, answer_bytes_max: int, nice: int = 0
    ) -> None:
        self._command = command
        self._nice = nice
        self._wall_limit_s = wall_limit_s
        self._answer_bytes_max = answer_bytes_max
        self.ready = b""  # the message of the child that started last: what it could give up
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the living child; None while there is none."""
        return None if self._process is None else self._process.pid

    @contextlib.asynccontextmanager
    async def conversation(self) -> AsyncIterator[Conversation]:
        """
        Ask within the block, and read every answer there; the child is kept when the block ends well.

        Raises:
            OutOfTime: the child struck its limit of CPU time, or the wall-clock limit behind it passed.
            Crashed: the child died. In both cases, and when the caller is cancelled, the next question gets a new child.
        """
        async with self._turn:
            done = False
            process: asyncio.subprocess.Process | None = None
            try:
                process = await self._running()
                async with asyncio.timeout(self._wall_limit_s):
                    yield Conversation(process, self._answer_bytes_max)
                done = True
            except TimeoutError as error:
                raise OutOfTime(f"no answer within {self._wall_limit_s:g} s") from error
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                status = await _status(process)
                if status in _OUT_OF_CPU:
                    raise OutOfTime("more CPU time than a question may take") from error
                raise Crashed(f"the child ended with status {status}") from error
            finally:
                if not done:
                    await self._kill()

    async def start(self) -> None:
        """Start the child before the first question."""
        async with self._turn:
            await self._running()

    async def close(self) -> None:
        """End the child, if there is one."""
        async with self._turn:
            await self._kill()

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
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, os.nice(0) + self._nice)
        async with asyncio.timeout(START_LIMIT_S):
            self.ready = await Conversation(process, self._answer_bytes_max).receive()
        log.info(
            "bounded process started",
            command=self._command[-1],
            pid=process.pid,
            confined=self.ready.decode(),
        )
        return process

    async def _kill(self) -> None:
        """The child and its whole session: interpreter processes that it started end with it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _status(process: asyncio.subprocess.Process | None) -> int | None:
    """How the child ended; None when it still lives."""
    if process is None:
        return None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await process.wait()
    return process.returncode
