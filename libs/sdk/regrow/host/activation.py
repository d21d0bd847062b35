"""Activation: a process that is not in memory is read from its subject and folded.

Its outputs for inputs that are known to be done are suppressed; later ones go out again under their ids (events only
those after the last that is recorded). What arrives meanwhile waits in its queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import msgspec
from regrow_protocol import messages as m
from regrow_protocol import streams, subjects, values
from regrow_protocol.bus import Received
from regrow_protocol.errors import RegrowError, Unreachable

from ..patches import moved_in
from .entering import outside_tasks
from .inputs import Move, Recorded, is_kind, moves_of, read_input
from .resident import Resident
from .turns import SLICE

if TYPE_CHECKING:
    from .host import Host
    from .partition import Partition

log = logging.getLogger("regrow.host")

LOADS = 64
"""Processes of one partition that are read at the same time."""
AGAIN = 0.2

T = TypeVar("T")


class Activation:
    """For the processes of one partition."""

    def __init__(self, partition: Partition, host: Host) -> None:
        self._partition = partition
        self._host = host
        self._bus = host.bus
        self._stream = host.inbox_stream
        self._loads = asyncio.Semaphore(LOADS)

    def load(self, pid: str, received: Received) -> None:
        """Read a process up to `received`, which has just arrived."""
        resident = self._partition.reside(pid)
        resident.queue = deque([received])
        self._partition.floor.open(received.seq)
        self._partition.spawn(self._activate(resident, received.seq, busy=False))

    def wake(self, pid: str) -> None:
        """Read a process because it was busy when its last host ended."""
        if pid in self._partition.residents:
            return
        resident = self._partition.reside(pid)
        resident.queue = deque()
        self._partition.spawn(self._activate(resident, None, busy=True))

    async def _activate(self, resident: Resident, up_to: int | None, *, busy: bool) -> None:
        try:
            await self._read_and_fold(resident, up_to, busy=busy)
        except RegrowError:
            raise
        except Exception as error:
            log.exception("process %s could not be read", resident.pid)
            self._partition.turns.stick(resident, up_to or self._partition.floor.value + 1, "host-failed", repr(error))
            self._drop_queue(resident)

    async def _read_and_fold(self, resident: Resident, up_to: int | None, *, busy: bool) -> None:
        partition, pid = self._partition, resident.pid
        floor = partition.floor.value
        subject = partition.publishing.inbox(pid)
        async with self._loads:
            if up_to is None:
                last = await self._patiently(self._bus.last, self._stream, subject)
                up_to = last.seq if last is not None else 0
            history = await self._patiently(self._bus.history, self._stream, subject, 1, up_to)
        inputs = [(message, received) for received in history if (message := read_input(received)) is not None]
        start, moves = moves_of(inputs)
        resident.process.moved = moved_in((message, received.seq) for message, received in inputs)
        if moves and moves[-1].build != self._host.env.build:
            self._turn_away(resident, history[-1].seq)
            return
        entering = len(moves) > 1 and max(floor, partition.parked_at.get(pid, 0)) < moves[-1].since
        quiet_to = await self._quiet_to(pid, floor, moves, entering=entering)
        if not partition.fresh or (inputs and inputs[-1][1].seq > quiet_to):
            resident.known = await self._last_event(pid)
        since = start.since if start is not None else 0
        todo = [item for item in inputs if item[1].seq > since]
        if not await self._fold(resident, todo, quiet_to):
            self._drop_queue(resident)
            return
        # Timers of a process that was parked, or folded elsewhere, may not have got as far as the stream.
        busy = busy or entering or pid in partition.stuck
        await outside_tasks(self._take_up, resident, quiet_to, busy)
        await partition.turns.work_off(resident)

    async def _fold(self, resident: Resident, todo: list[Recorded], quiet_to: int) -> bool:
        turns = self._partition.turns
        for at in range(0, len(todo), SLICE):
            part = todo[at : at + SLICE]
            for i, (message, received) in enumerate(part):
                if values.has_blob(received.data):
                    inflated = await turns.inflate(resident, message, received.seq)
                    if inflated is None:
                        return False
                    part[i] = (inflated, received)
            if not await outside_tasks(turns.replay, resident, part, quiet_to):
                return False
        return True

    def _take_up(self, resident: Resident, quiet_to: int, busy: bool) -> None:
        resident.used = self._host.loop_time()
        if resident.process.start is not None:
            self._partition.local.resume(resident, quiet_to, busy=busy)
        if self._partition.stuck.pop(resident.pid, None) is not None:
            log.warning("process %s goes on", resident.pid)

    # What is known ----------------------------------------------------------------------------------------------------

    async def _quiet_to(self, pid: str, floor: int, moves: list[Move], *, entering: bool) -> int:
        """The last input whose outputs are known to be out."""
        quiet = max(floor, self._partition.parked_at.pop(pid, 0))
        if entering:
            return await self._left_at(pid, moves)
        if (stuck := self._partition.stuck.get(pid)) is not None:
            quiet = min(quiet, stuck.seq - 1)
        return quiet

    async def _left_at(self, pid: str, moves: list[Move]) -> int:
        """How far the builds came that folded it before this one.

        The floor of a build whose hosts live on is past what came after the move, too: that was nothing to it.
        """
        for at, (move, left) in reversed(list(enumerate(pairwise(moves)))):
            cursor = await self._patiently(self._partition.keeper.of_build, move.build)
            done = min(cursor.floor, left.since) if cursor is not None else 0
            if cursor is not None and (stuck := cursor.stuck.get(pid)) is not None:
                done = min(done, stuck.seq - 1)
            if at == 0 or done >= move.since:
                return done
        return 0

    async def _last_event(self, pid: str) -> tuple[int, int] | None:
        """(incarnation, n) of the last event that is recorded."""
        subject = subjects.events_of(self._host.env.app, pid)
        last = await self._patiently(self._bus.last, streams.EVENTS, subject)
        if last is None:
            return None
        try:
            record: m.EventRecord = m.decode(last.data, m.EventRecord)
        except msgspec.MsgspecError:
            return await self._last_readable_event(subject)
        return record.incarnation, record.n

    async def _last_readable_event(self, subject: str) -> tuple[int, int] | None:
        for received in reversed(await self._patiently(self._bus.history, streams.EVENTS, subject)):
            try:
                record: m.EventRecord = m.decode(received.data, m.EventRecord)
            except msgspec.MsgspecError:
                log.warning("message %d of %s is no event", received.seq, received.subject)
            else:
                return record.incarnation, record.n
        return None

    async def _patiently(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """An outage is no reason to give a process up."""
        while True:
            try:
                return await function(*args)
            except Unreachable as error:
                log.warning("partition %d: %s", self._partition.number, error)
                await asyncio.sleep(AGAIN)

    # What is not taken up ---------------------------------------------------------------------------------------------

    def _turn_away(self, resident: Resident, read_to: int) -> None:
        """Another build folds it; an `upgrade` that was not among what was read may have changed that."""
        partition = self._partition
        partition.residents.pop(resident.pid, None)
        partition.mark_foreign(resident.pid)
        queue, resident.queue = resident.queue or (), None
        partition.turns.leave(resident)
        for received in queue:
            if received.seq > read_to and is_kind(received, "upgrade"):
                partition.route(received)
            partition.floor.close(received.seq)

    def _drop_queue(self, resident: Resident) -> None:
        queue, resident.queue = resident.queue or (), None
        for received in queue:
            self._partition.floor.close(received.seq)
