from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from app.coordination.hints import Hints
from app.metrics import WorkerMetrics
from app.screening.screener import Screener
from app.store.pool import make_pool
from sandbox.interpreter.functions import EachRunner
from tests import world


def _compile_nothing(source):
    raise AssertionError(f"no plan of these tests is old, yet {source!r} is compiled anew")


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=6, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
async def machine(pool, connection):
    """A function that makes a registered machine: (name, trusted, compile_filter, each) -> Screener. It claims nothing by itself."""
    hints = Hints(pool)
    usual = EachRunner()

    async def make(name="a", trusted=lambda: True, compile_filter=_compile_nothing, each=usual):
        screener = Screener(pool, hints, WorkerMetrics(CollectorRegistry()), trusted, compile_filter, each)
        boot = world.register(connection, name)
        through = world.call(
            connection, "select screened_through from vyx.machines where boot_id = %(b)s", b=boot
        )[0]
        await screener.begin_boot(boot, through)
        return screener

    yield make
    usual.close()
    await hints.close()
