"""The question that the evaluating process is asked: a plan, where to look, and the candles that its answer depends on."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from app import history
from app.domain.timeframes import epoch_ms
from app.preview import wire
from app.store import slots
from app.store.pool import Connection
from sandbox.plan.document import Plan

HITS_MAX = 1000


async def ask(
    connection: Connection, plan: Plan, *, bars: int, until: datetime, symbols: Collection[str] | None
) -> tuple[wire.Question, list[wire.Columns]]:
    """The question about *plan*, with everything that its answer depends on."""
    stretch = await history.load(connection, plan, bars=bars, until=until, symbols=symbols)
    return await question_about(connection, plan, stretch, bars=bars, until=until, symbols=symbols)


async def question_about(
    connection: Connection,
    plan: Plan,
    stretch: history.Stretch,
    *,
    bars: int,
    until: datetime,
    symbols: Collection[str] | None,
) -> tuple[wire.Question, list[wire.Columns]]:
    """The question about *plan* over candles that are loaded."""
    passed_over = [] if stretch.first is None else await slots.unscreened(connection, stretch.first, until)
    late = [(u.symbol, epoch_ms(u.slot)) for u in passed_over if u.symbol is not None]
    question = wire.Question(
        plan=plan.encode().decode(),
        symbols=stretch.symbols,
        matched=None if symbols is None else sorted(symbols),
        bars=bars,
        until_ms=epoch_ms(until),
        outages_ms=[epoch_ms(u.slot) for u in passed_over if u.symbol is None],
        late=late
        if plan.due_every == "1m"
        else [],  # what is rolled up from them was complete at its close, or never is
        hits_max=HITS_MAX,
        frames=[
            wire.Frame(timeframe, len(columns[0])) for timeframe, columns in sorted(stretch.frames.items())
        ],
        begins_ms={timeframe: epoch_ms(at) for timeframe, at in stretch.begins.items()},
    )
    return question, [columns for _, columns in sorted(stretch.frames.items())]
