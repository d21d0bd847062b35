"""The registry's metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from regrow_service.metrics import Metric

CALLS = Metric(
    Counter, "regrow_outside_calls", "Calls from outside by what became of them: ok, refused, failed, late.", ("how",)
)
CALLING = Metric(Histogram, "regrow_outside_call_seconds", "Time from a call from outside to its answer.")
WAITING = Metric(Gauge, "regrow_outside_calls_waiting", "Calls from outside that wait for their process.")
PROCESSES = Metric(Gauge, "regrow_exposing_processes", "Living processes with endpoints.")
PUBLIC = Metric(Gauge, "regrow_public_names", "Public names that a process has.")
GRANTS = Metric(Gauge, "regrow_grants", "Grants of endpoints to agents that stand.")
REPAIRS = Metric(Counter, "regrow_registry_repairs", "Records of what had ended that a sweep removed.", ("what",))

TABLE: tuple[Metric[Any], ...] = (CALLS, CALLING, WAITING, PROCESSES, PUBLIC, GRANTS, REPAIRS)
