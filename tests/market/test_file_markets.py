"""A file market from its files to the ledger, through the real child process and feeder."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.settings import read_settings
from tests import world
from tests.market.test_holds import Machine
from tests.world import eventually

FIRST = datetime(2024, 1, 1, 12, tzinfo=UTC)
SECOND = FIRST + timedelta(days=60)


def write(folder, symbol, begin, minutes):
    """Flat candles of so many minutes, in the exchange's format."""
    opens = [int(begin.timestamp() * 1000) + i * 60_000 for i in range(minutes)]
    lines = [f"{o},1.10,1.20,1.00,1.15,10.5,{o + 59_999},12.075,7,0.0,0.0,0" for o in opens]
    (folder / f"{symbol}-1m-{begin:%Y-%m}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def settings(dsn, tmp_path):
    folder = tmp_path / "market"
    folder.mkdir()
    for symbol in ("AUSDT", "BUSDT"):
        write(folder, symbol, FIRST, 40)
        write(folder, symbol, SECOND, 20)
    environment = {"DATABASE_URL": dsn, "VYX_MARKET": str(folder), "VYX_DATA_DIR": str(tmp_path)}
    return replace(
        read_settings(environment=environment), speed=600.0, market_from=FIRST + timedelta(minutes=30)
    )


@pytest.mark.timeout(90)
async def test_a_hole_of_months_between_two_files_is_jumped_over(settings, pool, connection):
    """
    The clock goes on at the next candle; the ledger says what was jumped over, and every minute of the second file is complete.
    """
    last = SECOND + timedelta(minutes=20)

    def newest():
        return world.call(connection, "select vyx.newest_closed_slot()")[0]

    async with Machine(settings, pool, connection):
        await eventually(lambda: newest() == last, within_s=60)

    complete = connection.execute(
        "select slot from vyx.slots where state = 'complete' order by slot"
    ).fetchall()
    assert [slot for (slot,) in complete if slot > SECOND] == [
        SECOND + timedelta(minutes=n) for n in range(1, 21)
    ]
    [(reason,)] = connection.execute("select reason from vyx.slots where slot = %s", (SECOND,)).fetchall()
    assert reason == "the files hold no candle from 2024-01-01 12:40 to 2024-03-01 12:00 UTC: jumped over"
    assert world.call(connection, "select count(*) from vyx.slots")[0] < 1_500
    assert world.call(connection, "select count(*) from vyx.slots where state = 'open'") == (0,)
