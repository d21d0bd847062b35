"""How commands get at the bus: on the server that the settings name, or the embedded stack, started where needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from regrow_protocol import streams
from regrow_protocol.bus import Bus

from .settings import Settings


@asynccontextmanager
async def connected(chosen: Settings) -> AsyncGenerator[Bus]:
    """A connection on which all streams and buckets exist.

    Raises:
        Unreachable, AccessDenied: the server that was named does not answer, or refuses.
        DataDirUnusable, StackFailed, StackTimeout: the embedded stack does not come up.
    """
    url = await asyncio.to_thread(chosen.url)
    async with await Bus.connect(url, name="regrow") as bus:
        await streams.ensure(bus)
        yield bus
