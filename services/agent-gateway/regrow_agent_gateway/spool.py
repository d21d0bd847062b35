"""Messages to agents whose harness has no door of its own: files on its machine, written one after the other.

A durable consumer of all messages, which the gateways share, sees to it that each arrives. As a driver takes files in
the order of their sequences and never looks back, a message is written only when all earlier ones are; how far that is
stands in a key of the agent. Writing has an id derived from the message, so two gateways at work at once do no harm.
"""

from __future__ import annotations

import asyncio
import shlex
from weakref import WeakValueDictionary

from regrow_protocol import messages
from regrow_protocol.agents import BUCKET, AgentRecord, Entry, entries_of
from regrow_protocol.bus import Received
from regrow_protocol.errors import WrongRevision
from regrow_protocol.machines import Exec, MachineRef, Write
from regrow_protocol.streams import AGENTS
from regrow_service.consumer import Consumer, Later
from regrow_service.logs import get_logger
from regrow_service.retry import Retry
from regrow_service.service import until

from . import harness
from .context import Context
from .machines import MachineRefused, Machines
from .mail import ALL
from .measures import MESSAGES
from .records import ENDED, KEEP

SIGNAL_TIMEOUT = 10.0
IN_HAND = 1024


class Spool:
    """Of one gateway; `consumer` does it."""

    def __init__(self, context: Context, machines: Machines, service: str) -> None:
        self._here = context
        self._machines = machines
        self._kv = context.bus.kv(BUCKET)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._log = get_logger("spool")
        self.consumer: Consumer[Entry] = Consumer(
            context.bus,
            context.metrics,
            service=service,
            name="agent-spool",
            stream=AGENTS,
            filters=[ALL],
            decode=_decode,
            handle=self._message,
            concurrency=IN_HAND,
            max_ack_pending=100_000,
            retry=Retry(attempts=50),
            timeout=None,
        )

    async def _message(self, _: Entry, message: Received) -> None:
        id_ = message.subject.split(".")[3]
        agent = self._here.records.live(id_) or await self._here.records.fetch(id_)
        if agent is None or agent.state == ENDED or not spools(agent):
            return
        working = asyncio.ensure_future(self._up_to(agent, message.seq))
        try:
            await until(self._here.stopping, _done(working))
            if not working.done():
                raise Later("this gateway stops")
            working.result()
        finally:
            working.cancel()

    async def _up_to(self, agent: AgentRecord, seq: int) -> None:
        turn = self._turns.get(agent.id)
        if turn is None:
            self._turns[agent.id] = turn = asyncio.Lock()
        here, key = self._here, f"spool.{agent.id}"
        async with turn:
            found = await self._kv.get(key)
            written, revision = (int(found[0]), found[1]) if found else (0, 0)
            if written >= seq:
                return
            filter_ = entries_of(agent.app, agent.id, "message")
            for received in await here.bus.history(AGENTS, filter_, written + 1, seq):
                said = await here.conversations.read(received)
                if said is not None:
                    await self._write(agent, said)
                try:
                    revision = await self._kv.update(key, b"%d" % received.seq, revision, ttl=KEEP)
                except WrongRevision:
                    raise Later("another gateway writes to this agent", delay=0.05) from None

    async def _write(self, agent: AgentRecord, said: Entry) -> None:
        assert agent.machine is not None
        machine: MachineRef = agent.machine
        path, id_ = f"{agent.folder}/spool/{said.seq:020d}", f"{agent.id}.{said.seq}"
        signal = f"cd {shlex.quote(agent.folder)} && exec tmux -S tmux.sock wait-for -S spool"
        try:
            await self._machines.ask(machine, "write", Write(path, shown(said).encode(), 0o600), f"{id_}.write")
            await self._machines.ask(machine, "exec", Exec(signal, timeout=SIGNAL_TIMEOUT), f"{id_}.signal")
        except MachineRefused as error:  # its harness went with its machine
            self._log.warning("a message cannot be brought", agent=agent.id, seq=said.seq, reason=error.message)
        else:
            self._here.metrics[MESSAGES].labels("spool").inc()


def spools(agent: AgentRecord) -> bool:
    """Whether messages to an agent go to its machine."""
    if agent.machine is None:
        return False
    try:
        return harness.find(agent.harness).messages == "spool"
    except harness.UnknownHarness:
        return False


def shown(said: Entry) -> str:
    """A message as the agent reads it."""
    data = messages.decode(said.data, dict)
    text, sender = str(data.get("text", "")), str(data.get("sender", ""))
    return f"Message from {sender}:\n\n{text}\n" if sender else f"{text}\n"


def _decode(body: bytes) -> Entry:
    return messages.decode(body, Entry)


async def _done(work: asyncio.Future[None]) -> None:
    await asyncio.wait([work])
