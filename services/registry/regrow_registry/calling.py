"""Calls of endpoints on behalf of others: a durable `Call` into the process's inbox, and the answer to it.

The answer comes as a `Reply` on a subject of ours in `REGROW_REPLIES`: heard over a core subscription, looked up in the
stream where it may have been missed. A call with a *key* goes to a subject made from that, and the process takes it
once: whoever repeats it, here or in another registry, gets the same answer for as long as that is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct
from regrow_protocol import ids, messages, subjects, values
from regrow_protocol.agents import Tool
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import EndpointsRecord
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import AppRecord, Call, Reply
from regrow_protocol.streams import REPLIES, inbox_stream
from regrow_service.logs import get_logger
from regrow_service.validation import check

from .records import Records

PUBLISH_TIMEOUT = 10.0
LOOK, LOOK_MAX = 2.0, 60.0
"""Seconds between looks into the stream for an answer: the first, and the longest."""
GRACE = 3.0
"""Seconds that what a process exposes may be on its way here."""
AGAIN = 0.1
KEYED = "registry"
"""In the place of a client in the reply subjects of calls with a key."""


class ProcessNotFound(RegrowError):
    """There is no process of that pid or public name that serves anything."""

    code = "process-not-found"


class EndpointNotFound(RegrowError):
    """The process exposes no endpoint of that name."""

    code = "endpoint-not-found"


class Target(NamedTuple):
    """An endpoint that is called."""

    record: EndpointsRecord
    tool: Tool


class Calling:
    """Of one registry; `open` before use."""

    def __init__(self, bus: Bus, records: Records) -> None:
        self.id = ids.new_id(ids.CLIENT)
        self._bus = bus
        self._records = records
        self._n = 0
        self._waiting: dict[str, set[asyncio.Future[Reply]]] = {}
        self._partitions: dict[str, int] = {}
        self._sids: list[int] = []
        self._log = get_logger("calling")

    def open(self) -> None:
        """Listen for answers."""
        for client in (self.id, KEYED):
            self._sids.append(self._bus.nc.raw_subscribe(f"regrow.reply.{client}.*", self._answered))

    def close(self) -> None:
        """Listen no more."""
        for sid in self._sids:
            self._bus.nc.raw_unsubscribe(sid)
        self._sids.clear()

    # whom -------------------------------------------------------------------------------------------------------------

    async def target(self, endpoint: str, *, pid: str = "", name: str = "", app: str = "") -> Target:
        """The endpoint that is meant; one that is exposed this moment may be on its way here.

        Args:
            endpoint: its name.
            pid: of the process, which is one of `app`; or
            name: its public name.
            app: see `pid`.

        Raises:
            ProcessNotFound, EndpointNotFound: there is none.
        """
        deadline = asyncio.get_running_loop().time() + GRACE
        while True:
            record = await self._process(pid, name, app)
            if record is not None and (tool := record.endpoints.get(endpoint)) is not None:
                return Target(record, tool)
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(AGAIN)
        if record is None:
            what = f"process named {name!r}" if name else f"process {pid}"
            raise ProcessNotFound(
                f"There is no {what} that serves anything", hint="`regrow endpoints` lists what is served"
            )
        raise EndpointNotFound(
            f"{name or pid} exposes no {endpoint!r}; it exposes {', '.join(sorted(record.endpoints)) or 'nothing'}"
        )

    async def _process(self, pid: str, name: str, app: str) -> EndpointsRecord | None:
        if name:
            holder = await self._records.holder(name)
            return await self._records.process(holder.pid) if holder is not None else None
        record = await self._records.process(pid)
        return record if record is not None and record.app == app else None

    # calling ----------------------------------------------------------------------------------------------------------

    async def call(self, target: Target, args: Raw, *, key: str = "") -> Reply:
        """Call an endpoint and wait for its answer, for ever.

        Args:
            target: the endpoint.
            args: JSON object of arguments, as its schema allows.
            key: see above; empty for a call that nobody repeats.

        Raises:
            InvalidArguments: the schema does not allow them; the process hears nothing of it.
            Unreachable, PublishRejected: it may or may not be called.
        """
        check(target.tool, args)
        app, pid = target.record.app, target.record.pid
        if key:
            what = "\0".join([app, pid, target.tool.name, key])
            token = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
            client, k, reply = f"{KEYED}-{token}", 1, subjects.reply(KEYED, token)
        else:
            self._n += 1
            client, k, reply = self.id, self._n, subjects.reply(self.id, self._n)
        call = Call(endpoint=target.tool.name, args=args, reply=reply, client=client, k=k)
        return await self.ask(
            inbox_stream(app), await self._inbox(app, pid), call, f"{client}.{k}", reply, again=bool(key)
        )

    async def ask(
        self, stream: str, subject: str, message: Struct, msg_id: str, reply: str, *, again: bool = False
    ) -> Reply:
        """Publish a message, and wait for the answer on one of our reply subjects.

        Args:
            stream, subject, message, msg_id: what is published.
            reply: `regrow.reply.…` of ours.
            again: it may have been answered already.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(reply, set())
        waiting.add(future)
        try:
            answer = await self._stored(reply) if again else None
            if answer is None:
                message, blobs = values.deflate(message)
                for blob in blobs:
                    await self._bus.put_value(blob)
                await self._bus.publish(
                    stream, subject, messages.encode(message), msg_id, timeout=PUBLISH_TIMEOUT, withdraw=True
                )
                answer = await self._answer(future, reply)
            return await values.inflate(answer, self._bus.get_value)
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(reply) is waiting:
                del self._waiting[reply]

    def next_reply(self) -> str:
        """A reply subject that nobody has used."""
        self._n += 1
        return subjects.reply(self.id, self._n)

    async def _inbox(self, app: str, pid: str) -> str:
        if app not in self._partitions:
            found = await self._bus.kv("regrow_partitions").get(f"app.{subjects.token(app)}")
            if found is None:
                raise ProcessNotFound(f"There is no app {app!r}")
            self._partitions[app] = messages.decode(found[0], AppRecord).partitions
        return subjects.inbox(app, ids.partition_of(pid, self._partitions[app]), pid)

    async def _answer(self, future: asyncio.Future[Reply], reply: str) -> Reply:
        pause = LOOK
        while True:
            await asyncio.wait([future], timeout=pause)
            if future.done():
                return future.result()
            pause = min(pause * 2, LOOK_MAX)
            try:
                stored = await self._stored(reply)
            except RegrowError as error:
                self._log.warning("an answer could not be looked for", reply=reply, reason=str(error))
                pause = LOOK
            else:
                if stored is not None:
                    return stored

    async def _stored(self, reply: str) -> Reply | None:
        last = await self._bus.last(REPLIES, reply)
        return None if last is None else messages.decode(last.data, Reply)

    def _answered(self, subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        futures = self._waiting.get(subject.decode())
        if not futures:
            return
        try:
            answer = messages.decode(data, Reply)
        except msgspec.MsgspecError as error:
            self._log.error("an answer does not decode", subject=subject.decode(), reason=str(error))
            return
        for future in futures:
            if not future.done():
                future.set_result(answer)
