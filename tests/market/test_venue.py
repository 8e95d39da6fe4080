"""Which market a database holds: `auto` never invents prices for real users."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.demo import DEMO_USER
from app.market.venue import MarketUnusable, choose, open_venue
from app.settings import read_settings
from app.store import markets
from tests import world

UNREACHABLE = "http://127.0.0.1:1"


@pytest.fixture
def settings(dsn, tmp_path):
    environment = {
        "DATABASE_URL": dsn,
        "VYX_EXCHANGE_REST_URL": UNREACHABLE,
        "VYX_DATA_DIR": str(tmp_path),
    }
    return read_settings(environment=environment)


@pytest.fixture
def embedded(settings):
    return replace(settings, is_embedded=True)


def put_market(connection, source="simulated", *, by_auto=True):
    connection.execute(
        "insert into vyx.markets (source, chosen_by_auto, anchor_market_at) values (%s, %s, now())",
        (source, by_auto),
    )


async def stored_market(pool):
    async with pool.connection() as connection:
        return await markets.find(connection)


async def test_with_a_database_of_ones_own_auto_is_binance_however_unreachable(settings, pool, connection):
    """
    It waits, and says why; a market of invented prices is never begun.
    """
    assert await choose(settings, None, pool) == "binance"
    async with open_venue(settings, pool) as venue:
        assert (venue.source, venue.rest_url) == ("binance", UNREACHABLE)

    assert connection.execute("select source from vyx.markets").fetchall() == [("binance",)]


async def test_only_the_embedded_database_falls_back(embedded, pool, small_exchange):
    """
    Simulated where Binance does not answer, and Binance where it does.
    """
    assert await choose(embedded, None, pool) == "simulated"
    there = replace(embedded, exchange_rest_url=small_exchange.rest_url)
    assert await choose(there, None, pool) == "binance"


async def test_a_held_address_is_not_asked_whether_it_is_reachable(
    embedded, pool, connection, small_exchange
):
    """
    A ping is a request, too: until the hold is over the embedded database falls back without one.
    """
    connection.execute(
        "insert into vyx.exchange_holds (host, address, held_until, held_s, status, reason)"
        " values (%s, '127.0.0.1', now() + interval '1 h', 3600, 451, 'region')",
        (small_exchange.rest_url.removeprefix("http://"),),
    )
    there = replace(embedded, exchange_rest_url=small_exchange.rest_url)

    assert await choose(there, None, pool) == "simulated"
    assert small_exchange.request_count == 0


async def test_a_stand_in_that_only_the_demo_user_has_seen_gives_way(
    embedded, pool, connection, small_exchange
):
    """
    Its candles, slots and signals go; the demo user's traders stay.
    """
    put_market(connection)
    connection.execute("insert into auth.users (id) values (%s)", (DEMO_USER,))
    connection.execute("select public.set_tier(%s, 'elite')", (DEMO_USER,))
    trader = world.add_trader(connection, DEMO_USER)
    world.put_closes(connection, {"AAAUSDT": [1, 2]})
    world.close_slots(connection, 0, 1)
    there = replace(embedded, exchange_rest_url=small_exchange.rest_url)

    assert await choose(there, await stored_market(pool), pool) == "binance"

    counts = [
        world.call(connection, f"select count(*) from {table}")[0]
        for table in ("vyx.candles", "vyx.slots", "vyx.markets", "public.traders")
    ]
    assert counts == [0, 0, 0, 1]
    assert world.status(connection, trader).state == "starting"


@pytest.mark.parametrize("by_auto", [True, False])
async def test_real_users_keep_what_they_have_seen_and_are_served_no_more_of_it(
    settings, pool, connection, by_auto
):
    """
    With real users nothing is deleted; a database of one's own refuses to go on inventing, with what to do.
    """
    put_market(connection, by_auto=by_auto)
    world.add_user(connection)
    world.close_slots(connection, 0)

    with pytest.raises(MarketUnusable, match=r"invented prices.*VYX_MARKET=simulated"):
        await choose(settings, await stored_market(pool), pool)

    assert world.call(connection, "select count(*) from vyx.slots") == (1,)


async def test_a_simulated_market_that_was_named_stays(embedded, pool, connection, small_exchange):
    """
    Somebody wanted it: Binance being there changes nothing.
    """
    put_market(connection, by_auto=False)
    there = replace(embedded, exchange_rest_url=small_exchange.rest_url)

    assert await choose(there, await stored_market(pool), pool) == "simulated"
