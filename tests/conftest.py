"""Fixtures for every test: a real NATS server per worker with a store of its own, and buses connected to it.

`nats_url` is shared by all tests of a worker, so a test uses names of its own (`app` gives one). A test that kills,
stops or fills its server takes `private_server`; one that must also hold with fsync on every write is parametrised
over `durability`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.ids import new_id
from regrow_protocol.server import Durability, NatsServer

# How long an example takes says nothing where others use the computer too, and each run of the suite tries the same
# ones. `--hypothesis-profile explore` tries others, and more.
AT_LEISURE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("suite", derandomize=True, database=None, **AT_LEISURE)
settings.register_profile("explore", max_examples=2000, **AT_LEISURE)
settings.load_profile("suite")

pytest.register_assert_rewrite("regrow.testing.machine_conformance", "regrow.testing.harness_conformance")

Connect = Callable[..., Awaitable[Bus]]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """The server of this worker: `fast`, with credentials."""
    store = tmp_path_factory.mktemp("nats")
    with NatsServer.start(store, durability="fast", user="regrow", password="secret") as server:
        yield server


@pytest.fixture(scope="session")
def nats_url(shared_server: NatsServer) -> str:
    """Where this worker's server listens, credentials included."""
    return shared_server.url


@pytest.fixture
def durability() -> Durability:
    """Of `private_server`; parametrise it where `safe` matters."""
    return "fast"


@pytest.fixture
def private_server(tmp_path: Path, durability: Durability) -> Iterator[NatsServer]:
    """A server that only this test uses: it may be killed and restarted, and nobody gets its port meanwhile."""
    with NatsServer.start(tmp_path / "nats", durability=durability) as server:
        yield server


@pytest_asyncio.fixture
async def connect(nats_url: str) -> AsyncIterator[Connect]:
    """Makes buses: `await connect()`, or `await connect(url)`; they are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def make(url: str | None = None, *, name: str = "test", **options: Any) -> Bus:
            return await stack.enter_async_context(await Bus.connect(url or nats_url, name=name, **options))

        yield make


@pytest_asyncio.fixture
async def bus(connect: Connect) -> Bus:
    """A bus on the shared server, where the common streams and buckets exist."""
    made = await connect()
    await streams.ensure(made)
    return made


@pytest.fixture
def app() -> str:
    """A name for an app that no other test uses."""
    return new_id("app")


@pytest_asyncio.fixture
async def stream(bus: Bus, app: str) -> str:
    """The inbox stream of `app`."""
    return await streams.ensure_app(bus, app)


class Until(Protocol):
    """Waits until `condition()` is true; fails naming `what` after `timeout` seconds."""

    async def __call__(self, condition: Callable[[], Any], what: str = "it", timeout: float = 40.0) -> None: ...


@pytest.fixture
def until() -> Until:
    """`await until(condition, "what must happen")`: for tests without a sleep."""

    async def wait(condition: Callable[[], Any], what: str = "it", timeout: float = 40.0) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not condition():
            assert loop.time() < deadline, f"{what} did not happen within {timeout} s"
            await asyncio.sleep(0.005)

    return wait
