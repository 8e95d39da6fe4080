"""What the feeder of market data counts. Every series exists from the start, so that no dashboard says "no data"."""

from __future__ import annotations

import time
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from app.market.client import ExchangeClient

STATUSES = ("200", "400", "403", "418", "429", "451", "500", "503", "504", "none")
BREAKER_STATES = ("closed", "half_open", "open")


class MarketMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._reconnects = 0
        self._newest: dict[str, int] = {}
        self._feeding_metrics()
        self._exchange_metrics()

    def _feeding_metrics(self) -> None:
        registry = self._registry
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
            "vyx_market_candles_late",
            "Candles that arrived or changed after their slot had closed.",
            registry=registry,
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
        self.refusals = Counter(
            "vyx_market_refusals", "Candles set aside as impossible.", ["source"], registry=registry
        )
        self.universe_size = Gauge("vyx_market_universe_size", "Pairs that trade.", registry=registry)
        self.history_backlog = Gauge(
            "vyx_market_history_backlog", "Requests of history that are still to be made.", registry=registry
        )
        self.ranges_wrong = Counter(
            "vyx_market_ranges_wrong",
            "Ranges of history whose rows were not what they promised.",
            registry=registry,
        )
        self.candle_age_max = Gauge(
            "vyx_market_newest_candle_age_seconds",
            "How far the newest candle of the pair that is most behind lies behind the newest of all.",
            registry=registry,
        )
        self.candle_age_max.set_function(self._oldest_newest_s)
        for state in ("complete", "outage"):
            self.slots_closed.labels(state)
        for source in ("stream", "rest"):
            self.refusals.labels(source)

    def _exchange_metrics(self) -> None:
        registry = self._registry
        self.answers = Counter(
            "vyx_exchange_answers",
            "Answers of the exchange by HTTP status; none: no answer.",
            ["status"],
            registry=registry,
        )
        self.weight_used = Gauge(
            "vyx_exchange_weight_used", "Request weight used in this clock minute.", registry=registry
        )
        self.weight_ceiling = Gauge(
            "vyx_exchange_weight_ceiling", "Request weight used at most in a minute.", registry=registry
        )
        self.held_until = Gauge(
            "vyx_exchange_held_until_seconds",
            "When the exchange may be asked again, seconds since the epoch; 0: now.",
            registry=registry,
        )
        self.breaker_state = Gauge(
            "vyx_exchange_breaker_state", "1 for the state the breaker is in.", ["state"], registry=registry
        )
        self.stream_reconnects = Counter(
            "vyx_exchange_stream_reconnects",
            "Stream connections that broke or could not be made.",
            registry=registry,
        )
        for status in STATUSES:
            self.answers.labels(status)
        for state in BREAKER_STATES:
            self.breaker_state.labels(state).set(state == "closed")

    def watch(self, client: ExchangeClient) -> None:
        """Read *client*'s budget and breaker whenever somebody asks."""
        self._reconnects = 0
        self._newest.clear()
        self.weight_used.set_function(lambda: client.budget.used)
        self.weight_ceiling.set(client.budget.ceiling)
        self.held_until.set_function(
            lambda: time.time() + client.breaker.open_for_s if client.breaker.open_for_s else 0.0
        )
        for state in BREAKER_STATES:
            self.breaker_state.labels(state).set_function(partial(_is_in_state, client, state))

    def answered(self, status: int) -> None:
        """The exchange answered with *status*; 0: not at all."""
        self.answers.labels(str(status) if status else "none").inc()

    def refused(self, source: str, count: int) -> None:
        """So many candles were set aside."""
        self.refusals.labels(source).inc(count)

    def count_reconnects(self, total: int) -> None:
        """The streams of this feeder have reconnected so often in all."""
        self.stream_reconnects.inc(total - self._reconnects)
        self._reconnects = total

    def saw_candle(self, symbol: str, open_time: int) -> None:
        """A pair's newest candle opened at *open_time*, ms."""
        self._newest[symbol] = open_time

    def lost_pair(self, symbol: str) -> None:
        """The pair does not trade any more: nobody waits for its candles."""
        self._newest.pop(symbol, None)

    def _oldest_newest_s(self) -> float:
        if not self._newest:
            return 0.0
        return max(self._newest.values()) / 1000 - min(self._newest.values()) / 1000


def _is_in_state(client: ExchangeClient, state: str) -> float:
    return float(client.breaker.state == state)
