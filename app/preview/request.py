"""
The web process's half of a preview: compile the filter, put the question to the machines, wait for the
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from app.access import count_call, find_own, known_symbols
from app.errors import Kind, Refused
from app.lifecycle import CompiledFilter
from app.preview.audit import Audit
from app.preview.job import WAIT_S, Preview
from app.store import previews, slots
from app.store.pool import Connection, Pool
from app.store.rate_limits import PREVIEW

WAITING_MAX = 4  # of one user, beside the two in work
AUDIT_H_MAX = 24
POLL_S = 0.25  # the announcement comes within milliseconds; this is for one that is lost

Defer = Callable[[Connection], Awaitable[None]]
"""Defers a job that answers previews, inside the caller's transaction."""


class PreviewRequest:
    """
    Args:
        compile_filter: Compiles a filter or refuses it with its diagnostics.
        defer: Defers the job inside the transaction of the row.
        upcoming: An event that is set when the next preview ends.
    """

    def __init__(
        self,
        pool: Pool,
        compile_filter: Callable[[UUID, str], Awaitable[CompiledFilter]],
        *,
        defer: Defer,
        upcoming: Callable[[], asyncio.Event],
    ) -> None:
        self._pool = pool
        self._compile = compile_filter
        self._defer = defer
        self._upcoming = upcoming

    async def preview(
        self, user_id: UUID, source: str, *, bars: int, symbols: Sequence[str] | None, until: datetime | None
    ) -> Preview:
        """
        What the filter *source* would have found at the newest *bars* bars that close by *until* (None: now).

        Raises:
            Refused: FILTER_INVALID, REQUEST_INVALID, RATE_LIMITED, UNAVAILABLE (no market yet), BUSY, TIMEOUT after
                ``WAIT_S``.
        """
        async with self._pool.connection() as connection:
            await count_call(connection, user_id, PREVIEW)
            wanted = await known_symbols(connection, symbols)
            end = await _end(connection, until)
        compiled = await self._compile(user_id, source)
        async with self._pool.connection() as connection, connection.transaction():
            preview_id = await previews.insert(
                connection,
                user_id,
                plan=compiled.plan.encode(),
                bars=bars,
                symbols=wanted,
                until=end,
                waiting_max=WAITING_MAX,
                wait_s=WAIT_S,
            )
            preview_id = await self._deferred(connection, preview_id)
        return msgspec.json.decode(await self._result(preview_id), type=Preview)

    async def audit(
        self, user_id: UUID, trader_id: UUID, *, since: datetime | None, through: datetime | None
    ) -> Audit:
        """
        Whether the user's trader has the signals that replaying its slots after *since* through *through* gives.

        None: the newest hour. Runs as a preview does.

        Raises:
            Refused: NOT_FOUND, FORBIDDEN, REQUEST_INVALID for more than ``AUDIT_H_MAX`` hours, RATE_LIMITED, BUSY, UNAVAILABLE, TIMEOUT.
        """
        async with self._pool.connection() as connection:
            await count_call(connection, user_id, PREVIEW)
            await find_own(connection, user_id, trader_id)
            end = await _end(connection, through)
        begin = end - timedelta(hours=1) if since is None else since
        if not timedelta() < end - begin <= timedelta(hours=AUDIT_H_MAX):
            raise Refused(
                Kind.REQUEST_INVALID,
                f"from lies before to, by at most {AUDIT_H_MAX} hours; ask for parts of a longer time.",
            )
        async with self._pool.connection() as connection, connection.transaction():
            preview_id = await previews.insert_audit(
                connection,
                user_id,
                trader_id=trader_id,
                since=begin,
                until=end,
                waiting_max=WAITING_MAX,
                wait_s=WAIT_S,
            )
            preview_id = await self._deferred(connection, preview_id)
        return msgspec.json.decode(await self._result(preview_id), type=Audit)

    async def _deferred(self, connection: Connection, preview_id: UUID | None) -> UUID:
        """The question in its user's line, with a job that answers it; refused where the line is full."""
        if preview_id is None:
            raise Refused(
                Kind.BUSY,
                f"{WAITING_MAX} of your previews and audits wait; send the next one when one of them is answered.",
                retry_after_s=1,
            )
        await self._defer(connection)
        return preview_id

    async def _result(self, preview_id: UUID) -> str:
        """The answer as JSON. No connection is held while it waits."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    ended = self._upcoming()
                    async with self._pool.connection() as connection:
                        stored = await previews.find(connection, preview_id)
                    if stored is None or stored.state not in ("waiting", "running"):
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), POLL_S)
        except TimeoutError:
            async with self._pool.connection() as connection:
                await previews.give_up(connection, preview_id, "Nobody waits for it any more.")
            raise Refused(
                Kind.TIMEOUT, f"No machine had an answer within {WAIT_S:g} s; try again, with fewer bars."
            ) from None
        if stored is None or stored.state == "timeout":
            raise Refused(Kind.TIMEOUT, (stored and stored.problem) or "It took too long.")
        if stored.result is None:
            raise Refused(Kind.REQUEST_INVALID, stored.problem or "The preview failed.")
        return stored.result


async def _end(connection: Connection, until: datetime | None) -> datetime:
    """
    The newest slot to look at.

    Raises:
        Refused: UNAVAILABLE before the market's first slot, REQUEST_INVALID for an instant that has not come.
    """
    ledger = await slots.counts(connection)
    if ledger.newest_closed is None or ledger.market_time is None:
        raise Refused(Kind.UNAVAILABLE, "The market has no closed candle yet; try again.")
    if until is not None and until > max(ledger.market_time, ledger.newest_closed):
        raise Refused(
            Kind.REQUEST_INVALID,
            f"until lies in the future: the market's time is {ledger.market_time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}.",
        )
    return ledger.newest_closed if until is None else min(until, ledger.newest_closed)
