"""The database: each address tried for what it is used for, and room for the replicas that are planned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from app.database_url import without_passwords
from app.doctor.findings import Finding, doubtful, right, wrong
from app.store import migrations, servers
from app.store.pool import Connection, connect_direct, connect_pooled
from app.store.servers import ServerFacts
from app.store.sessions import keeps_its_session

NAME = "vyx-doctor"
WEB_DIRECT = 1  # the feed reader
WORKER_DIRECT = 6  # keeper and its heartbeat, two for jobs and one to hear of them, one while leaving
VERSION_MIN = 15
SKEW_S_MAX = 1.0
TIMEOUT_MS_MIN = 5_000  # our own statements take up to 5 s
GROWN_DAYS_MIN = 0.5  # below, the first history is most of the size
MIB = 1 << 20
_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "": 1}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """How many processes of each kind are to run."""

    web: int
    workers: int
    pool_max: int


async def examine(pooled_url: str, direct_url: str, planned: Planned) -> list[Finding]:
    """Everything about the database that can be seen from a session; stops at the first address that does not connect."""
    found: list[Finding] = []
    for name, url, connect in (
        ("DATABASE_URL", pooled_url, connect_pooled),
        ("VYX_DIRECT_DATABASE_URL", direct_url, connect_direct),
    ):
        reached = await _reach(name, url, connect)
        found.append(reached)
        if reached.remedy:
            return found
    found.append(await _session(direct_url))
    found.append(_migrated(direct_url))
    async with await connect_direct(direct_url, name=NAME) as connection:
        before = datetime.now(UTC)
        facts = await servers.facts(connection)
        found += _server(facts)
        found.append(_clock("this machine", before, datetime.now(UTC), facts.clock))
        found += timeouts(facts.role, await servers.role_timeouts(connection))
        found.append(await _size(connection, facts.size_bytes))
        has_pooler = pooled_url != direct_url and await _has_pooler(pooled_url)
        found.append(_connections(facts, planned, has_pooler=has_pooler))
    return found


async def _reach(name: str, url: str, connect: Callable[..., Awaitable[Connection]]) -> Finding:
    try:
        async with await connect(url, name=NAME) as connection:
            for _ in range(
                2
            ):  # a statement with a parameter, twice: what a pooler makes of prepared statements
                await connection.execute("select set_config('application_name', %s, true)", (NAME,))
    except (psycopg.Error, OSError) as error:
        said = without_passwords((str(error).strip().splitlines() or [type(error).__name__])[0], [url])
        return wrong(
            "database",
            f"{name} does not connect: {said}",
            "Correct the address, or let this machine through.",
        )
    return right("database", f"{name} connects and takes statements with parameters")


async def _session(url: str) -> Finding:
    if await keeps_its_session(url):
        return right("database", "the direct connection hears notifications and keeps session locks")
    return wrong(
        "database",
        "The direct connection goes through a transaction pooler: notifications and session locks are lost.",
        "Set VYX_DIRECT_DATABASE_URL to a direct or session-mode connection (Supabase: port 5432).",
    )


async def _has_pooler(url: str) -> bool:
    """A pooler gives its client another process id than the server has."""
    async with await connect_pooled(url, name=NAME) as connection:
        facts = await servers.facts(connection)
        return connection.info.backend_pid != facts.backend_pid


def _migrated(url: str) -> Finding:
    try:
        migrations.check_current(url)
    except migrations.NotCurrent as error:
        return wrong("migrations", str(error), "Run it before the processes start.")
    return right("migrations", "all applied")


def _server(facts: ServerFacts) -> list[Finding]:
    found = []
    if int(facts.version.split(".")[0].split()[0]) < VERSION_MIN:
        found.append(wrong("server", f"Postgres {facts.version} is too old.", f"Use {VERSION_MIN} or newer."))
    else:
        found.append(right("server", f"Postgres {facts.version}, role {facts.role}"))
    if facts.is_standby or facts.is_read_only:
        found.append(
            wrong("server", "It refuses writes.", "Use the primary, and see whether its disk is full.")
        )
    if facts.isolation != "read committed":
        found.append(
            wrong(
                "server",
                f"The role's sessions are {facts.isolation}; the statements are written for read committed.",
                f"alter role {facts.role} reset default_transaction_isolation",
            )
        )
    if facts.interval_style != "postgres":
        found.append(
            wrong(
                "server",
                f"The role's IntervalStyle is {facts.interval_style}; the driver reads postgres only.",
                f"alter role {facts.role} reset IntervalStyle",
            )
        )
    return found


def _clock(whose: str, before: datetime, after: datetime, server: datetime) -> Finding:
    """The server's instant lies between the two of ours, or one of the clocks is wrong by the rest."""
    off = max((before - server).total_seconds(), (server - after).total_seconds(), 0.0)
    if off <= SKEW_S_MAX:
        return right("clock", f"{whose} and the database agree")
    return doubtful("clock", f"{whose} and the database differ by {off:.1f} s.", "Let NTP set both clocks.")


def timeouts(role: str, by_role: dict[str, str]) -> list[Finding]:
    """What the role's statement timeout leaves of our statements. *by_role* is as Postgres writes it."""
    own = by_role.get(role)
    said = ", ".join(f"{name} {value}" for name, value in by_role.items()) or "none"
    if own is not None and 0 < _milliseconds(own) < TIMEOUT_MS_MIN:
        return [
            wrong(
                "timeouts",
                f"Statements of the role {role} are cancelled after {own}; ours may take {TIMEOUT_MS_MIN / 1000:g} s.",
                f"alter role {role} set statement_timeout = '30s'",
            )
        ]
    return [right("timeouts", f"statement timeouts by role: {said}")]


def _milliseconds(text: str) -> int:
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(float(number) * _MS.get(text[len(number) :].strip(), 1))


async def _size(connection: Connection, size_bytes: int) -> Finding:
    now = f"{size_bytes / MIB:,.0f} MiB now"
    try:
        days = await servers.growing_for_days(connection)
    except psycopg.errors.UndefinedTable:
        days = None
    if days is None or days < GROWN_DAYS_MIN:
        return right("size", f"{now}; too young to say what it will be in 30 days")
    in_a_month = size_bytes * (1 + 30 / days)
    return right(
        "size", f"{now}, at most {in_a_month / MIB:,.0f} MiB in 30 days, as it grew in {days:.1f} days"
    )


def _connections(facts: ServerFacts, planned: Planned, *, has_pooler: bool) -> Finding:
    direct = planned.web * WEB_DIRECT + planned.workers * WORKER_DIRECT
    pooled = (planned.web + planned.workers) * planned.pool_max
    need = direct + (0 if has_pooler else pooled)
    said = (
        f"{planned.web} web and {planned.workers} worker processes take up to {direct} direct and {pooled} pooled"
        f" connections{' (through a pooler)' if has_pooler else ''}; the server has {facts.connections_max}, {facts.connections_used} in use"
    )
    if need > facts.connections_max:
        return wrong(
            "connections",
            f"{said}.",
            "Lower VYX_POOL_MAX or the replicas, use a pooler, or raise max_connections.",
        )
    if need > 0.8 * facts.connections_max:
        return doubtful("connections", f"{said}.", "A rolling deploy has one process more: leave room.")
    return right("connections", said)
