"""`vyx export signals`: files on standard output."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import world

ROOT = Path(__file__).parents[2]


@pytest.fixture
def export(dsn, tmp_path):
    def run(*arguments):
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("VYX_", "SUPABASE_", "DATABASE_URL"))
        }
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "export", "signals", *arguments],
            cwd=ROOT,
            env=kept | {"DATABASE_URL": dsn, "VYX_DATA_DIR": str(tmp_path)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr.decode()

    return run


@pytest.fixture
def two_users(connection):
    """Each with a signal at noon and one an hour later."""
    connection.execute("select vyx.keep_signal_partition(timestamptz '2024-05-01T00:00:00Z')")
    users = [world.add_user(connection) for _ in range(2)]
    for user in users:
        trader = world.add_trader(connection, user, started=False)
        connection.execute(
            """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, screened_at)
               select %s, %s, 'BTCUSDT', '1m', at, 1, '{"a": 1}', 'h', 1, now()
                 from unnest('{2024-05-01T12:00:00Z,2024-05-01T13:00:00Z}'::timestamptz[]) at""",
            (trader, user),
        )
    return users


def test_signals_are_exported_in_each_format(export, two_users):
    import pyarrow.parquet as pq

    code, as_csv, said = export("--format", "csv")
    assert (code, said) == (0, "")
    assert as_csv.decode().count("\r\n") == 5

    rows = json.loads(export("--format", "json", "--user", str(two_users[0]))[1])
    assert [row["triggered_at"] for row in rows] == ["2024-05-01T12:00:00Z", "2024-05-01T13:00:00Z"]
    assert rows[0]["values"] == {"a": 1}

    [row] = pq.read_table(
        io.BytesIO(
            export("--format", "parquet", "--from", "2024-05-01T12:30", "--user", str(two_users[1]))[1]
        )
    ).to_pylist()
    assert row["symbol"] == "BTCUSDT"


def test_nothing_is_an_empty_file(export):
    assert export("--format", "json")[1] == b"[]\n"


@pytest.mark.parametrize("arguments", [(), ("--format", "xml"), ("--format", "csv", "--from", "yesterday")])
def test_what_cannot_be_exported_is_said(export, arguments):
    code, out, said = export(*arguments)

    assert (code, out) == (2, b"")
    assert said
