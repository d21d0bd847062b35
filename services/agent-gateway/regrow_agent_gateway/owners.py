"""Agents end with the incarnation of the process that owns them.

Events tell that an owner has ended, or began a newer incarnation: a durable consumer that all gateways share. What was
missed, as an agent whose record was on its way to the gateway that took the event, a sweep finds.
"""

from __future__ import annotations

import asyncio

import msgspec
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord
from regrow_protocol.bus import Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import EventRecord
from regrow_protocol.streams import EVENTS
from regrow_service.consumer import Consumer
from regrow_service.logs import get_logger
from regrow_service.owners import FILTERS, RUNNING, Owner, look_up
from regrow_service.retry import Retry

from .context import Context
from .ending import Ending

SWEEP = 10.0
AT_ONCE = 32


class Owners:
    """Of one gateway; `run` looks at them, `consumer` reads their events."""

    def __init__(self, context: Context, ending: Ending, service: str) -> None:
        self._here = context
        self._ending = ending
        self._log = get_logger("owners")
        self.consumer: Consumer[EventRecord] = Consumer(
            context.bus,
            context.metrics,
            service=service,
            name="agent-owners",
            stream=EVENTS,
            filters=FILTERS,
            decode=_decode,
            handle=self._event,
            concurrency=256,
            retry=Retry(attempts=20),
            only_new=True,
        )

    async def _event(self, event: EventRecord, _: Received) -> None:
        owner = Owner.of(event)
        for id_ in list(self._here.records.owned.get(event.pid, ())):
            agent = self._here.records.live(id_)
            if agent is not None:
                await self._judge(agent, owner)

    async def run(self) -> None:
        """Sweep, for ever; may be cancelled at any moment."""
        while True:
            await asyncio.sleep(SWEEP)
            try:
                await self.sweep()
            except (RegrowError, msgspec.MsgspecError) as error:
                self._log.warning("owners could not be looked at", reason=str(error))

    async def sweep(self) -> None:
        """Look at the owners of all agents."""
        hands = asyncio.Semaphore(AT_ONCE)

        async def look(pid: str, ids: list[str]) -> None:
            async with hands:
                owner: Owner | None = None
                for agent in filter(None, map(self._here.records.live, ids)):
                    owner = owner or await look_up(self._here.bus, pid, agent.app)
                    if owner is not None:
                        await self._judge(agent, owner)

        looks = [look(pid, list(ids)) for pid, ids in self._here.records.owned.items()]
        for error in await asyncio.gather(*looks, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    async def _judge(self, agent: AgentRecord, owner: Owner) -> None:
        if owner.status != RUNNING and owner.incarnation >= agent.owner.incarnation:
            await self._ending.end(agent, f"owner {owner.status}")
        elif owner.incarnation > agent.owner.incarnation:
            await self._ending.end(agent, "owner restarted")


def _decode(body: bytes) -> EventRecord:
    return messages.decode(body, EventRecord)
