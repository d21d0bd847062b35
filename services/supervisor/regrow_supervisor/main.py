"""The supervisor service: hosts' liveness, partitions, the list of processes, roots, and what nobody can go on with.

It holds no state; two at once are correct, and one may be killed at any moment. `python -m regrow_supervisor` runs it;
the embedded composition calls `serve`.
"""

from __future__ import annotations

import asyncio
import sys

from regrow_service import service
from regrow_service.service import Service, Tasks, until
from regrow_service.settings import read

from .admission import Admission
from .hosts import Hosts
from .inboxes import Inboxes
from .measures import TABLE
from .partitions import Partitions
from .projection import Projection
from .retention import Retention
from .roots import Roots
from .schedules import Schedules
from .settings import SupervisorSettings
from .sweep import Sweep

NAME = "supervisor"


async def serve(settings: SupervisorSettings, stopping: asyncio.Event) -> None:
    """Run a supervisor until `stopping` is set."""
    running = Service(NAME, settings, TABLE)
    running.stopping = stopping

    def tasks() -> Tasks:
        bus, metrics = running.bus, running.metrics
        hosts = Hosts(bus, settings.host_ttl, metrics)
        partitions = Partitions(bus, hosts, metrics, settings.partitions)
        inboxes = Inboxes(bus, partitions)
        sweep = Sweep(bus, hosts, partitions, inboxes, metrics, settings.upgrade_grace)
        projection = Projection(bus, metrics, NAME)
        schedules = Schedules(bus, hosts, partitions, inboxes, metrics, NAME)
        admission = Admission(bus, hosts, metrics, NAME, settings.upgrade_grace)
        running.checks["hosts"] = lambda: "" if hosts.current.is_set() else "the hosts are not read yet"
        return {
            "hosts": until(stopping, hosts.run()),
            "partitions": until(stopping, partitions.run()),
            "sweep": until(stopping, sweep.run()),
            "projection": projection.run(stopping),
            "roots": Roots(bus, inboxes, metrics, NAME).consumer.run(stopping),
            "schedules": schedules.consumer.run(stopping),
            "retention": Retention(bus, metrics, settings.keep).run(stopping),
            "admission": until(stopping, admission.run()),
            "admission-commands": admission.commands.run(stopping),
            "admission-ends": admission.ends.run(stopping),
        }

    await running.run(tasks)


def main() -> int:
    """Run a supervisor as a program; its exit code."""
    return service.main(NAME, lambda: read(SupervisorSettings), serve)


if __name__ == "__main__":
    sys.exit(main())
