"""
The endpoints that answer what a filter would do, or why it did what it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import msgspec

from app.domain.timeframes import instant
from app.explain import Explained
from app.http import shapes
from app.http.endpoints import Call
from app.lifecycle import describe_diagnostic
from app.preview.job import Preview
from sandbox.engine.explain import Bar


async def check_filter(call: Call, body: shapes.FilterCheck) -> shapes.Check:
    """Compile a filter without saving it: its diagnostics while one types, and the plan once nothing is an error."""
    compiled = await call.service.lifecycle.check(call.user_id, body.filter)
    plan = None if compiled.plan is None else msgspec.convert(compiled.plan.summary(), shapes.PlanSummary)
    return shapes.Check([shapes.Diagnostic(**describe_diagnostic(d)) for d in compiled.diagnostics], plan)


async def execute_filter(call: Call, body: shapes.FilterRun) -> Preview:
    """
    Run a filter over recent history without saving it: what live screening would have signalled, bar by bar.

    Looks at the newest `bars` slots at which the filter is due by `until` (default: now): bars of its trigger, or minutes where it
    reads that one's bar in progress. Of more than 1000 hits the newest are told. Runs on the machines that screen, below their own work,
    for at most 5 s of CPU; `bars_left` older bars were not looked at when functions given to `each` used them up.
    """
    return await call.service.previews.preview(
        call.user_id, body.filter, bars=body.bars, symbols=body.symbols, until=body.until
    )


async def explain_trader(call: Call, trader_id: UUID, query: shapes.ExplainQuery) -> shapes.Explain:
    """
    Did a trader match a symbol at a slot, with the value of every term, and if not: the first reason.

    `at` is the close of a bar (default: the newest at which the trader is due). `reason` begins with its kind: condition false, bar
    missing, symbol missing, not enough history, cooldown, already signalled, not entering, not due, outage, symbol not among the
    trader's, not covered.
    """
    symbol = query.symbol.upper()
    explained = await call.service.explaining.explain(call.user_id, trader_id, symbol, query.at)
    return _explain(trader_id, symbol, explained)


def _explain(trader_id: UUID, symbol: str, explained: Explained) -> shapes.Explain:
    found = explained.explanation
    return shapes.Explain(
        trader_id=trader_id,
        symbol=symbol,
        at=explained.at,
        matched=explained.reason is None,
        reason=explained.reason,
        terms=[shapes.TermValue(term.text, term.line, term.value) for term in found.terms] if found else [],
        values=found.values if found else {},
        bars=_candles(found.bars) if found else {},
        forming=_candles(found.forming) if found else {},
        revision=explained.revision,
    )


def _candles(bars: Mapping[str, Bar]) -> dict[str, shapes.Candle]:
    return {
        timeframe: shapes.Candle(
            instant(bar.open_time_ms), bar.open, bar.high, bar.low, bar.close, bar.volume
        )
        for timeframe, bar in bars.items()
    }
