"""
The endpoints under ``/api/v1/traders``: requests into operations of ``app/lifecycle.py``, rows into JSON.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app.access import find_own, find_own_status
from app.domain.coverage import gaps_between
from app.domain.health import health_of, lag_s
from app.domain.lifecycle import TraderState
from app.errors import Refused
from app.http import pages, problems, shapes
from app.http.endpoints import Answer, Call
from app.lifecycle import Change, Draft, Saved, describe_diagnostic
from app.store import leases, trader_state, traders
from app.store.traders import Frequency

LACKING_MAX = 100  # slots named in coverage
WAIT_S_MAX = 10
WAIT_POLL_S = (
    0.5  # the feed tells of the change within milliseconds; this is for a replica whose feed is behind
)
T = TypeVar("T")
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?=$|[,;\s])", re.IGNORECASE)


async def create_trader(call: Call, body: shapes.NewTrader) -> Answer:
    """Save a trader; it starts out stopped. Saving compiles the filter: a 422 carries its diagnostics."""
    saved = await call.service.lifecycle.save(
        call.user_id,
        Draft(
            name=body.name,
            description=body.description,
            filter=body.filter,
            symbols=body.symbols,
            frequency=_stored_frequency(body.frequency),
        ),
    )
    return Answer(saved_of(saved), {"location": f"/api/v1/traders/{saved.trader.id}"})


async def list_traders(call: Call, query: shapes.TraderQuery) -> shapes.TraderList:
    """Your traders, newest first. A page ends at `limit` or at about 1 MiB; `include=filter` adds each one's source."""
    with_filter = query.include == "filter"
    async with call.service.pool.connection() as connection:
        page = await traders.list_traders(
            connection,
            call.user_id,
            after=pages.read_trader_cursor(query.cursor),
            limit=query.limit,
            with_filter=with_filter,
        )
    items = [_summary(row, with_filter=with_filter) for row in page.items]
    last = page.items[-1] if page.has_more else None
    return shapes.TraderList(items, None if last is None else pages.write_cursor(last.created_at, last.id))


async def show_trader(call: Call, trader_id: UUID) -> shapes.Trader:
    """One of your traders."""
    async with call.service.pool.connection() as connection:
        row = await find_own(connection, call.user_id, trader_id)
    return show_row(row)


async def change_trader(call: Call, trader_id: UUID, body: shapes.TraderChange) -> shapes.SavedTrader:
    """Change what you send. A running trader is screened by its new filter from the next slot on, atomically."""
    change = Change(
        name=_given(body.name),
        description=_given(body.description),
        filter=_given(body.filter),
        set_symbols=body.symbols is not msgspec.UNSET,
        symbols=_given(body.symbols),
        frequency=None
        if isinstance(body.frequency, msgspec.UnsetType)
        else _stored_frequency(body.frequency),
    )
    return saved_of(await call.service.lifecycle.change(call.user_id, trader_id, change))


async def delete_trader(call: Call, trader_id: UUID) -> Response:
    """Remove a trader in any state, with its signals."""
    await call.service.lifecycle.delete(call.user_id, trader_id)
    return Response(status_code=204)


async def start_trader(call: Call, trader_id: UUID) -> Answer:
    """
    Ask for a trader to run. Repeating it is harmless, and a repetition does not count.

    `Prefer: wait=N` (at most 10) waits until it runs or fails; one that is still stopping is waited for first.
    """
    wait_s = preferred_wait_s(call.request)
    began_at = time.monotonic()
    try:
        status = await call.service.lifecycle.start(call.user_id, trader_id)
    except Refused as refused:
        if refused.members.get("state") != TraderState.STOPPING or wait_s is None:
            raise
        await _wait_until_settled(call, trader_id, wait_s)
        status = await call.service.lifecycle.start(call.user_id, trader_id)
    return await _settled(call, status, wait_s, began_at=began_at)


async def stop_trader(call: Call, trader_id: UUID) -> Answer:
    """Ask for a trader to stop. Repeating it is harmless; it never counts. `Prefer: wait=N` (at most 10) waits until it has stopped."""
    status = await call.service.lifecycle.stop(call.user_id, trader_id)
    return await _settled(call, status, preferred_wait_s(call.request), began_at=time.monotonic())


async def start_traders(call: Call, body: shapes.TraderIds) -> shapes.OutcomeList:
    """Ask for several traders to run; `ids: null` means all that do not. One lifecycle call; each has an outcome of its own."""
    return _told(await call.service.lifecycle.start_many(call.user_id, body.ids))


async def stop_traders(call: Call, body: shapes.TraderIds) -> shapes.OutcomeList:
    """Ask for several traders to stop; `ids: null` means all that run. It never counts."""
    return _told(await call.service.lifecycle.stop_many(call.user_id, body.ids))


async def show_status(call: Call, trader_id: UUID) -> shapes.Status:
    """How a trader stands: its state, whether its screening can be believed, and how far it has come."""
    async with call.service.pool.connection() as connection:
        status = await find_own_status(connection, call.user_id, trader_id)
    return _status(status)


async def list_active(call: Call, query: shapes.PageQuery) -> shapes.StatusList:
    """The status of each of your traders that is starting or running."""
    after_id = pages.read_id_cursor(query.cursor)
    async with call.service.pool.connection() as connection:
        rows = await trader_state.list_active(
            connection, call.user_id, after_id=after_id, limit=query.limit + 1
        )
    page, cursor = pages.page_of(rows, query.limit, lambda row: str(row.trader_id))
    return shapes.StatusList([_status(row) for row in page], cursor)


