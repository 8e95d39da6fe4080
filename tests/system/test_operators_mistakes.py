"""Mistakes of whoever runs it stop the start: exit 2, one sentence that says what to set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.store.test_sessions import TransactionPooler

ROOT = Path(__file__).parents[2]
TCP = "postgresql://nobody@127.0.0.1:1/none"


def vyx(*arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VYX_", "SUPABASE_", "DATABASE_URL"))}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["up", "--host", "0.0.0.0"], {}, "VYX_HOST"),  # noqa: S104 a value to be refused
        (["up"], {"DATABASE_URL": TCP}, "VYX_JWT_SECRET"),
        (["web"], {"DATABASE_URL": TCP}, "VYX_JWT_SECRET"),
        (["web"], {"DATABASE_URL": TCP, "VYX_JWT_SECRET": " " * 40}, "white space"),
        (["token", "--user", str(uuid4())], {"DATABASE_URL": TCP}, "VYX_JWT_SECRET"),
    ],
)
def test_a_start_that_would_let_anybody_in_is_refused(tmp_path, arguments, environment, said):
    done = vyx(*arguments, VYX_DATA_DIR=str(tmp_path), **environment)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_token_is_not_made_on_a_database_of_others(tmp_path, admin_dsn):
    url = make_conninfo(**conninfo_to_dict(admin_dsn))
    done = vyx(
        "token", "--user", str(uuid4()), DATABASE_URL=url, VYX_DATA_DIR=str(tmp_path), VYX_JWT_SECRET="s" * 40
    )

    assert done.returncode == 2
    assert "not Vyx's" in done.stderr


def test_a_token_is_made_only_for_users_who_signed_up_where_they_do(tmp_path, dsn, connection):
    connection.execute("alter table auth.users add column encrypted_password text")
    user = uuid4()
    arguments = ("token", "--user", str(user), "--tier", "pro")
    environment = {"DATABASE_URL": dsn, "VYX_DATA_DIR": str(tmp_path), "VYX_JWT_SECRET": "s" * 40}

    refused = vyx(*arguments, **environment)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("insert into auth.users (id) values (%s)", (user,))
    made = vyx(*arguments, **environment)

    assert refused.returncode == 2
    assert "sign-up" in refused.stderr
    assert made.returncode == 0
    assert connection.execute("select count(*) from auth.users").fetchone() == (1,)


@pytest.mark.parametrize("command", ["up", "web", "worker"])
def test_a_transaction_pooler_as_direct_connection_is_refused_wherever_it_listens(tmp_path, dsn, command):
    pooler = TransactionPooler(dsn, server_connections=40)  # it loses one with each client that leaves
    url = make_conninfo(dsn, host="127.0.0.1", port=pooler.port, sslmode="disable")
    try:
        done = vyx(
            command,
            DATABASE_URL=url,
            VYX_DATA_DIR=str(tmp_path),
            VYX_JWT_SECRET="s" * 40,
            VYX_METRICS_PORT="off",
        )
    finally:
        pooler.close()

    assert done.returncode == 2, done.stderr
    assert "is a transaction pooler" in done.stderr.splitlines()[-1]
