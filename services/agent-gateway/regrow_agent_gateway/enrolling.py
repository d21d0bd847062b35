"""`enrol`: an agent's record is made, once for each command, and its owner is told how it comes in.

All that is answered is made from the record, so a repeat is answered the same without anything being kept for it.
"""

from __future__ import annotations

import re
import time

from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Enrol, Enrolled, Launch, Tool
from regrow_protocol.bus import Bucket
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.ids import AGENT, derived_id, made_at
from regrow_protocol.machines import OF_A_PROGRAM
from regrow_protocol.messages import Command
from regrow_protocol.subjects import token
from regrow_service.consumer import Later
from regrow_service.validation import problem

from . import tokens
from .context import Context
from .harness import Setting, find
from .records import ENDED, KEEP

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_TOOLS = 256


class InvalidTool(RegrowError):
    """A tool that no agent could call."""

    code = "invalid-tool"


class InvalidAgent(RegrowError):
    """An agent that cannot be."""

    code = "invalid-agent"


class NameTaken(RegrowError):
    """Another living agent of the same owner has the name."""

    code = "name-taken"


def checked(tools: list[Tool]) -> list[Tool]:
    """The tools themselves, if agents can call them.

    Raises:
        InvalidTool: one cannot be called.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidTool(f"{len(tools)} tools are more than an agent can have ({MAX_TOOLS})")
    seen: set[str] = set()
    for tool in tools:
        if not _NAME.fullmatch(tool.name):
            raise InvalidTool(f"{tool.name[:100]!r} is no name of a tool", hint="1 to 64 of letters, digits, - and _")
        if tool.name in seen:
            raise InvalidTool(f"Two tools are named {tool.name}")
        seen.add(tool.name)
        if wrong := problem(tool):
            raise InvalidTool(f"The schema of the tool {tool.name} cannot be used: {wrong[:500]}")
    return tools


class Enrolling:
    """Of one gateway."""

    def __init__(self, context: Context) -> None:
        self._here = context

    async def enrol(self, command: Command) -> Enrolled:
        """Make the agent of a command, or find it.

        Raises:
            InvalidAgent, InvalidTool: it cannot be made as asked.
            NameTaken: its owner has one of that name.
        """
        here = self._here
        args: Enrol = messages.decode(command.args, Enrol)
        id_ = derived_id(AGENT, command.id, made_at(command.id.partition(".")[0]))
        record = here.records.live(id_) or await here.records.fetch(id_)
        if record is None:
            record = await self._make(command, args, id_)
        return self.enrolled(record)

    def enrolled(self, record: AgentRecord) -> Enrolled:
        """What its owner is told of an agent."""
        return Enrolled(record.id, self._url(record), tokens.token(self._here.secret, record.id), self.launch(record))

    def launch(self, record: AgentRecord) -> Launch | None:
        """How an agent's harness is started in its present session; None where nobody starts it.

        Raises:
            UnknownHarness, BadSetting: it cannot be started.
        """
        if record.machine is None:
            return None
        setting = Setting(
            id=record.id,
            name=record.name,
            session=record.session,
            resume=record.session > 1,
            url=self._url(record),
            token=tokens.token(self._here.secret, record.id),
            folder=record.folder,
            workdir=record.workdir,
            system_prompt=record.system_prompt,
            model=record.model,
            env=record.env,
            options=record.options,
        )
        return find(record.harness).launch(setting)

    def _url(self, record: AgentRecord) -> str:
        return f"{self._here.url(record)}/agents/{record.id}"

    async def _make(self, command: Command, args: Enrol, id_: str) -> AgentRecord:
        here = self._here
        if command.by is None:
            raise InvalidAgent("An agent belongs to a process", hint="call agent() in the body of a process")
        if not args.name or len(args.name) > 128 or not args.name.isprintable():
            raise InvalidAgent(f"{args.name[:40]!r} is no name of an agent", hint="1 to 128 printable characters")
        if args.machine is not None and args.machine.app != command.app:
            raise InvalidAgent(f"The machine {args.machine.id[:64]!r} is not of the app {command.app!r}")
        if args.stall_after is not None and not 0 < args.stall_after < 1e9:
            raise InvalidAgent(f"stall_after={args.stall_after} is no time in seconds")
        record = AgentRecord(
            id=id_,
            app=command.app,
            command=command.id,
            name=args.name,
            owner=command.by,
            harness=args.harness,
            machine=args.machine,
            workdir=args.workdir,
            folder=f".regrow/agents/{id_}",
            system_prompt=args.system_prompt,
            model=args.model,
            env=args.env,
            options=args.options,
            tools=checked(args.tools),
            stall_after=args.stall_after,
            turns_every=max(0.0, args.turns_every),
            created=time.time(),
        )
        if args.machine is not None and args.machine.backend == OF_A_PROGRAM and find(args.harness).messages == "spool":
            raise InvalidAgent(
                f"The harness {args.harness} gets its messages through the machine-manager, which does not reach "
                f"the machine of {args.name!r}: it is an object of its program",
                hint="use the harness pi there, or an image of regrow",
            )
        self.launch(record)  # what cannot be started is told before anybody can see it
        await self._take_name(record)
        if not await here.records.create(record):
            return await here.records.fetch(id_) or record
        return record

    async def _take_name(self, record: AgentRecord) -> None:
        kv, key = self._names, self.name_key(record)
        while True:
            try:
                await kv.create(key, record.id.encode())
            except WrongRevision:
                found = await kv.get(key)
            else:
                return
            if found is None:
                continue
            holder, revision = found[0].decode(), found[1]
            if holder == record.id:
                return
            other = await self._here.records.fetch(holder)
            if other is not None and other.state not in (ENDED, "lost"):
                raise NameTaken(f"There is an agent {record.name!r} of this process already: {holder}")
            if other is None and time.time() - made_at(holder) < KEEP:
                raise Later("another agent of this name is just being made", delay=0.2)
            try:
                await kv.update(key, record.id.encode(), revision)
            except WrongRevision:
                continue
            return

    @property
    def _names(self) -> Bucket:
        return self._here.bus.kv("regrow_agents")

    @staticmethod
    def name_key(record: AgentRecord) -> str:
        """Key that holds the id of the agent that has a name."""
        return f"name.{record.owner.pid}.{record.owner.incarnation}.{token(record.name)}"
