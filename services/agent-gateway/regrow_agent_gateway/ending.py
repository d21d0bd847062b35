"""The end of agents: told in the conversation, written into the record, its keys removed.

In this order, each step being nothing the second time: whoever was killed in between is followed by another gateway
that does the same again. From the record's change on the token opens nothing, and every gateway closes its doors.
"""

from __future__ import annotations

import time

from msgspec.structs import replace
from regrow_protocol.agents import BUCKET, AgentRecord
from regrow_service.logs import get_logger

from .context import Context
from .conversations import entry
from .enrolling import Enrolling
from .records import ENDED
from .stall_keys import stall_key
from .usage import Sums

MARK = 60.0


class Ending:
    """Of one gateway."""

    def __init__(self, context: Context, sums: Sums) -> None:
        self._here = context
        self._sums = sums
        self._kv = context.bus.kv(BUCKET)
        self._log = get_logger("ending")

    async def end(self, agent: AgentRecord, reason: str) -> None:
        """End an agent, unless it has.

        Raises:
            Unreachable: it may or may not have ended; call again.
        """
        here = self._here
        await self._sums.sum(agent)
        await here.conversations.add(agent, entry("ended", "ended", {"reason": reason}, session=agent.session))

        def ended(now: AgentRecord) -> AgentRecord | None:
            return None if now.state == ENDED else replace(now, state=ENDED, reason=reason, ended=time.time())

        _, changed = await here.records.change(agent.id, ended)
        await self._kv.purge(stall_key(agent.id), marker_ttl=MARK)
        name = Enrolling.name_key(agent)
        held = await self._kv.get(name)
        if held is not None and held[0].decode() == agent.id:
            await self._kv.purge(name, marker_ttl=MARK)
        if changed:
            self._log.info("agent ended", agent=agent.id, name=agent.name, reason=reason)
