"""Tool calls of agents are carried out and answered once, whatever is killed: gateways, host, NATS, connections."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import websockets
from chaoskit import LONG, Stack, until
from msgspec import Raw
from regrow.testing.gateways import Gateway
from regrow_protocol import messages, streams, subjects
from regrow_protocol.agents import Enrol, Enrolled, Entry, Tool, conversation, enrol_subject
from regrow_protocol.ids import CLIENT, new_id
from regrow_protocol.messages import Command, Ref, Reply

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200 if LONG else 180)]

PROGRAM = Path(__file__).with_name("programs_agents.py")
AGENTS = 10
CALLS = 400 if LONG else 20
"""Of each agent."""
KILLS = 20 if LONG else 2
"""Of each kind."""
BETWEEN = (0.5, 3.0) if LONG else (0.2, 0.6)
WORK = Tool("work", "", Raw(b'{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'))


class Agent:
    """Calls one after another, comes back after every cut, and now and then is cut itself or calls again.

    Attributes:
        answers: by number of the call, all that came.
    """

    def __init__(self, enrolled: Enrolled) -> None:
        self.enrolled = enrolled
        self.answers: dict[int, set[str]] = {}

    async def run(self, go_on: Callable[[int], bool]) -> None:
        n = 0
        while go_on(n):
            try:
                await self._connection(n)
            except (OSError, websockets.WebSocketException, TimeoutError):
                await asyncio.sleep(0.02)
            while n in self.answers:
                n += 1

    async def _connection(self, n: int) -> None:
        url = self.enrolled.url.replace("http", "ws", 1) + "/ws"
        headers = {"authorization": f"Bearer {self.enrolled.token}"}
        async with websockets.connect(url, additional_headers=headers, proxy=None, open_timeout=5) as socket:
            for _ in range(random.randint(1, 10)):
                await self._call(socket, n)
                if random.random() < 0.2:
                    await self._call(socket, random.randint(0, n))
                n += 1
            if random.random() < 0.5:
                await socket.send(json.dumps({"type": "call", "id": str(n), "tool": "work", "args": {"n": n}}))
                socket.transport.abort()

    async def _call(self, socket: websockets.ClientConnection, n: int) -> None:
        await socket.send(json.dumps({"type": "call", "id": str(n), "tool": "work", "args": {"n": n}}))
        async with asyncio.timeout(20):
            while True:
                frame: dict[str, Any] = json.loads(await socket.recv())
                if frame["type"] == "error":
                    raise TimeoutError(frame["message"])
                if frame["type"] == "result" and frame["id"] == str(n):
                    self.answers.setdefault(n, set()).add(json.dumps(frame.get("value", frame.get("error"))))
                    return


async def enrol(stack: Stack, pid: str, n: int) -> Enrolled:
    """An agent of a process."""
    args = Raw(messages.encode(Enrol(name=f"agent {n}", harness="none", tools=[WORK])))
    id_ = new_id(CLIENT)
    command = Command(
        id=f"{id_}.1", app=stack.app, name="enrol", args=args, reply=subjects.reply(id_, 1), by=Ref(pid, 0, n + 1)
    )
    await stack.bus.publish(streams.COMMANDS, enrol_subject(stack.app), messages.encode(command), command.id)

    async def answered() -> Any:
        return await stack.bus.last(streams.REPLIES, command.reply)

    reply: Reply = messages.decode((await until(answered, "an enrolment")).data, Reply)
    assert isinstance(reply.value, Raw), reply.error
    return messages.decode(reply.value, Enrolled)


async def test_calls_are_carried_out_and_answered_once_whatever_is_killed(stack: Stack) -> None:
    """10 agents call; gateways, the host and NATS are killed, connections cut, calls repeated; each has one answer."""
    await stack.supervise()
    await stack.host(PROGRAM)
    first = Gateway(stack.server.url)
    gateways = [first, Gateway(stack.server.url, port=first.port)]
    try:
        await asyncio.gather(*[each.start_async() for each in gateways])
        process = await stack.start("owner")
        agents = [Agent(await enrol(stack, process.pid, n)) for n in range(AGENTS)]
        await process.call("serve", agents=[each.enrolled.id for each in agents], wait=True)

        async def kill_gateway() -> None:
            victim = random.choice(gateways)
            victim.kill()
            await victim.start_async()

        async def kill_nats() -> None:
            await stack.outage(random.uniform(0.1, 1.0))

        async def kill_host() -> None:
            await stack.kill(stack.last_host)
            await stack.host(PROGRAM)

        kinds: list[Callable[[], Awaitable[None]]] = [kill_gateway, kill_nats, kill_host]
        killing = True

        async def kill() -> None:
            nonlocal killing
            for do in random.sample(kinds * KILLS, len(kinds) * KILLS):
                await asyncio.sleep(random.uniform(*BETWEEN))
                await do()
            killing = False

        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            for agent in agents:
                group.create_task(agent.run(lambda n: killing or n < CALLS))

        expected = sorted([agent.enrolled.id, n] for agent in agents for n in agent.answers)
        counted = sorted(await process.call("called", timeout=60))
        assert [each for each in counted if each in expected] == expected
        assert len(counted) == len({tuple(each) for each in counted}), "no tool ran twice for one call"
        values = [answer for agent in agents for answers in agent.answers.values() for answer in answers]
        assert len(values) == len(set(values)) == len(expected), "each call has one answer, and no two have the same"
        assert all(json.loads(answer).count(":") == 1 for answer in values)
        for agent in agents:
            found = await stack.bus.history(streams.AGENTS, conversation(stack.app, agent.enrolled.id))
            results = [messages.decode(each.data, Entry) for each in found if ".result." in each.subject]
            assert len(results) == len({each.call for each in results})
    finally:
        for each in gateways:
            each.close()
