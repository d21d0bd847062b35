"""The supervisor's metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge
from regrow_service.metrics import Metric

HOSTS = Metric(Gauge, "regrow_hosts", "Hosts that live, or are in doubt.", ("app",))
OWNED = Metric(Gauge, "regrow_partitions_owned", "Partitions that a living host owns, over all builds.", ("app",))
TAKEOVERS = Metric(Counter, "regrow_takeovers", "Partitions that this supervisor took from a dead host.", ("app",))
MOVES = Metric(Counter, "regrow_partition_moves", "Partitions that this supervisor gave to a host.", ("app",))
UPGRADES = Metric(Counter, "regrow_upgrades_sent", "Processes that were sent to another build.", ("app",))
ORPHANS = Metric(
    Counter, "regrow_orphans_cancelled", "Processes that were cancelled as their parents had ended.", ("app",)
)
PROJECTED = Metric(Counter, "regrow_projected_events", "Events that went into the list of processes.")
LAG = Metric(Gauge, "regrow_projection_lag_seconds", "Age of the last event when the list of processes showed it.")

ROOTS = Metric(Counter, "regrow_roots_restarted", "Roots that this supervisor started again.", ("app",))
SCHEDULED = Metric(Counter, "regrow_scheduled_runs", "Runs of schedules, by what became of them.", ("app", "outcome"))
PERMITS = Metric(Counter, "regrow_permits_given", "Permits that this supervisor gave.", ("limit",))
PURGED = Metric(Counter, "regrow_histories_purged", "Histories of ended processes that this supervisor removed.")

TABLE: tuple[Metric[Any], ...] = (
    HOSTS,
    OWNED,
    TAKEOVERS,
    MOVES,
    UPGRADES,
    ORPHANS,
    PROJECTED,
    LAG,
    ROOTS,
    SCHEDULED,
    PERMITS,
    PURGED,
)
