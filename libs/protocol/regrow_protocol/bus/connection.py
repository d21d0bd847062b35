"""One connection to NATS: nats-py's client with a short way in and out. What Regrow uses below nats-py's surface is
here.

Why: nats-py parses headers of every message, builds a `Msg`, puts it into a queue and lets a task of each subscription
take it out; publishing goes through a queue and a task as well. Here a *raw* subscription's messages are handed over as
bytes to a plain function, called from a plain callback of the event loop (never inside a task), and what is sent is
written at once. A message costs 2.4 us of CPU instead of 12, a publish 0.07 ms instead of 0.12 (benchmarks/bus.py), and
nothing is dropped behind a slow callback.

The assumptions (nats-py is pinned below 2.17; `tests/unit/protocol/test_connection.py` checks them): the client feeds
what it reads to `_ps.parse`, resubscribes all of `_subs` when it reconnects, `_transport.write` writes at once, and
`_process_err`, `_process_op_err`, `_process_msg` are as overridden or used here.

nats-py gives up for good after an error such as `maximum connections exceeded`; this client reconnects after all of
them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from nats import errors as nats_errors
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.nuid import NUID

log = logging.getLogger(__name__)

Handler: TypeAlias = "Callable[[bytes, bytes, bytes | None, bytes], None]"
"""Called with subject, reply subject (or empty), header block (or None) and body."""

_PERMISSION = re.compile(r'Permissions Violation for (Publish|Subscription) to "([^"]*)"', re.IGNORECASE)


class Parser:
    """Splits the server's bytes into messages: those of raw subscriptions go to their handlers, others to nats-py."""

    def __init__(self, client: Connection) -> None:
        self._client = client
        self.reset()

    def reset(self) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take in what was read from the socket."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
        client = self._client
        raw = client.raw
        arrived = client.arrived
        find = data.find
        at = 0
        total = len(data)
        need = 0
        while at < total:
            end = find(b"\r\n", at)
            if end < 0:
                break
            kind = data[at]
            if kind == 77 or kind == 72:  # M(SG), H(MSG)
                args = data[at:end].split()
                body = end + 2
                last = body + int(args[-1])
                if last + 2 > total:
                    need = last + 2 - at
                    break
                head = body + int(args[-2]) if kind == 72 else body
                reply = args[3] if len(args) == (6 if kind == 72 else 5) else b""
                at = last + 2
                headers = data[body:head] if kind == 72 else None
                handler = raw.get(args[2])
                if handler is not None:
                    arrived.append((handler, args[1], reply, headers, data[head:last]))
                else:
                    await client._process_msg(int(args[2]), args[1], reply, data[head:last], headers or b"")
                continue
            line = data[at:end]
            at = end + 2
            await self._control(line)
        if arrived:
            client.schedule_dispatch()
        if at < total:
            rest = data[at:]
            self._parts = [rest]
            self._have = len(rest)
            self._need = need

    async def _control(self, line: bytes) -> None:
        client = self._client
        if line.startswith(b"PING"):
            await client._process_ping()
        elif line.startswith(b"PONG"):
            await client._process_pong()
        elif line.startswith(b"-ERR"):
            await client._process_err(line[4:].decode("utf-8", "replace").strip())
        elif line.startswith(b"INFO"):
            await client._process_info(json.loads(line[4:]))
        elif not line.startswith(b"+OK"):
            raise nats_errors.ProtocolError(f"nats: unknown protocol {line[:40]!r}")


