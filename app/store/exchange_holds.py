"""Until when an exchange must not be asked, and the weight used: ``sql/queries/exchange_holds.sql``. The database's clock decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("exchange_holds")
LONGEST_S = 3 * 86_400.0  # the exchange's own longest ban


@dataclass(frozen=True, kw_only=True)
class Hold:
    """
    What is on record about one address.

    Attributes:
        remaining_s: Seconds until it may ask; 0 when it may.
        held_until: None: not held. In the past: one probe is allowed.
        weight_minute: Clock minute (minutes since the epoch) that *weight_used* counts; None: never counted.
    """

    remaining_s: float | None
    held_s: float
    status: int | None
    reason: str | None
    weight_minute: int | None
    weight_used: int
    held_until: datetime | None


async def find(connection: Connection, host: str, address: str) -> Hold | None:
    """What is on record about an address; None: nothing."""
    async with connection.cursor(row_factory=rows_of(Hold)) as cursor:
        await cursor.execute(_SQL["find_hold"], {"host": host, "address": address})
        return await cursor.fetchone()


async def put(  # noqa: PLR0917 - one row's columns
    connection: Connection,
    host: str,
    address: str,
    status: int | None,
    wait_s: float,
    reason: str,
    *,
    longest_s: float = LONGEST_S,
) -> float:
    """
    Hold an address for *wait_s*, or twice the last time (at most *longest_s*) when it is refused again.

    Returns the seconds until it may ask.
    """
    parameters = {
        "host": host,
        "address": address,
        "status": status,
        "wait_s": wait_s,
        "reason": reason,
        "longest_s": longest_s,
    }
    row = await (await connection.execute(_SQL["put_hold"], parameters)).fetchone()
    return float(row[0]) if row else wait_s


async def end(connection: Connection, host: str, address: str) -> None:
    """The exchange answered this address."""
    await connection.execute(_SQL["end_hold"], {"host": host, "address": address})


async def put_weight(connection: Connection, host: str, address: str, *, minute: int, used: int) -> None:
    """Keep what an address has used of a clock minute (minutes since the epoch)."""
    parameters = {"host": host, "address": address, "minute": minute, "used": used}
    await connection.execute(_SQL["put_weight"], parameters)


async def put_address(connection: Connection, boot_id: int, address: str) -> None:
    """From where this machine would ask."""
    await connection.execute(_SQL["put_address"], {"boot_id": boot_id, "address": address})


async def other_may_ask(connection: Connection, host: str, address: str) -> bool:
    """Whether a live machine at another address may ask *host* now."""
    parameters = {"host": host, "address": address}
    row = await (await connection.execute(_SQL["other_may_ask"], parameters)).fetchone()
    return row is not None and bool(row[0])
