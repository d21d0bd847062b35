"""Two gateways on one store and one port, killed at random while agents call tools and send each other messages."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import websockets
from agentkit import Socket, bearer, owned
from gatewaykit import Caller
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway
from regrow_protocol.agents import Connect, Enrolled, ReadConversation, Send, Tools
from regrow_protocol.bus import Bus

CALLS, AGENTS, FEW = 24, 4, 3
KILLS = (3, 9, 15)
"""Answers after which a gateway is killed."""


@pytest.fixture
def pair(nats_url: str) -> Iterator[list[Gateway]]:
    """Two replicas that share a port."""
    with ExitStack() as stack:
        first = Gateway(nats_url)
        both = [first, Gateway(nats_url, port=first.port)]
        for each in both:
            stack.callback(each.close)
        with ThreadPoolExecutor() as threads:
            list(threads.map(Gateway.start, both))
        yield both


async def kill_now_and_then(gateways: list[Gateway], agent: Persistent) -> None:
    """Kill one or the other whenever the agent has some more answers, at a random moment, and start it again."""
    for answers in KILLS:
        while len(agent.answers) < answers:
            await asyncio.sleep(0.005)
        await asyncio.sleep(random.uniform(0.0, 0.3))
        victim = random.choice(gateways)
        victim.kill()
        await victim.start_async()


class Persistent:
    """An agent that comes back: it knows the last message that it has, and repeats what was not answered."""

    def __init__(self, agent: Enrolled) -> None:
        self.agent = agent
        self.after = 0
        self.messages: list[str] = []
        self.answers: dict[str, list[Any]] = {}

    async def call_all(self, calls: dict[str, tuple[str, dict[str, Any]]]) -> None:
        """Call until every call is answered, a few at a time."""
        while left := [id_ for id_ in calls if id_ not in self.answers]:
            try:
                async with Socket(self.agent, after=self.after) as it:
                    for id_ in left[:FEW]:
                        await it.say(type="call", id=id_, tool=calls[id_][0], args=calls[id_][1])
                    while not all(id_ in self.answers for id_ in left[:FEW]):
                        await self.take(it)
            except (OSError, websockets.WebSocketException):
                await asyncio.sleep(0.02)

    async def read(self, most: int) -> None:
        """Take messages until there are so many."""
        while len(self.messages) < most:
            try:
                async with Socket(self.agent, after=self.after) as it:
                    while len(self.messages) < most:
                        await self.take(it)
            except (OSError, websockets.WebSocketException):
                await asyncio.sleep(0.02)

    async def take(self, it: Socket) -> None:
        frame = json.loads(await it.socket.recv())
        if frame["type"] == "result":
            self.answers.setdefault(frame["id"], []).append(frame.get("value", frame.get("error")))
        elif frame["type"] == "message":
            self.after = frame["seq"]
            self.messages.append(frame["text"])


@pytest.mark.timeout(120)
async def test_every_call_is_answered_once_and_every_message_arrives_once(pair: list[Gateway], rt: Runtime) -> None:
    """Whatever gateway is killed: no tool runs twice for one call, no answer and no message is lost or doubled."""
    process, caller, first = await owned(rt)
    agents = [first] + [await caller.enrol(f"agent{n}") for n in range(1, AGENTS)]
    for agent in agents[1:]:
        await caller.ask("connect", Connect(first.id, "forward"), agent.id)
    here = [Persistent(agent) for agent in agents]
    killing = asyncio.create_task(kill_now_and_then(pair, here[0]))
    try:
        waits = {f"c{n}": ("patient", {"seconds": 0.2 + n / 1000}) for n in range(CALLS)}
        says = [
            {f"m{n}": ("message", {"to": "worker", "text": f"{each.agent.id} {n}"}) for n in range(CALLS)}
            for each in here[1:]
        ]
        async with asyncio.timeout(90):
            sent = [await caller.send(caller.command("send", Send(f"boss {n}")), first.id) for n in range(CALLS)]
            await asyncio.gather(
                here[0].call_all(waits), *[each.call_all(calls) for each, calls in zip(here[1:], says, strict=True)]
            )
            seqs = [await caller.answer(each) for each in sent]
            await here[0].read(AGENTS * CALLS)
            await killing
    finally:
        killing.cancel()
    assert here[0].answers == {f"c{n}": ["done"] for n in range(CALLS)}
    assert sorted(await process.call("called")) == sorted([name, args["seconds"]] for name, args in waits.values())
    assert all(answer == ["sent to worker"] for each in here[1:] for answer in each.answers.values())
    said = [f"{each.agent.id} {n}" for each in here[1:] for n in range(CALLS)] + [f"boss {n}" for n in range(CALLS)]
    assert sorted(here[0].messages) == sorted(said)
    assert len(set(seqs)) == CALLS
    entries = await caller.conversation(first.id)
    assert len([entry for entry in entries if entry.type == "message"]) == AGENTS * CALLS
    assert len([entry for entry in entries if entry.type == "registered"]) == 1
    news = [event.data async for event in process.events(follow=False) if event.type == "news"]
    assert [each["what"] for each in news] == ["registered"]


async def test_commands_that_are_in_hand_outlive_their_gateway(pair: list[Gateway], bus: Bus, caller: Caller) -> None:
    """A `read` that waits, and a `send` that waits for its tools, are answered by the other one."""
    agent = await caller.enrol("a")
    reading = await caller.send(caller.command("read", ReadConversation()), agent.id)
    sending = await caller.send(caller.command("send", Send("go", tools=1)), agent.id)
    for each in pair:
        each.kill()
        await each.start_async()
    await caller.ask("tools", Tools(1, []), agent.id)
    seq = await caller.answer(sending)
    page = await caller.answer(reading)
    assert [entry.seq for entry in page.entries] == [seq]


async def test_a_call_over_http_is_found_again_on_the_other_gateway(
    pair: list[Gateway], rt: Runtime, http: httpx.AsyncClient
) -> None:
    """The request fails with its gateway; the same call, made again, gets the answer."""
    process, _, agent = await owned(rt)
    headers = bearer(agent) | {"regrow-call": "one"}
    url = f"{agent.url}/tools/patient"
    calling = asyncio.create_task(http.post(url, json={"seconds": 100}, headers=headers))
    async with asyncio.timeout(30):
        while not await process.call("called"):
            await asyncio.sleep(0.01)
    for each in pair:
        each.kill()
    with pytest.raises(httpx.TransportError):
        await calling
    await process.call("release")
    await pair[1].start_async()
    answer = await http.post(url, json={"seconds": 100}, headers=headers)
    assert answer.json() == "done"
    assert await process.call("called") == [["patient", 100]]
