"""Agents of which nothing is heard, and agents whose owners hear of them."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import httpx
import pytest
from agentkit import bearer, owned
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway


async def news(process: Any, most: int) -> list[str]:
    """What the owner has heard, once it is so many."""
    async with asyncio.timeout(45):
        while True:
            heard = [e.data["what"] async for e in process.events(follow=False) if e.type == "news"]
            if len(heard) >= most:
                return heard
            await asyncio.sleep(0.02)


async def test_silence_is_told_once_and_again_after_the_next_sign_of_life(
    gateway: Gateway, rt: Runtime, http: httpx.AsyncClient
) -> None:
    """`stalled` comes `stall_after` seconds after the last turn; a turn begins it anew."""
    process, caller, agent = await owned(rt, stall_after=1.0)
    turn = {"type": "turn", "data": {"state": "ended"}}
    for turns in (1, 2):
        assert (await http.post(f"{agent.url}/entries", json=turn, headers=bearer(agent))).status_code == 200
        async with asyncio.timeout(30):
            while (types := [entry.type for entry in await caller.conversation(agent.id)])[-1] != "stalled":
                await asyncio.sleep(0.02)
        assert types[0] == "registered"
        assert types.count("turn") == turns
        assert ("stalled", "stalled") not in pairwise(types)
        told = [type_ for type_ in types if type_ != "turn"]
        assert await news(process, len(told)) == told


@pytest.mark.timeout(120)
async def test_silence_that_no_gateway_saw_is_told_by_the_next_one(
    nats_url: str, private_server: Any, http: httpx.AsyncClient
) -> None:
    """All were away when the key expired; two that come back tell it once."""
    import regrow.testing

    url = private_server.url
    first = Gateway(url)
    both = [first, Gateway(url, port=first.port)]
    try:
        await first.start_async()
        async with regrow.testing.runtime(url=url, skip_time=False) as rt:
            process, caller, agent = await owned(rt, stall_after=1.0)
            assert (await http.get(f"{agent.url}/tools", headers=bearer(agent))).status_code == 200
            first.kill()
            async with asyncio.timeout(30):
                while await rt.bus.kv("regrow_agents").get(f"stall.{agent.id}") is not None:
                    await asyncio.sleep(0.02)
            await asyncio.gather(*[each.start_async() for each in both])
            assert await news(process, 2) == ["registered", "stalled"]
            assert len(await caller.conversation(agent.id, "stalled")) == 1
    finally:
        for each in both:
            each.close()


async def test_an_owner_that_watches_for_stalls_hears_of_turns(
    gateway: Gateway, rt: Runtime, http: httpx.AsyncClient
) -> None:
    """Once in so many seconds at the most."""
    process, caller, agent = await owned(rt, turns_every=3600.0)
    for state in ("started", "ended", "started"):
        turn = {"type": "turn", "data": {"state": state}}
        assert (await http.post(f"{agent.url}/entries", json=turn, headers=bearer(agent))).status_code == 200
    assert await news(process, 2) == ["registered", "turn"]
    assert len(await caller.conversation(agent.id, "turn")) == 3
