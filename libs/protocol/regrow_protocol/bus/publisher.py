"""The publisher of one stream: first in, first out; one flush in flight; grouped as the load demands.

What arrives while a flush is in flight waits for the next one. A few waiting messages go as pipelined single publishes,
more as one atomic batch (NATS ADR-50: one fsync for all of them). A flush is repeated whole and in order, under the
same message ids, until the stream has acknowledged it: over time-outs, reconnects, changes of leader, a full store. A
batch that the server rejects goes again message by message, one at a time, so only the message at fault fails. In a
cluster singles never run ahead of their acknowledgements (a leader change can drop an earlier one and keep a later
one).

A message fails, through its `done`, only when sending it again cannot help: `PublishRejected`, `WrongRevision`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from nats.nuid import NUID

from ..errors import PublishRejected, RegrowError, StorageFull, Unreachable, WrongRevision
from .wire import ErrorBody, PubAck, check_subject, decode_ack, header_lines, hpub, status_of

if TYPE_CHECKING:
    from .connection import Connection

log = logging.getLogger(__name__)

Done: TypeAlias = "Callable[[PubAck | BaseException], None]"

BATCH_FROM = 8
"""Waiting messages from which on a batch is faster than singles (benchmarks/bus.py measures it)."""
BATCH_MESSAGES = 400
BATCH_BYTES = 4 * 1024 * 1024
ATTEMPT = 3.0
"""Seconds without an acknowledgement after which a flush is sent again; doubles up to `ATTEMPT_MAX`."""
ATTEMPT_MAX = 20.0
PAUSE, PAUSE_MAX = 0.05, 1.0
HIGH_MESSAGES, HIGH_BYTES = 10_000, 16 * 1024 * 1024
"""Waiting above these, `ready` waits."""

_WRONG_REVISION = {10071, 10164, 10070}
_STORE_FULL = {10002, 10023, 10028, 10047, 10077}


class Item:
    """One message on its way."""

    __slots__ = ("answers", "done", "flying", "head", "msg_id", "payload", "publisher", "settled", "size", "subject")

    def __init__(
        self, publisher: Publisher, subject: str, payload: bytes, msg_id: str, head: str, done: Done | None
    ) -> None:
        self.publisher = publisher
        self.subject = subject
        self.payload = payload
        self.msg_id = msg_id
        self.head = head
        self.done = done
        self.size = len(payload) + len(head) + len(subject)
        self.settled = False
        self.flying = False
        self.answers: list[str] = []

    def answered(self, _subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        self.publisher._single_answered(self, headers, data)


class Publisher:
    """Publishes to one stream over `connection`. `may_flush` is the gate, asked before everything that is sent."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        may_flush: Callable[[], bool],
        on_problem: Callable[[str, RegrowError], None],
    ) -> None:
        self.stream = stream
        self.backlog = 0
        self.backlog_bytes = 0
        self._connection = connection
        self._may_flush = may_flush
        self._on_problem = on_problem
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._flight: list[Item] = []
        self._open = 0
        self._batch_reply = ""
        self._careful = False
        self._armed = False
        self._sent_at = 0.0
        self._patience = ATTEMPT
        self._pause = PAUSE
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._ids = NUID()
        self._closed = False

    # what users see ---------------------------------------------------------------------------------------------------

    def put(self, subject: str, payload: bytes, msg_id: str, headers: dict[str, str] | None, done: Done | None) -> Item:
        """Take a message in; never blocks. Raises `InvalidName` for what cannot stand on the wire."""
        if self._closed:
            raise Unreachable("The bus is closed")
        lines = {**headers, "Nats-Msg-Id": msg_id} if headers else {"Nats-Msg-Id": msg_id}
        item = Item(self, check_subject(subject), payload, msg_id, header_lines(lines), done)
        self._queue.append(item)
        self.backlog += 1
        self.backlog_bytes += item.size
        self._arm()
        return item

    def withdraw(self, item: Item) -> bool:
        """Take back a message. True when it certainly was not and will not be stored; false when it may have been."""
        sent = item.flying
        if not item.settled:
            item.done = None
            self._settle(item, None)
        return not sent

    async def ready(self) -> None:
        """Wait while too much is waiting."""
        while self.backlog > HIGH_MESSAGES or self.backlog_bytes > HIGH_BYTES:
            await self._change()

    async def drained(self) -> None:
        """Wait until all that is waiting now is acknowledged."""
        for item in [*self._flight, *self._queue]:
            while not item.settled:
                await self._change()

    def kick(self) -> None:
        """The gate has opened or the connection is back: send now."""
        if self._flight and self._open:
            self._repeat()
        else:
            self._arm()

    def tick(self, now: float) -> None:
        """Called a few times a second: a flush without an answer is sent again."""
        if self._flight and self._timer is None and now - self._sent_at > self._patience:
            self._patience = min(self._patience * 2, ATTEMPT_MAX)
            self._repeat()

    def refused(self, subject: str) -> None:
        """The server refused the permission to publish on `subject`."""
        culprits = [item for item in self._flight if not item.settled and item.subject == subject]
        for item in culprits:
            self._fail(
                item, PublishRejected(f"No permission to publish on {subject}", hint="see the user's permissions")
            )
        if culprits and self._batch_reply:
            self._be_careful()
        elif culprits:
            self._advance()

    def close(self) -> None:
        """Fail what is waiting."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for item in [*self._flight, *self._queue]:
            if not item.settled:
                self._fail(item, Unreachable("The bus was closed before this message was acknowledged"))
        self._flight.clear()
        self._queue.clear()
        self._changed()

    # flushing ---------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if not self._armed and not self._flight:
            self._armed = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._armed = False
        if self._flight or not self._queue or self._closed:
            return
        if not self._connection.up or not self._may_flush():
            return  # kick() comes
        self._patience = ATTEMPT
        self._careful = False
        self._take()
        if self._flight:
            self._send()

    def _take(self) -> None:
        """Move the next flush's messages from the queue; what is too large fails here."""
        limit = self._connection.max_payload
        size = 0
        ids: set[str] = set()
        queue, flight = self._queue, self._flight
        while queue and len(flight) < BATCH_MESSAGES:
            item = queue[0]
            if item.settled:
                queue.popleft()
                continue
            if len(item.payload) + len(item.head) + 128 > limit:
                queue.popleft()
                self._fail(
                    item,
                    PublishRejected(
                        f"A message of {len(item.payload)} bytes on {item.subject} is larger than the server takes",
                        hint=f"at most {limit} bytes with headers",
                    ),
                )
                continue
            size += item.size
            if flight and (size > BATCH_BYTES or item.msg_id in ids):
                break
            ids.add(item.msg_id)
            item.flying = True
            flight.append(item)
            queue.popleft()
        self._open = len(flight)

    def _send(self) -> None:
        """Send all of the flight that is not settled."""
        waiting = [item for item in self._flight if not item.settled]
        self._batch_reply = ""
        self._sent_at = self._loop.time()
        least = 2 if self._connection.clustered else BATCH_FROM
        if self._careful:
            self._send_singles(waiting[:1])
        elif len(waiting) >= least:
            self._send_batch(waiting)
        else:
            self._send_singles(waiting)

    def _send_singles(self, items: list[Item]) -> None:
        out: list[bytes] = []
        for item in items:
            reply = self._connection.expect(item.answered)
            item.answers.append(reply)
            out.append(hpub(item.subject, reply, item.head, item.payload))
        self._connection.send(b"".join(out))

    def _send_batch(self, items: list[Item]) -> None:
        batch = self._ids.next().decode()
        reply = self._connection.expect(lambda _s, _r, headers, data: self._batch_answered(reply, items, headers, data))
        self._batch_reply = reply
        items[-1].answers.append(reply)
        last = len(items)
        out: list[bytes] = []
        for number, item in enumerate(items, 1):
            head = f"{item.head}Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n"
            if number == last:
                out.append(hpub(item.subject, reply, head + "Nats-Batch-Commit: 1\r\n", item.payload))
            else:
                out.append(hpub(item.subject, "", head, item.payload))
        self._connection.send(b"".join(out))

    def _repeat(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._open and self._connection.up and self._may_flush():
            self._send()

    def _repeat_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._pause, self._repeat)
            self._pause = min(self._pause * 2, PAUSE_MAX)

    def _be_careful(self) -> None:
        """From here to the end of this flight: one message at a time."""
        self._careful = True
        self._batch_reply = ""
        self._advance()

    def _advance(self) -> None:
        """After a message was settled: the next one of a careful flight, or the next flight."""
        if not self._open:
            self._flight.clear()
            self._pause = PAUSE
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._arm()
        elif self._careful and self._timer is None:
            self._repeat()
        self._changed()

    # answers ----------------------------------------------------------------------------------------------------------

    def _single_answered(self, item: Item, headers: bytes | None, data: bytes) -> None:
        if item.settled:
            return
        error = self._error_of(headers, data)
        if error is None:
            ack = decode_ack(data)
            self._settle(item, PubAck(ack.seq, ack.duplicate))
            self._advance()
            return
        problem = _final_error(item, error)
        if problem is not None:
            self._fail(item, problem)
            self._advance()
        else:
            self._report(error)
            self._careful = True
            self._repeat_later()

    def _batch_answered(self, reply: str, items: list[Item], headers: bytes | None, data: bytes) -> None:
        self._connection.forget(reply)
        error = self._error_of(headers, data)
        if error is None:
            ack = decode_ack(data)
            first = ack.seq - len(items) + 1
            for offset, item in enumerate(items):
                if not item.settled:
                    self._settle(item, PubAck(first + offset, ack.duplicate))
            self._advance()
        elif reply != self._batch_reply:
            return  # an earlier attempt, which was sent again since
        elif error.code >= 500:
            self._report(error)
            self._repeat_later()
        else:
            self._be_careful()

    def _error_of(self, headers: bytes | None, data: bytes) -> ErrorBody | None:
        status = status_of(headers)
        if status:
            return ErrorBody(code=status, description=f"status {status} for a publish to {self.stream}")
        try:
            return decode_ack(data).error
        except msgspec.MsgspecError:
            return ErrorBody(code=500, description=f"an answer that is no acknowledgement: {data[:80]!r}")

    def _report(self, error: ErrorBody) -> None:
        if error.err_code in _STORE_FULL:
            problem: RegrowError = StorageFull(
                f"The stream {self.stream} takes no more: {error.description}",
                hint="free space on its disk or raise its limits; nothing is lost meanwhile",
            )
        else:
            problem = Unreachable(f"The stream {self.stream} does not answer: {error.description}")
        self._on_problem(self.stream, problem)

    def _fail(self, item: Item, error: BaseException) -> None:
        self._settle(item, error)

    def _settle(self, item: Item, outcome: PubAck | BaseException | None) -> None:
        item.settled = True
        self.backlog -= 1
        self.backlog_bytes -= item.size
        for reply in item.answers:
            self._connection.forget(reply)
        if item.flying:
            self._open -= 1
        done, item.done = item.done, None
        if done is not None and outcome is not None:
            try:
                done(outcome)
            except Exception:
                log.exception("The callback of a message on %s failed", item.subject)

    # waiting ----------------------------------------------------------------------------------------------------------

    async def _change(self) -> None:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _changed(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def _final_error(item: Item, error: ErrorBody) -> RegrowError | None:
    """What the message fails with; None when it shall be sent again."""
    if error.err_code in _WRONG_REVISION:
        return WrongRevision(f"{item.subject} has changed meanwhile: {error.description}", hint="read it again")
    if error.err_code in _STORE_FULL or error.code >= 500 or error.code in (404, 408):
        return None
    return PublishRejected(
        f"The stream refused a message on {item.subject}: {error.description}", hint="sending it again will not help"
    )
