"""A worker whose link to the database swallows everything: its traders and the feeding of the market are elsewhere within 12 s."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests import world
from tests.faults.proxy import StallingProxy, address_of
from tests.faults.test_workers import check_everything, newest_slot, owners
from tests.world import eventually

WITHIN_S = 12
SPEED = 120  # two minutes a second: the market lasts half a minute


@pytest.fixture
def link(dsn):
    """A function that makes a proxy to the test's server: -> (proxy, address through it)."""
    parameters = conninfo_to_dict(dsn)
    made = []

    def make():
        proxy = StallingProxy(address_of(parameters))
        made.append(proxy)
        return proxy, make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable")

    yield make
    for proxy in made:
        proxy.close()


@pytest.mark.parametrize("which", ["pooled", "direct", "both"])
async def test_a_worker_whose_link_stalls_is_replaced(connection, worker, stage, link, which):
    """
    No error says that a link swallows packets: deadlines on this side do. One dead way is enough to give everything back by the other.
    """
    (pooled, pooled_url), (direct, direct_url) = link(), link()
    first = await worker("first", speed=SPEED, lease_ttl_s=10, pooled_url=pooled_url, direct_url=direct_url)
    await eventually(lambda: newest_slot(connection) >= stage.market.first + 3, within_s=30)
    await worker("second", speed=SPEED, lease_ttl_s=10)
    await eventually(lambda: "first" in owners(connection) and None not in owners(connection))

    stalled = {"pooled": [pooled], "direct": [direct], "both": [pooled, direct]}[which]
    for proxy in stalled:
        proxy.stall()
    await eventually(
        lambda: set(owners(connection)) == {"second"} and behind(connection) == 0, within_s=WITHIN_S
    )
    stood = newest_slot(connection)
    await eventually(lambda: newest_slot(connection) > stood)  # the feeder's own start comes on top

    assert all(proxy.swallowed for proxy in stalled)
    if which != "both":
        await eventually(lambda: first.process.poll() is not None, within_s=30)
        assert first.process.returncode == 1
        assert "cannot work any more" in first.log.read_text()
    await eventually(stage.is_over, within_s=45)
    check_everything(connection, stage)


def behind(connection):
    """How many traders have not been screened through where their machine stands."""
    return world.call(connection, "select count(*) from public.trader_state where not in_step")[0]
