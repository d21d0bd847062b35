"""`write`, `read`, `pack` and `unpack`: files of machines, inside their roots.

Few at a time on a node: each may hold tens of megabytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from regrow_protocol import messages, values
from regrow_protocol.errors import ValueTooLarge
from regrow_protocol.machines import MAX_FILE, Pack, Read, Unpack, Write
from regrow_protocol.messages import Command
from regrow_service.answers import Answer

from . import paths
from .backend import Data
from .budget import COPIES, Share
from .context import Context
from .once import NOTHING, Once, value
from .patience import patiently
from .registry import Opened

AT_ONCE = 16

SMALL = 2 * 1024 * 1024
"""Bytes of a file that is read without asking for memory."""


class Files:
    """Of one manager."""

    def __init__(self, context: Context, once: Once) -> None:
        self._here = context
        self._once = once
        self._hands = asyncio.Semaphore(AT_ONCE)

    async def write(self, command: Command, opened: Opened, data: Data) -> Answer:
        """Write a file."""
        since = asyncio.get_running_loop().time()
        async with self._hands:
            whole = await values.inflate(command, self._here.bus.get_value)
            args = messages.decode(whole.args, Write)
            del whole
            if len(args.data) > MAX_FILE:
                raise ValueTooLarge(f"{len(args.data)} bytes are too many for a file in one piece", hint="use put()")
            path = _inside(opened, data, args.path)

            async def work() -> Answer:
                if (known := await self._once.late(command, since)) is not None:
                    return known
                await opened.backend.write(data, path, args.data, mode=args.mode, user=args.user)
                return NOTHING

            return await patiently(self._here, opened.backend.name, work)

    async def read(self, command: Command, opened: Opened, data: Data, share: Share) -> Answer:
        """Read a file; a large one, of which nobody tells how large, when there is memory for the largest."""
        args = messages.decode(command.args, Read)
        path = _inside(opened, data, args.path)

        async def read(limit: int) -> bytes:
            return await patiently(
                self._here,
                opened.backend.name,
                lambda: opened.backend.read(data, path, user=args.user, limit=limit),
            )

        async with self._hands:
            content = await read(SMALL)
            if len(content) == SMALL:
                del content
                await share.take(COPIES * MAX_FILE)
                content = await read(MAX_FILE + 1)
            if len(content) > MAX_FILE:
                raise ValueTooLarge(f"{args.path} has more than {MAX_FILE} bytes", hint="use get()")
            return value(content)

    async def pack(self, command: Command, opened: Opened, data: Data) -> Answer:
        """Put an archive of a file or folder into the object store."""
        args = messages.decode(command.args, Pack)
        path = _inside(opened, data, args.path)

        async def work() -> list[str]:
            pieces = opened.folders.pack(data, command.id, path, args.user)
            return [await self._here.bus.put_value(piece) async for piece in pieces]

        async with self._hands:
            return value(await patiently(self._here, opened.backend.name, work))

    async def unpack(self, command: Command, opened: Opened, data: Data) -> Answer:
        """Unpack an archive from the object store into a folder."""
        since = asyncio.get_running_loop().time()
        whole = await values.inflate(command, self._here.bus.get_value)
        args = messages.decode(whole.args, Unpack)
        path = _inside(opened, data, args.path)

        async def parts() -> AsyncIterator[bytes]:
            for key in args.parts:
                yield await self._here.bus.get_value(key)

        async def work() -> Answer:
            if (known := await self._once.late(command, since)) is not None:
                return known
            await opened.folders.unpack(data, command.id, path, parts(), args.user)
            return NOTHING

        async with self._hands:
            return await patiently(self._here, opened.backend.name, work)


def _inside(opened: Opened, data: Data, path: str) -> str:
    backend = opened.backend
    return paths.inside(backend.root(data), backend.workdir(data), path)
