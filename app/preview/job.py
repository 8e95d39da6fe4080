"""
The worker's half of a preview: from the row to the question, and from the answer to the row.

Decided here: what the row says in every case, so that no job fails and the request always learns how it
ended.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from uuid import UUID

import msgspec
import structlog

from app.coordination.hints import Channel, Hints
from app.domain.timeframes import instant
from app.preview import wire
from app.preview.audit import NotAudited, audit
from app.preview.process import Crashed, EvaluatingProcess, TimedOut
from app.preview.question import ask
from app.store import previews
from app.store.pool import Pool
from app.store.previews import Ended, Requested
from sandbox.plan.document import PlanError, load_plan

WAIT_S = 10.0  # a request waits no longer; what is older is not begun
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
    `hit_count` counts all.
    """

    trigger: str
    due_every: str
    bars: int
    symbols: int
    hits: list[PreviewedHit]
    hit_count: int
    truncated: bool
    evaluated_ms: float


class PreviewJob:
    """
    Answers previews, one at a time.

    Args:
        pool: Connections for short reads and writes.
        hints: Wakes the waiting requests after a commit.
        process: Where plans are evaluated.
    """

    def __init__(self, pool: Pool, hints: Hints, process: EvaluatingProcess) -> None:
        self._pool = pool
        self._hints = hints
        self._process = process

    async def run(self, preview_id: UUID) -> None:
        """
        Answer one preview; whatever goes wrong with it is said in its row. One that nobody waits for any more
        is left alone.
        """
        async with self._pool.connection() as connection:
            requested = await previews.take(connection, preview_id, wait_s=WAIT_S)
        if requested is None:
            log.info("preview not begun, nobody waits for it", preview_id=str(preview_id))
            return
        state, result, problem = await self._outcome(requested)
        async with self._pool.connection() as connection:
            await previews.end(connection, preview_id, state, result=result, problem=problem)
        self._hints.send(Channel.PREVIEW)
        if problem is not None:
            log.warning("preview failed", preview_id=str(preview_id), state=state, problem=problem)

    async def close(self) -> None:
        """End the evaluating process."""
        await self._process.close()

    async def _outcome(self, requested: Requested) -> tuple[Ended, str | None, str | None]:
        if requested.trader_id is not None and requested.since is not None:
            return await self._audited(requested.trader_id, requested.since, requested.until)
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
            answer = await self._process.evaluate(question, frames)
        except PlanError as error:
            return "failed", None, f"The plan is not valid: {error.message}."
        except (TimedOut, TimeoutError):
            return "timeout", None, "It took too long over this history; ask for fewer bars or symbols."
        except Crashed as error:
            log.warning("preview process crashed", reason=str(error))
            return "failed", None, "The evaluation broke down; ask for fewer bars or symbols."
        if isinstance(answer, wire.Refused):
            return "failed", None, answer.problem
        symbols = len(question.matched if question.matched is not None else question.symbols)
        return "done", msgspec.json.encode(preview_of(answer, symbols)).decode(), None

    async def _audited(
        self, trader_id: UUID, since: datetime, until: datetime
    ) -> tuple[Ended, str | None, str | None]:
        try:
            async with asyncio.timeout(WAIT_S):
                found = await audit(self._pool, self._process, trader_id, after=since, through=until)
        except NotAudited as refused:
            return "failed", None, str(refused)
        except (TimedOut, TimeoutError):
            return "timeout", None, "It took too long over this stretch; ask for a shorter one."
        except Crashed as error:
            log.warning("preview process crashed", reason=str(error))
            return "failed", None, "The evaluation broke down; ask for a shorter stretch."
        return "done", msgspec.json.encode(found).decode(), None


def preview_of(found: wire.Found, symbols: int) -> Preview:
    """As the HTTP interface tells it."""
    return Preview(
        trigger=found.trigger,
        due_every=found.due_every,
        bars=found.bars,
        symbols=symbols,
        hits=[
            PreviewedHit(hit.symbol, instant(hit.triggered_at_ms), hit.price, hit.values)
            for hit in found.hits
        ],
        hit_count=found.hit_count,
        truncated=found.hit_count > len(found.hits),
        evaluated_ms=found.evaluated_ms,
    )
