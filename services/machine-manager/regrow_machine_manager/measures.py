"""The machine-manager's metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from regrow_service.metrics import Metric

MACHINES = Metric(Gauge, "regrow_machines", "Machines of this node.", ("backend", "state"))
CREATED = Metric(
    Counter, "regrow_machine_creations", "Creations that this manager answered: ready, warm, failed, refused.", ("how",)
)
CREATING = Metric(
    Histogram, "regrow_machine_spawn_seconds", "Time that a backend took to make a machine.", ("backend",)
)
STOPPED = Metric(Counter, "regrow_machines_stopped", "Machines that this manager stopped, by the reason.", ("reason",))
ORPHANS = Metric(Counter, "regrow_machine_orphans_removed", "Machines without a record that this manager removed.")
LOST = Metric(Counter, "regrow_machines_lost", "Machines that were found to be gone.")
RUNNING = Metric(Gauge, "regrow_execs_running", "Commands that run on machines under this manager's eyes.")
WAITING = Metric(Gauge, "regrow_execs_waiting", "Commands that wait until fewer run.")
RETRIES = Metric(
    Counter, "regrow_backend_retries", "Calls that were repeated as a backend was unavailable.", ("backend",)
)

TABLE: tuple[Metric[Any], ...] = (MACHINES, CREATED, CREATING, STOPPED, ORPHANS, LOST, RUNNING, WAITING, RETRIES)
