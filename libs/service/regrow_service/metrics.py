"""Metrics: each is defined once, in a table that also documents it, and lives in a registry of its service.

A registry per service, not the process-wide one of prometheus-client: the embedded composition runs several services in
one process, and tests many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", Counter, Gauge, Histogram)

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Seconds: from one publish to a slow handler."""


@dataclass(frozen=True)
class Metric(Generic[M]):
    """One row of the table.

    Attributes:
        type: `Counter`, `Gauge` or `Histogram`.
        name: with unit; Prometheus adds `_total` to a counter's.
        help: what it counts, one line.
        labels: few values each; never ids.
        buckets: of a histogram, upper bounds.
    """

    type: type[M]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = LATENCY


HANDLED = Metric(
    Counter,
    "regrow_messages_handled",
    "Messages by what became of them: done, retried, later, dead.",
    ("consumer", "outcome"),
)
HANDLING = Metric(Histogram, "regrow_handling_seconds", "Time that one handling of a message took.", ("consumer",))
IN_HAND = Metric(Gauge, "regrow_messages_in_hand", "Messages that are being handled now.", ("consumer",))
CONNECTED = Metric(Gauge, "regrow_nats_connected", "1 while connected to NATS.")

TABLE: tuple[Metric[Any], ...] = (HANDLED, HANDLING, IN_HAND, CONNECTED)
"""What every service measures."""


class Metrics:
    """The metrics of one service.

    Args:
        tables: definitions beyond `TABLE`.
    """

    def __init__(self, *tables: Iterable[Metric[Any]]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._made: dict[str, MetricWrapperBase] = {}
        for metric in (m for table in (TABLE, *tables) for m in table):
            extra: dict[str, Any] = {"buckets": metric.buckets} if metric.type is Histogram else {}
            self._made[metric.name] = metric.type(
                metric.name, metric.help, metric.labels, registry=self.registry, **extra
            )

    def __getitem__(self, metric: Metric[M]) -> M:
        """The live metric of a definition. KeyError: the definition is in no table of this service."""
        return cast("M", self._made[metric.name])

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def reference(*tables: Iterable[Metric[Any]]) -> list[tuple[str, str, str, str]]:
    """(name, type, labels, help) of every metric, for the reference."""
    return [
        (m.name + ("_total" if m.type is Counter else ""), m.type.__name__.lower(), ", ".join(m.labels), m.help)
        for table in (TABLE, *tables)
        for m in table
    ]
