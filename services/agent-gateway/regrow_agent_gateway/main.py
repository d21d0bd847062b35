"""The agent-gateway service: agents reach the tools of processes, and processes their agents.

It holds no state; any number of replicas are correct, and each may be killed at any moment. `regrow-agent-gateway` runs
it, as does `python -m regrow_agent_gateway`; the embedded composition calls `serve`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from regrow_protocol.agents import COMMANDS, SERVICE
from regrow_protocol.messages import Command
from regrow_service import commands, service
from regrow_service.answers import Answers
from regrow_service.consumer import Consumer
from regrow_service.logs import get_logger
from regrow_service.service import Service, Tasks, insist, until

from .context import Context
from .conversations import Conversations
from .desk import Desk
from .doors import server
from .doors.app import make_app
from .doors.http import HttpDoor
from .doors.mcp_on_demand import McpOnDemand
from .doors.output import OutputDoor
from .doors.server import DoorServer
from .doors.websocket import WebSocketDoor
from .ending import Ending
from .grants import Grants
from .handling import Handling
from .inboxes import Inboxes
from .links import Links
from .machines import Machines
from .mail import Mail
from .measures import AGENTS, CUT, TABLE
from .owners import Owners
from .records import Records
from .results import Results
from .settings import GatewaySettings, parse
from .spool import Spool
from .stalls import Stalls
from .usage import Sums

COUNT = 2.0
LIVING = ("enrolled", "running", "lost")
GARBAGE = (20_000, 20, 20)
"""Thresholds of the garbage collector: with Python's own it goes through all that was imported again and again."""
LAST = 1.0
"""Seconds of the stop's deadline that are left for going."""


class Gateway:
    """One gateway, on a service that is connected.

    Args:
        running: the service; its readiness checks get one more.
    """

    def __init__(self, running: Service[GatewaySettings]) -> None:
        self._service = running
        self._stopping = running.stopping
        self._tasks: asyncio.TaskGroup | None = None
        self._ready = False
        self._log = get_logger("gateway")
        running.checks["agents"] = lambda: "" if self._ready else "records and doors are not there yet"

    async def run(self) -> None:
        """Run until the service stops."""
        settings, bus = self._service.settings, self._service.bus
        listening = server.listen(settings)
        records = Records(bus)
        conversations = Conversations(bus)
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks = group
                following = group.create_task(records.run(), name="records")
                secret = await insist(self._stopping, records.secret, self._log)
                if secret is not None:
                    here = Context(
                        bus=bus,
                        settings=settings,
                        metrics=self._service.metrics,
                        records=records,
                        conversations=conversations,
                        inboxes=Inboxes(bus),
                        results=Results(bus, conversations),
                        answers=Answers(bus),
                        secret=secret,
                        port=listening[0].getsockname()[1],
                        background=self._background,
                        stopping=self._stopping,
                    )
                    await self._work(here, listening)
                following.cancel()
        finally:
            for each in listening:
                each.close()

    async def _work(self, here: Context, listening: Any) -> None:
        await until(self._stopping, _wait(here.records.current))
        mail = Mail(here.bus, here.conversations)
        machines = Machines(here.bus)
        sums = Sums(here.bus, here.records, here.conversations)
        stalls = Stalls(here)
        grants = Grants(here.bus, lambda agent: desk.tell(agent))
        desk = Desk(here, grants, Links(here, machines), stalls, sums)
        ending = Ending(here, sums)
        owners = Owners(here, ending, SERVICE)
        spool = Spool(here, machines, SERVICE)
        handling = Handling(here, ending, sums)
        http = HttpDoor(here, desk, mail)
        websocket = WebSocketDoor(here, desk, mail, lambda connection: doors.abort(connection))
        mcp = McpOnDemand(here, desk)
        app = make_app(http, websocket, mcp, OutputDoor(here, desk))
        cut = here.metrics[CUT].labels("http").inc
        doors = DoorServer(here.settings, app, listening, max(here.settings.stop_deadline - LAST, 1.0), cut)
        always = {
            "mail": mail.run(),
            "results": here.results.run(),
            "mcp": mcp.run(),
            "machines": machines.run(),
            "grants": grants.run(),
            "usage": sums.run(),
            "stalls": stalls.run(),
            "owners": owners.run(),
            "counts": self._count(here),
        }
        async with asyncio.TaskGroup() as group:
            steady = [group.create_task(work, name=name) for name, work in always.items()]
            last = [
                group.create_task(self._consumer(handling).run(self._stopping), name="commands"),
                group.create_task(owners.consumer.run(self._stopping), name="ends of owners"),
                group.create_task(spool.consumer.run(self._stopping), name="spool"),
            ]
            group.create_task(self._stop(here))
            await until(self._stopping, _wait(grants.current))
            await until(self._stopping, mail.followed())
            last.append(group.create_task(server.serve(doors, self._stopping), name="doors"))
            self._ready = not self._stopping.is_set()
            self._log.info("doors", url=here.url())
            await asyncio.wait(last)
            for task in steady:
                task.cancel()

    async def _count(self, here: Context) -> None:
        """Measure how many agents there are, for ever."""
        gauge = here.metrics[AGENTS]
        while True:
            counts: dict[str, int] = dict.fromkeys(LIVING, 0)
            for kept in here.records.agents.values():
                counts[kept.record.state] = counts.get(kept.record.state, 0) + 1
            for state, count in counts.items():
                gauge.labels(state).set(count)
            await asyncio.sleep(COUNT)

    def _consumer(self, handling: Handling) -> Consumer[Command]:
        return commands.in_hand(
            self._service.bus, self._service.metrics, service=SERVICE, name="agent-commands", subject=COMMANDS,
            handle=handling.handle, lost=handling.lost,
        )  # fmt: skip

    async def _stop(self, here: Context) -> None:
        await self._stopping.wait()
        self._ready = False
        here.records.wake()

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._tasks is not None
        self._tasks.create_task(work, name=name)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def serve(settings: GatewaySettings, stopping: asyncio.Event) -> None:
    """Run an agent-gateway until `stopping` is set."""
    running = Service(SERVICE, settings, TABLE)
    running.stopping = stopping

    def tasks() -> Tasks:
        return {"gateway": Gateway(running).run()}

    await running.run(tasks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an agent-gateway as a program; its exit code."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    return service.main(SERVICE, lambda: parse(argv), serve)


if __name__ == "__main__":
    sys.exit(main())
