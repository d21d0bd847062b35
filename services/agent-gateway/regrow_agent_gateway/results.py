"""Answers to tool calls, for whoever waits for them here.

They come over core subscriptions, one for each agent with calls under way, whichever gateway sent the call. What a
subscription may have missed (a reconnect, interest that had not spread yet) is read from the stream: at once after a
reconnect, else now and then, less often the longer a call takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field

from regrow_protocol import values
from regrow_protocol.agents import Entry, answer_subject, entries_of
from regrow_protocol.bus import Bus, Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.streams import AGENTS
from regrow_protocol.subjects import token
from regrow_service.logs import get_logger

from .conversations import Conversations, plain

LOOK_FIRST, LOOK_LAST = 2.0, 30.0
"""Seconds until the stream is asked for an answer that has not come, at first and at last."""
TICK = 0.5
LINGER = 60.0
"""Seconds that an agent's subscription stays when it waits for nothing: the next call is near."""
AT_ONCE = 64


@dataclass(eq=False)
class _Waiting:
    subject: str
    future: asyncio.Future[Entry]
    look_at: float
    pause: float = LOOK_FIRST


@dataclass(eq=False)
class _Agent:
    """An agent with calls under way, or that had some a moment ago."""

    sid: int
    calls: dict[str, set[_Waiting]] = field(default_factory=dict[str, set[_Waiting]])
    idle_since: float = 0.0


class Results:
    """Of one gateway; `run` looks for what was missed."""

    def __init__(self, bus: Bus, conversations: Conversations) -> None:
        self._bus = bus
        self._conversations = conversations
        self._agents: dict[tuple[str, str], _Agent] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._connected = bus.connected_since
        self._log = get_logger("results")

    @contextmanager
    def expect(self, app: str, agent: str, key: str) -> Generator[asyncio.Future[Entry]]:
        """The future answer to an agent's call; it is listened for from now on, to the end of the context."""
        loop = asyncio.get_running_loop()
        name = token(app), agent
        here = self._agents.get(name)
        if here is None:
            here = self._agents[name] = _Agent(
                self._bus.nc.raw_subscribe(entries_of(app, agent, "result"), self._heard)
            )
        mine = _Waiting(answer_subject(app, agent, key), loop.create_future(), loop.time() + LOOK_FIRST)
        here.calls.setdefault(key, set()).add(mine)
        try:
            yield mine.future
        finally:
            mine.future.cancel()
            waiting = here.calls[key]
            waiting.discard(mine)
            if not waiting:
                del here.calls[key]
            if not here.calls:
                here.idle_since = loop.time()

    async def run(self) -> None:
        """Look for what was missed, for ever; may be cancelled at any moment."""
        loop = asyncio.get_running_loop()
        hands = asyncio.Semaphore(AT_ONCE)
        try:
            while True:
                await asyncio.sleep(TICK)
                now = loop.time()
                anew = self._connected != self._bus.connected_since
                self._connected = self._bus.connected_since
                self._forget(now)
                if not self._bus.connected:
                    continue
                for waiting in self._all():
                    if anew:
                        waiting.pause, waiting.look_at = LOOK_FIRST, now
                    if waiting.look_at <= now and not waiting.future.done():
                        waiting.look_at = now + waiting.pause
                        waiting.pause = min(waiting.pause * 2, LOOK_LAST)
                        self._spawn(self._look(waiting, hands))
        finally:
            for task in self._reading:
                task.cancel()

    def _all(self) -> list[_Waiting]:
        return [each for agent in self._agents.values() for calls in agent.calls.values() for each in calls]

    def _forget(self, now: float) -> None:
        for name, agent in list(self._agents.items()):
            if not agent.calls and now - agent.idle_since > LINGER:
                self._bus.nc.raw_unsubscribe(agent.sid)
                del self._agents[name]

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _look(self, waiting: _Waiting, hands: asyncio.Semaphore) -> None:
        async with hands:
            try:
                found = await self._bus.last(AGENTS, waiting.subject)
                if found is not None:
                    await self._tell([waiting], found)
            except RegrowError as error:
                self._log.info("an answer could not be looked for", subject=waiting.subject, reason=str(error))

    def _heard(self, subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        name = subject.decode()
        _, _, app, agent, _, key = name.split(".")
        here = self._agents.get((app, agent))
        waiting = here.calls.get(key) if here else None
        if waiting:
            received = Received(name, 0, 0.0, data)
            if values.has_blob(data):
                self._spawn(self._tell(list(waiting), received))
            else:
                _settle(waiting, plain(received))

    async def _tell(self, waiting: list[_Waiting], received: Received) -> None:
        try:
            answer = await self._conversations.read(received)
        except RegrowError as error:  # its large value is not there yet, or the store is away: looked for again
            self._log.info("an answer is not whole yet", subject=received.subject, reason=str(error))
            return
        _settle(waiting, answer)


def _settle(waiting: Iterable[_Waiting], answer: Entry | None) -> None:
    for each in waiting:
        if answer is not None and not each.future.done():
            each.future.set_result(answer)
