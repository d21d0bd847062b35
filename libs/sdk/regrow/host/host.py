"""A host: registers, owns partitions as the supervisor assigns them, and runs the processes in them."""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus, Entry, Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.subjects import token

from .. import guard
from ..apps import ensure_app, ensure_build
from ..clock import Clock
from ..operations import Env
from ..program import LoadedProgram
from .cursor import OwnershipLost
from .lease import Lease
from .partition import Partition
from .resident import Resident
from .steps import StepRunner
from .watchdog import Watchdog

log = logging.getLogger("regrow.host")

_BACKLOG = 20_000


@dataclass(frozen=True)
class HostOptions:
    """How a host behaves; all times in seconds.

    Attributes:
        ttl: after this long without a heartbeat the host counts as dead (1 or more).
        park_after: a process at rest leaves memory after this long.
        schedule_after: a timer further away than this becomes a scheduled message.
        cursor_every: how often the cursor is written while something changes.
        warn_turn: a turn longer than this is logged with the line.
        turn_limit: a turn longer than this is ended by force, and its process parked.
        drain: at a graceful stop, how long running steps may take to finish.
        threads: for sync steps.
        force_replay: in tests, fold each process anew before every input and compare.
    """

    ttl: float = 2.0
    park_after: float = 2.0
    schedule_after: float = 5.0
    cursor_every: float = 0.25
    warn_turn: float = 1.0
    turn_limit: float = 5.0
    drain: float = 5.0
    threads: int = 32
    force_replay: bool = False

    @classmethod
    def from_environment(cls) -> HostOptions:
        """Defaults, with `REGROW_HOST_TTL`, `REGROW_PARK_AFTER` and `REGROW_TURN_LIMIT` where set."""
        return cls(
            ttl=float(os.environ.get("REGROW_HOST_TTL", cls.ttl)),
            park_after=float(os.environ.get("REGROW_PARK_AFTER", cls.park_after)),
            turn_limit=float(os.environ.get("REGROW_TURN_LIMIT", cls.turn_limit)),
        )


