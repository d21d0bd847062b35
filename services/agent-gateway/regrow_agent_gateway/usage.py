"""Tokens and costs, summed per agent.

The sum is in the agent's record with the sequence of the last `usage` entry that is in it, changed by compare-and-set:
each entry counts once, whoever sums and however often. Agents that have used something here are summed a moment later;
what a gateway left behind is summed when the agent is described, ends, or uses something again.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Usage, entries_of
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.streams import AGENTS
from regrow_service.logs import get_logger

from .conversations import Conversations
from .records import Records

PAUSE = 0.5


class Sums:
    """Of one gateway; `run` sums what was used here."""

    def __init__(self, bus: Bus, records: Records, conversations: Conversations) -> None:
        self._bus, self._records, self._conversations = bus, records, conversations
        self._open: set[str] = set()
        self._log = get_logger("usage")

    def used(self, agent: str) -> None:
        """An agent has used something."""
        self._open.add(agent)

    async def run(self) -> None:
        """Sum, for ever; may be cancelled at any moment."""
        while True:
            await asyncio.sleep(PAUSE)
            for id_ in list(self._open):
                self._open.discard(id_)
                try:
                    if (agent := self._records.live(id_)) is not None:
                        await self.sum(agent)
                except RegrowError as error:
                    self._open.add(id_)
                    self._log.warning("not summed yet", agent=id_, reason=str(error))

    async def sum(self, agent: AgentRecord) -> AgentRecord:
        """The agent's record with all that it has used."""
        found = await self._bus.history(AGENTS, entries_of(agent.app, agent.id, "usage"), agent.counted + 1)
        if not found:
            return agent
        each = [(received.seq, _usage(received.data)) for received in found]

        def add(now: AgentRecord) -> AgentRecord | None:
            new = [usage for seq, usage in each if seq > now.counted]
            if not new:
                return None
            total = now.usage or Usage()
            for usage in new:
                total = plus(total, usage)
            return replace(now, usage=total, counted=each[-1][0])

        record, _ = await self._records.change(agent.id, add)
        return record or agent


def plus(sum_: Usage, usage: Usage) -> Usage:
    """A sum with one more; its model is the last that was named."""
    return Usage(
        model=usage.model or sum_.model,
        input=sum_.input + usage.input,
        output=sum_.output + usage.output,
        cache_read=sum_.cache_read + usage.cache_read,
        cache_write=sum_.cache_write + usage.cache_write,
        cost=sum_.cost + usage.cost,
    )


def _usage(data: bytes) -> Usage:
    """The usage in an entry; nothing for what does not decode, which no later sum could do either."""
    try:
        return messages.decode(messages.decode(data, _Data).data, Usage)
    except msgspec.MsgspecError:
        return Usage()


class _Data(msgspec.Struct):
    data: msgspec.Raw
