"""Agents for these tests: an owner that serves their tools, and a WebSocket client that resumes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import websockets
from gateway_bodies import owner
from gatewaykit import PATIENCE, Caller, tool
from regrow.client import RemoteProcess
from regrow.testing import Runtime
from regrow_protocol.agents import Enrolled

TOOLS = (
    tool("add", a="integer", b="integer"),
    tool("echo", text="string"),
    tool("fault", why="string"),
    tool("patient", seconds="number"),
)


async def owned(rt: Runtime, **more: Any) -> tuple[RemoteProcess, Caller, Enrolled]:
    """A process, who sends its commands, and its agent with all tools."""
    process = await rt.start(owner)
    caller = Caller(rt.bus, rt.app, process.pid)
    agent = await caller.enrol("worker", *TOOLS, **more)
    await process.call("serve", agent=agent.id, tools=[each.name for each in TOOLS], wait=True)
    return process, caller, agent


def bearer(agent: Enrolled, **more: str) -> dict[str, str]:
    """Headers that open an agent's doors."""
    return {"authorization": f"Bearer {agent.token}", **more}


class Socket:
    """One connection of an agent; `async with` opens it. Frames that nobody has asked for yet are kept."""

    def __init__(self, agent: Enrolled, *, after: int = 0, session: int = 0, window: int = 0, **options: Any) -> None:
        url = agent.url.replace("http", "ws", 1) + f"/ws?after={after}&session={session}&window={window}"
        self._connecting = websockets.connect(
            url, additional_headers=bearer(agent), proxy=None, compression=None, **options
        )
        self.frames: list[dict[str, Any]] = []

    async def __aenter__(self) -> Socket:
        self.socket = await self._connecting
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def next(self, type_: str, **fields: Any) -> dict[str, Any]:
        """The next frame of a type with these fields."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for frame in self.frames:
                    if frame["type"] == type_ and fields.items() <= frame.items():
                        self.frames.remove(frame)
                        return frame
                self.frames.append(json.loads(await self.socket.recv()))

    async def call(self, id_: str, tool_: str, **args: Any) -> dict[str, Any]:
        """Call a tool; the frame that answers."""
        await self.say(type="call", id=id_, tool=tool_, args=args)
        return await self.next("result", id=id_)
