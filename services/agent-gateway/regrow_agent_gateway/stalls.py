"""Agents of which nothing was heard for too long are told to their owners as `stalled`, once for each silence.

A key of the agent expires `stall_after` seconds after its last sign of life; the mark that NATS then writes is what
gateways act on. Those that were away find it when they come back, and what has no mark any more by looking: an agent
without a key, whose last sign of life is too old. However it is found, and by however many, the entry's id is made from
that last sign, so that it is told once.
"""

from __future__ import annotations

import asyncio
import time

from regrow_protocol.agents import BUCKET, AgentRecord, entries_of
from regrow_protocol.bus import Entry
from regrow_protocol.errors import RegrowError
from regrow_protocol.streams import AGENTS
from regrow_service.logs import get_logger

from . import news
from .context import Context
from .conversations import entry
from .measures import STALLED
from .stall_keys import stall_key

SIGNS = ("registered", "turn", "text", "call", "usage", "note", "result")
"""Entries that show that an agent goes on."""
OFTEN = 0.1
"""Part of `stall_after` after which a key is written anew."""
SWEEP = 30.0


class Stalls:
    """Of one gateway; `run` watches."""

    def __init__(self, context: Context) -> None:
        self._here = context
        self._kv = context.bus.kv(BUCKET)
        self._renewed: dict[str, float] = {}
        self._told: dict[str, int] = {}
        self._log = get_logger("stalls")

    def heard(self, agent: AgentRecord) -> None:
        """A sign of life of an agent: its key lasts for as long again."""
        if agent.stall_after is None:
            return
        now = asyncio.get_running_loop().time()
        if now - self._renewed.get(agent.id, -1e9) >= agent.stall_after * OFTEN:
            self._renewed[agent.id] = now
            self._here.background(self._renew(agent, agent.stall_after), "renew a stall key")

    async def _renew(self, agent: AgentRecord, seconds: float) -> None:
        try:
            await self._kv.put(stall_key(agent.id), b"", ttl=seconds)
        except RegrowError as error:
            self._renewed.pop(agent.id, None)
            self._log.warning("a sign of life was not noted", agent=agent.id, reason=str(error))

    async def run(self) -> None:
        """Watch, for ever; may be cancelled at any moment."""
        watcher = self._kv.watch("stall.*", self._entry)
        try:
            await watcher.current
            while True:
                try:
                    await self.sweep()
                except (RegrowError, TimeoutError) as error:
                    self._log.warning("agents could not be looked at", reason=str(error))
                await asyncio.sleep(SWEEP)
        finally:
            await watcher.stop()

    def _entry(self, found: Entry) -> None:
        if found.operation == "expired":
            id_ = found.key.partition(".")[2]
            self._renewed.pop(id_, None)
            self._here.background(self._look_safely(id_), "look at a silent agent")

    async def sweep(self) -> None:
        """Look at all agents that have no key."""
        agents = [kept.record for kept in self._here.records.agents.values()]
        watched = [agent for agent in agents if agent.stall_after is not None and agent.state == "running"]
        if not watched:
            return
        keys = set(await self._kv.keys("stall.*"))
        for agent in watched:
            if stall_key(agent.id) not in keys:
                await self.look(agent)

    async def _look_safely(self, id_: str) -> None:
        agent = self._here.records.live(id_)
        try:
            if agent is not None:
                await self.look(agent)
        except RegrowError as error:  # found again by the sweep
            self._log.warning("a silent agent could not be looked at", agent=id_, reason=str(error))

    async def look(self, agent: AgentRecord) -> None:
        """Tell of an agent that is silent for too long, unless that was told."""
        if agent.stall_after is None or agent.state != "running" or await self._kv.get(stall_key(agent.id)) is not None:
            return
        seq, at = await self._last_sign(agent)
        silent = time.time() - at
        if self._told.get(agent.id) == seq:
            return
        if silent < agent.stall_after - 0.5:  # whoever heard the sign could not write the key
            await self._renew(agent, agent.stall_after - silent)
            return
        stalled = entry("stalled", str(seq), {"seconds": agent.stall_after}, session=agent.session)
        stored = await self._here.conversations.add(agent, stalled)
        await news.tell(self._here.inboxes, agent, stalled)
        self._told[agent.id] = seq
        if stored.new:
            self._here.metrics[STALLED].inc()
            self._log.info("an agent is silent", agent=agent.id, seconds=round(silent, 1))

    async def _last_sign(self, agent: AgentRecord) -> tuple[int, float]:
        """Sequence and time of the last entry that shows that an agent goes on."""
        bus = self._here.bus
        found = await asyncio.gather(*[bus.last(AGENTS, entries_of(agent.app, agent.id, type_)) for type_ in SIGNS])
        return max(((each.seq, each.time) for each in found if each is not None), default=(0, agent.created))
