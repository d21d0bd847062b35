"""A stack of programs on a server of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest_asyncio
from chaoskit import Stack
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.server import NatsServer


@pytest_asyncio.fixture
async def stack(private_server: NatsServer) -> AsyncIterator[Stack]:
    async with AsyncExitStack() as exits:
        bus = await exits.enter_async_context(await Bus.connect(private_server.url, name="chaos"))
        await streams.ensure(bus)
        yield Stack(private_server, bus, exits)
