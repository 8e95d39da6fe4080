"""A process refuses a database that is not the one its statements are written for."""

from __future__ import annotations

import subprocess
import sys

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from app.store.migrations import NotCurrent, check_current
from bench.service import environment


def test_a_current_database_is_accepted_and_a_projects_own_migrations_are_no_concern(dsn, connection):
    connection.execute(
        "insert into supabase_migrations.schema_migrations (version) values ('20990101000000')"
    )
    check_current(dsn)


def test_an_empty_database_asks_for_migrate(admin_dsn):
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("create database vyx_empty")
    try:
        with pytest.raises(NotCurrent, match="run `vyx migrate`"):
            check_current(make_conninfo(admin_dsn, dbname="vyx_empty"))
    finally:
        with psycopg.connect(admin_dsn, autocommit=True) as admin:
            admin.execute("drop database vyx_empty with (force)")


def test_a_database_without_the_last_migration_names_it(dsn, connection):
    connection.execute(
        "delete from supabase_migrations.schema_migrations where version = (select max(version) from supabase_migrations.schema_migrations)"
    )
    with pytest.raises(NotCurrent, match="lacks 1 of"):
        check_current(dsn)


@pytest.mark.parametrize("command", [["web", "--port", "0"], ["worker"]], ids=["web", "worker"])
def test_a_process_on_a_database_of_a_newer_version_ends_with_one_sentence(
    command, dsn, connection, tmp_path
):
    connection.execute(
        "insert into supabase_migrations.schema_migrations (version, sha256) values ('20990101000000', 'x')"
    )
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *command, "--metrics-port", "off", "--data-dir", str(tmp_path)],
        env=environment(DATABASE_URL=dsn, VYX_JWT_SECRET="s" * 40),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "vyx: The database was migrated by a newer version of Vyx (migration 20990101000000); run that version.\n"
    )
