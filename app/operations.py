"""What an operator does to a running service from the command line, and the schema dump it generates."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from app.bounded.process import Crashed, OutOfTime
from app.domain.health import condition_of
from app.errors import CommandFailed
from app.preview.audit import Audit
from app.preview.audit import audit as replay
from app.preview.process import EvaluatingProcess
from app.settings import Settings, child_environment
from app.store import (
    deliveries,
    embedded,
    jobs,
    machines,
    markets,
    migrations,
    signals_failed,
    slots,
    trader_state,
    trader_versions,
)
from app.store.pool import connect_direct, make_pool

CONNECTION_NAME = "vyx-cli"
AUDIT_PIECE_S = 120.0  # replaying 240 bars of one trader over all pairs takes a second
REDELIVER_WITHIN_S = 60.0  # all dead letters in one statement


def check_start(settings: Settings) -> None:
    """
    Refuse to start a process that could not work. A database that cannot be reached is waited for by whoever starts.

    Raises:
        SettingInvalid: nothing says who may sign in.
        NotCurrent: the database lacks migrations, or has those of a newer version.
    """
    settings.signing_secret()
    _, direct_url = settings.addresses()
    with contextlib.suppress(psycopg.OperationalError):
        migrations.check_current(direct_url)


async def status(url: str) -> dict[str, Any]:
    """Machines, ledger and traders by state, as one JSON-ready object."""
    async with await connect_direct(url, name=CONNECTION_NAME) as connection:
        ledger = await markets.ledger(connection)
        condition, reason = condition_of(ledger.facts)
        return {
            "ledger": {
                "market": ledger.market,
                "market_time": ledger.facts.market_at,
                "newest_closed": ledger.facts.newest_closed,
                "open": ledger.open,
                "outage": ledger.outage,
                "condition": condition.value,
                "reason": reason,
            },
            "machines": [asdict(machine) for machine in await machines.list_overview(connection)],
            "traders": await trader_state.count_by_state(connection),
        }


async def drain(url: str, machine: str) -> None:
    """
    Ask a machine to leave its traders to others.

    Raises:
        Refused: there is no such machine.
    """
    async with await connect_direct(url, name=CONNECTION_NAME) as connection:
        await machines.drain(connection, machine)


@dataclass(frozen=True, kw_only=True)
class Which:
    """What is brought back; None leaves a field open. Times are of the slot (a refused signal) or the queueing (a delivery)."""

    signal_id: int | None = None
    destination_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    expired_too: bool = False

    @property
    def is_everything(self) -> bool:
        return not self.expired_too and not any((self.signal_id, self.destination_id, self.since, self.until))


@dataclass(frozen=True)
class Redelivered:
    """
    What came of it: refused signals stored now, and refused again; deliveries and jobs that are due again; and what is left.
    """

    signals: int
    refused: int
    deliveries: int
    jobs: int
    left: int


async def redeliver(url: str, which: Which) -> Redelivered:
    """
    Try again what failed for good: refused signals, deliveries (with the same ids), and, when nothing is named, jobs.

    Deliveries are brought back only when something names them: nobody wants a month of old messages.
    """
    async with await connect_direct(
        url, name=CONNECTION_NAME, statement_timeout_s=REDELIVER_WITHIN_S
    ) as connection:
        done, refused, sent, retried = 0, 0, 0, 0
        if which.destination_id is None:
            done, refused = await signals_failed.redeliver(
                connection, first=which.since, last=which.until, failed_id=which.signal_id
            )
        if which.is_everything:
            retried = await jobs.redeliver(connection)
        else:
            sent = await deliveries.redrive(
                connection,
                user_id=None,
                signal_id=which.signal_id,
                destination_id=which.destination_id,
                since=which.since,
                until=which.until,
                states=["failed", "expired"] if which.expired_too else ["failed"],
            )
        return Redelivered(done, refused, sent, retried, await jobs.dead_letters(connection))


async def audit(
    url: str, trader_id: UUID | None, *, hours: float, on_audited: Callable[[Audit], None] = lambda _: None
) -> list[Audit]:
    """
    Replay the newest *hours* of one trader, or of all that a machine has screened.

    *on_audited* is called with each.

    Raises:
        CommandFailed: nothing was screened yet, or a trader cannot be replayed, with the reason.
    """
    pool = make_pool(url, max_size=2, name=CONNECTION_NAME)
    process = EvaluatingProcess(wall_limit_s=AUDIT_PIECE_S)
    await pool.open(wait=True)
    try:
        async with pool.connection() as connection:
            newest = await slots.newest_closed(connection)
            known = await trader_versions.screened_traders(connection)
        if newest is None or not known or (trader_id is not None and trader_id not in known):
            raise CommandFailed("No machine has screened a slot of it yet: there is nothing to audit.")
        audits = []
        for one in known if trader_id is None else [trader_id]:
            after = newest - timedelta(hours=hours)
            audits.append(await replay(pool, process, one, after=after, through=newest))
            on_audited(audits[-1])
        return audits
    except (OutOfTime, Crashed) as error:
        raise CommandFailed(f"The replay broke down: {error}; ask for fewer hours.") from error
    finally:
        await process.close()
        await pool.close()


def schema() -> str:
    """
    The schema that the migrations make, as SQL: from a throw-away embedded cluster, without what depends on
    the server's version.

    Raises:
        CommandFailed: the cluster or pg_dump failed.
    """
    with tempfile.TemporaryDirectory(prefix="vyx-schema-", ignore_cleanup_errors=True) as folder:
        server = embedded.start(Path(folder))
        try:
            migrations.migrate(server.get_uri())
            command = [
                str(embedded.program("pg_dump")),
                "--schema-only",
                "--no-owner",
                "--schema=public",
                "--schema=vyx",
                server.get_uri(),
            ]
            done = subprocess.run(  # noqa: S603 our own program and address
                command, capture_output=True, text=True, check=False, env=child_environment()
            )
        finally:
            server.cleanup()
    if done.returncode != 0:
        raise CommandFailed(f"pg_dump failed: {done.stderr.strip()}")
    kept = [
        line
        for line in done.stdout.splitlines()
        if not line.startswith(("--", "SET ", "SELECT pg_catalog.set_config", "\\"))
    ]
    text = "\n".join(kept)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return (
        "-- Generated by `vyx schema > sql/schema.sql`; CI keeps it current. The truth is in sql/migrations.\n"
        + text.strip()
        + "\n"
    )
