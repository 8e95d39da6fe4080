"""
What a web process and its children for filters say to each other, in MessagePack. Nothing here can carry code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.bounded.process import LENGTH
from sandbox.engine.candles.panel import Panel
from sandbox.engine.explain import Explanation
from sandbox.plan.document import Plan, Term
from sandbox.plan.text.diagnostics import Diagnostic

ANSWER_BYTES_MAX = 16 << 20
_COLUMN_TYPES = ("<i8", "<i8", "<f8", "<f8", "<f8", "<f8", "<f8")


class Compile(msgspec.Struct, frozen=True, tag="compile"):
    """Compile a filter."""

    source: str


class Candles(msgspec.Struct, frozen=True):
    """Candles of one timeframe: symbol row, open time (int64) and the five fields (float64), little-endian, one each per candle."""

    timeframe: str
    columns: list[bytes]


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """What a plan sees of one symbol at one slot. *plan* is JSON text: untrusted. `symbols` are the rows of the candles."""

    plan: str
    terms: list[Term]
    slot_ms: int
    symbol: str
    symbols: list[str]
    candles: list[Candles]


Question = Compile | Explain


class CompiledPlan(msgspec.Struct, frozen=True):
    """A plan as a document, with what is told of it outside."""

    document: bytes
    hash: str
    shown: dict[str, Any]

    def encode(self) -> bytes:
        """The document, as `sandbox.plan.document.load_plan` reads it."""
        return self.document

    def summary(self) -> dict[str, Any]:
        """What is told about a plan outside (`Trader.plan` of the contract)."""
        return self.shown


class Compiled(msgspec.Struct, frozen=True, tag="compiled"):
    """`plan` is None exactly if a diagnostic is an error; terms as `sandbox.language.compiler.Compiled` has them."""

    plan: CompiledPlan | None
    diagnostics: list[Diagnostic]
    terms: list[Term] = []


class Explained(msgspec.Struct, frozen=True, tag="explained"):
    """The explanation, or why the plan cannot be evaluated: exactly one of them."""

    explanation: Explanation | None
    problem: str | None


Answer = Compiled | Explained
AnyAnswer = TypeVar("AnyAnswer", Compiled, Explained)

_encode = msgspec.msgpack.Encoder().encode
_question: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answer: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def message(said: Question | Answer) -> bytes:
    """A question or an answer as it travels, its length first."""
    body = _encode(said)
    return LENGTH.pack(len(body)) + body


def read_question(body: bytes) -> Question:
    """
    Raises:
        msgspec.MsgspecError: it is not a question.
    """
    return _question.decode(body)


def read_answer(body: bytes) -> Answer:
    """
    Raises:
        msgspec.MsgspecError: it is not an answer.
    """
    return _answer.decode(body)


def summarised(plan: Plan) -> CompiledPlan:
    """A compiled plan as it travels."""
    return CompiledPlan(plan.encode(), plan.hash, plan.summary())


def candles_of(frames: Mapping[str, Sequence[NDArray[Any]]]) -> list[Candles]:
    """Columns by timeframe, as they travel."""
    return [
        Candles(
            timeframe,
            [np.ascontiguousarray(c, dtype=t).tobytes() for c, t in zip(columns, _COLUMN_TYPES, strict=True)],
        )
        for timeframe, columns in frames.items()
    ]


def panel_of(question: Explain) -> Panel:
    """
    Raises:
        ValueError: the candles are not what a panel takes.
    """
    panel = Panel(question.symbols)
    for frame in question.candles:
        columns = [np.frombuffer(c, dtype=t) for c, t in zip(frame.columns, _COLUMN_TYPES, strict=True)]
        panel.load(frame.timeframe, *columns)
    return panel
