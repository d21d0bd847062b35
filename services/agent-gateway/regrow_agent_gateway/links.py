"""Agents that may speak to each other, and the tools by which they do: `message`, `send_file`, `download_file`.

These tools are the gateway's own. All that they make has an id derived from the call's key, so a call that is repeated
after a crash says nothing twice.
"""

from __future__ import annotations

import asyncio
import io
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Tool
from regrow_protocol.machines import OF_A_PROGRAM, MachineRef, Pack, Unpack

from .calls import Target
from .context import Context
from .conversations import entry
from .errors import AgentEnded, AgentError, ToolNotFound
from .machines import MachineRefused, Machines
from .records import ENDED

RECEIVED = "received"
"""Folder of a machine that files of other agents are put into, relative to its workdir."""
MAX_TEXT = 256 * 1024


class FileRefused(AgentError):
    """A file that could not be brought over."""

    code = "file-refused"


class TextTooLong(AgentError):
    """A message that is too long for another agent."""

    code = "text-too-long"


class Links:
    """Of one gateway."""

    def __init__(self, context: Context, machines: Machines) -> None:
        self._here = context
        self._machines = machines

    def tools(self, agent: AgentRecord) -> Iterator[tuple[Tool, Target]]:
        """The tools of an agent that may speak to others; none for one that may not."""
        names = sorted(known_as(agent).values())
        if not names:
            return
        who = {"type": "string", "enum": names}
        yield _tool(
            "message",
            f"Send a message to another agent: {', '.join(names)}. It reads it when it next can; an answer comes as a "
            "message to you.",
            {"to": {**who, "description": "who shall read it"}, "text": {"type": "string", "minLength": 1}},
        )
        if agent.machine is None:
            return
        yield _tool(
            "send_file",
            f"Copy a file or folder of your machine to another agent's. It is put into {RECEIVED}/ there, and the "
            "other agent is told where. The path on the other machine is returned.",
            {"to": {**who, "description": "whose machine"}, "path": {"type": "string", "minLength": 1}},
        )
        yield _tool(
            "download_file",
            f"Copy a file or folder of another agent's machine to yours, into {RECEIVED}/. Its path is returned.",
            {"from": {**who, "description": "whose machine"}, "path": {"type": "string", "minLength": 1}},
        )

    async def call(self, agent: AgentRecord, target: Target, key: str) -> Any:
        """Carry out a call of one of these tools; its result."""
        args: dict[str, str] = messages.decode(target.args, dict[str, str])
        if target.tool == "message":
            return await self._message(agent, args["to"], args["text"], key)
        if target.tool == "send_file":
            return await self._send_file(agent, args["to"], args["path"], key)
        if target.tool == "download_file":
            return await self._download_file(agent, args["from"], args["path"], key)
        raise ToolNotFound(f"There is no tool {target.tool!r}")

    async def _other(self, agent: AgentRecord, name: str) -> AgentRecord:
        ids = [id_ for id_, known in known_as(agent).items() if known == name]
        other = await self._here.records.fetch(ids[0]) if ids else None
        if other is None or other.app != agent.app:
            raise ToolNotFound(f"You are not connected to {name!r}")
        if other.state == ENDED:
            raise AgentEnded(f"The agent {name!r} has ended: {other.reason}")
        return other

    async def _message(self, agent: AgentRecord, to: str, text: str, key: str) -> str:
        other = await self._other(agent, to)
        if len(text) > MAX_TEXT:
            raise TextTooLong(f"{len(text)} characters are more than a message may have ({MAX_TEXT})")
        await self._say(agent, other, text, key)
        return f"sent to {to}"

    async def _say(self, agent: AgentRecord, other: AgentRecord, text: str, key: str) -> None:
        said = entry("message", f"{agent.id}.{key}", {"text": text, "sender": agent.name}, session=other.session)
        await self._here.conversations.add(other, said)

    async def _send_file(self, agent: AgentRecord, to: str, path: str, key: str) -> str:
        other = await self._other(agent, to)
        there = await self._copy(agent, other, path, agent.name, key)
        await self._say(agent, other, f"I have copied {path} to your machine: {there}", key)
        return there

    async def _download_file(self, agent: AgentRecord, source: str, path: str, key: str) -> str:
        other = await self._other(agent, source)
        return await self._copy(other, agent, path, other.name, key)

    async def _copy(self, source: AgentRecord, to: AgentRecord, path: str, folder: str, key: str) -> str:
        """Copy from one agent's machine to another's; the path there."""
        here, there = _machine(source), _machine(to)
        target = f"{RECEIVED}/{re.sub(r'[^A-Za-z0-9_.-]', '_', folder).lstrip('.') or 'agent'}"
        name = posixpath.basename(posixpath.normpath(path))
        if name in ("", ".", "..", "/"):
            raise FileRefused(f"{path!r} is no path of a file or folder")
        try:
            parts: list[str] = await self._machines.ask(here, "pack", Pack(path), f"{to.id}.{key}.pack")
            is_folder = await asyncio.to_thread(_is_folder, await self._here.bus.get_value(parts[0]))
            into = f"{target}/{name}" if is_folder else target
            await self._machines.ask(there, "unpack", Unpack(into, parts), f"{to.id}.{key}.unpack")
        except MachineRefused as error:
            raise FileRefused(f"{path} could not be copied: {error.message}") from error
        return f"{target}/{name}"


def known_as(agent: AgentRecord) -> dict[str, str]:
    """Id → how the agent names it: of two with one name, with their ids."""
    names = list(agent.links.values())
    return {id_: name if names.count(name) == 1 else f"{name} {id_}" for id_, name in agent.links.items()}


def linked(agent: AgentRecord, other: AgentRecord) -> AgentRecord | None:
    """The record of an agent that may speak to another; None where it may already."""
    if agent.state == ENDED or agent.links.get(other.id) == other.name:
        return None
    return replace(agent, links={**agent.links, other.id: other.name})


def _machine(agent: AgentRecord) -> MachineRef:
    if agent.machine is None:
        raise FileRefused(f"The agent {agent.name!r} has no machine that files could be copied from or to")
    if agent.machine.backend == OF_A_PROGRAM:
        raise FileRefused(f"The machine of {agent.name!r} is an object of its program: files cannot be copied there")
    return agent.machine


def _is_folder(part: bytes) -> bool:
    """Whether an archive, of which this is the first part, is that of a folder."""
    with tarfile.open(fileobj=io.BytesIO(part), mode="r|gz") as archive:
        first = archive.next()
        return first is None or not first.isfile()


def _tool(name: str, description: str, properties: dict[str, Any]) -> tuple[Tool, Target]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Tool(name, description, Raw(msgspec.json.encode(schema))), Target(tool=name, args=Raw(b"{}"))
