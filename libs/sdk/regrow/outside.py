"""Machines and agents from outside of processes: for scripts, the command line and tests.

Inside `async with acting(client, app)` everything of `regrow.machines` works as in a body, and what anybody may do with
an agent (`Agent.of(record)`: send, describe, its conversation), with grants and with connections of agents; but nothing
is journalled: who is killed here has to look for their machines themselves (`regrow machines`). A machine made here has
no owner: it lives until it is stopped. An agent cannot be made here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Raw, Struct
from regrow_protocol import messages as m
from regrow_protocol import streams
from regrow_protocol.errors import RegrowError

from . import scope
from .client import Client, is_chunk
from .codec import from_raw
from .commanding import Asked, Feed
from .errors import raised
from .operations import StepPolicy


class Outside:
    """The scope of a client.

    Attributes:
        app: that the machines and agents belong to.
    """

    given_image = None
    snapshot_on_failure = False
    replaying = False
    belongings = None

    def __init__(self, client: Client, app: str) -> None:
        self.app = app
        self._client = client
        self._asking: set[asyncio.Task[Any]] = set()

    @property
    def clock(self) -> float:
        """Real time."""
        return time.time()

    def command(
        self, name: str, subject: str, args: Struct, type_: Any, base: type[RegrowError], feed: Feed | None = None,
        *, compared: bytes | None = None,
    ) -> Asked:  # fmt: skip
        """As that of a process."""
        del compared
        n, reply = self._client.next_request()
        command = self._command(name, args, n, reply)
        asking = asyncio.get_running_loop().create_task(self._ask(subject, command, n, type_, base, feed))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return Asked(command.id, asking)

    def _command(self, name: str, args: Struct, n: int, reply: str) -> m.Command:
        id_ = f"{self._client.id}.{n}"
        return m.Command(id=id_, app=self.app, name=name.partition(".")[2], args=Raw(m.encode(args)), reply=reply)

    async def _ask(
        self, subject: str, command: m.Command, n: int, type_: Any, base: type[RegrowError], feed: Feed | None
    ) -> Any:
        client = self._client
        since = client.bus.connected_since
        pieces = _Pieces(feed) if feed is not None else None
        payload = await client.payload(command)
        answer = await client.ask(streams.COMMANDS, subject, payload, n, pieces.push if pieces is not None else None)
        if pieces is not None and (pieces.gap or client.bus.connected_since != since):
            for received in await client.bus.history(streams.REPLIES, command.reply):
                if is_chunk(received.data):
                    pieces.push(m.decode(received.data, m.Chunk))
        if answer.error is not None:
            raise raised(base, answer.error)
        return from_raw(answer.value, type_) if isinstance(answer.value, Raw) else None

    def tell(self, name: str, subject: str, args: Struct, *, compared: bytes | None = None) -> None:
        """As that of a process."""
        del compared
        n, _ = self._client.next_request()
        command = self._command(name, args, n, "")
        self._client.bus.publish_soon(streams.COMMANDS, subject, m.encode(command), command.id)

    async def step(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], policy: StepPolicy
    ) -> Any:
        """Run it: nothing is recorded here."""
        del policy
        result = function(*args, **kwargs)
        return await result if asyncio.iscoroutine(result) else result

    async def close(self) -> None:
        """Wait for nothing any more."""
        for asking in self._asking:
            asking.cancel()
        if self._asking:
            await asyncio.wait(self._asking)


class _Pieces:
    """Hands pieces on, and notices when one is missing."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._taken: dict[str, int] = {}
        self.gap = False

    def push(self, chunk: m.Chunk) -> None:
        taken = self._taken.get(chunk.channel, 0)
        if chunk.offset > taken:
            self.gap = True
            return
        self._taken[chunk.channel] = max(taken, chunk.offset + len(chunk.data))
        self._feed.push(chunk.channel, chunk.offset, chunk.data)


@asynccontextmanager
async def acting(client: Client, app: str) -> AsyncGenerator[Outside]:
    """Use machines and agents of `app` through `client`."""
    outside = Outside(client, app)
    here, bus = scope.ambient.set(outside), scope.bus.set(client.bus)
    try:
        yield outside
    finally:
        scope.ambient.reset(here)
        scope.bus.reset(bus)
        await outside.close()
