"""Reads a stream in order: nothing lost, nothing twice, whatever happens to connection, server or callback.

A reader has an ephemeral push consumer with flow control and idle heartbeats. The consumer's own numbering is checked
where messages are *applied*, just before they are handed over, and every heartbeat says how far the server has come; so
a gap of any cause is seen, and the reader makes itself a new consumer that starts after the last message it has
applied. The same happens after each reconnect and when the heartbeats stop. The server's flow control is answered only
after what came before it was
applied: a slow callback holds back the server, and no more than its window (32 MiB) ever waits here.

(nats-py's ordered consumer checks before a queue that drops; behind a blocked callback it lost messages without
noticing.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct
from nats.nuid import NUID

from ..errors import RegrowError, Unreachable
from . import direct
from .latch import Latch
from .wire import Received, ack_parts, as_json, find_header, pub, status_of

if TYPE_CHECKING:
    from .link import Link

log = logging.getLogger(__name__)

OnMessages: TypeAlias = Callable[[list[Received]], None]

HEARTBEAT = 0.3
SILENT_TICKS = 5
"""Ticks of the bus (0.25 s each) without any sign of life after which the consumer is taken for gone."""
AIM_TICKS = 4
SLICE = 1024
"""Messages handed over at once at most."""
PAUSE_POLL = 0.01
INACTIVE = 5.0


class _Delivered(Struct, frozen=True):
    consumer_seq: int = 0


class _Created(Struct):
    num_pending: int = 0
    delivered: _Delivered = _Delivered()


_decode_created = msgspec.json.Decoder(_Created).decode


class Reader:
    """Reads `stream` from `start_seq`, the subjects that `filters` match; make it with `Bus.read`.

    Attributes:
        applied: sequence of the last message handed over; `start_seq - 1` before the first.
        caught_up: awaitable; all that was in the stream when reading began has been handed over.
        recreated: how often a consumer had to be made anew.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        filters: list[str],
        start_seq: int,
        on_messages: OnMessages,
        ready: Callable[[], bool] | None,
        *,
        last_per_subject: bool = False,
        on_open: Callable[[], None] | None = None,
        on_current: Callable[[], None] | None = None,
    ) -> None:
        self.stream = stream
        self.filters = filters
        self.applied = max(start_seq - 1, 0)
        self.caught_up = Latch()
        self.recreated = -1
        self._link = link
        self._connection = link.nc
        self._on_messages = on_messages
        self._ready = ready
        self._last_per_subject = last_per_subject
        self._on_open = on_open
        self._on_current = on_current
        self._loop = asyncio.get_running_loop()
        self._buffer: list[tuple[bytes, bytes, bytes | None, bytes]] = []
        self._sid = 0
        self._consumer = ""
        self._expected = 1
        self._total: int | None = None
        self._target = 0
        self._current = False
        self._scheduled = False
        self._delivering = False
        self._silent = 0
        self._ticks = 0
        self._aiming: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._broken.set()
        self._stopped = False
        link.parties.add(self)
        self._task = self._loop.create_task(self._keep(), name=f"reader {stream}")

    async def stop(self) -> None:
        """End reading; nothing is handed over any more from the call on."""
        if self._stopped:
            return
        self._stopped = True
        self._link.parties.discard(self)
        self._task.cancel()
        if self._aiming is not None:
            self._aiming.cancel()
        self._drop()
        self.caught_up.set(Unreachable(f"Reading {self.stream} was stopped before it had caught up"))
        await asyncio.wait([self._task])

    def poke(self) -> None:
        """`ready` has become true: go on at once (without it, within some milliseconds)."""
        self._schedule()

    def broken(self) -> None:
        """The connection was lost, or a gap was seen: make a new consumer."""
        self._broken.set()

    def restored(self) -> None:
        """The connection is back; the server has forgotten the consumer, or soon will."""
        self.broken()

    def refused(self, subject: str) -> None:
        """A consumer that may not be made is reported by the request for it."""

    def tick(self, now: float) -> None:
        """Too long without a sign of life, counted in ticks: a loop that was blocked makes few of them."""
        if self._total is not None:  # it has a consumer
            self._ticks += 1
            self._silent += 1
            waiting = (
                self._target > self.applied and not self._current and (self._aiming is None or self._aiming.done())
            )
            if waiting and self._ticks % AIM_TICKS == 0:
                self._aiming = self._loop.create_task(self._aim())
            if self._silent > SILENT_TICKS:
                log.info("No sign of life from the consumer of %s: a new one", self.stream)
                self._silent = 0
                self.broken()

    # the consumer -----------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause = 0.05
        while not self._stopped:
            await self._broken.wait()
            self._broken.clear()
            try:
                await self._open()
                pause = 0.05
            except Exception as error:  # noqa: BLE001 - whatever it is, a reader that stopped trying would be silent
                problem = error if isinstance(error, RegrowError) else RegrowError(f"Reading failed: {error!r}")
                self._link.problem(self.stream, problem)
                self._broken.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)

    async def _open(self) -> None:
        self._drop()
        self.recreated += 1
        if self._on_open is not None:
            self._on_open()
        connection = self._connection
        name = NUID().next().decode()
        deliver = f"_INBOX.{name}"
        config = {
            "deliver_subject": deliver,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subjects": self.filters,
            "idle_heartbeat": int(HEARTBEAT * 1e9),
            "flow_control": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE * 1e9),
        }
        if self._last_per_subject:
            config["deliver_policy"] = "last_per_subject"
        else:
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = self.applied + 1
        self._expected = 1
        self._total = None
        self._target = 0
        self._current = False
        self._silent = 0
        self._sid = connection.raw_subscribe(deliver, self._arrived)
        self._consumer = name
        if not self.caught_up.is_set() and connection.clustered:
            # the consumer may live on a follower that is behind: only the leader knows what is there
            self._target = await direct.last_matching(self._link, self.stream, self.filters)
        body = await self._link.request(
            f"$JS.API.CONSUMER.CREATE.{self.stream}.{name}",
            as_json({"stream_name": self.stream, "config": {"name": name, **config}}),
        )
        created = _decode_created(body)
        self._total = created.num_pending + created.delivered.consumer_seq
        self._check_current(None)

    async def _aim(self) -> None:
        """What the leader named as the last message may have been purged since: ask again."""
        try:
            self._target = await direct.last_matching(self._link, self.stream, self.filters)
        except RegrowError as error:
            self._link.problem(self.stream, error)
        else:
            self._check_current(None)

    def _drop(self) -> None:
        """Forget the present consumer; the server removes it."""
        if self._sid:
            self._connection.raw_unsubscribe(self._sid)
            self._sid = 0
            self._connection.send(pub(f"$JS.API.CONSUMER.DELETE.{self.stream}.{self._consumer}", "", b""))
        self._consumer = ""
        self._total = None
        self._buffer.clear()

    # messages ---------------------------------------------------------------------------------------------------------

    def _arrived(self, subject: bytes, reply: bytes, headers: bytes | None, data: bytes) -> None:
        if not self._sid:
            return
        self._silent = 0
        if self._buffer and not reply and not self._buffer[-1][1] and status_of(headers) == 100:
            self._buffer.pop()  # while paused only the last heartbeat is of interest
        self._buffer.append((subject, reply, headers, data))
        if not self._scheduled:
            self._scheduled = True
            self._connection.after_dispatch.append(self._deliver)

    def _schedule(self) -> None:
        if not self._scheduled and self._buffer:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Hand over what has arrived, as long as `ready` says so."""
        self._scheduled = False
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._buffer and not self._stopped:
                if self._ready is not None and not self._ready():
                    self._scheduled = True
                    self._loop.call_later(PAUSE_POLL, self._deliver)
                    return
                arrived = self._buffer
                if len(arrived) > SLICE:
                    self._buffer = arrived[SLICE:]
                    arrived = arrived[:SLICE]
                else:
                    self._buffer = []
                try:
                    self._apply(arrived)
                except Exception:
                    log.exception("What came from %s cannot be read: a new consumer", self.stream)
                    self.broken()
        finally:
            self._delivering = False

    def _apply(self, arrived: list[tuple[bytes, bytes, bytes | None, bytes]]) -> None:
        batch: list[Received] = []
        answers: list[bytes] = []
        idle = False
        pending: int | None = None
        expected = self._expected
        whole = True
        for subject, reply, headers, data in arrived:
            if reply.startswith(b"$JS.ACK."):
                seq, number, time, pending = ack_parts(reply)
                if number != expected:
                    whole = False
                    break
                expected += 1
                idle = False
                batch.append(Received(subject.decode("utf-8", "replace"), seq, time, data, headers, number, pending))
                continue
            status = status_of(headers)
            if status != 100 or headers is None:
                whole = False  # 409: the consumer was deleted, the server shuts down
                break
            if reply:
                answers.append(reply)
                continue
            if int(find_header(headers, b"Nats-Last-Consumer") or 0) != expected - 1:
                whole = False
                break
            stalled = find_header(headers, b"Nats-Consumer-Stalled")
            if stalled:
                answers.append(stalled.encode())
            else:
                idle = True
        self._expected = expected
        if batch:
            self._hand_over(batch)
        for answer in answers:
            self._connection.send(pub(answer.decode(), "", b""))
        if not whole:
            log.info("A gap in what came from %s after %d: a new consumer", self.stream, self.applied)
            self.broken()
        elif not self._current and self._sid:
            self._check_current(0 if idle else pending)

    def _hand_over(self, batch: list[Received]) -> None:
        if batch[0].seq <= self.applied and not self._last_per_subject:
            self._link.problem(
                self.stream,
                RegrowError(
                    f"{self.stream} went back from {self.applied} to {batch[0].seq}", hint="was an old store restored?"
                ),
            )
        try:
            self._on_messages(batch)
        except Exception:
            log.exception("The reader of %s failed at %d to %d", self.stream, batch[0].seq, batch[-1].seq)
        self.applied = max(self.applied, batch[-1].seq) if self._last_per_subject else batch[-1].seq

    def _check_current(self, pending: int | None) -> None:
        """Has this consumer given all that was there when it began?"""
        if self._current or self._total is None:
            return
        done = pending == 0 or self._expected > self._total
        if self.applied >= self._target if self._target else done:
            self._current = True
            if self._on_current is not None:
                self._on_current()
            self.caught_up.set()
