"""Nodes that never come back: when no manager of a node was there for the `node_lease`, any other manager sees to it.

- Commands that wait for that node are handled: on a machine that is reached from elsewhere too (`Backend.anywhere`) as
  ever, so that one goes on under other managers; those to other machines are answered that the machine is lost.
- Machines that nobody else reaches end on paper, their claims and room with them. A node that comes back all the same
  finds their records ended, and removes what it still has of them (`repair`).

Whether a node has a manager is read from the bucket before anything is decided: what is known here may be old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from msgspec.structs import replace
from regrow_protocol.bus import Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import MachineRecord, nodes_commands
from regrow_protocol.messages import Command, Failure
from regrow_protocol.streams import COMMANDS
from regrow_protocol.subjects import untoken
from regrow_service.consumer import Consumer, Later
from regrow_service.logs import get_logger

from .backend import MachineLost
from .context import Context
from .creation import NODE_GONE
from .handling import Handling
from .measures import LOST
from .records import ENDED

NODE_LOST = "node lost"
SWEEP = 10.0

Handler = Callable[[Command, Received], Awaitable[None]]
Consumers = Callable[[str, Handler], Consumer[Command]]
"""Makes the consumer of a node's commands."""


class Forsaken:
    """Of one manager; `run` does it.

    Args:
        context: of the manager.
        handling: does what can be done from here.
        consumers: makes a consumer of a node's commands, the same that its own managers use.
    """

    def __init__(self, context: Context, handling: Handling, consumers: Consumers) -> None:
        self._here = context
        self._handling = handling
        self._consumers = consumers
        self._lease = context.settings.node_lease
        self._unstopped: dict[str, float] = {}
        self._served: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        self._log = get_logger("forsaken")

    async def run(self) -> None:
        """Look, for ever; may be cancelled at any moment."""
        pause = min(SWEEP, self._lease / 4)
        try:
            while True:
                try:
                    await self._sweep()
                except RegrowError as error:
                    self._log.warning("nodes could not be looked at", reason=str(error))
                await asyncio.sleep(pause)
        finally:
            tasks = [task for _, task in self._served.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        here = self._here
        waiting = {untoken(subject.split(".")[5]) for subject in await here.bus.subjects(COMMANDS, nodes_commands())}
        machines: dict[str, list[MachineRecord]] = {}
        for kept in here.records.machines.values():
            if kept.record.node:
                machines.setdefault(kept.record.node, []).append(kept.record)
        self._unstopped = {id_: at for id_, at in self._unstopped.items() if id_ in here.records.machines}
        for node in sorted(waiting | machines.keys() | self._served.keys()):
            gone = await self._gone(node)
            if gone:
                for record in machines.get(node, ()):
                    await self._look(record)
            if gone and node in waiting:
                self._serve(node)
            else:
                self._leave(node)

    async def _gone(self, node: str) -> bool:
        records = self._here.records
        return node != self._here.node and records.node_gone(node, self._lease) and not await records.manned(node)

    # machines ---------------------------------------------------------------------------------------------------------

    def _reached(self, record: MachineRecord) -> bool:
        """Whether managers of a node that is not gone, too, reach a machine."""
        records = self._here.records
        nodes = (kept.record for name, kept in records.nodes.items() if not records.node_gone(name, self._lease))
        return any(record.backend in node.anywhere for node in nodes)

    async def _look(self, record: MachineRecord) -> None:
        """End a machine of a node that is gone, if nobody else sees to it."""
        records = self._here.records
        if self._reached(record):
            if record.state != "stopping":
                return
            now = asyncio.get_running_loop().time()
            if now - self._unstopped.setdefault(record.id, now) < self._lease:
                return  # `repair` has it stopped, unless who reaches it in principle lacks a key
        if record.state == "creating" and not record.source:
            if not records.node_gone(record.node, self._lease + NODE_GONE):
                return  # who has its `create` in hand gives it to another node
        elif record.state == "requested":
            return
        await self._end(record)

    async def _end(self, record: MachineRecord) -> None:
        here, node = self._here, record.node

        def ended(now: MachineRecord) -> MachineRecord | None:
            if now.node != node or now.state not in ("creating", "ready", "warm", "stopping"):
                return None
            if now.state == "stopping":
                return replace(now, state="stopped", reason=f"{now.reason}, {NODE_LOST}")
            return replace(now, state="failed", reason=NODE_LOST, failure=_failure(now))

        _, changed = await here.records.change(record.id, ended)
        if changed:
            here.metrics[LOST].inc()
            self._log.error("a machine is gone with its node", machine=record.id, app=record.app, node=node)
        if node in here.records.nodes:
            await here.claims.release(node, [record.id])

    # commands ---------------------------------------------------------------------------------------------------------

    def _serve(self, node: str) -> None:
        if node in self._served:
            return
        self._log.warning("a node is gone: its commands are handled here", node=node)
        stopping = asyncio.Event()
        self._served[node] = stopping, asyncio.create_task(self._consume(node, stopping), name=f"node {node}")

    def _leave(self, node: str) -> None:
        if node in self._served:
            self._served[node][0].set()

    async def _consume(self, node: str, stopping: asyncio.Event) -> None:
        async def handle(command: Command, message: Received) -> None:
            await self._handle(command, message, node)

        try:
            await self._consumers(node, handle).run(stopping)
        except RegrowError as error:
            self._log.warning("a node's commands could not be handled", node=node, reason=str(error))
        finally:
            with suppress(KeyError):
                del self._served[node]

    async def _handle(self, command: Command, message: Received, node: str) -> None:
        if not await self._gone(node):
            self._leave(node)
            raise Later(f"the node {node} is back")
        here = self._here
        record = await here.records.fetch(message.subject.rpartition(".")[2])
        if record is not None and record.node == node and record.state not in ENDED:
            opened = here.backends.opened.get(record.backend)
            if not self._reached(record):
                await self._end(record)
            elif opened is None or not opened.backend.anywhere:
                raise Later(f"managers of other nodes reach {record.id}", delay=0.5)
        await self._handling.handle(command, message)


def _failure(record: MachineRecord) -> Failure:
    text = f"The machine {record.id} is gone: its node {record.node} has had no manager for too long"
    return Failure("MachineLost", f"{text} (make another one; the time is REGROW_NODE_LEASE)", MachineLost.code, False)
