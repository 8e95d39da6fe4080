"""
`vyx redeliver`, as an operator types it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def redeliver(dsn, *options):
    environment = {**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "redeliver", *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_what_failed_in_a_span_is_due_again_and_expired_ones_only_when_asked(
    dsn, make, screen, connection, rows
):
    await make()
    screen.match("AUSDT", "BUSDT", "CUSDT")
    connection.execute("update vyx.deliveries set state = 'failed', queued_at = '2026-11-28T03:30Z'")
    connection.execute("update vyx.deliveries set state = 'expired' where symbol = 'CUSDT'")
    connection.execute("update vyx.deliveries set queued_at = '2026-11-28T05:00Z' where symbol = 'BUSDT'")

    done = redeliver(dsn, "--from", "2026-11-28T03:00:00Z", "--until", "2026-11-28T04:00:00Z")
    states = {r.symbol: r.state for r in rows()}
    again = redeliver(dsn, "--expired", "--from", "2026-11-28T00:00:00Z")

    assert (done.returncode, done.stdout) == (0, "1 redelivered\n"), done.stderr
    assert states == {"AUSDT": "pending", "BUSDT": "failed", "CUSDT": "expired"}
    assert again.stdout == "2 redelivered\n"


def test_an_option_that_is_none_is_refused(dsn):
    done = redeliver(dsn, "--destination", "nowhere")

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
