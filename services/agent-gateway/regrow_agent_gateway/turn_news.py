"""Owners that watch for stalls hear of turns of their agents: these are progress, though nothing else comes of them."""

from __future__ import annotations

import time

from regrow_protocol.agents import AgentRecord
from regrow_protocol.errors import RegrowError
from regrow_service.logs import get_logger

from . import news
from .context import Context
from .conversations import entry


class Turns:
    """Of one gateway."""

    def __init__(self, context: Context) -> None:
        self._here = context
        self._told: dict[str, int] = {}
        self._log = get_logger("turns")

    def heard(self, agent: AgentRecord) -> None:
        """A turn of an agent; its owner is told once in `turns_every` seconds, whichever gateway hears of it."""
        if not agent.turns_every:
            return
        number = int(time.time() / agent.turns_every)
        if self._told.get(agent.id) != number:
            self._told[agent.id] = number
            self._here.background(self._tell(agent, number), "tell of a turn")

    async def _tell(self, agent: AgentRecord, number: int) -> None:
        try:
            await news.tell(self._here.inboxes, agent, entry("turn", str(number), {}, session=agent.session))
        except RegrowError as error:
            self._told.pop(agent.id, None)
            self._log.warning("an owner was not told of a turn", agent=agent.id, reason=str(error))
