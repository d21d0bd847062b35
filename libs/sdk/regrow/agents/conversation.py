"""The conversation of an agent: messages to it, its turns, its tool calls with their results, its usage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from regrow_protocol.agents import Entry, Page

from ..codec import from_raw

PAGE = 100
"""Entries that are asked for at once."""


@dataclass(frozen=True)
class AgentEvent:
    """An entry of a conversation.

    Attributes:
        type: `message` (to the agent), `call`, `result`, `text` (what the model said), `turn`, `usage`, `note`,
            `registered`, `lost`, `stalled`, `ended`.
        data: JSON; see `regrow_protocol.agents.EntryType`.
        seq: its place in the stream; it grows, with gaps.
        time: seconds since 1970.
        session: of the harness, from 1; 0 where there was none.
        call: what a `call` and its `result` have in common.
    """

    type: str
    data: Any
    seq: int
    time: float
    session: int = 0
    call: str = ""

    @classmethod
    def of(cls, entry: Entry) -> AgentEvent:
        """The entry that was recorded."""
        return cls(entry.type, from_raw(entry.data), entry.seq, entry.time, entry.session, entry.call)


class Conversation:
    """`worker.events`: iterate it, from the first entry to the agent's end, as often as you like.

    It is read by pages, each an operation of the process that is recorded once.

    Args:
        read: asks for a page: (after, wait, most).
    """

    def __init__(self, read: Callable[[int, bool, int], Awaitable[Page]]) -> None:
        self._read = read

    def __aiter__(self) -> AsyncIterator[AgentEvent]:
        return self.after(0)

    async def after(self, seq: int) -> AsyncIterator[AgentEvent]:
        """What follows the entry `seq`, to the agent's end."""
        while True:
            page = await self._read(seq, True, PAGE)
            for entry in page.entries:
                seq = entry.seq
                yield AgentEvent.of(entry)
            if page.ended:
                return

    async def so_far(self, after: int = 0) -> list[AgentEvent]:
        """What there is by now, from the first entry or `after` one."""
        found: list[AgentEvent] = []
        while True:
            page = await self._read(found[-1].seq if found else after, False, PAGE)
            found += [AgentEvent.of(entry) for entry in page.entries]
            if page.ended or not page.entries:
                return found
