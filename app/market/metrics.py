"""What the feeder of market data counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class MarketMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.feeding = Gauge(
            "vyx_market_feeding", "1 on the machine that feeds the market data.", registry=registry
        )
        self.slots_closed = Counter(
            "vyx_market_slots_closed", "Slots closed by this machine.", ["state"], registry=registry
        )
        self.candles = Counter("vyx_market_candles", "1m candles stored.", registry=registry)
        self.candles_missing = Counter(
            "vyx_market_candles_missing",
            "Symbols without a candle, summed over complete slots.",
            registry=registry,
        )
        self.candles_late = Counter(
            "vyx_market_candles_late", "Candles that arrived after their slot had closed.", registry=registry
        )
        self.repairs = Counter(
            "vyx_market_repair_requests",
            "REST requests for candles the stream did not deliver.",
            registry=registry,
        )
        self.close_delay = Gauge(
            "vyx_market_close_delay_seconds",
            "Wall time from the first candle of the last slot to its commit.",
            registry=registry,
        )
        for state in ("complete", "outage"):
            self.slots_closed.labels(state)
