"""A fleet of machine-managers on a server of its own: managers look after all apps of a server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio
from machinekit import Fleet
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.server import NatsServer

sys.path.append(str(Path(__file__).parents[1] / "machines"))  # the Docker engine of the backends' tests


@pytest_asyncio.fixture
async def fleet(private_server: NatsServer, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(await Bus.connect(private_server.url, name="fleet"))
        await streams.ensure(bus)
        yield Fleet(bus, private_server.url, tmp_path / "machines", stack)
