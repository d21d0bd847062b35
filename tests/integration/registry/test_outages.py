"""A registry when NATS goes away, and when it is told to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest_asyncio
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from regrow.testing import Runtime, runtime
from regrow.testing.registries import Registry
from regrow_protocol.server import NatsServer
from shops import called, eventually, holder, request, street


@pytest_asyncio.fixture
async def alone(private_server: NatsServer) -> AsyncIterator[Registry]:
    """One registry, on a server of its own."""
    made = Registry(private_server.url)
    await made.start_async()
    yield made
    made.close()


@pytest_asyncio.fixture
async def away(private_server: NatsServer, alone: Registry) -> AsyncIterator[Runtime]:
    async with runtime(url=private_server.url, skip_time=False) as made:
        yield made


async def test_nats_is_killed(away: Runtime, private_server: NatsServer, name: str) -> None:
    """Afterwards the same registry serves the same endpoints; what was asked under an id is done once."""
    tree = await away.start(street, name)
    outside = await nats.connect(private_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    subject = f"regrow.api.{name}.sell"
    await request(outside, subject, b'{"item":"a"}')

    async def insist(number: int) -> bytes:
        async def ask() -> bytes | None:
            try:
                headers = {"Nats-Msg-Id": str(number)}
                answer = await outside.request(subject, b'{"item":"b"}', timeout=1, headers=headers)
            except (NatsTimeout, NoRespondersError, nats.errors.Error):
                return None
            return None if answer.headers else answer.data

        return await eventually(ask, subject, timeout=40)

    asking = [asyncio.ensure_future(insist(number)) for number in range(10)]
    await asking[0]
    await asyncio.to_thread(private_server.kill)
    asking += [asyncio.ensure_future(insist(number)) for number in range(10, 20)]
    await asyncio.to_thread(private_server.restart)
    sold = await asyncio.gather(*asking)
    assert sorted(map(int, sold)) == [*range(2, 22)]
    await request(outside, f"regrow.api.{name}.close")
    assert await tree.result(30) == [["a", *["b"] * 20]]
    await outside.close()


async def test_a_registry_ends_gracefully(
    away: Runtime, private_server: NatsServer, alone: Registry, name: str
) -> None:
    """Whoever waits then is told to ask again, and it ends with 0; the call stands."""
    await away.start(street, name)
    outside = await nats.connect(private_server.url)
    await request(outside, f"regrow.api.{name}.sell", b'{"item":"a"}')
    pid = await holder(away.bus, name)
    waiting = asyncio.ensure_future(outside.request(f"regrow.api.{name}.queue", b'{"item":"b"}', timeout=30))
    assert (await request(outside, f"regrow.api.{name}.sell", b'{"item":"c"}')).data in (b"2", b"3")

    async def all_called() -> bool:
        return await called(away.bus, away.app, pid) == 3

    await eventually(all_called, "the call that waits")
    await asyncio.to_thread(alone.stop)
    told = await waiting
    assert told.headers is not None
    assert told.headers["Nats-Service-Error-Code"] == "503"
    assert alone.process is not None
    assert alone.process.returncode == 0
    await alone.start_async()
    assert (await request(outside, f"regrow.api.{name}.sell", b'{"item":"d"}')).data == b"4"
    await outside.close()
