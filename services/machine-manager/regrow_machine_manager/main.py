"""The machine-manager service: images become machines, and commands run on them.

It holds no state; several on one node, and on many nodes, are correct, and each may be killed at any moment.
`regrow-machine-manager` runs it, as does `python -m regrow_machine_manager`; the embedded composition calls `serve`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from regrow_protocol.ids import MANAGER, new_id
from regrow_protocol.machines import CREATIONS, SERVICE, node_commands
from regrow_protocol.messages import Command
from regrow_protocol.subjects import token
from regrow_service import commands, service
from regrow_service.answers import Answers
from regrow_service.commands import Handle, Lost
from regrow_service.consumer import Consumer
from regrow_service.logs import get_logger
from regrow_service.service import Service, Tasks, insist, until

from .capacity import Claims
from .context import Context
from .creation import Creation, Takers
from .ending import Ending
from .forsaken import Forsaken
from .handling import Handling
from .leases import Leases
from .measures import TABLE
from .once import Once
from .presence import Presence
from .records import Records
from .registry import Backends
from .repair import Repair
from .settings import ManagerSettings, parse
from .warm import Warm

LAST = 2.0
"""Seconds of the stop's deadline that are left for going, when machines are still being made or stopped."""


class Manager:
    """One manager, on a service that is connected.

    Args:
        running: the service; its readiness checks get one more.
    """

    def __init__(self, running: Service[ManagerSettings]) -> None:
        self._service = running
        self._stopping = running.stopping
        self._tasks: asyncio.TaskGroup | None = None
        self._busy: set[asyncio.Task[None]] = set()
        self._ready = False
        self._log = get_logger("manager")
        running.checks["machines"] = lambda: "" if self._ready else "backends and records are not there yet"

    async def run(self) -> None:
        """Run until the service stops."""
        settings, bus = self._service.settings, self._service.bus
        records = Records(bus)
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            following = group.create_task(records.run(), name="records")
            store = await insist(self._stopping, records.store, self._log)
            if store is not None:
                node = settings.node_name
                here = Context(
                    id=new_id(MANAGER),
                    node=node,
                    bus=bus,
                    settings=settings,
                    metrics=self._service.metrics,
                    records=records,
                    claims=Claims(records),
                    backends=Backends(settings, store, lambda: presence.changed()),
                    answers=Answers(bus),
                    stopping=self._stopping,
                    background=self._background,
                )
                presence = Presence(here)
                await self._work(here, presence)
            following.cancel()

    async def _work(self, here: Context, presence: Presence) -> None:
        here.settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await here.backends.open()
        await until(self._stopping, _wait(here.records.current))
        if await insist(self._stopping, partial(_done, presence.register), self._log) is None:
            await here.backends.close()
            return
        self._log.info("manager", manager=here.id, node=here.node, folder=str(here.settings.folder))
        once = Once(here.answers)
        ending = Ending(here)
        warm = Warm(here, ending)
        creation = Creation(here, ending, warm, once)
        handling = Handling(here, ending, once)
        leases = Leases(here, ending, SERVICE)
        forsaken = Forsaken(here, handling, partial(self._of_node, lost=handling.lost))
        always = {
            "backends": here.backends.run(),
            "presence": presence.run(),
            "takers": Takers(here, creation, ending, warm).run(),
            "warm": warm.run(),
            "leases": leases.run(),
            "repair": Repair(here, ending).run(),
            "forsaken": forsaken.run(),
        }
        try:
            async with asyncio.TaskGroup() as group:
                steady = [group.create_task(work, name=name) for name, work in always.items()]
                group.create_task(self._stop(here, handling))
                consumers = [
                    group.create_task(
                        self._consumer("create", CREATIONS, creation.handle, creation.lost).run(self._stopping)
                    ),
                    group.create_task(self._of_node(here.node, handling.handle, handling.lost).run(self._stopping)),
                    group.create_task(leases.consumer.run(self._stopping)),
                ]
                self._ready = True
                await asyncio.wait(consumers)
                for task in steady:
                    task.cancel()
            if self._busy:
                await asyncio.wait(self._busy, timeout=max(here.settings.stop_deadline - LAST, 0.0))
        finally:
            for task in self._busy:
                task.cancel()
            await presence.leave()
            await here.backends.close()

    def _of_node(self, node: str, handle: Handle, lost: Lost) -> Consumer[Command]:
        return self._consumer(f"node-{token(node)}", node_commands(node), handle, lost)

    def _consumer(self, name: str, subject: str, handle: Handle, lost: Lost) -> Consumer[Command]:
        return commands.in_hand(
            self._service.bus, self._service.metrics, service=SERVICE, name=f"machine-{name}", subject=subject,
            handle=handle, lost=lost,
        )  # fmt: skip

    async def _stop(self, here: Context, handling: Handling) -> None:
        await self._stopping.wait()
        self._ready = False
        handling.executing.let_go()
        here.records.wake()

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._tasks is not None
        task = self._tasks.create_task(work, name=name)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _done(ask: Any) -> bool:
    await ask()
    return True


async def serve(settings: ManagerSettings, stopping: asyncio.Event) -> None:
    """Run a machine-manager until `stopping` is set."""
    running = Service(SERVICE, settings, TABLE)
    running.stopping = stopping

    def tasks() -> Tasks:
        return {"manager": Manager(running).run()}

    await running.run(tasks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a machine-manager as a program; its exit code."""
    return service.main(SERVICE, lambda: parse(argv), serve)


if __name__ == "__main__":
    sys.exit(main())
