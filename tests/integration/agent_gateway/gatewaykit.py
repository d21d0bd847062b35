"""What the gateway's tests need: commands as raw messages, agents that anybody may be, a process that serves tools."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
from msgspec import Raw, Struct
from regrow_protocol import agents, messages, streams, subjects, values
from regrow_protocol.agents import AgentRecord, Enrol, Enrolled, Entry, Tool, agent_subject, conversation, enrol_subject
from regrow_protocol.bus import Bus
from regrow_protocol.ids import CLIENT, new_id
from regrow_protocol.messages import Command, EventRecord, Failure, Ref, Reply

PATIENCE = 45.0


class Refused(Exception):
    """A command was answered with an error."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.code}: {failure.message}")
        self.failure = failure
        self.code = failure.code


def tool(name: str, **properties: str) -> Tool:
    """A tool whose parameters, all needed, are of the JSON types that are given."""
    schema = {
        "type": "object",
        "properties": {key: {"type": type_} for key, type_ in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
    return Tool(name, f"Does {name}.", Raw(json.dumps(schema).encode()), "0" * 16)


class Caller:
    """Sends commands to gateways and waits for their answers, for a process that owns the agents."""

    def __init__(self, bus: Bus, app: str, pid: str, incarnation: int = 0) -> None:
        self.bus, self.app, self.pid, self.incarnation = bus, app, pid, incarnation
        self.id = new_id(CLIENT)
        self._n = 0

    def command(self, name: str, args: Struct, id_: str = "") -> Command:
        """A new command, or one more of an id."""
        if not id_:
            self._n += 1
            id_ = f"{self.id}.{self._n}"
        n = int(id_.rpartition(".")[2])
        by = Ref(self.pid, self.incarnation, n) if self.pid else None
        body = Raw(messages.encode(args))
        reply = subjects.reply(self.id, n)
        return Command(id=id_, app=self.app, name=name, args=body, reply=reply, by=by)

    async def send(self, command: Command, agent: str = "", *, msg_id: str = "") -> Command:
        """Publish a command."""
        subject = agent_subject(self.app, agent) if agent else enrol_subject(self.app)
        small, blobs = values.deflate(command)
        for blob in blobs:
            await self.bus.put_value(blob)
        await self.bus.publish(streams.COMMANDS, subject, messages.encode(small), msg_id or command.id)
        return command

    async def answer(self, command: Command, timeout: float = PATIENCE) -> Any:
        """The answer to a command. Raises Refused for an error."""
        return await self._answer(command, agents.ANSWERS.get(command.name), timeout)

    async def ask_on(self, subject: str, name: str, args: Struct, type_: Any) -> Any:
        """Send a command to another service, and wait for its answer."""
        command = self.command(name, args)
        await self.bus.publish(streams.COMMANDS, subject, messages.encode(command), command.id)
        return await self._answer(command, type_, PATIENCE)

    async def _answer(self, command: Command, type_: Any, timeout: float) -> Any:
        async with asyncio.timeout(timeout):
            while (found := await self.bus.last(streams.REPLIES, command.reply)) is None:
                await asyncio.sleep(0.005)
        reply: Reply = messages.decode(found.data, Reply)
        if reply.error is not None:
            raise Refused(reply.error)
        assert isinstance(reply.value, Raw)
        return messages.decode(reply.value, type_) if type_ is not None else msgspec.json.decode(reply.value)

    async def ask(self, name: str, args: Struct, agent: str = "", *, timeout: float = PATIENCE) -> Any:
        """Send a command, and wait for its answer."""
        return await self.answer(await self.send(self.command(name, args), agent), timeout)

    async def settled(self) -> None:
        """Wait until no command of the app is in hand any more."""
        async with asyncio.timeout(PATIENCE):
            while await self.bus.subjects(streams.COMMANDS, f"regrow.command.agent.{subjects.token(self.app)}.*"):
                await asyncio.sleep(0.005)

    async def event(self, type_: str, *, final: bool = False, incarnation: int = 0) -> None:
        """What the process that owns the agents announces."""
        record = EventRecord(
            pid=self.pid, incarnation=incarnation, n=1, seq=1, type=type_, time=time.time(), final=final
        )
        subject = subjects.event(self.app, self.pid, type_)
        await self.bus.publish(streams.EVENTS, subject, messages.encode(record), new_id("t"))

    async def enrol(self, name: str = "worker", *tools: Tool, **more: Any) -> Enrolled:
        """An agent; where nothing else is said, one that comes by itself."""
        return await self.ask("enrol", Enrol(**{"name": name, "harness": "none", "tools": list(tools), **more}))

    async def record(self, agent: str) -> AgentRecord | None:
        """The record as it stands."""
        found = await self.bus.kv(agents.BUCKET).get(f"agent.{agent}")
        return messages.decode(found[0], AgentRecord) if found else None

    async def conversation(self, agent: str, *types: str) -> list[Entry]:
        """All entries, or those of some types."""
        found = await self.bus.history(streams.AGENTS, conversation(self.app, agent))
        read = [messages.decode(each.data, Entry) for each in found]
        return [each for each in read if not types or each.type in types]

    async def types(self, agent: str, count: int) -> list[str]:
        """Types of all entries, once there are so many: who is answered hears of an entry before it is stored."""
        async with asyncio.timeout(PATIENCE):
            while len(found := await self.conversation(agent)) < count:
                await asyncio.sleep(0.005)
        return [each.type for each in found]
