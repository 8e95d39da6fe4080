"""
Plain SQL migrations, forward only, sharing Supabase's own history table, so that ``supabase db push`` and
``vyx migrate`` agree.

Files: ``sql/migrations/<14 digits>_<name>.sql``, one transaction each, in order, under a transaction-level
advisory lock (works through a transaction pooler; every replica may call at once). A file that was edited
after it was applied is an error. ``sql/plain_postgres.sql`` first creates what Supabase already has, where it
is missing.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg

from app.errors import CommandFailed
from app.package_data import SQL_DIR

LOCK_KEY = 0x7679785F6D696772  # "vyx_migr"
PRERELEASE = "20261122%"  # versions of before the first release; they were folded into one clean set
_NAME = re.compile(r"(\d{14})_([a-z0-9_]+)\.sql\Z")
_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (version text primary key);
alter table supabase_migrations.schema_migrations add column if not exists statements text[];
alter table supabase_migrations.schema_migrations add column if not exists name text;
alter table supabase_migrations.schema_migrations add column if not exists sha256 text;
"""


class MigrationFailed(CommandFailed):
    """
    A migration could not be applied; the text names the file and, where known, the line. Nothing of it
    remains.
    """


@dataclass(frozen=True)
class Migration:
    version: str
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(folder: Path = SQL_DIR / "migrations") -> list[Migration]:
    """Every migration in *folder*, oldest first."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.match(path.name)
        if match is None:
            raise MigrationFailed(f"{path.name}: a migration is called <14 digits>_<name>.sql.")
        found.append(Migration(match[1], match[2], path.read_text(encoding="utf-8")))
    if len({m.version for m in found}) != len(found):
        raise MigrationFailed("Two migrations share a version; give one of them a later number.")
    return found


def migrate(url: str, folder: Path = SQL_DIR / "migrations") -> list[str]:
    """
    Apply what is missing to the database at *url* (direct or pooled) and return the names applied.

    Raises:
        MigrationFailed: a file fails, was edited after it was applied, or is older than one already applied.
        psycopg.OperationalError: the database cannot be reached.
    """
    applied = []
    with psycopg.connect(
        url, autocommit=True, prepare_threshold=None, application_name="vyx-migrate"
    ) as connection:
        with connection.transaction():
            _lock(connection)
            if connection.execute("select to_regclass('auth.users')").fetchone() == (None,):
                _execute(
                    connection,
                    (SQL_DIR / "plain_postgres.sql").read_text(encoding="utf-8"),
                    "plain_postgres.sql",
                )
            _execute(connection, _HISTORY, "history")
            _refuse_prerelease(connection)
        for migration in load_migrations(folder):
            with connection.transaction():
                _lock(connection)
                if _is_pending(connection, migration):
                    _apply(connection, migration)
                    applied.append(f"{migration.version}_{migration.name}")
    return applied


class NotCurrent(CommandFailed):
    """The database is older or newer than this program."""

    exit_code = 2


def check_current(url: str, folder: Path = SQL_DIR / "migrations") -> None:
    """
    Compare what was applied to the database at *url* with what this program brings; changes nothing.

    Raises:
        NotCurrent: a migration is missing, or ``vyx migrate`` of a newer version was here.
        psycopg.OperationalError: the database cannot be reached within 5 s.
    """
    known = {migration.version: migration.name for migration in load_migrations(folder)}
    with psycopg.connect(
        url, autocommit=True, prepare_threshold=None, connect_timeout=5, application_name="vyx-check"
    ) as connection:
        try:
            rows = connection.execute(
                "select version, sha256 is not null from supabase_migrations.schema_migrations"
            ).fetchall()
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.InvalidSchemaName,
        ):
            rows = []
    missing = sorted(known.keys() - {version for version, _ in rows})
    if missing:
        raise NotCurrent(
            f"The database lacks {len(missing)} of {len(known)} migrations, the first is {missing[0]}_{known[missing[0]]}; run `vyx migrate`."
        )
    newer = sorted(version for version, is_ours in rows if is_ours and version not in known)
    if newer:
        raise NotCurrent(
            f"The database was migrated by a newer version of Vyx (migration {newer[-1]}); run that version."
        )


def _refuse_prerelease(connection: psycopg.Connection) -> None:
    made_before = "select from supabase_migrations.schema_migrations where version like %s limit 1"
    if connection.execute(made_before, (PRERELEASE,)).fetchone() is not None:
        raise MigrationFailed(
            "This database was made by a version of before the first release and cannot be upgraded: "
            "start with an empty database (embedded: remove the data directory, .vyx by default)."
        )


def _lock(connection: psycopg.Connection) -> None:
    connection.execute("select pg_advisory_xact_lock(%s)", (LOCK_KEY,))


def _is_pending(connection: psycopg.Connection, migration: Migration) -> bool:
    row = connection.execute(
        "select sha256 from supabase_migrations.schema_migrations where version = %s", (migration.version,)
    ).fetchone()
    if row is None:
        newest = connection.execute(
            "select coalesce(max(version), '') from supabase_migrations.schema_migrations"
        ).fetchone()
        if newest is not None and newest[0] > migration.version:
            raise MigrationFailed(
                f"{migration.version}_{migration.name}.sql is older than {newest[0]}, which is already applied; give it a later number."
            )
        return True
    if row[0] is None:  # applied by ``supabase db push``: remember what we see now
        connection.execute(
            "update supabase_migrations.schema_migrations set sha256 = %s where version = %s",
            (migration.sha256, migration.version),
        )
    elif row[0] != migration.sha256:
        raise MigrationFailed(
            f"{migration.version}_{migration.name}.sql was changed after it was applied; write a new migration instead."
        )
    return False


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    _execute(connection, migration.sql, f"{migration.version}_{migration.name}.sql")
    connection.execute(
        "insert into supabase_migrations.schema_migrations (version, name, statements, sha256) values (%s, %s, %s, %s)",
        (migration.version, migration.name, [migration.sql], migration.sha256),
    )


def _execute(connection: psycopg.Connection, sql: str, file: str) -> None:
    try:
        connection.execute(sql)  # no parameters: the simple protocol takes a whole file, % signs and all
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = sql.count("\n", 0, int(position) - 1) + 1 if position else "?"
        raise MigrationFailed(f"{file}:{line}: {error.diag.message_primary or error}") from error
