"""The publisher of one stream: first in, first out; one flush in flight; grouped as the load demands.

What arrives while a flush is in flight waits for the next one. A flush goes as pipelined single publishes or as one
atomic batch (NATS ADR-50: one fsync for all of it), whichever is faster (`pace`). It is repeated in order, under the
same message ids, until the stream has acknowledged all of it: over time-outs, reconnects, changes of leader, a full
store. A batch that the server rejects goes again message by message, one at a time, so only the message at fault fails.
In a cluster singles never run ahead of their acknowledgements: a change of leader can drop an earlier one and keep a
later one.

A message fails, through its `done`, only when sending it again cannot help: `PublishRejected`, `WrongRevision`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from nats.nuid import NUID

from ..errors import PublishRejected, RegrowError, Unreachable, WrongRevision
from . import direct
from .item import Done, Item
from .pace import Pace
from .verdicts import STORE_FULL, for_good, for_now, read_answer
from .wire import PubAck, check_subject, header_lines, hpub, id_line

if TYPE_CHECKING:
    from .link import Link

log = logging.getLogger(__name__)

FLUSH_MESSAGES = 400
FLUSH_BYTES = 4 * 1024 * 1024
ATTEMPT, ATTEMPT_MAX = 3.0, 20.0
"""Seconds without an answer after which a flush is sent again; doubles from attempt to attempt."""
PAUSE, PAUSE_MAX = 0.05, 1.0
"""Seconds before a flush that was answered with `not now` is sent again; doubles too."""
HIGH_MESSAGES, HIGH_BYTES = 10_000, 16 * 1024 * 1024
"""While more than these are waiting, `ready` waits."""
BATCH_HEADERS = 160
"""Bytes to keep free for the headers of a batch."""


class Publisher:
    """Publishes to `stream`; `gate` is asked before everything that is sent.

    Attributes:
        backlog, backlog_bytes: what is not acknowledged yet.
    """

    def __init__(self, link: Link, stream: str, gate: Callable[[], bool] | None) -> None:
        self.stream = stream
        self.backlog = 0
        self.backlog_bytes = 0
        self.pace = Pace()
        self._link = link
        self._connection = link.nc
        self._gate = gate
        self._finding: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._flight: list[Item] = []
        self._open = 0  # messages of the flight that are not settled
        self._sent = False  # they were sent, and their answers are awaited
        self._attempts = 0
        self._batch_reply = ""  # of the present attempt, if that is a batch
        self._batch_replies: list[str] = []  # of all attempts: a late answer counts
        self._careful = False  # one message at a time, to the end of this flight
        self._armed = False
        self._sent_at = 0.0
        self._began = 0.0  # as `_sent_at`, but exact: the loop's own clock may stand still while it works
        self._patience = ATTEMPT
        self._pause = PAUSE
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._ids = NUID()
        self._closed = False
        link.parties.add(self)

    # what the bus calls -----------------------------------------------------------------------------------------------

    def put(self, subject: str, payload: bytes, msg_id: str, headers: dict[str, str] | None, done: Done | None) -> Item:
        """Take a message in; never blocks. Raises `InvalidName` for what cannot stand on the wire."""
        if self._closed:
            raise Unreachable("The bus is closed")
        if not isinstance(payload, bytes):
            raise TypeError(f"A message's body is bytes, not {type(payload).__name__}")
        head = header_lines({"Nats-Msg-Id": msg_id, **headers}) if headers else id_line(msg_id)
        item = Item(self, check_subject(subject), payload, msg_id, head, done)
        self._queue.append(item)
        self.backlog += 1
        self.backlog_bytes += item.size
        self._arm()
        return item

    def waiting(self) -> list[Item]:
        """What is neither acknowledged nor failed, in order."""
        return [item for item in [*self._flight, *self._queue] if not item.settled]

    def withdraw(self, item: Item) -> None:
        """Send a message no more. It may have been stored already, if it was in flight."""
        if not item.settled:
            item.done = None
            self._settle(item, None)
            if item.flying:
                self._advance()

    async def ready(self) -> None:
        """Wait while too much is waiting."""
        while self.backlog > HIGH_MESSAGES or self.backlog_bytes > HIGH_BYTES:
            await self._change()

    async def drained(self) -> None:
        """Wait until all that is waiting now is settled."""
        for item in self.waiting():
            while not item.settled:
                await self._change()

    def kick(self) -> None:
        """The gate may have opened: go on if that is all that was missing."""
        if not self._flight:
            self._arm()
        elif not self._sent and self._timer is None:
            self._repeat()

    def restored(self) -> None:
        """The connection is back: what was in flight is sent again."""
        self._sent = False
        self._stop_timer()
        self.kick()

    def tick(self, now: float) -> None:
        """A flush without an answer is sent again; the gate is asked again."""
        if not self._sent:
            if self.backlog:
                self.kick()
        elif now - self._sent_at > self._patience:
            self._patience = min(self._patience * 2, ATTEMPT_MAX)
            # nats-server 2.15 says nothing when it cannot write, and writes again only after a restart
            hint = "its server's log tells why; once a full disk has room again, the server must be restarted"
            self._link.problem(self.stream, Unreachable(f"The stream {self.stream} does not answer", hint=hint))
            self._repeat()

    def refused(self, subject: str) -> None:
        """The server refused the permission to publish on `subject`."""
        culprits = [item for item in self._flight if not item.settled and item.subject == subject]
        for item in culprits:
            hint = "see the user's permissions on the NATS server"
            self._settle(item, PublishRejected(f"No permission to publish on {subject}", hint=hint))
        if culprits and self._batch_reply:
            self._be_careful()
        elif culprits:
            self._advance()

    def close(self) -> None:
        """Fail what is waiting."""
        self._closed = True
        self._link.parties.discard(self)
        self._stop_timer()
        for task in self._finding:
            task.cancel()
        for item in self.waiting():
            self._settle(item, Unreachable("The bus was closed before this message was acknowledged"))
        self._flight = []
        self._queue.clear()
        self._changed()

    # sending ----------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if not self._armed and not self._flight:
            self._armed = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._armed = False
        if self._flight or self._closed or not self._can_send():
            return  # `kick` comes
        self._flight = self._take()
        self._open = len(self._flight)
        if self._flight:
            self._attempts = 0
            self._patience = ATTEMPT
            self._pause = PAUSE
            self._careful = False
            self._send()
        self._changed()

    def _can_send(self) -> bool:
        return self._connection.up and (self._gate is None or self._gate())

    def _take(self) -> list[Item]:
        """The next flush, taken from the queue; what is too large fails here."""
        largest = self._connection.max_payload - BATCH_HEADERS
        most = self.pace.limit(FLUSH_MESSAGES)
        size = 0
        ids: set[str] = set()
        flight: list[Item] = []
        queue = self._queue
        while queue and len(flight) < most:
            item = queue[0]
            if not item.settled and len(item.payload) + len(item.head) > largest:
                what = f"A message of {len(item.payload)} bytes on {item.subject} is larger than the server takes"
                self._settle(item, PublishRejected(what, hint=f"at most {largest} bytes, headers included"))
            if item.settled:
                queue.popleft()
                continue
            size += item.size
            # a batch is refused when it has an id twice; alone, the second one is acknowledged as a duplicate
            if flight and (size > FLUSH_BYTES or item.msg_id in ids):
                break
            ids.add(item.msg_id)
            item.flying = True
            flight.append(queue.popleft())
        return flight

    def _send(self) -> None:
        """Send what is not settled of the flight."""
        waiting = [item for item in self._flight if not item.settled]
        self._sent = True
        self._sent_at = self._loop.time()
        self._began = time.perf_counter()
        self._attempts += 1
        self._batch_reply = ""
        if self._careful:
            self._send_singles(waiting[:1])
        elif len(waiting) > 1 and (self._connection.clustered or self.pace.prefers_batch(len(waiting))):
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
        batch = bytes(self._ids.next())
        reply = self._connection.expect(lambda _s, _r, headers, data: self._batch_answered(reply, items, headers, data))
        self._batch_reply = reply
        self._batch_replies.append(reply)
        out: list[bytes] = []
        for number, item in enumerate(items, 1):
            head = b"%bNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n" % (item.head, batch, number)
            if number < len(items):
                out.append(hpub(item.subject, "", head, item.payload))
            else:
                out.append(hpub(item.subject, reply, head + b"Nats-Batch-Commit: 1\r\n", item.payload))
        self._connection.send(b"".join(out))

    def _repeat(self) -> None:
        self._stop_timer()
        self._sent = False
        if self._open and self._can_send():
            self._send()

    def _repeat_later(self) -> None:
        self._sent = False
        if self._timer is None:
            self._timer = self._loop.call_later(self._pause, self._repeat)
            self._pause = min(self._pause * 2, PAUSE_MAX)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _be_careful(self) -> None:
        self._careful = True
        self._batch_reply = ""
        self._sent = False
        self._advance()

    def _advance(self) -> None:
        """After a message was settled: the next flight, or the next message of a careful one."""
        if not self._open:
            self._stop_timer()
            self._flight = []
            self._sent = False
            for reply in self._batch_replies:
                self._connection.forget(reply)
            self._batch_replies.clear()
            self._arm()
        elif self._careful and self._timer is None:
            self._repeat()
        self._changed()

    # answers ----------------------------------------------------------------------------------------------------------

    def _single_answered(self, item: Item, headers: bytes | None, data: bytes) -> None:
        if item.settled:
            return
        ack = read_answer(headers, data)
        if ack.error is None:
            self._settle(item, PubAck(ack.seq, ack.duplicate))
            self._link.answered()
            if not self._open and self._attempts == 1 and not self._careful:
                self.pace.took(len(self._flight), time.perf_counter() - self._began, batch=False)
            self._advance()
            return
        failure = for_good(item.subject, ack.error)
        if isinstance(failure, WrongRevision):
            # the server compares before it looks at the id: what is in the way may be this message itself, sent before
            task = self._loop.create_task(self._own_or(item, failure))
            self._finding.add(task)
            task.add_done_callback(self._finding.discard)
        elif failure is not None:
            self._settle(item, failure)
            self._advance()
        else:
            self._link.problem(self.stream, for_now(self.stream, ack.error))
            self._careful = True
            self._repeat_later()

    async def _own_or(self, item: Item, failure: RegrowError) -> None:
        outcome: PubAck | RegrowError = failure
        try:
            outcome = await direct.find(self._link, self.stream, item.subject, item.msg_id) or failure
        except RegrowError as error:
            outcome = error
        if not item.settled:
            self._settle(item, outcome)
            self._advance()

    def _batch_answered(self, reply: str, items: list[Item], headers: bytes | None, data: bytes) -> None:
        self._connection.forget(reply)
        ack = read_answer(headers, data)
        if ack.error is None:
            self._link.answered()
            if self._attempts == 1:
                self.pace.took(len(items), time.perf_counter() - self._began, batch=True)
            first = ack.seq - len(items) + 1
            for offset, item in enumerate(items):
                if not item.settled:
                    self._settle(item, PubAck(first + offset, ack.duplicate))
            self._advance()
        elif reply == self._batch_reply:  # else an earlier attempt, which was sent again since
            if for_good("", ack.error) is None:
                self._link.problem(self.stream, for_now(self.stream, ack.error))
            if ack.error.code == 503 and ack.error.err_code not in STORE_FULL:
                self._repeat_later()
            else:
                self._be_careful()  # in a full store too: what still fits is stored

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
        await waiter

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
