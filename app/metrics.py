"""What a worker counts while it keeps its leases and screens. Names are fixed: ``docs/contract.md``, *Metrics*."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STATES = ("starting", "running", "stopping", "error")


class WorkerMetrics:
    """Every labelled series exists from the start, so that no dashboard says "no data"."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.traders_active = Gauge(
            "traders_active", "Traders this machine holds.", ["state"], registry=registry
        )
        self.traders_total = Gauge(
            "traders_total", "Traders starting or running, on all machines.", registry=registry
        )
        self.trader_errors = Counter(
            "trader_errors", "Traders that went to error.", ["reason"], registry=registry
        )
        self.trader_signals = Counter(
            "trader_signals", "Signals recorded by this machine.", registry=registry
        )
        self.execution = Histogram(
            "trader_execution_duration_seconds",
            "One slot on this machine: evaluation of all due traders and the transaction.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.traders_screened = Counter(
            "vyx_traders_screened", "Evaluations: traders due, summed over slots.", registry=registry
        )
        self.slots_screened = Counter(
            "vyx_slots_screened", "Slots accounted for.", ["outcome"], registry=registry
        )
        self.slot_lag = Gauge(
            "vyx_slot_lag_seconds",
            "Market time between the newest closed slot and the last one accounted for here.",
            registry=registry,
        )
        self.machines_alive = Gauge("vyx_machines_alive", "Machines that beat.", registry=registry)
        self.traders_unowned = Gauge(
            "vyx_traders_unowned", "Traders that should run and that no machine holds.", registry=registry
        )
        self.lease_moves = Counter(
            "vyx_lease_moves",
            "Leases claimed, released and reaped by this machine.",
            ["move"],
            registry=registry,
        )
        self.beat_failures = Counter(
            "vyx_beat_failures", "Heartbeats that could not be renewed.", registry=registry
        )
        self.dead_letters = Gauge(
            "vyx_dead_letters", "Jobs that failed for good and wait for vyx redeliver.", registry=registry
        )
        self.job_bypasses = Counter(
            "vyx_job_bypasses",
            "Slots screened by the keeper because no job did within 15 s.",
            registry=registry,
        )
        for state in STATES:
            self.traders_active.labels(state)
        for reason in ("plan refused", "filter refused", "evaluation failed"):
            self.trader_errors.labels(reason)
        for outcome in ("screened", "skipped"):
            self.slots_screened.labels(outcome)
        for move in ("claimed", "released", "reaped"):
            self.lease_moves.labels(move)

    def record_slot(
        self, *, seconds: float, evaluated: int, signals: int, failures: int, skipped: bool
    ) -> None:
        self.execution.observe(seconds)
        self.traders_screened.inc(evaluated)
        self.trader_signals.inc(signals)
        self.trader_errors.labels("evaluation failed").inc(failures)
        self.slots_screened.labels("skipped" if skipped else "screened").inc()
