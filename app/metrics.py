"""What a worker counts while it keeps its leases and screens. Names are fixed: ``docs/contract.md``, *Metrics*."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.domain.retention import KINDS

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
            "vyx_dead_letters",
            "Signals and jobs that failed for good and wait for vyx redeliver.",
            registry=registry,
        )
        self.job_bypasses = Counter(
            "vyx_job_bypasses",
            "Slots screened without a job, because none did within a second.",
            registry=registry,
        )
        self._add_repairs(registry)
        self._add_checks(registry)
        for state in STATES:
            self.traders_active.labels(state)
        for reason in ("plan refused", "filter refused", "evaluation failed"):
            self.trader_errors.labels(reason)
        for outcome in ("screened", "skipped"):
            self.slots_screened.labels(outcome)
        for move in ("claimed", "released", "reaped"):
            self.lease_moves.labels(move)

    def _add_checks(self, registry: CollectorRegistry) -> None:
        """What a healthy machine leaves at 0, but for audits made."""
        self.slot_retries = Counter(
            "vyx_slot_retries", "Slots tried again at once after an error that passes.", registry=registry
        )
        self.matches_unjoined = Counter(
            "vyx_matches_unjoined",
            "Matches whose lease had changed; their slot was screened again.",
            registry=registry,
        )
        self.pruned_rows = Counter(
            "vyx_pruned_rows", "Rows deleted because they were older than kept.", ["kind"], registry=registry
        )
        self.prune_failures = Counter(
            "vyx_prune_failures",
            "Kinds of rows that could not be pruned in a run.",
            ["kind"],
            registry=registry,
        )
        for kind in KINDS:
            self.pruned_rows.labels(kind)
            self.prune_failures.labels(kind)
        self.signals_digested = Counter(
            "vyx_signals_digested", "Matches that became part of a digest, not signals.", registry=registry
        )
        self.signals_refused = Counter(
            "vyx_signals_refused",
            "Signals that the database refused and that were set aside.",
            registry=registry,
        )
        self.audited = Counter(
            "vyx_audited",
            "Traders and slots that were computed again from the candles and compared with what was committed.",
            registry=registry,
        )
        self.audit_mismatches = Counter(
            "vyx_audit_mismatches", "Of these, those that differed.", registry=registry
        )
        self.incremental = Gauge(
            "vyx_incremental",
            "1 while values are carried on from slot to slot, 0 once an audit found a difference.",
            registry=registry,
        )
        self.incremental.set(1)

    def _add_repairs(self, registry: CollectorRegistry) -> None:
        """What is done when something else does not go as it should."""
        self.jobs_not_deferred = Counter(
            "vyx_jobs_not_deferred",
            "Slots without a tick job, because the jobs' tables were not to be had.",
            registry=registry,
        )
        self.pieces_shrunk = Counter(
            "vyx_pieces_shrunk", "Pieces of lease work that took too long.", ["kind"], registry=registry
        )
        self.repairs = Counter(
            "vyx_coordination_repairs",
            "Coordination rows that were wrong and were put right.",
            registry=registry,
        )
        for kind in ("claim", "release", "settle", "retry"):
            self.pieces_shrunk.labels(kind)

    def record_slot(
        self, *, seconds: float, evaluated: int, signals: int, failures: int, skipped: bool
    ) -> None:
        self.execution.observe(seconds)
        self.traders_screened.inc(evaluated)
        self.trader_signals.inc(signals)
        self.trader_errors.labels("evaluation failed").inc(failures)
        self.slots_screened.labels("skipped" if skipped else "screened").inc()


DELIVERY_OUTCOMES = ("sent", "retried", "failed", "expired", "refused")


class DeliveryMetrics:
    """What a sender counts. ``refused``: receipts whose lease had passed to another sender."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deliveries = Counter(
            "vyx_deliveries", "Deliveries by what came of an attempt.", ["outcome"], registry=registry
        )
        for outcome in DELIVERY_OUTCOMES:
            self.deliveries.labels(outcome)

    def record(self, states: Iterable[str], *, refused: int) -> None:
        for state in states:
            self.deliveries.labels("retried" if state == "pending" else state).inc()
        self.deliveries.labels("refused").inc(refused)
