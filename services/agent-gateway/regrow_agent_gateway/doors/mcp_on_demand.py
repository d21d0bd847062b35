"""The MCP door, made at its first request: the `mcp` package takes longer to import than all else together."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from ..context import Context
from ..desk import Desk

if TYPE_CHECKING:
    from .mcp import McpDoor


class McpOnDemand:
    """Of one gateway; `run` must run while it serves."""

    def __init__(self, context: Context, desk: Desk) -> None:
        self._here, self._desk = context, desk
        self._wanted = asyncio.Event()
        self._door: asyncio.Future[McpDoor] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """For ever; may be cancelled at any moment."""
        await self._wanted.wait()
        module = await asyncio.to_thread(importlib.import_module, ".mcp", __package__)
        door: McpDoor = module.McpDoor(self._here, self._desk)
        async with door.open():
            self._door.set_result(door)
            await asyncio.Event().wait()

    async def serve(self, request: Request) -> Response:
        """Any request of a client."""
        self._wanted.set()
        door = await asyncio.shield(self._door)
        return await door.serve(request)
