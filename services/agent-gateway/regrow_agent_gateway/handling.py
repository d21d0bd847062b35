"""Commands to the gateway: checked, handed to who does them, answered.

A command must come from the agent's own app, and some only from its owner. What fails is an answer too; only what
cannot be answered, or nobody may ask for, becomes a dead letter. Every command is nothing the second time, or is
answered the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol import messages, values
from regrow_protocol.agents import ARGUMENTS, AgentRecord, Connect, Lost, Relaunch, Send, Tools
from regrow_protocol.bus import Received
from regrow_protocol.errors import RegrowError, StorageFull, Unreachable, WrongRevision
from regrow_protocol.messages import Command, Failure
from regrow_service.answers import Answer, checked, failure
from regrow_service.consumer import Later, Rejected
from regrow_service.logs import get_logger

from . import enrolling
from .context import Context
from .conversations import entry
from .ending import Ending
from .enrolling import Enrolling
from .links import linked
from .reading import Reading
from .records import ENDED
from .sessions import Sessions
from .usage import Sums

BUS_ERRORS = (Unreachable, StorageFull, WrongRevision)
"""What says nothing of the agent: to be tried again until it works."""
NOTHING = Answer(value=Raw(b"null"))
OWNERS = frozenset({"tools", "relaunch", "lost"})
"""Commands that only the owner of an agent may give."""


class AgentUnknown(RegrowError):
    """There is no such agent in the app."""

    code = "agent-unknown"


class AgentOver(RegrowError):
    """The agent has ended."""

    code = "agent-ended"


def value(result: Any) -> Answer:
    """An answer with a result."""
    return Answer(value=Raw(messages.encode(result)))


class Handling:
    """Of one gateway."""

    def __init__(self, context: Context, ending: Ending, sums: Sums) -> None:
        self._here = context
        self._ending = ending
        self._sums = sums
        self._enrolling = Enrolling(context)
        self._sessions = Sessions(context, self._enrolling)
        self._reading = Reading(context)
        self._log = get_logger("handling")
        self._does: dict[str, Callable[[Command, AgentRecord], Awaitable[Answer]]] = {
            "tools": self._tools,
            "send": self._send,
            "read": self._read,
            "connect": self._connect,
            "relaunch": self._relaunch,
            "lost": self._lost,
            "stop": self._stop,
            "describe": self._describe,
        }

    async def handle(self, command: Command, message: Received) -> None:
        """Answer one command, or raise what the consumer knows to deal with."""
        _, _, _, app, target = message.subject.split(".")
        checked(command, app)
        if command.name not in ARGUMENTS or (command.name == "enrol") != (target == "enrol"):
            error = Rejected(f"{command.name!r} is nothing that a gateway does there")
            await self._here.answers.send(command, Answer(error=failure(error, retryable=False)))
            raise error
        await self._here.answers.send(command, await self._outcome(command, target))

    async def lost(self, command: Command, reason: str) -> None:
        """Answer a command that is given up."""
        await self._here.answers.send(command, Answer(error=Failure("AgentFailed", reason, "agent-failed")))

    async def _outcome(self, command: Command, target: str) -> Answer:
        try:
            command = await values.inflate(command, self._here.bus.get_value)
            if command.name == "enrol":
                return value(await self._enrolling.enrol(command))
            return await self._do(command, target)
        except (Later, Rejected, *BUS_ERRORS):
            raise
        except msgspec.MsgspecError as error:
            return Answer(error=Failure("InvalidArguments", f"{command.name}: {error}", "invalid-arguments", False))
        except RegrowError as error:
            return Answer(error=failure(error, retryable=False))

    async def _do(self, command: Command, target: str) -> Answer:
        agent = self._here.records.live(target) or await self._here.records.fetch(target)
        if agent is None or agent.app != command.app:
            if command.name == "read":
                return await self._read_gone(command, target)
            raise AgentUnknown(f"There is no agent {target}")
        by = command.by
        if command.name in OWNERS and (
            by is None or (by.pid, by.incarnation) != (agent.owner.pid, agent.owner.incarnation)
        ):
            raise AgentUnknown(f"The agent {target} belongs to another process, or to another incarnation of it")
        if agent.state == ENDED and command.name not in ("read", "stop", "describe"):
            raise AgentOver(f"The agent {target} has ended: {agent.reason}")
        return await self._does[command.name](command, agent)

    async def _tools(self, command: Command, agent: AgentRecord) -> Answer:
        args: Tools = messages.decode(command.args, Tools)
        enrolling.checked(args.tools)

        def renew(now: AgentRecord) -> AgentRecord | None:
            if args.version <= now.tools_version or now.state == ENDED:
                return None
            return replace(now, tools=args.tools, tools_version=args.version)

        await self._here.records.change(agent.id, renew)
        return NOTHING

    async def _send(self, command: Command, agent: AgentRecord) -> Answer:
        args: Send = messages.decode(command.args, Send)
        records = self._here.records

        def ready() -> bool:
            now = records.live(agent.id)
            return now is None or now.tools_version >= args.tools or self._here.stopping.is_set()

        await records.wait(agent.id, ready)
        now = records.live(agent.id)
        if now is None:
            raise AgentOver(f"The agent {agent.id} has ended")
        if now.tools_version < args.tools:
            raise Later("this gateway stops")
        said = entry("message", command.id, {"text": args.text, "sender": args.sender}, session=now.session)
        return value((await self._here.conversations.add(now, said)).seq)

    async def _read(self, command: Command, agent: AgentRecord) -> Answer:
        return value(await self._reading.page(command, agent.id))

    async def _read_gone(self, command: Command, target: str) -> Answer:
        """Conversations are kept for longer than records."""
        if not await self._reading.known(command.app, target):
            raise AgentUnknown(f"There is no agent {target}")
        return value(await self._reading.page(command, target))

    async def _stop(self, _: Command, agent: AgentRecord) -> Answer:
        await self._ending.end(agent, "stopped")
        return NOTHING

    async def _describe(self, _: Command, agent: AgentRecord) -> Answer:
        if agent.state != ENDED:
            await self._sums.sum(agent)
        return value(await self._here.records.fetch(agent.id) or agent)

    async def _connect(self, command: Command, agent: AgentRecord) -> Answer:
        args: Connect = messages.decode(command.args, Connect)
        records = self._here.records
        other = records.live(args.other) or await records.fetch(args.other)
        if other is None or other.app != agent.app or other.id == agent.id:
            raise AgentUnknown(f"There is no other agent {args.other[:64]} that {agent.id} could speak to")
        if other.state == ENDED:
            raise AgentOver(f"The agent {other.id} has ended: {other.reason}")
        await records.change(agent.id, lambda now: linked(now, other))
        if args.direction == "both":
            await records.change(other.id, lambda now: linked(now, agent))
        return NOTHING

    async def _relaunch(self, command: Command, agent: AgentRecord) -> Answer:
        return value(await self._sessions.relaunch(agent, messages.decode(command.args, Relaunch)))

    async def _lost(self, command: Command, agent: AgentRecord) -> Answer:
        await self._sessions.lost(agent, messages.decode(command.args, Lost))
        return NOTHING
