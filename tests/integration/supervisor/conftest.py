"""A fleet on a server of its own: supervisors look after all apps of a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest_asyncio
from fleet import Fleet
from regrow_protocol.bus import Bus
from regrow_protocol.server import NatsServer


@pytest_asyncio.fixture
async def fleet(private_server: NatsServer) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(await Bus.connect(private_server.url, name="fleet"))
        made = Fleet(bus, private_server.url, stack)
        await made.open()
        yield made
