"""How much of a streamed output was sent, so that a manager that takes a command over goes on there.

Noted now and then: what was sent after the last note is sent again, and dropped by who gets it.
"""

from __future__ import annotations

import asyncio

import msgspec
from regrow_protocol.bus import Bus
from regrow_protocol.messages import Command
from regrow_protocol.subjects import token

from .once import BUCKET

EVERY = 1.0
"""Seconds between two notes; output that has ended before costs none."""

KEEP = 86_400.0
CHANNELS = ("stdout", "stderr")


class Progress:
    """Of one command."""

    def __init__(self, bus: Bus, command: Command) -> None:
        self._kv = bus.kv(BUCKET)
        self._key = f"sent.{token(command.app)}.{command.id}"
        self._sent = [0, 0]
        self._noted = asyncio.get_running_loop().time()

    async def read(self) -> tuple[int, int]:
        """Bytes of stdout and stderr that were sent for sure."""
        found = await self._kv.get(self._key)
        if found is not None:
            self._sent = msgspec.json.decode(found[0], type=list[int])
        return self._sent[0], self._sent[1]

    async def sent(self, channel: str, end: int) -> None:
        """All before byte `end` of a channel was sent."""
        self._sent[CHANNELS.index(channel)] = end
        now = asyncio.get_running_loop().time()
        if now - self._noted >= EVERY:
            self._noted = now
            await self._kv.put(self._key, msgspec.json.encode(self._sent), ttl=KEEP)
