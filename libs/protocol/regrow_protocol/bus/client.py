"""The bus: one connection to NATS JetStream with everything that Regrow's parts need of it.

Publishing is grouped and repeated until acknowledged (`publisher`), reading loses nothing (`reader`), reads that decide
ask the leader (`direct`, `bucket`). The connection comes back by itself, for ever, within a fraction of a second of the
server; nothing that was accepted by `publish_soon` is lost or reordered by that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nats.js import JetStreamContext
from nats.nuid import NUID

from ..errors import Unreachable
from . import direct, values
from .bucket import Bucket
from .connection import Connection
from .consumer import PullConsumer, ensure_consumer
from .item import Done
from .link import Link, OnProblem
from .publisher import Publisher
from .reader import OnMessages, Reader
from .wire import PubAck, Received


class Bus:
    """Make it with `Bus.connect`.

    Attributes:
        link: what its parts share.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._ids = NUID()
        self._publishers: dict[str, Publisher] = {}
        self._gate: Callable[[], bool] | None = None
        self._js: JetStreamContext | None = None

    # connection -------------------------------------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls,
        url: str | None = None,
        *,
        name: str,
        on_down: Callable[[], None] | None = None,
        on_up: Callable[[], None] | None = None,
        on_problem: OnProblem | None = None,
        connect_timeout: float = 5.0,
    ) -> Bus:
        """Connect; afterwards the bus reconnects by itself.

        Args:
            url: `nats://[user:password@|token@]host:port`, several with commas; None: `REGROW_NATS_URL`.
            name: of this client, shown by the server.
            on_down, on_up: called when the connection is lost, and when it is back.
            on_problem: called with (stream, error) when something is repeated or waits for long.
            connect_timeout: seconds.

        Raises:
            Unreachable: nobody answers.
            AccessDenied: the credentials (in the URL, or the file that `REGROW_NATS_CREDS` names) are refused.
        """
        target = url or os.environ.get("REGROW_NATS_URL", "")
        if not target:
            raise Unreachable("No NATS server is given", hint="set REGROW_NATS_URL, or start one with `regrow up`")
        link = Link(Connection())
        link.on_down, link.on_up, link.on_problem = on_down, on_up, on_problem
        await link.connect(target, name, connect_timeout)
        return cls(link)

    @property
    def nc(self) -> Connection:
        """The connection, which is nats-py's client."""
        return self.link.nc

    @property
    def js(self) -> JetStreamContext:
        """nats-py's JetStream context, for what is not here."""
        if self._js is None:
            self._js = self.nc.jetstream()
        return self._js

    @property
    def connected(self) -> bool:
        return self.nc.up

    @property
    def connected_since(self) -> float:
        """The loop's (monotonic) time at which the present or last connection was made."""
        return self.link.connected_since

    @property
    def server_version(self) -> str:
        """Of the server it is connected to, such as `2.15.1`."""
        return self.nc.server_version

    @property
    def on_problem(self) -> OnProblem | None:
        """Called with (stream, error) when something is repeated or waits for long."""
        return self.link.on_problem

    @on_problem.setter
    def on_problem(self, function: OnProblem | None) -> None:
        self.link.on_problem = function

    def gate(self, is_open: Callable[[], bool] | None) -> None:
        """While `is_open()` is false nothing is published, except to buckets. None: always open. See also `kick`."""
        self._gate = is_open
        self.kick()

    def kick(self) -> None:
        """The gate has opened: publish now. (It is also asked a few times a second while something waits.)"""
        for publisher in self._publishers.values():
            publisher.kick()

    async def close(self) -> None:
        """End everything; what waits to be published fails with `Unreachable` (see `drain_publishers`)."""
        if self.link.closed:
            return
        for party in list(self.link.parties):
            if isinstance(party, Reader):
                await party.stop()
            elif isinstance(party, PullConsumer):
                await party.close()
        for publisher in self._publishers.values():
            publisher.close()
        await self.link.close()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # publishing -------------------------------------------------------------------------------------------------------

    def publish_soon(
        self,
        stream: str,
        subject: str,
        payload: bytes,
        msg_id: str,
        *,
        headers: dict[str, str] | None = None,
        done: Done | None = None,
    ) -> None:
        """Publish in the order of calls per stream; never blocks.

        `done` gets the `PubAck`, or the error when the message was refused for good; it is called from a plain callback
        of the event loop. Raises `InvalidName` for a subject or header that cannot be sent.
        """
        self._publisher(stream).put(subject, payload, msg_id, headers, done)

    async def publish(
        self,
        stream: str,
        subject: str,
        payload: bytes,
        msg_id: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
        withdraw: bool = False,
    ) -> PubAck:
        """As `publish_soon`, and wait for the acknowledgement.

        Raises `Unreachable` after `timeout` seconds; the message still waits to be sent, unless `withdraw`.
        """
        future: asyncio.Future[PubAck] = self.link.loop.create_future()

        def done(outcome: PubAck | BaseException) -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        publisher = self._publisher(stream)
        item = publisher.put(subject, payload, msg_id, headers, done)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            what = f"{stream} did not acknowledge within {timeout} s"
            raise Unreachable(what, hint="is the NATS server running?") from None
        finally:
            if withdraw:
                publisher.withdraw(item)

    def withdraw(self, mine: Callable[[Done], bool]) -> int:
        """Send no more of the messages whose `done` the function `mine` accepts; how many that were.

        Their `done` is not called. What is in flight may have been stored already.
        """
        found = [
            (publisher, item)
            for publisher in self._publishers.values()
            for item in publisher.waiting()
            if item.done is not None and mine(item.done)
        ]
        for publisher, item in found:
            publisher.withdraw(item)
        return len(found)

    async def drain_publishers(self, timeout: float = 30.0) -> None:
        """Wait until all that waits now is acknowledged; `Unreachable` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                for publisher in list(self._publishers.values()):
                    await publisher.drained()
        except TimeoutError:
            waiting = sum(publisher.backlog for publisher in self._publishers.values())
            raise Unreachable(f"{waiting} messages are not acknowledged after {timeout} s") from None

    def backlog(self, stream: str) -> int:
        """Messages of a stream that are not acknowledged yet."""
        publisher = self._publishers.get(stream)
        return publisher.backlog if publisher else 0

    async def ready(self, stream: str) -> None:
        """Back-pressure: wait while very much waits to be published."""
        publisher = self._publishers.get(stream)
        if publisher is not None:
            await publisher.ready()

    def fresh_id(self) -> str:
        """A message id that nobody else has."""
        return self._ids.next().decode()

    def _publisher(self, stream: str) -> Publisher:
        publisher = self._publishers.get(stream)
        if publisher is None:
            # buckets stay writable: a host renews its lease, and learns that it lost a partition, through them
            gated = not stream.startswith(("KV_", "OBJ_"))
            publisher = Publisher(self.link, stream, self._gate_is_open if gated else None)
            self._publishers[stream] = publisher
        return publisher

    def _gate_is_open(self) -> bool:
        return self._gate is None or self._gate()

    # schedules --------------------------------------------------------------------------------------------------------

    async def schedule(
        self, stream: str, subject: str, at: float, target: str, payload: bytes, msg_id: str, *, timeout: float = 30.0
    ) -> PubAck:
        """Have the server publish `payload` on `target` at `at` (seconds since 1970); `subject` names the schedule.

        The server looks at its schedules four times a second: one that is due within less than 0.5 s, or past, comes up
        to 0.25 s late. A schedule on the same subject replaces the earlier one.
        """
        return await self.publish(
            stream, subject, payload, msg_id, headers=schedule_headers(at, target), timeout=timeout
        )

    async def cancel_schedule(self, stream: str, subject: str) -> bool:
        """Cancel the schedule `subject`; false when there is none any more."""
        return await self.purge(stream, subject) > 0

    async def purge(self, stream: str, subject: str) -> int:
        """Remove all messages of a subject (wildcards allowed); how many."""
        return await direct.purge(self.link, stream, subject)

    # reading ----------------------------------------------------------------------------------------------------------

    def read(
        self,
        stream: str,
        filters: str | list[str],
        start_seq: int,
        on_messages: OnMessages,
        *,
        ready: Callable[[], bool] | None = None,
    ) -> Reader:
        """Read in order from `start_seq` on, for ever; see `Reader`.

        Args:
            filters: subjects, with wildcards, that do not overlap. One is five times as fast as several: the server
            walks
                its index once for each message and filter.
            on_messages: called with what has arrived, from a plain callback of the event loop, never concurrently. If
            it
                raises, that is logged and its messages count as delivered.
            ready: asked before; while it is false nothing is delivered.
        """
        subjects = [filters] if isinstance(filters, str) else list(filters)
        return Reader(self.link, stream, subjects, start_seq, on_messages, ready)

    async def get_batch(
        self,
        stream: str,
        subject_filter: str,
        start_seq: int,
        *,
        batch: int = direct.BATCH,
        max_bytes: int = direct.BATCH_BYTES,
        timeout: float = 10.0,
    ) -> tuple[list[Received], int]:
        """Up to `batch` messages that match, from `start_seq` on, and how many more do. A follower may answer."""
        return await direct.get_batch(
            self.link, stream, subject_filter, start_seq, batch=batch, max_bytes=max_bytes, timeout=timeout
        )

    async def history(
        self, stream: str, subject: str, start_seq: int = 1, up_to: int | None = None, *, timeout: float = 30.0
    ) -> list[Received]:
        """All messages of a subject from `start_seq` on; with `up_to` at least to there, even if a follower is late."""
        return await direct.history(self.link, stream, subject, start_seq, up_to, timeout)

    async def last(self, stream: str, subject: str) -> Received | None:
        """The last message of a subject (wildcards allowed), as the leader knows it."""
        return await direct.last(self.link, stream, subject)

    async def last_seq(self, stream: str) -> int:
        """The last sequence of a stream, as the leader knows it."""
        return await direct.last_seq(self.link, stream)

    async def subjects(self, stream: str, subject_filter: str) -> dict[str, int]:
        """The subjects that match, with their numbers of messages, as the leader knows them."""
        return await direct.subjects(self.link, stream, subject_filter)

    async def consumer(
        self,
        stream: str,
        name: str,
        filters: str | list[str] | None = None,
        *,
        ack_wait: float = 2.0,
        max_ack_pending: int = 1000,
        max_deliver: int = -1,
        **options: Any,
    ) -> PullConsumer:
        """Create or update the durable pull consumer `name`, to fetch from; `options`: more fields of its config."""
        subjects = [filters] if isinstance(filters, str) else list(filters or [])
        limits = {"ack_wait": int(ack_wait * 1e9), "max_ack_pending": max_ack_pending, "max_deliver": max_deliver}
        return await ensure_consumer(self.link, stream, name, subjects, {**limits, **options})

    # buckets and values -----------------------------------------------------------------------------------------------

    def kv(self, bucket: str) -> Bucket:
        """A key-value bucket."""
        return Bucket(self, bucket)

    async def put_value(self, data: bytes) -> str:
        """Store a large value; its key, which is its SHA-256."""
        return await values.put_value(self, data)

    async def get_value(self, key: str) -> bytes:
        """A large value by its key; raises `ValueMissing`."""
        return await values.get_value(self, key)

    # requests ---------------------------------------------------------------------------------------------------------

    async def request(self, subject: str, payload: bytes = b"", *, timeout: float = 10.0) -> bytes:
        """Ask the JetStream API; repeated over reconnects and changes of leader, so ask only what may be asked twice.

        Raises `ApiError` for what the API refuses, `Unreachable` after `timeout` seconds, `AccessDenied`.
        """
        return await self.link.request(subject, payload, timeout=timeout)

    async def core_request(self, subject: str, payload: bytes, *, timeout: float = 2.0) -> bytes:
        """One request over core NATS, sent once; raises `Unreachable`."""
        return await self.link.core_request(subject, payload, timeout=timeout)


def schedule_headers(at: float, target: str) -> dict[str, str]:
    """Headers that make a message a schedule: its body comes on `target` (same stream) at `at` (seconds since 1970).

    What comes carries the schedule's own headers, but for `Nats-Msg-Id`, and `Nats-Scheduler` with the schedule's
    subject.
    """
    moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"Nats-Schedule": f"@at {moment}", "Nats-Schedule-Target": target}
