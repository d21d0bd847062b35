"""A host: registers, owns partitions as the supervisor assigns them, and runs the processes in them."""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import socket
import time
from collections.abc import Coroutine
from typing import Any

from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus, Received
from regrow_protocol.errors import RegrowError

from .. import guard
from ..apps import ensure_app, ensure_build
from ..clock import Clock
from ..operations import Env
from ..program import LoadedProgram
from .cursor import condemn, cursor_key
from .lease import Lease
from .memory import Memory
from .options import HostOptions
from .ownership import Ownership
from .partition import HANDOVER, Partition
from .resident import Resident
from .steps import StepRunner
from .waiting import until
from .watchdog import Turn, Watchdog

log = logging.getLogger("regrow.host")

MAX_BACKLOG = 20_000
MAX_LETTER = 512 * 1024
"""Bytes of a message that is put aside whole; of a larger one only where it stands."""
CONDEMN_TIMEOUT = 2.0


class Host:
    """Runs the process types of one program for one app.

    Attributes:
        id: of the host.
        bus: its connection.
        suspicion: held while something is tried that may end this host: nothing else of that kind goes on meanwhile.
        failed: what keeps the host from going on, once that is so.
    """

    def __init__(
        self,
        bus: Bus,
        program: LoadedProgram,
        *,
        app: str = "",
        url: str = "",
        options: HostOptions | None = None,
        clock: Clock | None = None,
        host_id: str = "",
    ) -> None:
        self.id = host_id or ids.new_id(ids.HOST)
        self.bus = bus
        self.program = program
        self.options = options or HostOptions()
        self.clock = clock or Clock()
        self.app = app or program.name
        self.inbox_stream = streams.inbox_stream(self.app)
        self.env = Env(self.app, program.build, 16, program.types)
        self.steps = StepRunner(self.options.threads, bus)
        self.suspicion = asyncio.Lock()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._ownership = Ownership(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._never = asyncio.Event()
        self._skip: list[tuple[float, int, Resident, int]] = []
        self._skip_count = 0
        self.memory = Memory(lambda: sum(len(partition.residents) for partition in self.partitions.values()))

    @property
    def partitions(self) -> dict[int, Partition]:
        """Those that run here now, by number."""
        return self._ownership.partitions

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register and follow what the supervisor assigns."""
        guard.install()
        options = self.options
        self.watchdog = Watchdog(options.warn_turn, options.turn_limit, hard=options.hard, on_fatal=self._condemn)
        await streams.ensure(self.bus)
        self.env.partitions = await ensure_app(
            self.bus, self.app, partitions=options.partitions, duplicate_window=options.duplicate_window
        )
        since = await ensure_build(self.bus, self.app, self.env.build, self.program.patches)
        record = m.HostRecord(
            host=self.id,
            app=self.app,
            build=self.env.build,
            types=[] if options.guest else sorted(self.env.types),
            node=socket.gethostname(),
            os_pid=os.getpid(),
            started=time.time(),
            target=self.program.target,
            version=options.version,
            upgrade="auto" if options.upgrade == "auto" else "wait",
        )
        self.lease = Lease(
            self._url, record, options.ttl, on_lost=self._ownership.lease_lost, on_failed=self._lease_failed
        )
        await self.lease.start()
        self.bus.gate(self.lease.valid)
        await self._ownership.start(since)

    async def stop(self) -> None:
        """Graceful: let other hosts take over, steps in hand finish within the drain time, and write the cursors.

        What no other host takes stays here meanwhile, so nobody begins what is finishing here.
        """
        if self._stopping:
            return
        self._stopping = True
        self._ownership.take_no_more()
        self.lease.drain()
        deadline = self._loop.time() + self.options.drain
        await self._ownership.handed_over(deadline + HANDOVER)
        await until(lambda: not self.steps.executing, deadline)
        deadline = max(deadline, self._loop.time() + 1.0)
        await asyncio.gather(*(partition.settle(deadline) for partition in list(self.partitions.values())))
        await self._end(write=True)

    async def abandon(self) -> None:
        """As if killed: nothing is written. The record is deleted, as a launcher does that saw it die."""
        self._stopping = True
        self.bus.gate(lambda: False)
        await self._end(write=False)

    async def _end(self, *, write: bool) -> None:
        await self._ownership.stop(write=write)
        await self.lease.stop()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        self.steps.close()
        self.watchdog.stop()
        self.bus.gate(None)

    def _lease_failed(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    async def owns_all(self, timeout: float = 15.0) -> None:
        """Wait until this host owns every partition and has caught up: for tests and tools that run the only host."""
        changed = self._ownership.changed
        async with asyncio.timeout(timeout):
            while len(self.partitions) < self.env.partitions:
                changed.clear()
                await changed.wait()
            for partition in list(self.partitions.values()):
                await partition.caught_up()

    # Services for partitions ------------------------------------------------------------------------------------------

    async def allowed(self) -> None:
        """Wait until this host may write a cursor."""
        await self._ownership.allowed()

    async def may_start(self) -> None:
        """Wait until a step may begin; for ever in a host that is about to end."""
        if self._stopping:
            await self._never.wait()
        await self._ownership.allowed()

    def partition_lost(self, partition: Partition) -> None:
        """Its cursor has another owner."""
        self._ownership.lost(partition)

    def partition_failed(self, partition: Partition) -> None:
        """It shall begin again from its cursor."""
        self._ownership.failed(partition)

    def may_read(self) -> bool:
        """Back-pressure: read on while not too much waits to be published."""
        return self.bus.backlog(self.inbox_stream) < MAX_BACKLOG and self.bus.backlog(streams.EVENTS) < MAX_BACKLOG

    def all_acknowledged(self) -> bool:
        """Nothing waits to be published."""
        return self.bus.backlog(self.inbox_stream) == 0 and self.bus.backlog(streams.EVENTS) == 0

    def loop_time(self) -> float:
        """The event loop's clock."""
        return self._loop.time()

    def dead_letter(self, received: Received, reason: str) -> None:
        """Put aside an input that cannot be handled."""
        log.error("input %d on %s is put aside: %s", received.seq, received.subject, reason)
        letter = m.DeadLetter(
            subject=received.subject,
            reason=reason,
            body=received.data if len(received.data) <= MAX_LETTER else b"",
            stream=self.inbox_stream,
            seq=received.seq,
            headers=received.headers or {},
            time=time.time(),
        )
        self._dead(letter, f"dead.{self.inbox_stream}.{received.seq}")

    def put_aside(self, subject: str, reason: str, body: bytes, msg_id: str) -> None:
        """Put aside a message that can be sent nowhere."""
        body = body if len(body) <= MAX_LETTER else b""
        self._dead(m.DeadLetter(subject=subject, reason=reason, body=body, time=time.time()), msg_id)

    def _dead(self, letter: m.DeadLetter, msg_id: str) -> None:
        def done(outcome: Any) -> None:
            if isinstance(outcome, BaseException):
                log.error("what came on %s could not be put aside: %s", letter.subject, outcome)

        self.bus.publish_soon(streams.DEAD, subjects.dead("host", self.app), m.encode(letter), msg_id, done=done)

    def _condemn(self, turn: Turn, text: str) -> None:
        """From the watchdog's thread, while the loop hangs: the partition's next owner shall park the process."""
        pid, seq = turn
        part = ids.partition_of(pid, self.env.partitions)
        epoch = self._ownership.epoch_of(part)
        if epoch is not None and self.lease.valid():
            stuck = m.Stuck(seq, "body-hung", text)
            key = cursor_key(self.app, self.env.build, part)
            self.lease.run(lambda bus: condemn(bus, key, epoch, pid, stuck), CONDEMN_TIMEOUT)

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as the host lives."""
        task = asyncio.get_running_loop().create_task(self._guard(coro))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await coro
        except RegrowError as error:
            log.error("host %s: %s", self.id, error)  # noqa: TRY400 - a known error needs no traceback
        except Exception:
            log.exception("host %s", self.id)

    # Skipped time, in tests -------------------------------------------------------------------------------------------

    def timer_set(self, resident: Resident, n: int, due: float) -> None:
        """A timer that waits for the clock to be moved."""
        self._skip_count += 1
        heapq.heappush(self._skip, (due, self._skip_count, resident, n))

    def next_due(self) -> float | None:
        """When the next timer is due, where nothing else is left to do."""
        while self._skip:
            _, _, resident, n = self._skip[0]
            if n in resident.process.timers and not resident.process.gone and n in resident.local_due:
                return self._skip[0][0]
            heapq.heappop(self._skip)
        return None

    def fire_due(self, due: float) -> None:
        """Fire what is due by then: what else real time has made due comes after what follows from that."""
        while self._skip and self._skip[0][0] <= due:
            _, _, resident, n = heapq.heappop(self._skip)
            for partition in self.partitions.values():
                if partition.residents.get(resident.pid) is resident:
                    partition.local.fire(resident, n)

    @property
    def at_rest(self) -> bool:
        """Nothing moves: all is applied and acknowledged, no step runs."""
        return (
            not self.steps.running
            and self.all_acknowledged()
            and all(partition.at_rest for partition in self.partitions.values())
        )


__all__ = ["Host", "HostOptions", "ensure_app", "ensure_build"]
