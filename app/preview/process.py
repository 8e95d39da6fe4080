"""
The parent's side of the evaluating process: one question at a time, its answer in pieces.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from app.bounded.process import BoundedProcess, Conversation, Crashed, OutOfTime
from app.preview import wire
from app.preview.evaluation import merged

WALL_LIMIT_S = 12.0  # behind the child's own limits: 5 s of CPU, 8 s of wall clock

OnPiece = Callable[[wire.Found], Awaitable[None]]
"""Called with the answer so far."""

NICE = 10  # a slot's evaluation gets nine tenths of a core that both want
_COMMAND = (sys.executable, "-m", "app.preview.child")


async def _nobody(_: wire.Found) -> None:
    """Nobody follows how far it has come."""


class EvaluatingProcess:
    """
    One child process, one question at a time.

    Args:
        command: The child; another one in tests.
        wall_limit_s: For one question, from its first byte to the answer's last.
    """

    def __init__(self, *, command: Sequence[str] = _COMMAND, wall_limit_s: float = WALL_LIMIT_S) -> None:
        self._process = BoundedProcess(
            command, wall_limit_s=wall_limit_s, answer_bytes_max=wire.HEADER_BYTES_MAX, nice=NICE
        )

    @property
    def pid(self) -> int | None:
        """Of the living child; None while there is none."""
        return self._process.pid

    async def evaluate(
        self, question: wire.Question, frames: Sequence[wire.Columns], on_piece: OnPiece = _nobody
    ) -> wire.Answer:
        """
        Ask the child. When it ends before the last piece, the pieces that came are the answer.

        Raises:
            OutOfTime: no piece within the limits. Crashed: the child died. The next question gets a new child.
        """
        so_far: list[wire.Found] = []
        try:
            async with self._process.conversation() as conversation:
                await conversation.send(wire.question_message(question, frames))
                while True:
                    answer = await _answer(conversation)
                    if isinstance(answer, wire.Refused):
                        return answer
                    found = merged(so_far[0], answer, question.hits_max) if so_far else answer
                    so_far[:] = [found]
                    if found.is_last:
                        return found
                    await on_piece(found)
        except OutOfTime:
            if not so_far:
                raise
        return so_far[0]

    async def start(self) -> None:
        """Start the child before the first question."""
        await self._process.start()

    async def close(self) -> None:
        """End the child, if there is one."""
        await self._process.close()


async def _answer(conversation: Conversation) -> wire.Answer:
    try:
        return wire.read_answer(await conversation.receive())
    except msgspec.MsgspecError as error:
        raise Crashed(f"no answer: {error}") from error
