"""Turns: a process applies one input, and what it sent and asked for is seen to.

A turn that fails for any reason - the process diverges, hangs, breaks its fold, sends what cannot be sent - parks that
process and no other. Turns are made from plain callbacks of the event loop: a fold runs tasks of its own, which no task
may do inside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from regrow_protocol import messages as m
from regrow_protocol import values
from regrow_protocol.bus import Received
from regrow_protocol.errors import RegrowError, Unreachable

from ..divergence import Diverged
from . import absent
from .cursor import MAX_REASON
from .entering import muted, outside_tasks
from .explaining import explain
from .inputs import Recorded
from .resident import Past, Resident, fold_anew

if TYPE_CHECKING:
    from .host import Host
    from .partition import Partition

log = logging.getLogger("regrow.host")

SLICE = 200
"""Inputs that are applied in one go at most."""

Failure: TypeAlias = tuple[int, BaseException | None, RegrowError | None]
"""(input, what was raised, that it hung)"""


class Turns:
    """For the processes of one partition."""

    def __init__(self, partition: Partition, host: Host) -> None:
        self.count = 0
        self._partition = partition
        self._host = host
        self._watchdog = host.watchdog
        self._force_replay = host.options.force_replay

    # Live inputs ------------------------------------------------------------------------------------------------------

    def take(self, resident: Resident, received: Received) -> None:
        """Apply an input to a process in memory, or queue it behind what it waits for."""
        if received.seq <= resident.process.applied:
            return
        if values.has_blob(received.data):
            self._partition.floor.open(received.seq)
            resident.queue = deque([received])
            self._partition.spawn(self.work_off(resident))
            return
        message = self._partition.decode(received)
        if message is not None:
            self.apply(resident, message, received.seq, received.time)

    async def work_off(self, resident: Resident) -> None:
        """Apply what is queued, in order, with large values; then the process takes inputs at once again."""
        queue = resident.queue
        assert queue is not None
        while queue:
            if values.has_blob(queue[0].data):
                received = queue[0]
                message = self._partition.decode(received) if received.seq > resident.process.applied else None
                if message is not None:
                    message = await self.inflate(resident, message, received.seq)
                await outside_tasks(self._apply_first, resident, queue, message)
            else:
                await outside_tasks(self._apply_queued, resident, queue)
        resident.queue = None

    def _apply_queued(self, resident: Resident, queue: deque[Received]) -> None:
        for _ in range(min(len(queue), SLICE)):
            if values.has_blob(queue[0].data):
                return
            self._apply_first(resident, queue, None)

    def _apply_first(self, resident: Resident, queue: deque[Received], inflated: m.Input | None) -> None:
        received = queue.popleft()
        try:
            if received.seq > resident.process.applied and self._partition.residents.get(resident.pid) is resident:
                message = inflated
                if message is None and not values.has_blob(received.data):
                    message = self._partition.decode(received)
                if message is not None:
                    self.apply(resident, message, received.seq, received.time)
        finally:
            self._partition.floor.close(received.seq)

    async def inflate(self, resident: Resident, message: m.Input, seq: int) -> m.Input | None:
        """The message with its large values; None, and the process parked, when one is missing."""
        while True:
            try:
                return await values.inflate(message, self._host.bus.get_value)
            except Unreachable as error:
                log.warning("input %d of process %s waits for a value: %s", seq, resident.pid, error)
                await asyncio.sleep(0.5)
            except RegrowError as error:
                if isinstance(message, m.Call | m.Signal):
                    # What a client says is never trusted: as it stands, it will not fit the endpoint.
                    log.error("input %d of process %s: %s", seq, resident.pid, error)  # noqa: TRY400 - a known error
                    return message
                self.stick(resident, seq, "value-missing", str(error))
                return None

    def apply(self, resident: Resident, message: m.Input, seq: int, time: float) -> None:
        """One live turn."""
        process = resident.process
        self.count += 1
        resident.used = self._host.loop_time()
        error: BaseException | None = None
        self._watchdog.enter(resident.pid, seq)
        try:
            if self._force_replay:
                process = fold_anew(resident)
            process.apply(message, seq, time)
        except BaseException as caught:  # noqa: BLE001 - a defect of one process must not end its neighbours
            error = caught
        hung = self._watchdog.leave()
        if error is not None or hung is not None:
            self._failed(resident, seq, error, hung)
            return
        if self._force_replay:
            resident.past.append(Past(message, seq, time, [m.encode(o.message) for o in process.outputs]))
        try:
            if process.start is None:
                absent.answer(process, message, seq)
            if process.outputs:
                self._partition.publishing.publish(resident, seq, process.take_outputs())
            if process.new_local or process.dropped_local or process.restart is not None:
                self._partition.local.attend(resident, message)
        except Exception as failed:  # noqa: BLE001 - as above
            self._unsendable(resident, seq, failed)
            return
        if process.build != self._host.env.build and process.start is not None:
            self._hand_over(resident)

    def _hand_over(self, resident: Resident) -> None:
        """Another build folds it from here on."""
        log.info("process %s moves to build %s", resident.pid, resident.process.build)
        self._partition.residents.pop(resident.pid, None)
        self.leave(resident)
        self._partition.mark_foreign(resident.pid)

    # Recorded inputs --------------------------------------------------------------------------------------------------

    def replay(self, resident: Resident, inputs: list[Recorded], quiet_to: int) -> bool:
        """Fold recorded inputs; those up to `quiet_to` quietly. False when the process got stuck."""
        process = resident.process
        quiet = [item for item in inputs if item[1].seq <= quiet_to]
        failure: Failure | None = None
        process.replaying = True
        with muted():
            for message, received in quiet:
                if (failure := self._repeat(resident, message, received)) is not None:
                    break
                process.take_outputs()
        process.replaying = False
        if failure is not None:
            self._failed(resident, *failure)
            return False
        return all(self._catch_up(resident, *item) for item in inputs[len(quiet) :])

    def _catch_up(self, resident: Resident, message: m.Input, received: Received) -> bool:
        """A turn whose outputs may be missing."""
        seq = received.seq
        floor = self._partition.floor
        floor.open(seq)
        try:
            if (failure := self._repeat(resident, message, received)) is not None:
                self._failed(resident, *failure)
                return False
            if resident.process.start is None:
                absent.answer(resident.process, message, seq)
            self._partition.publishing.publish(resident, seq, resident.process.take_outputs())
        except Exception as failed:  # noqa: BLE001 - as in `apply`
            self._unsendable(resident, seq, failed)
            return False
        finally:
            floor.close(seq)
        return True

    def _repeat(self, resident: Resident, message: m.Input, received: Received) -> Failure | None:
        """One replayed turn: local work is looked at when all is folded."""
        process = resident.process
        seq = received.seq
        if seq <= process.applied:
            return None
        self.count += 1
        error: BaseException | None = None
        self._watchdog.enter(resident.pid, seq)
        try:
            process.apply(message, seq, received.time)
        except BaseException as caught:  # noqa: BLE001 - as in `apply`
            error = caught
        hung = self._watchdog.leave()
        if error is not None or hung is not None:
            return seq, error, hung
        if self._force_replay:
            sent = [m.encode(o.message) for o in process.outputs]
            resident.past.append(Past(message, seq, received.time, sent))
        self._partition.local.note(resident, message)
        return None

    # What goes wrong --------------------------------------------------------------------------------------------------

    def _failed(self, resident: Resident, seq: int, error: BaseException | None, hung: RegrowError | None) -> None:
        if hung is not None:
            self.stick(resident, seq, hung.code, str(hung))
        elif isinstance(error, Diverged):
            self._partition.spawn(self._explain(resident.pid, error))
            self.stick(resident, seq, "nondeterminism", str(error.explain(resident.pid)), vague=True)
        else:
            log.error("process %s failed in its fold", resident.pid, exc_info=error)
            self.stick(resident, seq, "fold-failed", repr(error))

    def _unsendable(self, resident: Resident, seq: int, error: Exception) -> None:
        if isinstance(error, RegrowError):
            self.stick(resident, seq, "output-refused", f"an output was refused: {error}")
        else:
            log.error("what process %s sent cannot be published", resident.pid, exc_info=error)
            self.stick(resident, seq, "host-failed", repr(error))

    def stick(self, resident: Resident, seq: int, code: str, reason: str, *, vague: bool = False) -> None:
        """Park a process that cannot go on; what it took up to `seq` counts as done."""
        partition = self._partition
        log.error(
            "process %s is parked at input %d: %s; `regrow resume %s` takes it up again",
            resident.pid,
            seq,
            reason,
            resident.pid,
        )
        partition.stuck[resident.pid] = m.Stuck(seq, code, reason[:MAX_REASON], vague)
        if partition.residents.get(resident.pid) is resident:
            del partition.residents[resident.pid]
        self.leave(resident)

    async def _explain(self, pid: str, diverged: Diverged) -> None:
        """Fold it again with a trace of its operations, so that the error names the line."""
        partition = self._partition
        explained: str | None = None
        try:
            explained = await explain(self._host, partition.publishing.inbox(pid), pid, diverged.seq)
        except RegrowError as error:
            log.warning("the divergence of process %s could not be looked into: %s", pid, error)
        stuck = partition.stuck.get(pid)
        if stuck is None or stuck.seq != diverged.seq:
            return
        if explained is not None:
            log.error("%s", explained)
        partition.stuck[pid] = m.Stuck(diverged.seq, "nondeterminism", (explained or stuck.reason)[:MAX_REASON])

    def leave(self, resident: Resident) -> None:
        """Out of memory: its `finally` blocks run watched and muted, and every operation is refused to them."""
        self._watchdog.enter(resident.pid, resident.process.applied)
        try:
            with muted():
                resident.leave()
        except BaseException:
            log.exception("process %s did not leave memory cleanly", resident.pid)
        hung = self._watchdog.leave()
        if hung is not None:
            log.error("process %s, leaving memory: %s", resident.pid, hung)
