"""What the processes of a partition send: the outputs of their turns, and what is put into their own inboxes.

The floor waits for every output of a turn. What has a large value waits until that is stored, and so does all that its
process sends afterwards. An output that is refused for good parks its process and holds up nobody else. What is not
acknowledged when the partition is let go is withdrawn: its next owner sends it, under the same ids.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from regrow_protocol import ids, streams, subjects, values
from regrow_protocol import messages as m
from regrow_protocol.bus import PubAck
from regrow_protocol.errors import RegrowError, Unreachable, WrongRevision

from ..operations import Output
from .inputs import read_input
from .resident import Resident

if TYPE_CHECKING:
    from .host import Host
    from .partition import Partition

log = logging.getLogger("regrow.host")

AGAIN = 0.5
FIRST = {"Nats-Expected-Last-Subject-Sequence": "0"}
"""A first `start` is stored only as the first message of its subject: whoever reads it need look for no older one. The
answer to an agent's call stands once on its subject, however late it is repeated."""

_is_pid = re.compile(r"[A-Za-z0-9_-]{1,128}").fullmatch

Outcome = PubAck | BaseException

_STREAM_OF = {"command": streams.COMMANDS, "reply": streams.REPLIES, "agent": streams.AGENTS}
"""Of outputs that name their subject themselves."""


