"""
What a user may ask for: calls counted within limits, traders that are theirs, symbols the market has.

Decided here: the refusal in each case and its text. Every use case (save, start, preview, explain) begins
with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from app.errors import Kind, Refused
from app.store import rate_limits, symbols, trader_state, traders
from app.store.pool import Connection
from app.store.rate_limits import Limit, Verdict
from app.store.trader_state import TraderStatus
from app.store.traders import Trader


async def find_own(connection: Connection, user_id: UUID, trader_id: UUID) -> Trader:
    """
    The user's trader.

    Raises:
        Refused: NOT_FOUND where there is none, FORBIDDEN where it is someone else's.
    """
    trader = await traders.find_trader(connection, trader_id)
    check_own(None if trader is None else trader.user_id, user_id, trader_id)
    assert trader is not None  # noqa: S101 check_own refuses None
    return trader


async def find_own_status(connection: Connection, user_id: UUID, trader_id: UUID) -> TraderStatus:
    """
    The run state of the user's trader.

    Raises:
        Refused: NOT_FOUND where there is none, FORBIDDEN where it is someone else's.
    """
    status = await trader_state.find_status(connection, trader_id)
    check_own(None if status is None else status.user_id, user_id, trader_id)
    assert status is not None  # noqa: S101 check_own refuses None
    return status


def check_own(owner_id: UUID | None, user_id: UUID, trader_id: UUID) -> None:
    """
    Raises:
        Refused: NOT_FOUND where there is no trader, FORBIDDEN where it is someone else's.
    """
    if owner_id is None:
        raise Refused(Kind.NOT_FOUND, f"There is no trader {trader_id}.")
    if owner_id != user_id:
        raise Refused(Kind.FORBIDDEN, "This trader is someone else's.")


async def count_call(connection: Connection, user_id: UUID, limit: Limit) -> None:
    """
    Count a call that is about no trader in particular.

    Raises:
        Refused: RATE_LIMITED.
    """
    _check_allowed(await rate_limits.allow_call(connection, user_id, limit), limit)


async def admit(connection: Connection, user_id: UUID, limit: Limit, trader_id: UUID) -> None:
    """Count a call about a trader and check whose it is, in one round trip: starts and stops begin with it."""
    verdict = await rate_limits.allow_call(connection, user_id, limit, trader_id=trader_id)
    _check_allowed(verdict, limit)
    check_own(verdict.owner_id, user_id, trader_id)


def _check_allowed(verdict: Verdict, limit: Limit) -> None:
    if not verdict.allowed:
        raise Refused(
            Kind.RATE_LIMITED,
            f"At most {limit.max_calls} {limit.kind} requests in any {limit.window.total_seconds():.0f} s.",
            retry_after_s=verdict.retry_after.total_seconds(),
        )


async def known_symbols(connection: Connection, wanted: Sequence[str] | None) -> list[str] | None:
    """
    Upper case, sorted, each once; None (every pair) stays None.

    Raises:
        Refused: REQUEST_INVALID with the ``symbols`` that the market does not have.
    """
    if wanted is None:
        return None
    names = sorted({symbol.upper() for symbol in wanted})
    unknown = await symbols.unknown_symbols(connection, names)
    if unknown:
        named = ", ".join(unknown[:10]) + (" …" if len(unknown) > 10 else "")
        raise Refused(Kind.REQUEST_INVALID, f"The market has no {named}.", symbols=unknown)
    return names
