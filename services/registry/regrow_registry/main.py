"""The registry service: what processes expose, who may call it, and calls from outside.

It holds no state; several at once are correct, and each may be killed at any moment. `regrow-registry` runs it, as does
`python -m regrow_registry`; the embedded composition calls `serve`.
"""

from __future__ import annotations

import asyncio
import sys

from regrow_protocol.endpoints import COMMANDS, SERVICE
from regrow_service import commands, service
from regrow_service.answers import Answers
from regrow_service.micro import Micro
from regrow_service.service import Service, Tasks, until
from regrow_service.settings import read

from .agent_protocol import AgentProtocol
from .calling import Calling
from .handling import Handling
from .measures import TABLE
from .outside import Outside
from .recording import Recording
from .records import Records
from .settings import RegistrySettings
from .sweep import Sweep

LAST = 2.0
"""Seconds of the stop's deadline that are left for going."""


class Registry:
    """One registry, on a service that is connected.

    Args:
        running: the service; its readiness checks get one more.
    """

    def __init__(self, running: Service[RegistrySettings]) -> None:
        self._service = running
        self._ready = False
        running.checks["registry"] = lambda: "" if self._ready else "its records are not read yet"

    async def run(self) -> None:
        """Run until the service stops."""
        running, settings = self._service, self._service.settings
        bus, metrics, stopping = running.bus, running.metrics, running.stopping
        records = Records(bus)
        calling = Calling(bus, records)
        recording = Recording(bus, metrics)
        micro = Micro(bus)
        outside = Outside(bus, micro, records, calling, recording, settings.call_patience)
        handling = Handling(records, calling, Answers(bus), recording)
        consumer = commands.in_hand(
            bus, metrics, service=SERVICE, name="registry-commands", subject=COMMANDS,
            handle=handling.handle, lost=handling.lost,
        )  # fmt: skip
        calling.open()
        try:
            async with asyncio.TaskGroup() as group:
                always = [
                    group.create_task(records.run(), name="records"),
                    group.create_task(Sweep(bus, records, metrics, settings.registry_sweep).run(), name="sweep"),
                ]
                await until(stopping, _wait(records.current))
                if not stopping.is_set():
                    outside.open()
                    micro.open()
                    if settings.agent_protocol:
                        protocol = AgentProtocol(bus, micro, calling, settings.agent_heartbeat)
                        always.append(group.create_task(protocol.run(), name="agent protocol"))
                    self._ready = True
                    consuming = group.create_task(consumer.run(stopping))
                    await stopping.wait()
                    self._ready = False
                    await micro.close(grace=min(LAST, settings.stop_deadline))
                    # what waits for a process goes to another registry
                    consuming.cancel()
                for task in always:
                    task.cancel()
        finally:
            await micro.close()
            calling.close()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def serve(settings: RegistrySettings, stopping: asyncio.Event) -> None:
    """Run a registry until `stopping` is set."""
    running = Service(SERVICE, settings, TABLE)
    running.stopping = stopping

    def tasks() -> Tasks:
        return {"registry": Registry(running).run()}

    await running.run(tasks)


def main() -> int:
    """Run a registry as a program; its exit code."""
    return service.main(SERVICE, lambda: read(RegistrySettings), serve)


if __name__ == "__main__":
    sys.exit(main())
