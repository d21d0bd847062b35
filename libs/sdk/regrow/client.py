"""A client of processes, outside all of them: start, watch, call, cancel.

Events and replies come over core subscriptions; the streams are read only to catch up, so any number of clients may
watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw, Struct
from regrow_protocol import ids, streams, subjects, values
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, Unreachable, WrongRevision
from regrow_protocol.images import Image

from .apps import ensure_build
from .clock import Clock
from .codec import from_raw, to_raw
from .errors import CallFailed, InvalidArguments, ProcessNotFound, execution_failed, raised
from .failures import failure_in
from .handle import Event, Wait

log = logging.getLogger("regrow.client")

CATCH_UP_EVERY = 2.0
STORED_POLL = 0.002
STORED_PATIENCE = 5.0
"""Seconds that the end of a process is held back until it is stored."""


def is_chunk(data: bytes) -> bool:
    """Whether what came to a reply subject is a piece of the answer, and not the answer."""
    return data.startswith(b'{"kind":"chunk"')


class RemoteProcess:
    """A process as a client sees it.

    Attributes:
        pid: its id.
        app: its app.
    """

    def __init__(self, client: Client, app: str, pid: str, result_type: Any = Any) -> None:
        self._client = client
        self.app = app
        self.pid = pid
        self.result_type = result_type

    def __repr__(self) -> str:
        return f"RemoteProcess({self.pid!r})"

    def events(self, *, follow: bool = True) -> AsyncIterator[Event]:
        """Its events from the first; to its end, or with `follow=False` those that are there."""
        return self._client.events(self.app, self.pid, follow=follow)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for its end; its result, or ExecutionFailed. TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            async for record in self._client.records(self.app, self.pid):
                if record.final:
                    return outcome_of_record(record, self.result_type)
        raise ProcessNotFound(f"Process {self.pid} has no outcome")

    async def call(self, endpoint: str, /, *, wait: Wait = False, timeout: float | None = 30.0, **kwargs: Any) -> Any:
        """Call an endpoint; raises what `ProcessHandle.call` does, and TimeoutError after `timeout` seconds."""
        return await self._client.call(self.app, self.pid, endpoint, kwargs, wait=wait, timeout=timeout)

    async def signal(self, name: str, data: Any = None) -> None:
        """Send it a signal; returns when that is stored."""
        subjects.token(name)
        client = self._client
        n, _ = client.next_request()
        raw = to_raw(data, f"The data of signal {name!r}")
        signal = m.Signal(name=name, data=raw, client=client.id, k=n)
        await client.send(self.app, self.pid, signal, msg_id=f"{client.id}.{n}")

    async def cancel(self, reason: str = "") -> None:
        """Ask it to end as cancelled, its children first."""
        await self._client.send(self.app, self.pid, m.Cancel(reason=reason))

    async def status(self) -> str:
        """`waiting` (no host has taken it up yet), `running`, `done`, `failed` or `cancelled`."""
        last = await self._client.bus.last(streams.EVENTS, subjects.events_of(self.app, self.pid))
        if last is None:
            return "waiting"
        record = event_record(last.data)
        return record.type if record is not None and record.final else "running"


def outcome_of_record(record: m.EventRecord, type_: Any = Any) -> Any:
    """The result that a final event tells, or its failure raised."""
    if record.type == "done":
        try:
            return from_raw(record.data, type_)
        except (msgspec.MsgspecError, NotImplementedError) as error:
            raise InvalidArguments(
                f"The result of process {record.pid} does not fit its annotation: {error}",
                hint="`regrow events PID --json` shows what was recorded",
            ) from error
    if record.type == "failed":
        raise execution_failed(failure_in(from_raw(record.data)), record.pid)
    raise execution_failed(m.Failure("CancelledError", "cancelled", "cancelled"), record.pid)


def event_record(data: bytes) -> m.EventRecord | None:
    """An event as it was recorded; None, with a line in the log, for what does not decode."""
    try:
        return m.decode(data, m.EventRecord)
    except msgspec.MsgspecError as error:
        log.warning("an event does not decode: %s", error)
        return None


async def _next(feed: asyncio.Queue[m.EventRecord], *, wait: bool) -> m.EventRecord:
    """The next one; raises QueueEmpty, or with `wait` TimeoutError when none has come for a while."""
    if not wait:
        return feed.get_nowait()
    async with asyncio.timeout(CATCH_UP_EVERY):  # `wait_for` forgets a cancellation that comes with what it waited for
        return await feed.get()


def _is_final(data: bytes) -> bool:
    record = event_record(data)
    return record is not None and record.final


class Client:
    """One connection's view of the processes.

    Attributes:
        bus: the connection.
        id: of the client; replies come to `regrow.reply.<id>.>`.
    """

    def __init__(self, bus: Bus, *, clock: Clock | None = None) -> None:
        self.bus = bus
        self.id = ids.new_id(ids.CLIENT)
        self._clock = clock or Clock()
        self._n = 0
        self._replies: dict[str, asyncio.Future[m.Reply]] = {}
        self._chunks: dict[str, Callable[[m.Chunk], None]] = {}
        self._partitions: dict[str, int] = {}
        self._builds: set[tuple[str, str]] = set()
        self._sid: int | None = None

    async def partitions_of(self, app: str) -> int:
        """How many partitions an app has; raises ProcessNotFound for an unknown app."""
        if app not in self._partitions:
            found = await self.bus.kv("regrow_partitions").get(f"app.{subjects.token(app)}")
            if found is None:
                raise ProcessNotFound(f"There is no app {app!r}", hint="`regrow ls` lists the processes of all apps")
            self._partitions[app] = m.decode(found[0], m.AppRecord).partitions
        return self._partitions[app]

    async def start(
        self,
        app: str,
        build: str,
        type_: str,
        args: Raw | bytes = b"{}",
        *,
        name: str = "",
        program: m.Program | None = None,
        result_type: Any = Any,
        pid: str = "",
        tags: dict[str, str] | None = None,
        machine: Image | None = None,
        restart: m.Restart = "",
    ) -> RemoteProcess:
        """Start a root process; returns when its start is stored. `restart` goes before its type's."""
        pid = pid or ids.new_id(ids.PROCESS)
        await self._know_build(app, build)
        start = m.Start(
            type=type_, args=Raw(args), build=build, name=name, program=program, tags=tags or {}, fold=m.FOLD,
            machine=machine, restart=restart,
        )  # fmt: skip
        await self.send(app, pid, start, first=True)
        return RemoteProcess(self, app, pid, result_type)

    async def _know_build(self, app: str, build: str) -> None:
        """A build's hosts read from its record on: it must be older than the first start."""
        if (app, build) not in self._builds:
            await ensure_build(self.bus, app, build)
            self._builds.add((app, build))

    async def send(self, app: str, pid: str, message: m.Message, *, first: bool = False, msg_id: str = "") -> int:
        """Put a message into an inbox; its sequence."""
        part = ids.partition_of(pid, await self.partitions_of(app))
        payload = await self.payload(message)
        self._n += 1
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"} if first else None
        try:
            ack = await self.bus.publish(
                streams.inbox_stream(app),
                subjects.inbox(app, part, pid),
                payload,
                msg_id or f"{self.id}.{self._n}",
                headers=headers,
            )
        except WrongRevision:
            if first:
                raise RegrowError(f"There is a process {pid} already") from None
            raise
        return ack.seq

    async def payload(self, message: Struct) -> bytes:
        """Encoded, with large values stored beside."""
        if self._clock.skipped and isinstance(message, m.Message):
            message = msgspec.structs.replace(message, clock=self._clock.now())
        payload = m.encode(message)
        if len(payload) > m.MAX_INLINE:
            message, blobs = values.deflate(message)
            for blob in blobs:
                await self.bus.put_value(blob)
            payload = m.encode(message)
        return payload

    async def find(self, pid: str) -> RemoteProcess:
        """A process by its id; raises ProcessNotFound."""
        last = await self.bus.last(streams.EVENTS, f"regrow.event.*.{pid}.*")
        if last is None:
            raise ProcessNotFound(f"There is no process {pid}", hint="`regrow ls` lists them")
        return RemoteProcess(self, subjects.event_parts(last.subject)[0], pid)

    # Calls ------------------------------------------------------------------------------------------------------------

    async def call(
        self,
        app: str,
        pid: str,
        endpoint: str,
        kwargs: dict[str, Any],
        *,
        wait: Wait = False,
        timeout: float | None = 30.0,
    ) -> Any:
        """Call an endpoint of a process."""
        part = ids.partition_of(pid, await self.partitions_of(app))
        n, reply = self.next_request()
        call = m.Call(
            endpoint=endpoint,
            args=to_raw(kwargs, f"An argument of {endpoint}()"),
            reply=reply,
            client=self.id,
            k=n,
            wait=bool(wait),
            again=wait == "restart",
        )
        payload = await self.payload(call)
        try:
            async with asyncio.timeout(timeout):
                answer = await self.ask(streams.inbox_stream(app), subjects.inbox(app, part, pid), payload, n)
        except TimeoutError:
            raise TimeoutError(
                f"{endpoint}() of {pid} was not answered within {timeout} s: is a host of app {app!r} running?"
            ) from None
        if answer.error is not None:
            raise raised(CallFailed, answer.error)
        return from_raw(answer.value) if isinstance(answer.value, Raw) else None

    def next_request(self) -> tuple[int, str]:
        """The number of the next request, and the subject that its answer comes to."""
        self._n += 1
        return self._n, subjects.reply(self.id, self._n)

    async def ask(
        self, stream: str, subject: str, payload: bytes, n: int, on_chunk: Callable[[m.Chunk], None] | None = None
    ) -> m.Reply:
        """Publish request number `n`, and wait for its answer.

        Args:
            stream, subject, payload: of the request.
            n: from `next_request`.
            on_chunk: gets the pieces of an answer before it is whole; repeats and pieces out of order too.
        """
        self._listen()
        reply = subjects.reply(self.id, n)
        future: asyncio.Future[m.Reply] = asyncio.get_running_loop().create_future()
        self._replies[reply] = future
        if on_chunk is not None:
            self._chunks[reply] = on_chunk

        def published(outcome: Any) -> None:
            if isinstance(outcome, BaseException) and not future.done():
                future.set_exception(outcome)

        try:
            self.bus.publish_soon(stream, subject, payload, f"{self.id}.{n}", done=published)
            return await self._reply(future, reply)
        finally:
            self._replies.pop(reply, None)
            self._chunks.pop(reply, None)

    async def _reply(self, future: asyncio.Future[m.Reply], subject: str) -> m.Reply:
        while True:
            done, _ = await asyncio.wait([future], timeout=CATCH_UP_EVERY)
            if done:
                answer = await future
            else:
                # The subscription may have missed it during a reconnect.
                stored = await self.bus.last(streams.REPLIES, subject)
                if stored is None or is_chunk(stored.data):
                    continue
                answer = m.decode(stored.data, m.Reply)
            return await values.inflate(answer, self.bus.get_value)

    def _listen(self) -> None:
        if self._sid is None:
            self._sid = self.bus.nc.raw_subscribe(f"regrow.reply.{self.id}.>", self._answered)

    def _answered(self, subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        reply = subject.decode()
        future = self._replies.get(reply)
        if future is not None and not future.done():
            try:
                if not is_chunk(data):
                    future.set_result(m.decode(data, m.Reply))
                elif (on_chunk := self._chunks.get(reply)) is not None:
                    on_chunk(m.decode(data, m.Chunk))
            except msgspec.MsgspecError as error:
                future.set_exception(CallFailed(f"The reply does not decode: {error}"))

    # Events -----------------------------------------------------------------------------------------------------------

    async def records(self, app: str, pid: str, *, follow: bool = True) -> AsyncIterator[m.EventRecord]:
        """The recorded events of a process, each once, in order; the final one when it is stored."""
        feed: asyncio.Queue[m.EventRecord] = asyncio.Queue()
        last = 0
        early: dict[int, m.EventRecord] = {}
        filter_ = subjects.events_of(app, pid)

        def arrived(_subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
            if (record := event_record(data)) is not None:
                feed.put_nowait(record)

        sid = self.bus.nc.raw_subscribe(filter_, arrived) if follow else None
        seen, stored = 0, False
        try:
            while True:
                for received in await self.bus.history(streams.EVENTS, filter_, seen + 1):
                    seen = received.seq
                    if (record := event_record(received.data)) is not None:
                        feed.put_nowait(record)
                        stored |= record.final
                while True:
                    try:
                        record = await _next(feed, wait=follow and not early)
                    except (TimeoutError, asyncio.QueueEmpty):
                        break
                    if record.seq > last:
                        early[record.seq] = record
                    while (following := early.pop(last + 1, None)) is not None:
                        last += 1
                        if following.final and not stored:
                            await self._stored(filter_)
                        yield await values.inflate(following, self.bus.get_value)
                        if following.final:
                            return
                if not follow:
                    return
        finally:
            if sid is not None:
                self.bus.nc.raw_unsubscribe(sid)

    async def _stored(self, filter_: str) -> None:
        """Wait until a process's end can be read, too: subscriptions tell what is not stored yet, or will be refused.

        Whoever knows how it ended finds that in its status and its history; where the store is away, later.
        """
        pause = STORED_POLL
        with suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(STORED_PATIENCE):
                while (last := await self.bus.last(streams.EVENTS, filter_)) is None or not _is_final(last.data):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, CATCH_UP_EVERY)

    async def events(self, app: str, pid: str, *, follow: bool = True) -> AsyncIterator[Event]:
        """The events of a process, each once, in order."""
        async for record in self.records(app, pid, follow=follow):
            yield Event.of(record)

    async def close(self) -> None:
        """Stop listening; the connection stays."""
        if self._sid is not None:
            self.bus.nc.raw_unsubscribe(self._sid)
            self._sid = None
