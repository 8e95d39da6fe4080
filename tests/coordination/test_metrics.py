"""What an alert is made of is counted."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from app.metrics import WorkerMetrics


def test_every_series_of_the_contract_exists_before_anything_happens():
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    for name, labels in (
        ("traders_active", {"state": "running"}),
        ("traders_total", {}),
        ("trader_errors_total", {"reason": "plan refused"}),
        ("trader_errors_total", {"reason": "filter refused"}),
        ("trader_errors_total", {"reason": "evaluation failed"}),
        ("trader_signals_total", {}),
        ("trader_execution_duration_seconds_count", {}),
        ("vyx_dead_letters", {}),
        ("vyx_job_bypasses_total", {}),
    ):
        assert registry.get_sample_value(name, labels) == 0, name
