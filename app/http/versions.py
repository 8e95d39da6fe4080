"""
The endpoints about a trader's past: its saved versions, and whether its signals are what replaying its slots gives.
"""

from __future__ import annotations

from uuid import UUID

from app.access import find_own
from app.errors import Kind, Refused
from app.http import shapes
from app.http.endpoints import Call
from app.http.traders import frequency_of, saved_of
from app.lifecycle import Change
from app.preview.audit import Audit
from app.store import trader_versions

VERSIONS_MAX = 100


async def list_versions(call: Call, trader_id: UUID) -> shapes.VersionList:
    """The newest 100 versions of a trader's filter, symbols and frequency, newest first."""
    async with call.service.pool.connection() as connection:
        await find_own(connection, call.user_id, trader_id)
        versions = await trader_versions.list_versions(connection, trader_id, limit=VERSIONS_MAX)
    return shapes.VersionList(
        [
            shapes.Version(
                number=version.number,
                filter=version.filter,
                symbols=version.symbols,
                frequency=frequency_of(version.frequency),
                saved_at=version.saved_at,
                plan_hash=version.plan_hash,
            )
            for version in versions
        ]
    )


async def restore_version(call: Call, trader_id: UUID, number: int) -> shapes.SavedTrader:
    """
    Save an earlier version once more: filter, symbols and frequency as they were, compiled by today's compiler.

    A running trader is screened by it from the next slot on.
    """
    async with call.service.pool.connection() as connection:
        await find_own(connection, call.user_id, trader_id)
        version = await trader_versions.find_version(connection, trader_id, number)
    if version is None:
        raise Refused(Kind.NOT_FOUND, f"This trader has no version {number}.")
    change = Change(
        filter=version.filter, set_symbols=True, symbols=version.symbols, frequency=version.frequency
    )
    return saved_of(await call.service.lifecycle.change(call.user_id, trader_id, change))


async def audit_trader(call: Call, trader_id: UUID, query: shapes.AuditQuery) -> Audit:
    """
    Replay the slots after `from` through `to` and hold them against the trader's signals: which differ, and how many slots were accounted for.

    Default: the newest hour; at most 24 hours. Runs on the machines that screen, below their own work, for at most 10 s.
    """
    return await call.service.previews.audit(
        call.user_id, trader_id, since=query.since, through=query.through
    )
