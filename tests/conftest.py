"""
Real Postgres always. One template database per process, migrated once; each test that asks for ``dsn`` gets a copy of its own.

The suite runs in parallel (``-n 2 --dist loadfile``): names hold the process id, ports are chosen by the system, and each process has a
server of its own unless one is named.

``TEST_DATABASE_URL`` names a server to use (15, 17 or 18, a role that may create databases); without it an embedded one starts.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg.conninfo import make_conninfo

from app.store import embedded, migrations

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
_number = itertools.count()
# A busy machine is no fault: no example has a deadline.
settings.register_profile("vyx", deadline=None)
settings.load_profile("vyx")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data, which is not part of the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def admin_dsn():
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="vyx-test-", ignore_cleanup_errors=True) as folder:
        server = embedded.start(Path(folder))
        with psycopg.connect(
            server.get_uri(), autocommit=True
        ) as connection:  # a test database needs no durability
            for setting in (
                "fsync = off",
                "synchronous_commit = off",
                "full_page_writes = off",
                "max_connections = 200",
            ):
                connection.execute(f"alter system set {setting}")
            connection.execute("select pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="session")
def template(admin_dsn):
    name = f"vyx_template_{os.getpid()}"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        # roles belong to the server: one process after the other makes them
        connection.execute("select pg_advisory_lock(hashtext('vyx_template'))")
        connection.execute(f"create database {name}")
        migrations.migrate(make_conninfo(admin_dsn, dbname=name))
    yield name
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def dsn(admin_dsn, template):
    """The address of a fresh, migrated database; a lock that is waited for is a failure, never a hang."""
    name = f"vyx_test_{os.getpid()}_{next(_number)}"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}")
    yield make_conninfo(admin_dsn, dbname=name)
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def connection(dsn):
    with psycopg.connect(
        dsn, autocommit=True, options="-c lock_timeout=5s -c statement_timeout=20s"
    ) as connection:
        yield connection