class Publishing:
    """For the processes of one partition.

    Attributes:
        sending: messages into the processes' own inboxes that are not acknowledged yet.
    """

    def __init__(self, partition: Partition, host: Host) -> None:
        self.sending = 0
        self._partition = partition
        self._host = host
        self._bus = host.bus
        self._stream = host.inbox_stream
        self._partitions = host.env.partitions
        self._looking = asyncio.Semaphore(16)
        app = subjects.token(host.env.app)
        self._inbox = f"regrow.inbox.{app}."
        self._own = f"regrow.inbox.{app}.{partition.number}."
        self._event = f"regrow.event.{app}."

    def inbox(self, pid: str) -> str:
        """The inbox of a process of this partition."""
        return self._own + pid

    # Outputs ----------------------------------------------------------------------------------------------------------

    def publish(self, resident: Resident, seq: int, outputs: list[Output]) -> None:
        """Publish what the turn of input `seq` sent. Raises InvalidName for what cannot be a subject."""
        prefix = f"{resident.pid}.{resident.process.incarnation}."
        lead = resident.process.lead
        known = resident.known
        for output in outputs:
            message = output.message
            if known is not None and output.to == "event" and (resident.process.incarnation, output.n) <= known:
                continue
            if lead is not None and isinstance(message, m.Message) and message.clock is None:
                message = msgspec.structs.replace(message, clock=lead)
            payload = m.encode(message)
            blobs: list[bytes] = []
            if len(payload) > m.MAX_INLINE:
                message, blobs = values.deflate(message)
                payload = m.encode(message)
            headers, done = None, partial(self._acknowledged, resident, seq)
            msg_id, target = f"{prefix}{output.n}", output.target
            if output.to == "inbox":
                stream = self._stream
                if _is_pid(target) is None:
                    self._undeliverable(resident, output)
                    continue
                subject = f"{self._inbox}{ids.partition_of(target, self._partitions)}.{target}"
                if type(message) is m.Start and not message.incarnation:
                    headers, done = FIRST, partial(self._start_stored, resident, seq, subject, payload, msg_id)
            elif output.to == "event":
                stream = streams.EVENTS
                subject = f"{self._event}{resident.pid}.{subjects.token(message.type)}"  # type: ignore[attr-defined]
            else:
                stream, subject = _STREAM_OF[output.to], target
                if output.to == "agent":
                    headers, done = FIRST, partial(self._answered, resident, seq)
            self._partition.floor.open(seq)
            resident.unacked += 1
            if resident.outbox is None and not blobs:
                self._bus.publish_soon(stream, subject, payload, msg_id, headers=headers, done=done)
            else:
                put = partial(self._bus.publish_soon, stream, subject, payload, msg_id, headers=headers, done=done)
                self._put_later(resident, seq, blobs, put)

    def _put_later(self, resident: Resident, seq: int, blobs: list[bytes], put: Callable[[], None]) -> None:
        if resident.outbox is None:
            resident.outbox = deque()
            self._partition.spawn(self._work_off(resident, resident.outbox))
        resident.outbox.append((seq, blobs, put))

    async def _work_off(self, resident: Resident, outbox: deque[Any]) -> None:
        while outbox:
            seq, blobs, put = outbox[0]
            try:
                await self.store(blobs)
            except RegrowError as error:
                self._acknowledged(resident, seq, error)
            else:
                put()
            outbox.popleft()
        resident.outbox = None

    async def store(self, blobs: list[bytes]) -> None:
        """Store large values, however long that takes; raises RegrowError when that is refused."""
        for blob in blobs:
            while True:
                try:
                    await self._bus.put_value(blob)
                except Unreachable as error:
                    log.warning("a value of %d bytes waits to be stored: %s", len(blob), error)
                    await asyncio.sleep(AGAIN)
                else:
                    break

    def _acknowledged(self, resident: Resident, seq: int, outcome: Outcome) -> None:
        partition = self._partition
        if partition.stopping:
            return
        resident.unacked -= 1
        partition.floor.close(seq)
        if type(outcome) is PubAck:
            return
        if partition.residents.get(resident.pid) is resident:
            partition.turns.stick(resident, seq, "output-refused", f"an output was refused: {outcome}")
        else:
            log.error("an output of process %s, input %d, was refused: %s", resident.pid, seq, outcome)

    def _answered(self, resident: Resident, seq: int, outcome: Outcome) -> None:
        """The answer to an agent's call was taken, or one stands already."""
        stands = isinstance(outcome, WrongRevision)
        self._acknowledged(resident, seq, PubAck(0, duplicate=True) if stands else outcome)

    def _start_stored(
        self, resident: Resident, seq: int, subject: str, payload: bytes, msg_id: str, outcome: Outcome
    ) -> None:
        """A first `start` was taken, or refused because its subject is not empty."""
        if isinstance(outcome, WrongRevision | Unreachable) and not self._partition.stopping:
            self._partition.spawn(self._start_late(resident, seq, subject, payload, msg_id))
        else:
            self._acknowledged(resident, seq, outcome)

    async def _start_late(self, resident: Resident, seq: int, subject: str, payload: bytes, msg_id: str) -> None:
        """It stands there, from an earlier time; or something else came before it, and it goes behind that."""
        while True:
            try:
                async with self._looking:
                    there = await self._has_start(subject)
            except Unreachable as error:
                log.warning("process %s: its child's start waits: %s", resident.pid, error)
                await asyncio.sleep(AGAIN)
            else:
                break
        if there:
            self._acknowledged(resident, seq, PubAck(0, duplicate=True))
        else:
            done = partial(self._acknowledged, resident, seq)
            self._bus.publish_soon(self._stream, subject, payload, f"{msg_id}.late", done=done)

    async def _has_start(self, subject: str) -> bool:
        position = 1
        while True:
            found, left = await self._bus.get_batch(self._stream, subject, position, batch=8)
            if any(isinstance(read_input(received), m.Start) for received in found):
                return True
            if not found or not left:
                return False
            position = found[-1].seq + 1

    def _undeliverable(self, resident: Resident, output: Output) -> None:
        """Whoever asked gave an address that no process has."""
        why = "that is no process's id"
        log.error("output %d of process %s to %r goes nowhere: %s", output.n, resident.pid, output.target, why)
        msg_id = f"dead.{resident.pid}.{resident.process.incarnation}.{output.n}"
        self._host.put_aside(output.target, why, m.encode(output.message), msg_id)

    # Into the own inbox -----------------------------------------------------------------------------------------------

    def put(
        self,
        pid: str,
        payload: bytes,
        msg_id: str,
        *,
        subject: str = "",
        headers: dict[str, str] | None = None,
        done: Callable[[Outcome], None] | None = None,
    ) -> None:
        """What this host says to a process: outcomes of steps, timers. Its cause keeps the process busy until then."""
        self.sending += 1
        self._bus.publish_soon(
            self._stream,
            subject or self._own + pid,
            payload,
            msg_id,
            headers=headers,
            done=partial(self._put_done, pid, done),
        )

    def _put_done(self, pid: str, done: Callable[[Outcome], None] | None, outcome: Outcome) -> None:
        self.sending -= 1
        if self._partition.stopping:
            return
        if done is not None:
            done(outcome)
        elif type(outcome) is not PubAck:
            log.error("a message to process %s was refused: %s", pid, outcome)

    # The end ----------------------------------------------------------------------------------------------------------

    def withdraw(self) -> int:
        """Publish nothing more; how many messages were waiting."""
        return self._bus.withdraw(self._is_mine)

    def _is_mine(self, done: Callable[..., Any]) -> bool:
        return isinstance(done, partial) and getattr(done.func, "__self__", None) is self
