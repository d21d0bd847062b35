"""What a process asks of its host: steps to run, timers to arm, a `restart` body. Each outcome is published into its inbox."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from regrow_protocol import messages as m
from regrow_protocol import subjects
from regrow_protocol.bus import schedule_headers
from regrow_protocol.messages import Op

from .. import values
from ..errors import failure_of
from .bodies import BodyScope
from .resident import Resident

if TYPE_CHECKING:
    from .host import Host
    from .partition import Partition

log = logging.getLogger("regrow.host")


MAX_ARMED = 1000
"""Timers of a partition that are armed in the host at once; more go into the stream, for its cursor names who is busy."""

NEARLY_DUE = 1.0
"""Seconds: a scheduled timer nearer than this is left to fire."""

FOREVER = 100 * 365.25 * 86400.0
"""Seconds: a timer further away than this is not set at all."""


class LocalWork:
    """For the processes of one partition."""

    def __init__(self, partition: Partition, host: Host) -> None:
        self._partition = partition
        self._host = host
        self._armed = 0
        self._unscheduling = asyncio.Semaphore(4)

    def attend(self, resident: Resident, seq: int) -> None:
        """After a live turn: begin what is new, drop what is over."""
        process = resident.process
        dropped, process.dropped_local = process.dropped_local, []
        for n in dropped:
            if n not in process.steps and n not in process.timers:
                self._drop(resident, n)
        new, process.new_local = process.new_local, []
        for n in new:
            if n in process.steps:
                self._run_step(resident, n)
            elif n in process.timers:
                self._set_timer(resident, n, seq)
        if process.restart is not None:
            self._attend_body(resident)

    def resume(self, resident: Resident, quiet_to: int) -> None:
        """After an activation: begin what the stream says is under way; timers of inputs to `quiet_to` were seen to."""
        process = resident.process
        if process.copying is not None:
            return  # what the copied part asks for was done for another process
        for n in process.steps:
            self._run_step(resident, n)
        for n, timer in process.timers.items():
            self._set_timer(resident, n, timer.seq, set_before=timer.seq <= quiet_to)
        if process.restart is not None:
            self._attend_body(resident, replayed=process.applied <= quiet_to)

    # Steps ------------------------------------------------------------------------------------------------------------------

    def _run_step(self, resident: Resident, n: int) -> None:
        if n not in resident.steps:
            coro = self._step(resident, n, resident.process.incarnation)
            resident.steps[n] = asyncio.get_running_loop().create_task(coro)

    async def _step(self, resident: Resident, n: int, incarnation: int) -> None:
        step = resident.process.steps[n]
        value, failure, attempts = await self._host.steps.run(step, self._host.allowed)
        if resident.process.gone:
            return
        result = m.Result(incarnation=incarnation, op=step.pending.op, value=value, error=failure, attempts=attempts)
        await self._own_inbox(resident, result, f"{n}.r", step.pending.op, incarnation)

    async def _own_inbox(self, resident: Resident, result: Any, suffix: str, op: Op, incarnation: int) -> None:
        payload = m.encode(result)
        if len(payload) > m.MAX_INLINE:
            result, blobs = values.deflate(result)
            for blob in blobs:
                await self._host.bus.put_value(blob)
            payload = m.encode(result)

        def done(outcome: Any) -> None:
            resident.steps.pop(op.n, None)
            if isinstance(outcome, Exception) and not resident.process.gone:
                log.error("the outcome of %s %r was refused: %s", op.kind, op.name, outcome)
                failed = m.Result(incarnation=incarnation, op=op, value=UNSET, error=failure_of(outcome))
                self._to_inbox(resident.pid, m.encode(failed), f"{resident.pid}.{incarnation}.{suffix}.e", None)

        self._to_inbox(resident.pid, payload, f"{resident.pid}.{incarnation}.{suffix}", done)

    def _to_inbox(self, pid: str, payload: bytes, msg_id: str, done: Any) -> None:
        subject = subjects.inbox(self._host.env.app, self._partition.number, pid)
        self._host.bus.publish_soon(self._host.inbox_stream, subject, payload, msg_id, done=done)

    # Timers -------------------------------------------------------------------------------------------------------------------

    def _set_timer(self, resident: Resident, n: int, seq: int, *, set_before: bool = False) -> None:
        timer = resident.process.timers[n]
        due = timer.when()
        clock = self._host.clock
        ahead = due - clock.now()
        limit = self._host.options.schedule_after * (2 if set_before else 1)
        if ahead > FOREVER:
            return
        if (ahead <= limit and self._armed < MAX_ARMED) or clock.skipping:
            self._armed += 1
            resident.local_due[n] = due
            if not clock.skipping:
                self._arm(resident, n, ahead)
            else:
                self._host.timer_set(resident, n, due)
            return
        resident.scheduled[n] = due
        if set_before and ahead > limit:
            return  # it stands in the stream
        payload = self._timer_payload(resident, n)
        app, part = self._host.env.app, self._partition.number
        incarnation = resident.process.incarnation
        self._partition.send(
            resident,
            seq,
            self._host.inbox_stream,
            subjects.timer(app, part, resident.pid, incarnation, n),
            payload,
            f"{resident.pid}.{incarnation}.{n}",
            schedule_headers(due, subjects.inbox(app, part, resident.pid)),
        )

    def _arm(self, resident: Resident, n: int, ahead: float) -> None:
        loop = asyncio.get_running_loop()
        resident.timers[n] = loop.call_later(max(0.0, ahead), self.fire, resident, n)

    def fire(self, resident: Resident, n: int) -> None:
        """A timer is due: say so in the inbox."""
        if n not in resident.process.timers or resident.process.gone:
            return
        payload = self._timer_payload(resident, n)
        self._to_inbox(resident.pid, payload, f"{resident.pid}.{resident.process.incarnation}.{n}.t", None)

    def _timer_payload(self, resident: Resident, n: int) -> bytes:
        timer = resident.process.timers[n]
        assert timer.op is not None
        return m.encode(m.Timer(incarnation=resident.process.incarnation, op=timer.op, due=timer.when()))

    def _drop(self, resident: Resident, n: int) -> None:
        if n in resident.local_due:
            self._armed -= 1
        resident.drop_local(n)
        due = resident.scheduled.pop(n, None)
        if due is not None and due > self._host.clock.now() + NEARLY_DUE:
            app, part = self._host.env.app, self._partition.number
            subject = subjects.timer(app, part, resident.pid, resident.process.incarnation, n)
            self._partition.spawn(self._unschedule(subject))

    async def _unschedule(self, subject: str) -> None:
        """Nobody waits for this timer any more."""
        async with self._unscheduling:
            await self._host.bus.cancel_schedule(self._host.inbox_stream, subject)

    def left(self, resident: Resident) -> None:
        """The process leaves memory."""
        self._armed -= len(resident.local_due)

    # `restart` bodies -----------------------------------------------------------------------------------------------------------

    def _attend_body(self, resident: Resident, *, replayed: bool = False) -> None:
        process = resident.process
        restart = process.restart
        assert restart is not None
        body: BodyScope | None = resident.body
        if body is not None and (body.incarnation != process.incarnation or not restart.running):
            if body.incarnation != process.incarnation or process.ended or not restart.running:
                body.abandon()
            resident.body = body = None
        if restart.running and body is None and not process.ended:
            if not replayed and process.inputs_since_start <= 1:
                body = self._start_body(resident)
            else:
                self._host_lost(resident)
        deliveries, restart.deliveries = restart.deliveries, []
        if body is not None:
            for delivery in deliveries:
                body.deliver(delivery)

    def _start_body(self, resident: Resident) -> BodyScope:
        pid, process = resident.pid, resident.process
        incarnation = process.incarnation

        def publish(act: m.Act) -> None:
            self._publish_act(resident, act)

        def ended() -> None:
            if resident.body is body:
                resident.body = None

        body = BodyScope(process, publish, self._host.steps, ended)
        resident.body = body
        return body

    def _publish_act(self, resident: Resident, act: m.Act) -> None:
        """Into the own inbox; the fold takes acts in the order of their numbers, so a large one may come later."""
        pid, body = resident.pid, resident.body
        payload = m.encode(act)

        def done(outcome: Any) -> None:
            if isinstance(outcome, Exception) and body is not None and resident.body is body:
                log.error("act %d (%s) of %s was refused: %s", act.m, act.what, pid, outcome)
                body.refused(act.m, outcome)

        async def store() -> None:
            smaller, blobs = values.deflate(act)
            for blob in blobs:
                await self._host.bus.put_value(blob)
            self._to_inbox(pid, m.encode(smaller), f"{pid}.{act.incarnation}.b{act.m}", done)

        if len(payload) > m.MAX_INLINE:
            self._partition.spawn(store())
        else:
            self._to_inbox(pid, payload, f"{pid}.{act.incarnation}.b{act.m}", done)

    def _host_lost(self, resident: Resident) -> None:
        """The body ran on a host that is gone: record it."""
        incarnation = resident.process.incarnation
        lost = m.HostLost(incarnation=incarnation, host=self._host.id)
        self._to_inbox(resident.pid, m.encode(lost), f"{resident.pid}.{incarnation}.host_lost", None)
