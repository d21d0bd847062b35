"""What a process asks of its host: steps, timers, a `restart` body. Each outcome is published into its inbox."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec import UNSET
from regrow_protocol import messages as m
from regrow_protocol import subjects, values
from regrow_protocol.bus import PubAck, schedule_headers
from regrow_protocol.errors import RegrowError

from ..errors import failure_of
from .bodies import BodyScope, claim_message, claim_of
from .publishing import Outcome
from .resident import Resident

if TYPE_CHECKING:
    from .host import Host
    from .partition import Partition

log = logging.getLogger("regrow.host")

CROWD = 8_000
"""With more processes in memory than these, distant timers are scheduled at once."""
FOREVER = 100 * 365.25 * 86400.0
"""Seconds: a timer further away than this is not set at all."""


class LocalWork:
    """For the processes of one partition.

    Attributes:
        begun: steps whose functions run, by number of the resident and of the operation.
    """

    def __init__(self, partition: Partition, host: Host) -> None:
        self._partition = partition
        self._host = host
        self._publishing = partition.publishing
        self._unscheduling = asyncio.Semaphore(4)
        self.begun: set[tuple[int, int]] = set()

    def attend(self, resident: Resident, message: m.Input) -> None:
        """After a live turn: begin what is new, drop what is over."""
        process = resident.process
        if process.incarnation != resident.incarnation:
            resident.drop_all()
            resident.incarnation = process.incarnation
        dropped, process.dropped_local = process.dropped_local, []
        for n in dropped:
            if n not in process.steps and n not in process.timers:
                if n in resident.distant and n not in resident.local_due and not _is_end_of(message, n):
                    self._partition.spawn(self._unschedule(resident.pid, process.incarnation, n))
                resident.drop_local(n)
        new, process.new_local = process.new_local, []
        for n in new:
            if n in process.steps:
                if not resident.held:
                    self._run_step(resident, n)
            elif n in process.timers:
                self._note_distance(resident, n)
                self._set_timer(resident, n)
        if process.restart is not None:
            self._note_claim(resident, message)
            self._attend_body(resident)

    def note(self, resident: Resident, message: m.Input) -> None:
        """After a replayed turn: remember what `resume` must know."""
        process = resident.process
        if process.incarnation != resident.incarnation:
            resident.drop_all()
            resident.incarnation = process.incarnation
        if not process.replaying:
            for n in process.dropped_local:
                if n in resident.distant and n not in process.timers and not _is_end_of(message, n):
                    self._partition.spawn(self._unschedule(resident.pid, process.incarnation, n))
                    resident.distant.discard(n)
        for n in process.new_local:
            if n in process.timers:
                self._note_distance(resident, n)
        process.new_local.clear()
        process.dropped_local.clear()
        if process.restart is not None:
            process.restart.deliveries.clear()
            self._note_claim(resident, message)

    def resume(self, resident: Resident, quiet_to: int, *, busy: bool) -> None:
        """After an activation: begin what the stream says is under way.

        Args:
            quiet_to: what was asked for up to this input was seen to by an earlier host.
            busy: but not all of it was in the stream.
        """
        process = resident.process
        if process.copying is not None:
            resident.held = False
            return  # what the copied part asks for was done for another process
        resident.distant.intersection_update(process.timers)
        for n, timer in process.timers.items():
            if busy or timer.seq > quiet_to or n not in resident.distant:
                self._set_timer(resident, n)
        if not resident.held:
            self.release(resident)

    def release(self, resident: Resident) -> None:
        """Steps and the `restart` body may begin."""
        resident.held = False
        process = resident.process
        for n in process.steps:
            self._run_step(resident, n)
        if process.restart is not None:
            self._attend_body(resident)

    # Steps ------------------------------------------------------------------------------------------------------------

    def _run_step(self, resident: Resident, n: int) -> None:
        if n not in resident.steps:
            coro = self._step(resident, n, resident.process.incarnation)
            resident.steps[n] = asyncio.get_running_loop().create_task(coro, name=f"step {n} of {resident.pid}")

    async def _step(self, resident: Resident, n: int, incarnation: int) -> None:
        step = resident.process.steps[n]
        op = step.pending.op
        try:
            value, failure, attempts = await self._host.steps.run(step, lambda: self._may_start(resident, n))
            result = m.Result(incarnation=incarnation, op=op, value=value, error=failure, attempts=attempts)
            payload = m.encode(result)
            if len(payload) > m.MAX_INLINE:
                result, blobs = values.deflate(result)
                payload = m.encode(result)
                await self._publishing.store(blobs)
        except Exception as error:
            log.exception("process %s: %s %r has no result", resident.pid, op.kind, op.name)
            payload = m.encode(m.Result(incarnation=incarnation, op=op, error=failure_of(error)))
        finally:
            self.begun.discard((resident.number, n))
        if resident.process.gone:
            return
        msg_id = f"{resident.pid}.{incarnation}.{n}.r"

        def done(outcome: Outcome) -> None:
            if type(outcome) is PubAck:
                return
            assert isinstance(outcome, BaseException)
            log.error("process %s: the result of %s %r was refused: %s", resident.pid, op.kind, op.name, outcome)
            failed = m.Result(incarnation=incarnation, op=op, value=UNSET, error=failure_of(outcome))
            self._publishing.put(resident.pid, m.encode(failed), f"{msg_id}.e")

        self._publishing.put(resident.pid, payload, msg_id, done=done)

    async def _may_start(self, resident: Resident, n: int) -> None:
        if self._partition.handing_over:
            await asyncio.get_running_loop().create_future()  # the next owner begins it
        await self._host.may_start()
        self.begun.add((resident.number, n))

    # Timers -----------------------------------------------------------------------------------------------------------

    def _note_distance(self, resident: Resident, n: int) -> None:
        """By the process's own clock, so that all its hosts agree which timers they will find in the stream."""
        if resident.process.timers[n].when() - resident.process.clock > self._host.options.schedule_after:
            resident.distant.add(n)

    def _set_timer(self, resident: Resident, n: int) -> None:
        """Arm it here. A distant one becomes a scheduled message when its process has rested for a while."""
        clock, loop = self._host.clock, asyncio.get_running_loop()
        due = resident.process.timers[n].when()
        if due - resident.process.clock > FOREVER:
            return
        resident.local_due[n] = due
        if clock.skipping:
            self._host.timer_set(resident, n, due)
            return
        # The stream's clock and this machine's may differ: no timer waits longer than it was set for.
        ahead = max(0.0, min(due - clock.now(), due - resident.process.clock))
        if n in resident.distant:
            wait = self._host.options.park_after if len(self._partition.residents) < CROWD else 0.0
            if ahead > wait:
                resident.timers[n] = loop.call_later(wait, self._schedule, resident, n)
                return
        resident.timers[n] = loop.call_later(ahead, self.fire, resident, n)

    def fire(self, resident: Resident, n: int) -> None:
        """A timer is due: say so in the inbox."""
        if n not in resident.process.timers or resident.process.gone:
            return
        msg_id = f"{resident.pid}.{resident.process.incarnation}.{n}.t"
        self._publishing.put(resident.pid, self._timer(resident, n), msg_id)

    def _timer(self, resident: Resident, n: int) -> bytes:
        timer = resident.process.timers[n]
        assert timer.op is not None
        return m.encode(m.Timer(incarnation=resident.process.incarnation, op=timer.op, due=timer.when()))

    def _schedule(self, resident: Resident, n: int) -> None:
        """Leave a distant timer to the stream; from its acknowledgement on nothing here waits for it."""
        process = resident.process
        if n not in process.timers or process.gone:
            return
        incarnation, due = process.incarnation, process.timers[n].when()

        def done(outcome: Outcome) -> None:
            if incarnation != process.incarnation or n not in process.timers or process.gone:
                return
            if type(outcome) is PubAck:
                resident.local_due.pop(n, None)
                resident.timers.pop(n, None)
                return
            log.error("a timer of process %s was refused, and stays here: %s", resident.pid, outcome)
            ahead = max(0.0, due - self._host.clock.now())
            resident.timers[n] = asyncio.get_running_loop().call_later(ahead, self.fire, resident, n)

        self._publishing.put(
            resident.pid,
            self._timer(resident, n),
            f"{resident.pid}.{incarnation}.{n}",
            subject=self._schedule_subject(resident.pid, incarnation, n),
            headers=schedule_headers(due, self._publishing.inbox(resident.pid)),
            done=done,
        )

    def _schedule_subject(self, pid: str, incarnation: int, n: int) -> str:
        return subjects.timer(self._host.env.app, self._partition.number, pid, incarnation, n)

    async def _unschedule(self, pid: str, incarnation: int, n: int) -> None:
        """Nobody waits for it any more: without this it would wake the process for nothing."""
        subject = self._schedule_subject(pid, incarnation, n)
        try:
            async with self._unscheduling:
                await self._host.bus.cancel_schedule(self._host.inbox_stream, subject)
        except RegrowError as error:
            log.info("a timer of process %s stays in the stream, and will fire for nothing: %s", pid, error)

    # `restart` bodies -------------------------------------------------------------------------------------------------

    def _note_claim(self, resident: Resident, message: m.Input) -> None:
        claim = claim_of(message)
        if claim is not None and (resident.claim is None or resident.claim[0] < claim[0]):
            resident.claim = claim

    def _attend_body(self, resident: Resident) -> None:
        """Run the body where the first claim in the inbox is this host's; another one's means that it was lost."""
        process = resident.process
        restart = process.restart
        assert restart is not None
        body = resident.body
        if body is not None and (body.incarnation != process.incarnation or not restart.running):
            body.abandon()
            resident.body = body = None
        deliveries, restart.deliveries = restart.deliveries, []
        if restart.running and not process.ended and body is None and not resident.held:
            body = self._claim_body(resident)
        if body is not None:
            for delivery in deliveries:
                body.deliver(delivery)

    def _claim_body(self, resident: Resident) -> BodyScope | None:
        """Start the body, claim it, or say that it was lost."""
        process = resident.process
        incarnation = process.incarnation
        me = f"{self._host.id}.{resident.number}"
        claim = resident.claim if resident.claim is not None and resident.claim[0] == incarnation else None
        if claim is not None and claim[1] == me:
            resident.body = BodyScope(process, self._host.steps, self._host.may_start, self._publishing)
            if process.result_raw is not None:  # it was cancelled, or timed out, before it began
                resident.body.interrupt()
            return resident.body
        if resident.claimed == incarnation:
            return None  # said before; what follows from it is on its way
        resident.claimed = incarnation
        if claim is None:
            msg_id = f"{resident.pid}.{incarnation}.claim.{me}"
            self._publishing.put(resident.pid, claim_message(incarnation, me), msg_id)
            grace = 2 * self._host.options.ttl
            asyncio.get_running_loop().call_later(grace, self._look_again, resident, incarnation)
        else:
            self._say_lost(resident, incarnation, claim[1])
        return None

    def _look_again(self, resident: Resident, incarnation: int) -> None:
        """An earlier owner's claim came before this one's, and by now that owner has let go."""
        process, claim = resident.process, resident.claim
        running = process.restart is not None and process.restart.running and not process.gone
        if running and process.incarnation == incarnation and resident.body is None and claim is not None:
            self._say_lost(resident, incarnation, claim[1])

    def _say_lost(self, resident: Resident, incarnation: int, who: str) -> None:
        lost = m.HostLost(incarnation=incarnation, host=who.partition(".")[0])
        self._publishing.put(resident.pid, m.encode(lost), f"{resident.pid}.{incarnation}.host_lost")


def _is_end_of(message: m.Input, n: int) -> bool:
    """Timer `n` has fired."""
    return type(message) is m.Timer and message.op.n == n
