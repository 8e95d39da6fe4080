"""
What a preview's parent and child process say to each other: a header in MessagePack, then the candles as raw
arrays.

Nothing here can carry code: the header is decoded into the types below and nothing else, the arrays into
numbers. The child has no other input, so neither the database nor a secret can reach it.

A message is the header's length (4 bytes, little-endian), the header, then for each frame its columns one
behind the other: symbol row and open time (int64), open, high, low, close, volume (float64), all
little-endian. The answer is a header alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

HEADER_BYTES_MAX = 64 << 20
LENGTH = struct.Struct("<I")
_COLUMN_TYPES = ("<i8", "<i8", "<f8", "<f8", "<f8", "<f8", "<f8")

Columns = tuple[NDArray[Any], ...]
Value = float | bool | None


class Frame(msgspec.Struct, frozen=True):
    """The candles of one timeframe: so many rows follow the header."""

    timeframe: str
    rows: int


class Question(msgspec.Struct, frozen=True):
    """
    A plan and what to look at. *plan* is JSON text: untrusted.

    ``symbols`` are the panel's rows; only hits of ``matched`` (None: of all) count. The newest ``bars`` slots
    at which the plan is due by ``until_ms`` are looked at. Hits at ``outages_ms``, or of the (symbol, slot)
    pairs in ``late``, do not count: live screening passed them over. ``hits_max`` hits are given, the newest
    ones. ``begins_ms`` is for whoever tells the answer: when stored candles begin, where that is later than wanted.
    """

    plan: str
    symbols: list[str]
    matched: list[str] | None
    bars: int
    until_ms: int
    outages_ms: list[int]
    late: list[tuple[str, int]]
    hits_max: int
    frames: list[Frame]
    frequency: Literal["every_bar", "on_enter"] = "every_bar"
    every_match: bool = False
    begins_ms: dict[str, int] = {}


class Hit(msgspec.Struct, frozen=True):
    """A match: the slot, the price at it, and the shown values."""

    symbol: str
    triggered_at_ms: int
    price: float
    values: dict[str, Value]


class Found(msgspec.Struct, frozen=True, tag="found"):
    """
    A piece of the answer, newest bars first: `hits` oldest first, of `bars` bars of `due_every`.

    `bars_left` older bars were not looked at yet; `is_last` says that they will not be.
    """

    trigger: str
    due_every: str
    bars: int
    hits: list[Hit]
    hit_count: int
    evaluated_ms: float
    bars_left: int = 0
    is_last: bool = True


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No answer, and why, in a sentence."""

    problem: str


Answer = Found | Refused

_encode = msgspec.msgpack.Encoder().encode
_question = msgspec.msgpack.Decoder(Question)
_answer = msgspec.msgpack.Decoder(Answer)


def question_message(question: Question, frames: Sequence[Columns]) -> Iterator[memoryview]:
    """The message in pieces, without a copy of the arrays."""
    header = _encode(question)
    yield memoryview(LENGTH.pack(len(header)) + header)
    for columns in frames:
        for column, code in zip(columns, _COLUMN_TYPES, strict=True):
            if len(column):  # an empty view cannot be cast
                yield np.ascontiguousarray(column, dtype=code).data.cast("B")


def read_question(read: Callable[[int], bytes]) -> tuple[Question, list[Columns]] | None:
    """
    The next question from *read*, which gives exactly as many bytes as asked for, fewer only at the end; None
    at the end.

    Raises:
        EOFError: the message ends too early.
        msgspec.MsgspecError: the header is not a question.
        ValueError: the header is too long.
    """
    prefix = read(LENGTH.size)
    if not prefix:
        return None
    question = _question.decode(_exactly(read, header_length(prefix)))
    frames = []
    for frame in question.frames:
        raw = [_exactly(read, frame.rows * 8) for _ in _COLUMN_TYPES]
        frames.append(tuple(np.frombuffer(r, dtype=code) for r, code in zip(raw, _COLUMN_TYPES, strict=True)))
    return question, frames


def header_length(prefix: bytes) -> int:
    """
    How long the header behind *prefix* is.

    Raises:
        EOFError: the message ends inside the prefix.
        ValueError: more than ``HEADER_BYTES_MAX``.
    """
    if len(prefix) < LENGTH.size:
        raise EOFError("the message ends inside its length")
    length = int(LENGTH.unpack(prefix)[0])
    if length > HEADER_BYTES_MAX:
        raise ValueError(f"a header of {length} bytes is too long")
    return length


def answer_message(answer: Answer) -> bytes:
    """The whole message."""
    header = _encode(answer)
    return LENGTH.pack(len(header)) + header


def read_answer(header: bytes) -> Answer:
    """
    Raises:
        msgspec.MsgspecError: it is not an answer.
    """
    answer: Answer = _answer.decode(header)
    return answer


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    data = read(count)
    if len(data) < count:
        raise EOFError("the message ends too early")
    return data
