from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.domain import timeframes
from app.market.breaker import Breaker
from app.market.candles import Candle
from app.market.client import ExchangeClient
from app.market.simulated import GeneratedSource, ManualClock, SimulatedExchange
from app.market.streams import StreamLimits
from app.store.pool import make_pool
from tests import world
from tests.market import feeding

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The real market data beside the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not part of the repository")
    return folder


@pytest.fixture
def candle():
    """Build a valid 1m candle, changed by keywords."""

    def build(**changes):
        plain = Candle("BTCUSDT", 60_000, 10.0, 12.0, 9.0, 11.0, 5.0, 55.0, 3)
        return plain._replace(**changes)

    return build


T0 = timeframes.epoch_ms(datetime(2024, 7, 29, 12, tzinfo=UTC))
QUICK = StreamLimits(stagger_s=0, retry_wait_s=0.01, retry_wait_max_s=0.05, overlap_s=0.01)


@pytest.fixture(scope="session")
def source():
    """A generated market with every kind of symbol; fixed, so tests share it."""
    return GeneratedSource(7, anchor_ms=T0)


@pytest.fixture
def clock():
    """Market time, half a minute after noon until a test moves it."""
    return ManualClock(T0 + 30_000)


@pytest.fixture
async def exchange(source, clock):
    async with SimulatedExchange(source, clock) as running:
        yield running


@pytest.fixture
def breaker_clock():
    return SettableClock()


class SettableClock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
async def client(exchange, breaker_clock):
    breaker = Breaker(clock=breaker_clock)
    async with ExchangeClient(
        exchange.rest_url, exchange.stream_url, breaker=breaker, retry_wait_s=0.001, stream_limits=QUICK
    ) as ready:
        yield ready


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=6, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
def small_clock():
    """Market time of the small market, half a minute after the world began."""
    return ManualClock(world.ms(world.T0) + feeding.HALF_MINUTE_MS)


@pytest.fixture
async def small_exchange(small_clock):
    """Three pairs, for feeders."""
    source = GeneratedSource(1, anchor_ms=small_clock.now_ms(), symbols_max=len(feeding.SYMBOLS))
    async with SimulatedExchange(source, small_clock) as exchange:
        yield exchange


@pytest.fixture
def feed(pool, small_exchange, connection):
    return feeding.Feed(pool, small_exchange, world.register(connection))
