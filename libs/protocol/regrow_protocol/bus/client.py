"""The bus: one connection to NATS JetStream with everything that Regrow's parts need of it.

Publishing is grouped and repeated until acknowledged (`publisher`), reading loses nothing (`reader`), reads that decide
ask the leader (`direct`, `bucket`). The connection comes back by itself, for ever, within a fraction of a second of the
server; nothing that was accepted by `publish_soon` is lost or reordered by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nats.js import JetStreamContext
from nats.nuid import NUID

from ..errors import AccessDenied, PublishRejected, RegrowError, Unreachable
from . import connecting, direct, values
from .bucket import Bucket
from .connection import Connection
from .consumer import PullConsumer, ensure_consumer
from .publisher import Done, Item, Publisher
from .reader import OnMessages, Reader
from .wire import ApiError, PubAck, Received, api_error, as_json, pub, status_of

log = logging.getLogger(__name__)

TICK = 0.25
REQUEST_ATTEMPT = 2.0
PROBLEM_EVERY = 5.0
MUTE = 3.0
"""Seconds of nothing but time-outs and 503 after which a client of a cluster tries another server."""
_TRY_AGAIN = {10008, 10009, 10005}

OnProblem = Callable[[str, RegrowError], None]


class Bus:
    """Make it with `Bus.connect`.

    Attributes:
        nc: the connection (nats-py's client).
        on_problem: called with (stream, error) when something is repeated or waits for long.
    """

    def __init__(self, connection: Connection) -> None:
        self.nc = connection
        self.connected_since = 0.0
        self.on_problem: OnProblem | None = None
        self._on_down: Callable[[], None] | None = None
        self._on_up: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._ids = NUID()
        self._publishers: dict[str, Publisher] = {}
        self._readers: set[Reader] = set()
        self._pulls: set[PullConsumer] = set()
        self._asking: dict[str, set[asyncio.Future[Any]]] = {}
        self._gate: Callable[[], bool] | None = None
        self._gate_open = True
        self._is_up = asyncio.Event()
        self._problems: dict[tuple[str, str], float] = {}
        self._mute_since: float | None = None
        self._closed = False
        self._ticker: asyncio.TimerHandle | None = None
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
        connection = Connection()
        bus = cls(connection)
        bus._on_down, bus._on_up, bus.on_problem = on_down, on_up, on_problem
        await connecting.connect(
            connection, target, name, bus._soon(bus._went_down), bus._soon(bus._came_up), connect_timeout
        )
        connection.on_permission = lambda what, subject: bus._soon(lambda: bus._refused(what, subject))()
        connection.start_replies()
        bus.connected_since = bus._loop.time()
        bus._is_up.set()
        bus._ticker = bus._loop.call_later(TICK, bus._tick)
        return bus

    @property
    def js(self) -> JetStreamContext:
        """nats-py's JetStream context, for what is not here."""
        if self._js is None:
            self._js = self.nc.jetstream()
        return self._js

    @property
    def connected(self) -> bool:
        return self.nc.up

    def gate(self, is_open: Callable[[], bool] | None) -> None:
        """While `is_open()` is false nothing is published, except to buckets. None: always open. See also `kick`."""
        self._gate = is_open
        self.kick()

    def kick(self) -> None:
        """The gate has opened: publish now (it is looked at four times a second anyway)."""
        self._gate_open = self._gate is None or self._gate()
        if self._gate_open:
            for publisher in self._publishers.values():
                publisher.kick()

    async def close(self) -> None:
        """End everything; what waits to be published fails with `Unreachable` (see `drain_publishers`)."""
        if self._closed:
            return
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        for reader in list(self._readers):
            await reader.stop()
        for pull in list(self._pulls):
            await pull.close()
        for publisher in self._publishers.values():
            publisher.close()
        await connecting.close(self.nc)

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
        future: asyncio.Future[PubAck] = self._loop.create_future()

        def done(outcome: PubAck | BaseException) -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        publisher = self._publisher(stream)
        item: Item = publisher.put(subject, payload, msg_id, headers, done)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise Unreachable(
                f"{stream} did not acknowledge within {timeout} s", hint="is the NATS server running?"
            ) from None
        finally:
            if withdraw and not item.settled:
                publisher.withdraw(item)

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

    # schedules --------------------------------------------------------------------------------------------------------

    async def schedule(
        self, stream: str, subject: str, at: float, target: str, payload: bytes, msg_id: str, *, timeout: float = 30.0
    ) -> PubAck:
        """Have the server publish `payload` on `target` at `at` (seconds since 1970); `subject` names the schedule."""
        return await self.publish(
            stream, subject, payload, msg_id, headers=schedule_headers(at, target), timeout=timeout
        )

    async def cancel_schedule(self, stream: str, subject: str) -> bool:
        """Cancel the schedule `subject`; false when there is none any more."""
        return await self.purge(stream, subject) > 0

    async def purge(self, stream: str, subject: str) -> int:
        """Remove all messages of a subject (wildcards allowed); how many."""
        body = await self.request(f"$JS.API.STREAM.PURGE.{stream}", as_json({"filter": subject}))
        return direct.decode_purged(body)

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
            filters: subjects, with wildcards, that do not overlap.
            on_messages: called with what has arrived, from a plain callback of the event loop, never concurrently. If
            it
                raises, that is logged and its messages count as delivered.
            ready: asked before; while it is false nothing is delivered.
        """
        subjects = [filters] if isinstance(filters, str) else list(filters)
        reader = Reader(self, stream, subjects, start_seq, on_messages, ready)
        self._readers.add(reader)
        return reader

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
            self, stream, subject_filter, start_seq, batch=batch, max_bytes=max_bytes, timeout=timeout
        )

    async def history(
        self, stream: str, subject: str, start_seq: int = 1, up_to: int | None = None, *, timeout: float = 30.0
    ) -> list[Received]:
        """All messages of a subject from `start_seq` on; with `up_to` at least to there, even if a follower is late."""
        return await direct.history(self, stream, subject, start_seq, up_to, timeout)

    async def last(self, stream: str, subject: str) -> Received | None:
        """The last message of a subject (wildcards allowed), as the leader knows it."""
        return await direct.last(self, stream, subject)

    async def last_seq(self, stream: str) -> int:
        """The last sequence of a stream, as the leader knows it."""
        return await direct.last_seq(self, stream)

    async def subjects(self, stream: str, subject_filter: str) -> dict[str, int]:
        """The subjects that match, with their numbers of messages, as the leader knows them."""
        return await direct.subjects(self, stream, subject_filter)

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
        pull = await ensure_consumer(self, stream, name, subjects, {**limits, **options})
        self._pulls.add(pull)
        return pull

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
        pause = 0.02
        problem = "no answer"
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self._up()
                    try:
                        async with asyncio.timeout(min(REQUEST_ATTEMPT, timeout)):
                            headers, body = await self._ask_once(subject, payload)
                    except TimeoutError:
                        self._mute()
                        continue
                    status = status_of(headers)
                    error = None if status else api_error(body)
                    if status == 0 and error is None:
                        self._mute_since = None
                        return body
                    if error is not None and error.code != 503 and error.err_code not in _TRY_AGAIN:
                        raise ApiError(f"{subject}: {error.description}", status=error.code, err_code=error.err_code)
                    problem = error.description if error else f"status {status}"
                    self._mute()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.5)
        except TimeoutError:
            raise Unreachable(
                f"{subject} was not answered within {timeout} s: {problem}", hint="is the NATS server running?"
            ) from None

    async def core_request(self, subject: str, payload: bytes, *, timeout: float = 2.0) -> bytes:
        """One request over core NATS, sent once; raises `Unreachable`."""
        try:
            async with asyncio.timeout(timeout):
                await self._up()
                headers, body = await self._ask_once(subject, payload)
        except TimeoutError:
            raise Unreachable(f"{subject} was not answered within {timeout} s") from None
        if status_of(headers) == 503:
            raise Unreachable(f"Nobody listens on {subject}")
        return body

    async def _ask_once(self, subject: str, payload: bytes) -> tuple[bytes | None, bytes]:
        future: asyncio.Future[tuple[bytes | None, bytes]] = self._loop.create_future()

        def take(_subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
            if not future.done():
                future.set_result((headers, data))

        reply = self.nc.expect(take)
        try:
            self._ask(subject, reply, payload, future)
            return await future
        finally:
            self._asked(subject, future)
            self.nc.forget(reply)

    def _ask(self, subject: str, reply: str, payload: bytes, future: asyncio.Future[Any]) -> None:
        """Send a request whose `future` fails when the server refuses the permission for it."""
        self._asking.setdefault(subject, set()).add(future)
        self.nc.send(pub(subject, reply, payload))

    def _asked(self, subject: str, future: asyncio.Future[Any]) -> None:
        waiting = self._asking.get(subject)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._asking[subject]

    async def _up(self) -> None:
        """Wait until connected."""
        while not self.nc.up:
            if self._closed:
                raise Unreachable("The bus is closed")
            self._is_up.clear()
            await self._is_up.wait()

    async def _find(self, stream: str, subject: str, msg_id: str) -> PubAck | None:
        message = await direct.last(self, stream, subject)
        own = message is not None and message.header("Nats-Msg-Id") == msg_id
        return PubAck(message.seq, duplicate=True) if message is not None and own else None

    async def _last_matching(self, stream: str, filters: list[str]) -> int:
        found = [await direct.last(self, stream, subject) for subject in filters]
        return max((message.seq for message in found if message is not None), default=0)

    def _soon(self, function: Callable[[], None]) -> Callable[[], None]:
        """`function`, called from a plain callback of the event loop instead of from inside nats-py's tasks."""

        def schedule() -> None:
            self._loop.call_soon(function)

        return schedule

    # what happens -----------------------------------------------------------------------------------------------------

    def _publisher(self, stream: str) -> Publisher:
        publisher = self._publishers.get(stream)
        if publisher is None:
            gated = not stream.startswith(("KV_", "OBJ_"))
            publisher = Publisher(self.nc, stream, self._may_flush if gated else _always, self._problem, self._find)
            self._publishers[stream] = publisher
        return publisher

    def _may_flush(self) -> bool:
        if self._gate is None:
            return True
        self._gate_open = self._gate()
        return self._gate_open

    def _went_down(self) -> None:
        if self._closed:
            return
        self._is_up.clear()
        if self._on_down is not None:
            self._on_down()

    def _came_up(self) -> None:
        if self._closed:
            return
        self.connected_since = self._loop.time()
        self._is_up.set()
        for reader in list(self._readers):
            reader.broken()
        for pull in list(self._pulls):
            pull.broken()
        for publisher in self._publishers.values():
            publisher.kick(reconnected=True)
        if self._on_up is not None:
            self._on_up()

    def _refused(self, what: str, subject: str) -> None:
        log.warning("The NATS server refuses the permission to %s %s", what, subject)
        if what != "publish":
            return
        for publisher in self._publishers.values():
            publisher.refused(subject)
        for future in list(self._asking.get(subject, ())):
            if not future.done():
                future.set_exception(AccessDenied(f"No permission to ask {subject}", hint="see the user's permissions"))

    def _problem(self, stream: str, error: RegrowError) -> None:
        now = self._loop.time()
        self._mute()
        if self.on_problem is not None:
            self.on_problem(stream, error)
        key = (stream, error.code)
        if now - self._problems.get(key, -PROBLEM_EVERY) >= PROBLEM_EVERY:
            self._problems[key] = now
            log.warning("%s: %s", stream, error)

    def _mute(self) -> None:
        """An answer was missing, or said that nobody is there."""
        now = self._loop.time()
        if self._mute_since is None:
            self._mute_since = now
        elif now - self._mute_since > MUTE and len(self.nc.servers) > 1 and self.nc.up:
            self._mute_since = None
            log.warning("The NATS server %s does not answer: trying another", self.nc.connected_url)
            self._task = self._loop.create_task(self.nc.force_reconnect())

    def _tick(self) -> None:
        if self._closed:
            return
        self._ticker = self._loop.call_later(TICK, self._tick)
        if not self._gate_open:
            self.kick()
        now = self._loop.time()
        with contextlib.suppress(RuntimeError):
            connecting.revive(self.nc)
        if not self.nc.up:
            return
        self._is_up.set()
        for publisher in list(self._publishers.values()):
            publisher.tick(now)
        for reader in list(self._readers):
            reader.tick()
        for pull in list(self._pulls):
            pull.tick()


def schedule_headers(at: float, target: str) -> dict[str, str]:
    """Headers that make a message a schedule: its body comes on `target` (same stream) at `at` (seconds since 1970)."""
    moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"Nats-Schedule": f"@at {moment}", "Nats-Schedule-Target": target}


def _always() -> bool:
    return True


__all__ = ["Bus", "PublishRejected", "schedule_headers"]
