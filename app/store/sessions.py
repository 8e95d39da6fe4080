"""
Whether the direct address is one, tried and not guessed from its port: ``sql/queries/sessions.sql``.

Behind a transaction pooler LISTEN hears nothing, and a session lock stays with a server connection that strangers
use next. Both look fine to every statement; so each is used once, as this service uses it.
"""

from __future__ import annotations

import secrets

import psycopg
import structlog
from psycopg import sql

from app.errors import SettingInvalid
from app.store import queries
from app.store.pool import Connection, connect_direct

_SQL = queries.load("sessions")
HEARD_WITHIN_S = 2.0

log = structlog.get_logger(__name__)


async def prove_direct(url: str) -> None:
    """
    Hear a notification, and see a session lock from a second statement while another transaction is open.

    A database that is out of reach proves nothing; whoever needs it tries again by itself.

    Raises:
        SettingInvalid: one of them fails: this is a transaction pooler.
    """
    try:
        keeps = await keeps_its_session(url)
    except (psycopg.Error, OSError) as error:
        log.warning("direct connection not proved", reason=str(error).strip())
        return
    if not keeps:
        raise SettingInvalid(
            "VYX_DIRECT_DATABASE_URL (DATABASE_URL, when it is not set) is a transaction pooler, where notifications and"
            " session locks are lost; give the address of a direct or session-mode connection."
        )


async def keeps_its_session(url: str) -> bool:
    """
    Whether notifications arrive and session locks stay; both are tried.

    Raises:
        psycopg.Error, OSError: the database cannot be asked.
    """
    number = secrets.randbelow(2**31)
    one = await connect_direct(url, name="vyx-proof", statement_timeout_s=HEARD_WITHIN_S)
    try:
        other = await connect_direct(url, name="vyx-proof", statement_timeout_s=HEARD_WITHIN_S)
        try:
            return await _hears(one, other, f"vyx_proof_{number}") and await _keeps_a_lock(one, other, number)
        finally:
            other.pgconn.finish()
    finally:
        one.pgconn.finish()


async def _hears(one: Connection, other: Connection, channel: str) -> bool:
    await one.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
    await other.execute(_SQL["notify_proof"], {"channel": channel})
    return bool([n async for n in one.notifies(timeout=HEARD_WITHIN_S, stop_after=1)])


async def _keeps_a_lock(one: Connection, other: Connection, number: int) -> bool:
    await one.execute(_SQL["lock_proof"], {"number": number})
    async with other.transaction():
        await other.execute(_SQL["occupy"])  # a pooler would have to give *one* another server connection
        row = await (await one.execute(_SQL["sees_lock"], {"number": number})).fetchone()
    return row is not None and bool(row[0])