class Connection(Client):
    """nats-py's client, with raw subscriptions, a shared inbox for replies, and writing at once.

    Attributes:
        raw: handlers of raw subscriptions, by subscription id.
        arrived: messages for them that wait for the next dispatch.
        after_dispatch: functions to call once when the present dispatch ends.
        on_permission: called with (`publish` or `subscription`, subject) when the server refuses one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw: dict[bytes, Handler] = {}
        self.arrived: list[tuple[Handler, bytes, bytes, bytes | None, bytes]] = []
        self.after_dispatch: list[Callable[[], None]] = []
        self.on_permission: Callable[[str, str], None] | None = None
        self._ps: Any = Parser(self)
        self._dispatching = False
        self._replies: dict[bytes, Handler] = {}
        self._reply_prefix = f"_INBOX.{NUID().next().decode()}."
        self._reply_cut = len(self._reply_prefix)
        self._tokens = itertools.count(1)

    # in ---------------------------------------------------------------------------------------------------------------

    def start_replies(self) -> None:
        """Subscribe to the shared inbox; once, after connecting."""
        self.raw_subscribe(self._reply_prefix + "*", self._on_reply)

    def raw_subscribe(self, subject: str, handler: Handler, queue: str = "") -> int:
        """Hand the messages on `subject` to `handler`; also after every reconnect. Returns the id to unsubscribe.

        Of the subscribers with the same `queue` one gets each message.
        """
        self._sid += 1
        sid = self._sid
        self._subs[sid] = Subscription(self, sid, subject, queue)
        self.raw[str(sid).encode()] = handler
        self.send(f"SUB {subject} {queue} {sid}\r\n".encode())
        return sid

    def raw_unsubscribe(self, sid: int, *, linger: float = 0.0) -> None:
        """Undo `raw_subscribe`; messages that are on their way are handed over for `linger` seconds more."""
        if self._subs.pop(sid, None) is not None:
            self.send(f"UNSUB {sid}\r\n".encode())
            if linger:
                asyncio.get_running_loop().call_later(linger, self.raw.pop, str(sid).encode(), None)
            else:
                del self.raw[str(sid).encode()]

    def expect(self, handler: Handler) -> str:
        """A fresh reply subject whose messages go to `handler`, until `forget`."""
        token = str(next(self._tokens))
        self._replies[token.encode()] = handler
        return self._reply_prefix + token

    def forget(self, reply: str) -> None:
        """Expect no more on a reply subject."""
        self._replies.pop(reply[self._reply_cut :].encode(), None)

    def _on_reply(self, subject: bytes, reply: bytes, headers: bytes | None, data: bytes) -> None:
        handler = self._replies.get(subject[self._reply_cut :])
        if handler is not None:
            handler(subject, reply, headers, data)

    def schedule_dispatch(self) -> None:
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        arrived, self.arrived = self.arrived, []
        for handler, subject, reply, headers, data in arrived:
            try:
                handler(subject, reply, headers, data)
            except Exception:
                log.exception("The handler of a message on %s failed", subject.decode("utf-8", "replace"))
        after, self.after_dispatch = self.after_dispatch, []
        for function in after:
            try:
                function()
            except Exception:
                log.exception("Handing over messages failed")

    # out --------------------------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Connected at this moment."""
        return self._status == Client.CONNECTED

    def send(self, data: bytes) -> bool:
        """Write protocol bytes at once; false (and nothing is kept) when not connected."""
        if self._status != Client.CONNECTED or self._transport is None:
            return False
        try:
            self._transport.write(data)
        except RuntimeError:  # of uvloop: the socket is closed already, which nats-py will notice in a moment
            return False
        return True

    def abort(self) -> None:
        """Cut the connection now, with what is not written: a peer that reads nothing would keep it open for ever."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def unwritten(self) -> int:
        """Bytes that the peer has not taken yet."""
        writer = getattr(self._transport, "_io_writer", None)
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    @property
    def server_version(self) -> str:
        """Of the server it is, or was last, connected to."""
        return str(self._server_info.get("version", ""))

    @property
    def clustered(self) -> bool:
        """The server is one of a cluster: leaders can change."""
        return bool(self._server_info.get("cluster"))

    async def _attempt_reconnect(self) -> None:
        self.abort()  # nats-py waits until all is written, which a server that stands still never lets happen
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Srv) -> None:
        self.abort()  # the socket of an attempt that failed, which nats-py would leave open
        await super()._connect_to_server(s)

    # errors -----------------------------------------------------------------------------------------------------------

    async def _process_err(self, err_msg: str) -> None:
        found = _PERMISSION.search(err_msg)
        if found:
            if self.on_permission is not None:
                self.on_permission(found[1].lower(), found[2])
            return
        if not self.is_connected:
            await super()._process_err(err_msg.lower())
            return
        error = nats_errors.Error(f"nats: {err_msg}")
        self._err = error
        await self._error_cb(error)
        await self._process_op_err(error)