class Host:
    """Runs the process types of one program for one app.

    Attributes:
        id: of the host.
        bus: its connection.
        partitions: those it owns now, by number.
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
        duplicate_window: float | None = None,
    ) -> None:
        self.id = host_id or ids.new_id(ids.HOST)
        self.bus = bus
        self.program = program
        self.options = options or HostOptions()
        self.clock = clock or Clock()
        self.app = app or program.name
        self.inbox_stream = streams.inbox_stream(self.app)
        self.partitions: dict[int, Partition] = {}
        self.env = Env(self.app, program.build, 16, program.types)
        self.steps = StepRunner(self.options.threads)
        self._url = url
        self._duplicate_window = duplicate_window
        self._since = 0
        self._wanted: dict[int, m.Ownership] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._stopping = False
        self._skip: list[tuple[float, int, Resident, int]] = []
        self._skip_count = 0
        self._changed = asyncio.Event()

    # Life -----------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register and follow what the supervisor assigns."""
        self._loop = asyncio.get_running_loop()
        guard.install()
        self.watchdog = Watchdog(self.options.warn_turn, self.options.turn_limit)
        await streams.ensure(self.bus)
        self.env.partitions = await ensure_app(self.bus, self.app, duplicate_window=self._duplicate_window)
        self._since = await ensure_build(self.bus, self.app, self.env.build)
        record = m.HostRecord(
            host=self.id,
            app=self.app,
            build=self.env.build,
            types=sorted(self.env.types),
            node=socket.gethostname(),
            os_pid=os.getpid(),
            started=time.time(),
            target=self.program.target,
        )
        self.lease = Lease(self._url, record, self.options.ttl, on_lost=self._lease_lost)
        await self.lease.start()
        self.bus.gate(self.lease.valid)
        pattern = f"own.{token(self.app)}.{self.env.build}.*"
        self._watcher = self.bus.kv("regrow_partitions").watch(pattern, self._ownership)
        await self._watcher.current

    async def stop(self) -> None:
        """Graceful: finish what is in hand within the drain time, write the cursors, let go."""
        if self._stopping:
            return
        self._stopping = True
        await self._watcher.stop()
        mine = list(self.partitions.values())
        await asyncio.gather(*(p.settle(self.options.drain) for p in mine))
        await asyncio.gather(*(p.stop(write=True) for p in mine))
        self.partitions.clear()
        self.bus.gate(None)
        await self.lease.stop()
        await self._end()

    async def abandon(self) -> None:
        """As if killed: nothing is written, nothing released. The record is deleted, as a launcher does that saw it die."""
        self._stopping = True
        self.bus.gate(lambda: False)
        await self._watcher.stop()
        await asyncio.gather(*(p.stop() for p in self.partitions.values()))
        self.partitions.clear()
        await self.lease.stop()
        await self._end()

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        self.steps.close()
        self.watchdog.stop()

    # Ownership --------------------------------------------------------------------------------------------------------------

    def _ownership(self, entry: Entry) -> None:
        part = int(entry.key.rsplit(".", 1)[1])
        if entry.value:
            self._wanted[part] = m.decode(entry.value, m.Ownership)
        else:
            self._wanted.pop(part, None)
        self._spawn(self._reconcile(part))

    async def _reconcile(self, part: int) -> None:
        async with self._locks.setdefault(part, asyncio.Lock()):
            wanted = self._wanted.get(part)
            running = self.partitions.get(part)
            mine = wanted is not None and wanted.host == self.id and not self._stopping
            if running is not None and (not mine or wanted is None or wanted.epoch != running.epoch):
                del self.partitions[part]
                await running.stop()
                running = None
            if mine and running is None and wanted is not None:
                partition = Partition(self, part, wanted.epoch)
                try:
                    await partition.start(self._since)
                except OwnershipLost as error:
                    log.info("%s", error)
                    return
                except (RegrowError, TimeoutError) as error:
                    log.error("partition %d could not be taken over yet: %s", part, error or "time-out")  # noqa: TRY400
                    await partition.stop()
                    self._spawn(self._begin_again(part))
                    return
                self.partitions[part] = partition
        self._changed.set()

    def partition_lost(self, partition: Partition) -> None:
        """Its cursor has another owner."""
        if self.partitions.get(partition.number) is partition:
            del self.partitions[partition.number]
        self._spawn(partition.stop())

    def partition_failed(self, partition: Partition) -> None:
        """Something went wrong that is nobody's fault here: begin again from the cursor."""
        self.partition_lost(partition)
        if not self._stopping:
            self._spawn(self._begin_again(partition.number))

    async def _begin_again(self, part: int) -> None:
        await asyncio.sleep(1.0)
        await self._reconcile(part)

    async def owns_all(self, timeout: float = 15.0) -> None:
        """Wait until this host owns every partition and has caught up: for tests and tools that run the only host."""
        async with asyncio.timeout(timeout):
            while len(self.partitions) < self.env.partitions:
                self._changed.clear()
                await self._changed.wait()
            for partition in list(self.partitions.values()):
                await partition.caught_up()

    # The lease ----------------------------------------------------------------------------------------------------------------

    def _lease_lost(self) -> None:
        self._open.clear()
        self._spawn(self._regain())

    async def _regain(self) -> None:
        """Publish and start nothing until it is read what this host still owns."""
        while True:
            await asyncio.sleep(0.05)
            if not (self.lease.renewed and self.bus.connected):
                continue
            try:
                owned = await self._read_owned()
            except (RegrowError, TimeoutError) as error:
                log.warning("host %s could not read what it owns yet: %s", self.id, error or "time-out")
                continue
            break
        self._wanted = owned
        lost = [p for p in self.partitions.values() if (o := owned.get(p.number)) is None or o.epoch != p.epoch]
        for partition in lost:
            await self._reconcile(partition.number)
        if not self.lease.renewed:
            self._spawn(self._regain())
            return
        self.lease.confirm()
        self._open.set()
        self.bus.kick()
        log.warning("host %s has its lease again; it lost %d partitions", self.id, len(lost))

    async def _read_owned(self) -> dict[int, m.Ownership]:
        pattern = f"own.{token(self.app)}.{self.env.build}.*"
        entries = self.bus.kv("regrow_partitions").items(pattern)
        return {int(e.key.rsplit(".", 1)[1]): m.decode(e.value, m.Ownership) async for e in entries}

    async def allowed(self) -> None:
        """Wait until this host may act: start a step, write a cursor."""
        while not self.lease.valid():
            await self._open.wait()
            await asyncio.sleep(0)

    def may_read(self) -> bool:
        """Back-pressure: read on while not too much waits to be published."""
        return self.bus.backlog(self.inbox_stream) < _BACKLOG and self.bus.backlog("REGROW_EVENTS") < _BACKLOG

    # Services for partitions ------------------------------------------------------------------------------------------------------

    def loop_time(self) -> float:
        """The event loop's clock."""
        return self._loop.time()

    def dead_letter(self, received: Received, reason: str) -> None:
        """Put aside what cannot be handled."""
        log.error("an input on %s is put aside: %s", received.subject, reason)
        letter = m.DeadLetter(
            subject=received.subject,
            reason=reason,
            body=received.data,
            stream=self.inbox_stream,
            seq=received.seq,
            headers=received.headers or {},
            time=time.time(),
        )
        subject = subjects.dead("host", self.app)
        self.bus.publish_soon("REGROW_DEAD", subject, m.encode(letter), f"dead.{self.inbox_stream}.{received.seq}")

    def _spawn(self, coro: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(coro))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, coro: Any) -> None:
        try:
            await coro
        except RegrowError as error:
            log.error("host %s: %s", self.id, error)  # noqa: TRY400 - a known error needs no traceback
        except Exception:
            log.exception("host %s", self.id)

    # Skipped time, in tests -------------------------------------------------------------------------------------------------------

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

    def fire_due(self) -> None:
        """Fire what is due by the clock."""
        now = self.clock.now()
        while self._skip and self._skip[0][0] <= now:
            _, _, resident, n = heapq.heappop(self._skip)
            for partition in self.partitions.values():
                if partition.residents.get(resident.pid) is resident:
                    partition.local.fire(resident, n)

    @property
    def at_rest(self) -> bool:
        """Nothing moves: all is applied and acknowledged, no step runs."""
        return (
            not self.steps.running
            and self.bus.backlog(self.inbox_stream) == 0
            and self.bus.backlog("REGROW_EVENTS") == 0
            and all(p.at_rest for p in self.partitions.values())
        )