async def show_coverage(call: Call, trader_id: UUID) -> shapes.Coverage:
    """Which slots a trader was screened in, by which machine, and why not in the others."""
    async with call.service.pool.connection() as connection:
        await find_own_status(connection, call.user_id, trader_id)
        ranges, outages, pauses = await leases.read_coverage(connection, trader_id)
        lacking = await leases.read_lacking(connection, trader_id, limit=LACKING_MAX)
    return shapes.Coverage(
        trader_id=trader_id,
        ranges=[
            shapes.CoverageRange(first=r.first, through=r.last, machine_id=r.machine_id, epoch=r.epoch)
            for r in ranges
        ],
        gaps=[
            shapes.CoverageGap(first=g.first, through=g.last, reason=g.reason)
            for g in gaps_between(ranges, outages, pauses)
        ],
        lacking=[shapes.CoverageLack(slot=s.slot, symbols=s.symbols, count=s.count) for s in lacking],
    )


async def _settled(
    call: Call, status: trader_state.TraderStatus, wait_s: int | None, *, began_at: float
) -> Answer:
    """The status, after waiting for the end of a passing state until *wait_s* have passed since *began_at*, as the client prefers."""
    left_s = (wait_s or 0) - (time.monotonic() - began_at)
    if left_s > 0 and status.is_passing:
        status = await _wait_until_settled(call, status.trader_id, left_s) or status
    headers = {} if wait_s is None else {"preference-applied": f"wait={wait_s}"}
    return Answer(_status(status), {**headers, "location": f"/api/v1/traders/{status.trader_id}/status"})


async def _wait_until_settled(call: Call, trader_id: UUID, wait_s: float) -> trader_state.TraderStatus | None:
    """
    How the trader stands when its state does not pass any more, or after *wait_s*; None when it was not looked at.

    No connection is held while it waits: the feed tells of changes, and each is checked against the row.
    """
    feed = call.service.feed
    subscription = feed.attach(call.user_id)
    status: trader_state.TraderStatus | None = None
    try:
        async with asyncio.timeout(wait_s):
            while subscription.ended is None:
                async with call.service.pool.connection() as connection:
                    status = await find_own_status(connection, call.user_id, trader_id)
                if not status.is_passing:
                    return status
                await subscription.wait(WAIT_POLL_S)
                subscription.take()
    except TimeoutError:
        return status
    finally:
        feed.detach(subscription)
    return status


def preferred_wait_s(request: Request) -> int | None:
    """Seconds of ``Prefer: wait=N`` (RFC 7240), at most ``WAIT_S_MAX``; None when the client does not ask."""
    match = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return None if match is None else min(int(match[1]), WAIT_S_MAX)


def _told(outcomes: Sequence[trader_state.Outcome]) -> shapes.OutcomeList:
    return shapes.OutcomeList(
        [
            shapes.Outcome(
                trader_id=one.trader_id,
                status=None if one.status is None else _status(one.status),
                problem=None
                if one.refused is None
                else msgspec.convert(problems.describe(one.refused), shapes.Problem),
            )
            for one in outcomes
        ]
    )


def saved_of(saved: Saved) -> shapes.SavedTrader:
    return shapes.SavedTrader(
        **msgspec.structs.asdict(show_row(saved.trader)),
        warnings=[shapes.Diagnostic(**describe_diagnostic(d)) for d in saved.warnings],
    )


def show_row(row: traders.Trader) -> shapes.Trader:
    """As the contract's Trader."""
    return shapes.Trader(**msgspec.structs.asdict(_summary(row, with_filter=True)))


def _summary(row: traders.Trader, *, with_filter: bool) -> shapes.TraderSummary:
    state = TraderState(row.state)
    health, _ = health_of(
        state,
        is_owned=row.is_owned,
        screened_through=row.screened_through,
        last_error=row.last_error,
        facts=row.facts,
    )
    return shapes.TraderSummary(
        id=row.id,
        name=row.name,
        description=row.description,
        filter=row.filter if with_filter else msgspec.UNSET,
        symbols=row.symbols,
        frequency=frequency_of(row.frequency),
        state=state,
        health=health,
        plan=msgspec.convert(row.plan_summary, shapes.PlanSummary),
        created_at=row.created_at,
        updated_at=row.updated_at,
        version=row.version,
        revision=row.revision,
    )


def _status(row: trader_state.TraderStatus) -> shapes.Status:
    state = TraderState(row.state)
    health, reason = health_of(
        state,
        is_owned=row.machine_id is not None,
        screened_through=row.screened_through,
        last_error=row.last_error,
        facts=row.facts,
    )
    return shapes.Status(
        trader_id=row.trader_id,
        state=state,
        health=health,
        reason=reason or row.reason,
        machine_id=row.machine_id,
        started_at=row.started_at,
        stopped_at=row.stopped_at,
        last_error=row.last_error,
        error_count=row.error_count,
        retry_at=row.retry_at,
        signal_count=row.signal_count,
        last_signal_at=row.last_signal_at,
        signals_today=row.signals_today,
        signals_per_day=row.signals_per_day,
        flooding_since=row.flooding_since,
        screened_through=row.screened_through,
        lag_s=lag_s(state, row.screened_through, row.facts),
        version=row.version,
    )


def _given(value: T | msgspec.UnsetType) -> T | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def frequency_of(frequency: Frequency) -> shapes.Frequency:
    """A row edited by hand may hold a fraction of a second, which the API does not offer: rounded up."""
    if isinstance(frequency, dict):
        return shapes.Cooldown(math.ceil(frequency["cooldown_s"]))
    return "on_enter" if frequency == "on_enter" else "every_bar"


def _stored_frequency(frequency: str | shapes.Cooldown) -> Frequency:
    return {"cooldown_s": frequency.cooldown_s} if isinstance(frequency, shapes.Cooldown) else frequency
