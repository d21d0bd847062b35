"""The store goes and comes back under the gateway, and very many agents come back at once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import regrow.testing
import websockets
from agentkit import Socket, owned
from gatewaykit import Caller, tool
from regrow.testing.gateways import Gateway
from regrow_protocol.agents import Send
from regrow_protocol.server import NatsServer

STORM = 200


@pytest.mark.timeout(120)
async def test_nothing_is_lost_when_nats_restarts_under_calls(
    private_server: NatsServer, http: httpx.AsyncClient
) -> None:
    """Calls that were under way are answered over the connection that stands; messages arrive; new calls go on."""
    gateway = Gateway(private_server.url)
    try:
        await gateway.start_async()
        async with regrow.testing.runtime(url=private_server.url, skip_time=False) as rt:
            process, caller, agent = await owned(rt)
            async with Socket(agent) as it:
                for n in range(8):
                    await it.say(type="call", id=f"p{n}", tool="patient", args={"seconds": 0.5 + n / 10})
                async with asyncio.timeout(20):
                    while len(await process.call("called")) < 8:
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(private_server.kill)
                await asyncio.sleep(0.8)  # answers come due while nobody can store them
                await asyncio.to_thread(private_server.restart)
                for n in range(8):
                    assert (await it.next("result", id=f"p{n}"))["value"] == "done"
                seq = await caller.ask("send", Send("still there?"), agent.id)
                assert (await it.next("message"))["seq"] == seq
                assert (await it.call("after", "add", a=1, b=2))["value"] == 3
            assert len(await process.call("called")) == 9
    finally:
        gateway.close()


@pytest.mark.timeout(120)
async def test_a_storm_of_agents_that_come_back_is_weathered(nats_url: str, caller: Caller) -> None:
    """200 agents, cut at once by the end of their gateway, are all back with the next one, and hear what was said."""
    gateway = Gateway(nats_url)
    try:
        await gateway.start_async()
        agents = await asyncio.gather(*[caller.enrol(f"a{n}", tool("t")) for n in range(STORM)])
        agents = [type(each)(each.id, f"{gateway.url}/agents/{each.id}", each.token) for each in agents]

        async def live(agent: Any) -> str:
            while True:
                try:
                    async with Socket(agent, open_timeout=30) as it:
                        return (await it.next("message"))["text"]
                except (OSError, websockets.WebSocketException, TimeoutError):
                    await asyncio.sleep(0.05)

        living = [asyncio.create_task(live(agent)) for agent in agents]
        async with asyncio.timeout(90):
            connected = f'regrow_agent_connections{{door="websocket"}} {STORM}.0'
            while connected not in await asyncio.to_thread(gateway.metrics):
                await asyncio.sleep(0.05)
            gateway.kill()
            await gateway.start_async()
            sent = [await caller.send(caller.command("send", Send(agent.id)), agent.id) for agent in agents]
            assert await asyncio.gather(*living) == [agent.id for agent in agents]
            await asyncio.gather(*[caller.answer(each) for each in sent])
    finally:
        gateway.close()
