"""Messages to agents, for the doors that hand them out here.

One reader for the messages to all agents brings them in their order, with their sequences, as soon as they are stored;
what came before an agent's door was opened, and what a slow agent left behind, is read from the stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from regrow_protocol.agents import AgentRecord, Entry, entries_of
from regrow_protocol.bus import Bus, Reader, Received
from regrow_protocol.errors import Unreachable
from regrow_protocol.streams import AGENTS
from regrow_service.logs import get_logger

from .conversations import Conversations

ALL = "regrow.agent.*.*.message.*"
RECENT = 64
"""Messages of an agent that are kept in memory while a door of its is open."""
BATCH = 64
STALE = 0.02
_log = get_logger("mail")


class Mailbox:
    """The messages to one agent, while it has a door open here; make it with `Mail.box`.

    Attributes:
        arrived: set when there may be more; who waits for it clears it.
    """

    def __init__(self, bus: Bus, conversations: Conversations, agent: AgentRecord, since: int) -> None:
        self.arrived = asyncio.Event()
        self._bus, self._conversations = bus, conversations
        self._filter = entries_of(agent.app, agent.id, "message")
        self._since = since
        self._latest = 0
        self._recent: deque[Received] = deque()

    async def open(self) -> None:
        """Learn what came before."""
        last = await self._bus.last(AGENTS, self._filter)
        if last is not None:
            self._latest = max(self._latest, last.seq)

    def put(self, message: Received) -> None:
        """A message has come."""
        self._latest = max(self._latest, message.seq)
        self._recent.append(message)
        if len(self._recent) > RECENT:
            self._since = self._recent.popleft().seq
        self.arrived.set()

    async def after(self, seq: int) -> list[Entry]:
        """Messages after a sequence, the first `BATCH` of them; empty when there are none."""
        while self._latest > seq:
            if seq >= self._since:
                found = [message for message in self._recent if message.seq > seq][:BATCH]
            else:
                found, _ = await self._bus.get_batch(AGENTS, self._filter, seq + 1, batch=BATCH)
                if not found:  # by a follower that is behind
                    await asyncio.sleep(STALE)
                    continue
            read = [await self._conversations.read(message) for message in found]
            if any(read):
                return [each for each in read if each is not None]
            seq = found[-1].seq if found else self._latest
        return []


class Mail:
    """Of one gateway; `run` follows the messages."""

    def __init__(self, bus: Bus, conversations: Conversations) -> None:
        self._bus, self._conversations = bus, conversations
        self._boxes: dict[str, set[Mailbox]] = {}
        self._reader: Reader | None = None
        self._following = asyncio.Event()

    async def run(self) -> None:
        """Follow the messages to all agents, for ever; may be cancelled at any moment."""
        self._reader = self._bus.read(AGENTS, ALL, await self._last() + 1, self._take)
        self._following.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self._reader.stop()

    async def _last(self) -> int:
        while True:
            try:
                return await self._bus.last_seq(AGENTS)
            except Unreachable as error:
                _log.warning("messages are not followed yet", reason=str(error))

    async def followed(self) -> None:
        """Wait until messages are followed."""
        await self._following.wait()

    @asynccontextmanager
    async def box(self, agent: AgentRecord) -> AsyncGenerator[Mailbox]:
        """The messages to an agent, for as long as a door of its is open."""
        assert self._reader is not None, "not followed yet"
        box = Mailbox(self._bus, self._conversations, agent, self._reader.applied)
        boxes = self._boxes.setdefault(agent.id, set())
        boxes.add(box)
        try:
            await box.open()
            yield box
        finally:
            boxes.discard(box)
            if not boxes and self._boxes.get(agent.id) is boxes:
                del self._boxes[agent.id]

    def _take(self, batch: list[Received]) -> None:
        for message in batch:
            for box in self._boxes.get(message.subject.split(".", 4)[3], ()):
                box.put(message)
