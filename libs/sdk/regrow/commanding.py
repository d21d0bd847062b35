"""Requests of a process to services: commands under their operations' ids, which services answer into the inbox.

A service handles a command once however often it is published, so a replayed body, another host, or a service that was
killed in the middle change nothing. An answer may come in pieces: `Chunk`s before the `Result`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Raw
from regrow_protocol import ids, subjects
from regrow_protocol import messages as m
from regrow_protocol.messages import Op, Ref

from .errors import ProcessGone
from .operations import Output

if TYPE_CHECKING:
    from .process import Process


@dataclass(frozen=True, slots=True)
class Asked:
    """A command that was sent.

    Attributes:
        id: of the command.
        future: its answer.
    """

    id: str
    future: asyncio.Future[Any]


async def taken(asked: Asked, undo: Callable[[Any], None]) -> Any:
    """The answer to a command that makes something.

    Whoever is cancelled while they wait has `undo` called with the answer when it comes.
    """
    try:
        return await asyncio.shield(asked.future)
    except asyncio.CancelledError:
        asked.future.add_done_callback(partial(_undo, undo))
        raise


def _undo(undo: Callable[[Any], None], made: asyncio.Future[Any]) -> None:
    if not made.cancelled() and made.exception() is None:
        with suppress(ProcessGone):
            undo(made.result())


class Feed(Protocol):
    """Takes the pieces of an answer."""

    def push(self, channel: str, offset: int, data: bytes) -> None:
        """The piece of `channel` that begins at byte `offset`."""
        ...


class Commands:
    """The commands of one incarnation."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._feeds: dict[int, Feed] = {}

    def send(self, name: str, subject: str, args: Raw, op: Op, *, id_: str = "", awaited: bool = True) -> None:
        """Publish a command, under the id of its operation or its own; one that is not awaited has no answer."""
        process, env = self._process, self._process.env
        by = Ref(process.pid, process.incarnation, op.n)
        reply = subjects.inbox(env.app, ids.partition_of(process.pid, env.partitions), process.pid) if awaited else ""
        id_ = id_ or f"{process.pid}.{process.incarnation}.{op.n}"
        command = m.Command(id=id_, app=env.app, name=name, args=args, reply=reply, by=by, op=op)
        process.outputs.append(Output("command", subject, command, op.n))

    def feed(self, n: int, feed: Feed) -> None:
        """Hand the pieces of operation `n`'s answer to `feed`."""
        self._feeds[n] = feed

    def chunk(self, message: m.Chunk) -> None:
        """A piece of an answer has come."""
        feed = self._feeds.get(message.op.n)
        if feed is not None:
            feed.push(message.channel, message.offset, message.data)

    def settled(self, n: int) -> None:
        """The answer to operation `n` is whole."""
        self._feeds.pop(n, None)

    def clear(self) -> None:
        """Wait for nothing any more."""
        self._feeds.clear()

    def forget(self) -> None:
        """Its process has left memory."""
        self._feeds.clear()
        del self._process
