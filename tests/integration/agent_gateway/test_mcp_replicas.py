"""The MCP door when gateways are killed, and when several share their agents: a client notices but a pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from mcpkit import ByHand, Owned, connected, owned, said
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway

Until = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def replicas(nats_url: str) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways on one port."""
    first = Gateway(nats_url)
    second = Gateway(nats_url, port=first.port)
    try:
        first.start()
        second.start()
        yield first, second
    finally:
        first.close()
        second.close()


@pytest_asyncio.fixture
async def agent(replicas: tuple[Gateway, Gateway], rt: Runtime) -> AsyncIterator[Owned]:
    """An agent whose owner serves all tools."""
    for each in replicas:
        if each.process is None or each.process.poll() is not None:
            await each.start_async()
    yield await owned(rt)


async def test_replicas_share_a_client_without_knowing_its_session(agent: Owned) -> None:
    """Each request may come to another one; calls made at once are all answered."""
    async with connected(agent.enrolled) as client:
        answers = await asyncio.gather(*(client.call_tool("add", {"a": n, "b": n}) for n in range(40)))
        assert [said(each) for each in answers] == [str(2 * n) for n in range(40)]
    assert sorted(await agent.called()) == [["add", n, n] for n in range(40)]


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_calls_outlive_the_gateway_that_they_came_to(
    agent: Owned, replicas: tuple[Gateway, Gateway], how: str
) -> None:
    """Whichever goes, be it in good order, the client asks the other one, and the tool is run once."""
    async with connected(agent.enrolled) as client:
        calls = [asyncio.ensure_future(client.call_tool("patient", {"seconds": 100 + n})) for n in range(8)]
        while len(await agent.called()) < len(calls):
            await asyncio.sleep(0.02)
        for each in replicas:
            await asyncio.to_thread(getattr(each, how))
            if how == "kill" or each is replicas[0]:
                await each.start_async()
        await agent.release()
        assert [said(each) for each in await asyncio.gather(*calls)] == ["done"] * len(calls)
        assert said(await client.call_tool("echo", {"text": "on"})) == "on"
    assert len(await agent.called()) == len(calls) + 1


async def test_an_answer_of_which_nothing_came_is_not_lost(
    agent: Owned, replicas: tuple[Gateway, Gateway], http: httpx.AsyncClient
) -> None:
    """A harness that makes its call again with the model's own id gets what was recorded meanwhile."""
    client = ByHand(http, agent.enrolled)
    call = {"seconds": 100}
    broken = asyncio.ensure_future(client.call(1, "patient", call, callId="call_1"))
    while not await agent.called():
        await asyncio.sleep(0.01)
    for each in replicas:
        await asyncio.to_thread(each.kill)
    with pytest.raises(httpx.TransportError):
        await broken
    await agent.release()
    await replicas[0].start_async()
    answer = await client.call(2, "patient", call, callId="call_1")
    assert answer["content"][0]["text"] == "done"
    assert await agent.called() == [["patient", 100]]
