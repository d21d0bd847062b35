"""`exec` and `kill`: commands on machines, which survive the manager that watches them.

At most so many run at a time, on the node and on one machine; more wait here, in hand, and beyond `MAX_WAITING` they
are given back to the server for a while. So there is always a hand for `kill` and `stop`, which wait for nothing.

Large outputs stay on their machines until there is memory for them and for the answer that is made of them.
"""

from __future__ import annotations

import asyncio
import random

from regrow_protocol import messages, values
from regrow_protocol.machines import MAX_MAX_OUTPUT, MAX_STREAM, Exec, Kill, MachineRecord
from regrow_protocol.messages import Command
from regrow_service.answers import Answer
from regrow_service.consumer import Later

from .backend import Data, MachineLost
from .budget import COPIES, Budget, Share
from .commands import CommandRefused
from .context import Context
from .measures import RUNNING, WAITING
from .once import NOTHING, value
from .patience import patiently
from .progress import Progress
from .registry import Opened

MAX_WAITING = 4096

MEMORY = 256 * 1024 * 1024
"""Bytes that large answers of a manager may take at a time, until they are sent."""


class Executing:
    """Of one manager."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._here = context
        self._node = asyncio.Semaphore(settings.machine_concurrency)
        self._each = settings.machine_concurrency_each
        self._machines: dict[str, asyncio.Semaphore] = {}
        self._tasks: dict[str, set[asyncio.Task[Answer]]] = {}
        self._running = context.metrics[RUNNING]
        self._memory = Budget(MEMORY)
        self._waiting = 0
        self._waiting_gauge = context.metrics[WAITING]
        context.records.subscribe(self._changed)

    def share(self) -> Share:
        """Of the memory for large answers: for one exec, until its answer is sent."""
        return Share(self._memory)

    async def exec(self, command: Command, record: MachineRecord, opened: Opened, data: Data, share: Share) -> Answer:
        """Run a command, or attach to it when it runs or has ended.

        Args:
            share: holds the memory of the answer afterwards.

        Raises:
            MachineLost: the machine was stopped meanwhile.
            Later: too many wait already, or this manager stops; the command goes on on the machine.
        """
        if self._waiting >= MAX_WAITING:
            raise Later("too many commands wait on this node", delay=random.uniform(2.0, 5.0))  # noqa: S311
        machine = record.id
        task = asyncio.ensure_future(self._exec(command, machine, opened, data, share))
        tasks = self._tasks.setdefault(machine, set())
        tasks.add(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():  # whoever waits here is cancelled
                task.cancel()
                await asyncio.wait([task])
                raise
            if self._here.stopping.is_set():
                raise Later("this manager stops") from None
            raise MachineLost(f"The machine {machine} was stopped while the command ran") from None
        finally:
            tasks.discard(task)
            if not tasks and self._tasks.get(machine) is tasks:
                del self._tasks[machine]
                self._machines.pop(machine, None)

    async def _exec(self, command: Command, machine: str, opened: Opened, data: Data, share: Share) -> Answer:
        slots = self._machines.setdefault(machine, asyncio.Semaphore(self._each))
        self._wait(1)
        try:
            await slots.acquire()
            try:
                await self._node.acquire()
            except BaseException:
                slots.release()
                raise
        finally:
            self._wait(-1)
        self._running.inc()
        try:
            return await self._run(command, machine, opened, data, share)
        finally:
            self._running.dec()
            self._node.release()
            slots.release()

    async def _run(self, command: Command, machine: str, opened: Opened, data: Data, share: Share) -> Answer:
        here = self._here
        whole = await values.inflate(command, here.bus.get_value)
        wanted = messages.decode(whole.args, Exec)
        del whole
        most = MAX_STREAM if wanted.stream else MAX_MAX_OUTPUT
        if not 0 <= wanted.max_output <= most:
            raise CommandRefused(f"max_output={wanted.max_output} is too much", hint=f"0 to {most} bytes")
        if wanted.timeout is not None and not wanted.timeout > 0:
            raise CommandRefused(f"timeout={wanted.timeout} is no time", hint="seconds, or None for no limit")

        progress = Progress(here.bus, command)
        sent = await progress.read() if wanted.stream else (0, 0)

        async def chunk(channel: str, offset: int, piece: bytes) -> None:
            await here.answers.chunk(command, channel, offset, piece)
            await progress.sent(channel, offset + len(piece))

        async def room(size: int) -> None:
            await share.take(COPIES * size)

        piece = chunk if wanted.stream else None
        done = await patiently(
            here,
            opened.backend.name,
            lambda: opened.commands.run(machine, data, command.id, wanted, piece, room, sent),
        )
        return value(done)

    async def kill(self, command: Command, opened: Opened, data: Data) -> Answer:
        """Kill a command, whether it waits, runs or has ended."""
        args = messages.decode(command.args, Kill)
        await patiently(self._here, opened.backend.name, lambda: opened.commands.kill(data, args.exec))
        return NOTHING

    def let_go(self) -> None:
        """The manager stops: give all commands back; they go on on their machines."""
        for tasks in self._tasks.values():
            for task in tasks:
                task.cancel()

    def _changed(self, machine: str) -> None:
        if machine in self._tasks and self._here.records.live(machine) is None:
            for task in self._tasks[machine]:
                task.cancel()

    def _wait(self, by: int) -> None:
        self._waiting += by
        self._waiting_gauge.set(self._waiting)
