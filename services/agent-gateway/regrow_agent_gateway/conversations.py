"""Conversations of agents in their stream: entries are added once each, and read in their order."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol import messages, values
from regrow_protocol.agents import AgentRecord, Entry, conversation, entry_key, entry_subject
from regrow_protocol.bus import Bus, Received
from regrow_protocol.errors import Unreachable, WrongRevision
from regrow_protocol.streams import AGENTS
from regrow_service.logs import get_logger

PUBLISH_TIMEOUT = 10.0
FIRST = {"Nats-Expected-Last-Subject-Sequence": "0"}
_log = get_logger("conversations")


class Stored(NamedTuple):
    """Where an entry stands.

    Attributes:
        seq: its sequence.
        new: it did not stand there before.
    """

    seq: int
    new: bool


def entry(type_: str, id_: str, data: Any = None, *, session: int = 0, call: str = "") -> Entry:
    """An entry that is made now; `data` is anything that is encoded as a JSON object."""
    body = data if isinstance(data, Raw) else Raw(messages.encode(data if data is not None else {}))
    return Entry(id=id_, type=type_, time=time.time(), data=body, session=session, call=call)


class Conversations:
    """Over one bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def add(self, agent: AgentRecord, new: Entry) -> Stored:
        """Add an entry, unless one of its type and id stands; where it stands.

        Raises:
            Unreachable: it may or may not stand; call again.
            PublishRejected: it never will.
        """
        key = new.call or entry_key(new.id)
        subject = entry_subject(agent.app, agent.id, new.type, key)
        small, blobs = values.deflate(new)
        for blob in blobs:
            await self._bus.put_value(blob)
        try:
            ack = await self._bus.publish(
                AGENTS,
                subject,
                messages.encode(small),
                f"{agent.id}.{new.type}.{key}",
                headers=FIRST,
                timeout=PUBLISH_TIMEOUT,
                withdraw=True,
            )
        except WrongRevision:
            found = await self._bus.last(AGENTS, subject)
            if found is None:
                raise Unreachable(f"{subject} was written and is not there", hint="try again") from None
            return Stored(found.seq, new=False)
        return Stored(ack.seq, new=not ack.duplicate)

    async def last(self, agent: AgentRecord, type_: str, key: str = "*") -> Entry | None:
        """The last entry of a type, or the one with a key."""
        found = await self._bus.last(AGENTS, entry_subject(agent.app, agent.id, type_, key))
        return None if found is None else await self.read(found)

    async def page(self, app: str, agent: str, after: int, most: int) -> tuple[list[Entry], int]:
        """Entries after a sequence, and how many more there are. A follower that is behind may answer."""
        found, left = await self._bus.get_batch(AGENTS, conversation(app, agent), after + 1, batch=most)
        read = [await self.read(received) for received in found]
        return [each for each in read if each is not None], left

    async def read(self, received: Received) -> Entry | None:
        """An entry as it was stored, whole, with its sequence; None, with a line in the log, for what is none."""
        found = plain(received)
        if found is not None and values.has_blob(received.data):
            found = await values.inflate(found, self._bus.get_value)
        return found


def plain(received: Received) -> Entry | None:
    """As `Conversations.read`, but what is large in it is only named."""
    try:
        found = messages.decode(received.data, Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("an entry that does not decode", subject=received.subject, seq=received.seq, reason=str(error))
        return None
    return replace(found, seq=received.seq)
