"""A gateway and a host for the tests of a module, on the server of this worker; each test has an app of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
import regrow.testing
from gatewaykit import Caller
from regrow.apps import ensure_app
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway
from regrow_protocol.bus import Bus
from regrow_protocol.ids import PROCESS, new_id


@pytest.fixture(scope="module")
def heartbeat() -> float:
    """Of `gateway`, in seconds: whoever does not answer a WebSocket's ping for so long is cut off."""
    return 20.0


@pytest.fixture(scope="module")
def gateway(nats_url: str, heartbeat: float) -> Iterator[Gateway]:
    """A gateway for all tests of a module, on the server of this worker."""
    made = Gateway(nats_url, env={"REGROW_GATEWAY_HEARTBEAT": str(heartbeat)})
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest_asyncio.fixture
async def rt(nats_url: str) -> AsyncIterator[Runtime]:
    """A host for an app of the test's own."""
    async with regrow.testing.runtime(url=nats_url, skip_time=False) as runtime:
        yield runtime


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client for the plain doors."""
    async with httpx.AsyncClient(timeout=40.0, trust_env=False) as client:
        yield client


@pytest_asyncio.fixture
async def caller(bus: Bus, app: str) -> Caller:
    """Commands of a process that nobody runs: it has an inbox, and that is all."""
    await ensure_app(bus, app)
    return Caller(bus, app, new_id(PROCESS))
