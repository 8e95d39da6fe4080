"""What the exchange's side of a worker counts: every series is there before anything has happened."""

from prometheus_client import CollectorRegistry, generate_latest

from app.market.client import ExchangeClient
from app.market.metrics import MarketMetrics

UP_FRONT = (
    'vyx_exchange_answers_total{status="200"} 0.0',
    'vyx_exchange_answers_total{status="418"} 0.0',
    'vyx_exchange_answers_total{status="451"} 0.0',
    'vyx_exchange_answers_total{status="none"} 0.0',
    "vyx_exchange_weight_used 0.0",
    "vyx_exchange_weight_ceiling 0.0",
    "vyx_exchange_held_until_seconds 0.0",
    'vyx_exchange_breaker_state{state="closed"} 1.0',
    'vyx_exchange_breaker_state{state="open"} 0.0',
    "vyx_exchange_stream_reconnects_total 0.0",
    'vyx_market_refusals_total{source="rest"} 0.0',
    'vyx_market_refusals_total{source="stream"} 0.0',
    "vyx_market_universe_size 0.0",
    "vyx_market_history_backlog 0.0",
    "vyx_market_newest_candle_age_seconds 0.0",
)


def shown(registry):
    return generate_latest(registry).decode().splitlines()


def test_every_series_exists_from_the_start():
    registry = CollectorRegistry()
    MarketMetrics(registry)

    assert set(UP_FRONT) <= set(shown(registry))


def test_budget_and_breaker_are_read_when_somebody_asks():
    """No request in between: what the client knows is what is shown."""
    registry = CollectorRegistry()
    metrics, client = MarketMetrics(registry), ExchangeClient("http://127.0.0.1:1", "ws://127.0.0.1:1")
    metrics.watch(client)
    client.budget.resume(client.budget.minute, 42)
    client.breaker.hold(60, "banned")
    metrics.answered(418)
    metrics.answered(0)

    lines = shown(registry)

    assert 'vyx_exchange_answers_total{status="418"} 1.0' in lines
    assert 'vyx_exchange_answers_total{status="none"} 1.0' in lines
    assert "vyx_exchange_weight_ceiling 5100.0" in lines
    assert 'vyx_exchange_breaker_state{state="open"} 1.0' in lines
    assert "vyx_exchange_held_until_seconds 0.0" not in lines


def test_the_pair_that_is_most_behind_is_seen():
    """A pair that does not trade any more counts no more."""
    registry = CollectorRegistry()
    metrics = MarketMetrics(registry)
    metrics.saw_candle("AUSDT", 600_000)
    metrics.saw_candle("BUSDT", 0)
    assert "vyx_market_newest_candle_age_seconds 600.0" in shown(registry)

    metrics.lost_pair("BUSDT")

    assert "vyx_market_newest_candle_age_seconds 0.0" in shown(registry)
