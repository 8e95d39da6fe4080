from pathlib import Path

import pytest

from app.market.candles import Candle

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
