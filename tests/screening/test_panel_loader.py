"""The panel of a machine stays equal to the table of candles."""

from __future__ import annotations

import numpy as np
import pytest

from app.screening.panel_loader import PanelLoader
from app.store import candles
from app.store.pool import make_pool
from tests import world


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=2, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


async def test_a_candle_that_arrives_late_is_seen_from_the_next_slot_on(connection, pool):
    """
    A panel that had passed its slot reads its frames anew: every machine screens the same rows.
    """
    ids = world.put_symbols(connection, "AAAUSDT", "BBBUSDT")
    world.put_closes(connection, {"AAAUSDT": [1, 2, 3], "BBBUSDT": [1, None, 3]}, first=1)
    keeper = PanelLoader(pool)
    await keeper.extend(world.at(1))
    await keeper.ensure({"1m": 3}, world.at(1), through=world.at(1))
    await keeper.extend(world.at(2))
    row = keeper.panel.index["BBBUSDT"]
    assert keeper.panel.frame("1m").field("close")[row].tolist() == [1, 1]

    async with pool.connection() as client:
        one = {name: np.array([7.0]) for name in ("open", "high", "low", "close", "volume")}
        late = {
            "symbol_id": np.array([ids["BBBUSDT"]]),
            "open_time": np.array([world.ms(world.at(1))]),
            **one,
        }
        assert len(await candles.correct(client, "1m", late)) == 1
        assert not await candles.correct(client, "1m", late)
    await keeper.extend(world.at(3))
    await keeper.ensure({"1m": 3}, world.at(3), through=world.at(3))

    assert keeper.panel.frame("1m").field("close")[row].tolist() == [1, 7, 3]
    assert keeper.panel.frame("1m").present[row].all()
