"""Two registries on the server of this worker, a host in this interpreter, and a plain NATS client as the outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client as NatsClient
from regrow.testing import Runtime, runtime
from regrow.testing.registries import Registry
from regrow_protocol.ids import new_id


@pytest.fixture(scope="module")
def registries(nats_url: str) -> Iterator[list[Registry]]:
    """Two replicas; a test that kills one starts it again."""
    made = [Registry(nats_url, env={"REGROW_REGISTRY_SWEEP": "0.5", "REGROW_AGENT_HEARTBEAT": "1"}) for _ in range(2)]
    try:
        for registry in made:
            registry.start()
        yield made
    finally:
        for registry in made:
            registry.close()


@pytest_asyncio.fixture
async def rt(nats_url: str, registries: list[Registry]) -> AsyncIterator[Runtime]:
    """A runtime in real time: what is outside of it does not skip."""
    async with runtime(url=nats_url, skip_time=False) as made:
        yield made


@pytest_asyncio.fixture
async def outside(nats_url: str) -> AsyncIterator[NatsClient]:
    """A client that knows nothing of Regrow."""
    client = await nats.connect(nats_url)
    yield client
    await client.close()


@pytest.fixture
def name() -> str:
    """A public name that no other test uses."""
    return new_id("shop")
