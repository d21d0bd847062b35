"""Durable pull consumption, for services: each message is delivered until it is acknowledged.

One pull request is kept open at the server for as long as somebody fetches; it carries heartbeats, so a lost one (a
restarted server, a changed leader) is noticed and made again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from nats.nuid import NUID

from ..errors import AccessDenied
from .wire import Received, ack_parts, as_json, delivery_count, pub, status_of

if TYPE_CHECKING:
    from .link import Link

EXPIRES = 30.0
HEARTBEAT = 0.5
SILENT_TICKS = 7


class Delivery:
    """A message to be handled.

    Attributes:
        message: the message.
        attempts: how often it was delivered, this time included.
    """

    __slots__ = ("_link", "_reply", "attempts", "message")

    def __init__(self, link: Link, message: Received, attempts: int, reply: str) -> None:
        self._link = link
        self._reply = reply
        self.message = message
        self.attempts = attempts

    def ack(self) -> None:
        """It is handled. Not confirmed: if this is lost, the message comes again."""
        self._answer(b"+ACK")

    async def ack_confirmed(self, timeout: float = 5.0) -> None:
        """It is handled, and the server knows; raises `Unreachable`.

        The server writes this down a moment later: if it is killed within that, the message comes again all the same.
        """
        await self._link.core_request(self._reply, b"+ACK", timeout=timeout)

    def nak(self, delay: float = 0.0) -> None:
        """Deliver it again, after `delay` seconds."""
        self._answer(b"-NAK" + (b" " + as_json({"delay": int(delay * 1e9)}) if delay > 0 else b""))

    def term(self, reason: str = "") -> None:
        """Never deliver it again."""
        self._answer(f"+TERM {reason}".strip().encode())

    def in_progress(self) -> None:
        """It is still being worked on: the server's ack wait starts anew."""
        self._answer(b"+WPI")

    def _answer(self, body: bytes) -> None:
        self._link.nc.send(pub(self._reply, "", body))


class PullConsumer:
    """A durable consumer; make it with `Bus.consumer`."""

    def __init__(self, link: Link, stream: str, name: str) -> None:
        self.stream = stream
        self.name = name
        self._link = link
        self._buffer: deque[Delivery] = deque()
        self._arrival = asyncio.Event()
        self._open = 0
        self._number = 0
        self._silent = 0
        self._closed = False
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        self._inbox = f"_INBOX.{NUID().next().decode()}"
        link.parties.add(self)
        self._sid = link.nc.raw_subscribe(f"{self._inbox}.*", self._arrived)

    async def fetch(self, batch: int = 64, timeout: float = 5.0) -> list[Delivery]:
        """What is there, up to `batch`; waits up to `timeout` seconds for the first one, then returns []."""
        try:
            async with asyncio.timeout(timeout):
                while not self._buffer and not self._closed:
                    await self._link.up()
                    if self._open <= 0:
                        self._pull(batch)
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            return []
        return [self._buffer.popleft() for _ in range(min(batch, len(self._buffer)))]

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while not self._closed:
            for delivery in await self.fetch():
                yield delivery

    async def close(self) -> None:
        """Fetch no more. What was fetched and not acknowledged is delivered again, to whoever fetches next."""
        self._closed = True
        self._link.parties.discard(self)
        self._link.nc.raw_unsubscribe(self._sid)
        for delivery in self._buffer:
            delivery.nak()
        self._buffer.clear()
        self._arrival.set()

    def restored(self) -> None:
        """The connection is back: pull anew."""
        self._open = 0
        self._arrival.set()

    def refused(self, subject: str) -> None:
        """A pull that may not be made is never answered: say so, and try again later."""
        if subject == self._next:
            self._link.problem(self.stream, AccessDenied(f"No permission to publish on {subject}"))

    def tick(self, now: float) -> None:
        """Too long without a sign of life: pull anew."""
        if self._open > 0:
            self._silent += 1
            if self._silent > SILENT_TICKS:
                self.restored()

    def _pull(self, batch: int) -> None:
        self._silent = 0
        self._open = batch
        self._number += 1
        body = as_json({"batch": batch, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)})
        reply = f"{self._inbox}.{self._number}"
        self._link.nc.send(pub(self._next, reply, body))

    def _arrived(self, subject: bytes, reply: bytes, headers: bytes | None, data: bytes) -> None:
        self._silent = 0
        if not reply.startswith(b"$JS.ACK."):
            # 100 is a heartbeat; 408, 409, 503: that pull has ended, the present one or an earlier one
            if status_of(headers) != 100 and subject.endswith(b".%d" % self._number):
                self._open = 0
                asyncio.get_running_loop().call_later(0.05, self._arrival.set)
            return
        if self._closed:
            self._link.nc.send(pub(reply.decode(), "", b"-NAK"))
            return
        seq, number, time, pending = ack_parts(reply)
        message = Received(subject.decode("utf-8", "replace"), seq, time, data, headers, number, pending)
        self._buffer.append(Delivery(self._link, message, delivery_count(reply), reply.decode()))
        self._open -= 1
        self._arrival.set()


async def ensure_consumer(
    link: Link, stream: str, name: str, filters: list[str], options: dict[str, Any]
) -> PullConsumer:
    """Create or update the durable consumer `name`."""
    config = {"durable_name": name, "name": name, "ack_policy": "explicit", "deliver_policy": "all", **options}
    if filters:
        config["filter_subjects"] = filters
    await link.request(
        f"$JS.API.CONSUMER.CREATE.{stream}.{name}", as_json({"stream_name": stream, "config": config, "action": ""})
    )
    return PullConsumer(link, stream, name)
