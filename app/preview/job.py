"""
The worker's half of a preview: from the row to the question, and from the answer to the row.

Decided here: what the row says in every case, so that no job fails and the request always learns how it
ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import structlog

from app.bounded.process import Crashed, OutOfTime
from app.coordination.hints import Channel, Hints
from app.domain.timeframes import instant
from app.domain.turns import IN_FLIGHT_MAX
from app.preview import wire
from app.preview.audit import NotAudited, audit
from app.preview.process import EvaluatingProcess
from app.preview.question import ask
from app.store import previews
from app.store.pool import Pool
from app.store.previews import Ended, Requested
from sandbox.plan.document import PlanError, load_plan

WAIT_S = 20.0  # a request waits no longer; what is older is not begun
PROCESSES = 3
"""At a time and machine. Of one user at most two are worked on, so that one user alone leaves a place for others."""
SILENT_S = (
    25.0  # longer than the longest piece and its candles: a machine that says nothing for so long has died
)
LOAD_LIMIT_S = 8.0  # reading the candles; the evaluation has its own limit

log = structlog.get_logger(__name__)


class PreviewedHit(msgspec.Struct):
    """A match, as live screening would have stored it."""

    symbol: str
    triggered_at: datetime
    price: float
    values: dict[str, float | bool | None]


class Preview(msgspec.Struct):
    """
    A filter over recent history.

    `bars` counts the bars of `due_every` that were looked at (the trigger's, or minutes), `symbols` the
    pairs. `hits` are oldest first; of more than 1000 the newest are told, and `truncated` says so;
    `hit_count` counts all. For `bars_left` older bars there was no time: functions given to `each` are run for
    every pair and bar, the newest bars first. `history_begins` says when the first candle opens of each
    timeframe of which none had closed at the oldest bar asked for.
    """

    trigger: str
    due_every: str
    bars: int
    symbols: int
    hits: list[PreviewedHit]
    hit_count: int
    truncated: bool
    evaluated_ms: float
    bars_left: int = 0
    history_begins: dict[str, datetime] = {}


class PreviewJob:
    """
    Answers previews, as many at a time as there are processes.

    Args:
        pool: Connections for short reads and writes.
        hints: Wakes the waiting requests after a commit.
        processes: Where plans are evaluated.
    """

    def __init__(self, pool: Pool, hints: Hints, processes: Sequence[EvaluatingProcess]) -> None:
        self._pool = pool
        self._hints = hints
        self._processes = tuple(processes)
        self._idle = list(processes)
        self._free = asyncio.Semaphore(len(processes))
        self._is_stopping = False

    async def run(self) -> None:
        """
        Answer previews, whosever turn it is, until none may begin. What goes wrong with one is said in its row.

        One job is deferred for each preview, but it may find that its user has two in work already: whoever ends
        one of those looks for the next, so none is left.
        """
        async with self._free:
            process = self._idle.pop()
            try:
                while not self._is_stopping and await self._answer_next(process):
                    pass
            finally:
                self._idle.append(process)

    async def start(self) -> None:
        """Start the evaluating processes, so that no preview waits for that."""
        for process in self._processes:
            await process.start()

    def stop(self) -> None:
        """Begin no further preview."""
        self._is_stopping = True

    async def close(self) -> None:
        """End the evaluating processes."""
        self.stop()
        for process in self._processes:
            await process.close()

    async def _answer_next(self, process: EvaluatingProcess) -> bool:
        async with self._pool.connection() as connection:
            requested = await previews.claim(
                connection, wait_s=WAIT_S, silent_s=SILENT_S, in_flight_max=IN_FLIGHT_MAX
            )
        if requested is None:
            return False
        state, result, problem = await self._outcome(process, requested)
        async with self._pool.connection() as connection:
            await previews.end(connection, requested.preview_id, state, result=result, problem=problem)
        self._hints.send(Channel.PREVIEW)
        if problem is not None:
            log.warning("preview failed", preview_id=str(requested.preview_id), state=state, problem=problem)
        return True

    async def _outcome(
        self, process: EvaluatingProcess, requested: Requested
    ) -> tuple[Ended, str | None, str | None]:
        async def on_piece(so_far: wire.Found) -> None:
            async with self._pool.connection() as connection:
                await previews.advance(connection, requested.preview_id, bars_done=so_far.bars)

        if requested.trader_id is not None and requested.since is not None:
            return await self._audited(process, requested.trader_id, requested.since, requested.until)
        try:
            plan = load_plan(requested.plan or "")
            async with asyncio.timeout(LOAD_LIMIT_S), self._pool.connection() as connection:
                question, frames = await ask(
                    connection,
                    plan,
                    bars=requested.bars or 1,
                    until=requested.until,
                    symbols=requested.symbols,
                )
            answer = await process.evaluate(question, frames, on_piece)
        except PlanError as error:
            return "failed", None, f"The plan is not valid: {error.message}."
        except (OutOfTime, TimeoutError):
            return "timeout", None, "It took too long over this history; ask for fewer bars or symbols."
        except Crashed as error:
            log.warning("preview process crashed", reason=str(error))
            return "failed", None, "The evaluation broke down; ask for fewer bars or symbols."
        if isinstance(answer, wire.Refused):
            return "failed", None, answer.problem
        return "done", msgspec.json.encode(preview_of(answer, question)).decode(), None

    async def _audited(
        self, process: EvaluatingProcess, trader_id: UUID, since: datetime, until: datetime
    ) -> tuple[Ended, str | None, str | None]:
        try:
            async with asyncio.timeout(WAIT_S):
                found = await audit(self._pool, process, trader_id, after=since, through=until)
        except NotAudited as refused:
            return "failed", None, str(refused)
        except (OutOfTime, TimeoutError):
            return "timeout", None, "It took too long over this stretch; ask for a shorter one."
        except Crashed as error:
            log.warning("preview process crashed", reason=str(error))
            return "failed", None, "The evaluation broke down; ask for a shorter stretch."
        return "done", msgspec.json.encode(found).decode(), None


def preview_of(found: wire.Found, question: wire.Question) -> Preview:
    """As the HTTP interface tells it."""
    return Preview(
        trigger=found.trigger,
        due_every=found.due_every,
        bars=found.bars,
        symbols=len(question.matched if question.matched is not None else question.symbols),
        hits=[
            PreviewedHit(hit.symbol, instant(hit.triggered_at_ms), hit.price, hit.values)
            for hit in found.hits
        ],
        hit_count=found.hit_count,
        truncated=found.hit_count > len(found.hits),
        evaluated_ms=found.evaluated_ms,
        bars_left=found.bars_left,
        history_begins={timeframe: instant(ms) for timeframe, ms in question.begins_ms.items()},
    )
