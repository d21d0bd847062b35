"""Agents on real services: a plain program as the harness; gateways, hosts and harnesses that are killed."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import regrow.testing
from regrow import (
    Agent,
    AgentLoss,
    AgentNotStarted,
    LocalImage,
    agent,
    agent_process,
    connect,
    current_runtime,
    done,
    emit,
    expose,
    machine,
    spawn,
    wait,
)
from regrow.outside import acting
from regrow.supervision.policy import Backoff
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway
from regrow.testing.managers import Manager
from regrow.testing.registries import Registry
from regrow_protocol.agents import AgentRecord
from regrow_protocol.machines import MachineRecord
from regrow_protocol.messages import decode

from .looking import event, until

pytestmark = pytest.mark.timeout(120)

HARNESS = Path(__file__).with_name("agent_harness.py")
QUICK = Backoff(initial=0.05)


@pytest.fixture(scope="module")
def gateway(nats_url: str) -> Iterator[Gateway]:
    """A gateway on the server of this worker."""
    made = Gateway(nats_url)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def manager(nats_url: str) -> Iterator[Manager]:
    """A manager on the server of this worker."""
    made = Manager(nats_url)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest_asyncio.fixture
async def rt(nats_url: str, gateway: Gateway, manager: Manager) -> AsyncIterator[Runtime]:
    """Real time, for harnesses take theirs."""
    async with regrow.testing.runtime(url=nats_url, skip_time=False) as runtime:
        yield runtime


def knock(url: str, token: str, path: str, data: Any = None) -> Any:
    """What a door answers."""
    body = json.dumps(data).encode() if data is not None else None
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def records(rt: Runtime, bucket: str, kind: Any, keys: str) -> list[Any]:
    """Records of the app in a bucket."""
    found = [decode(entry.value, kind) async for entry in rt.bus.kv(bucket).items(keys)]
    return [record for record in found if record.app == rt.app]


async def all_over(rt: Runtime) -> bool:
    """No agent of the app lives, and no machine."""
    agents = await records(rt, "regrow_agents", AgentRecord, "agent.*")
    machines = await records(rt, "regrow_machines", MachineRecord, "machine.*")
    return {a.state for a in agents} <= {"ended"} and {each.state for each in machines} <= {"stopped", "failed"}


async def program(name: str = "worker", mode: str = "echo", **options: Any) -> Agent:
    """An agent whose harness is `agent_harness.py`."""
    command = f"{sys.executable} {HARNESS} {mode}"
    return await agent(name, harness="command", options={"command": command}, backoff=QUICK, **options)


async def conduct(mode: str) -> Any:
    """Serve an agent until it calls `finish`."""
    worker = await program(mode=mode, restart="permanent")

    @worker.on("note")
    async def note(text: str) -> int:
        emit("note", text)
        return len(text)

    @worker.on("finish")
    async def finish(summary: str) -> str:
        """Done.

        Args:
            summary: what came of it.
        """
        done(summary)
        return "Recorded."

    @worker.on_lost
    async def lost(loss: AgentLoss) -> None:
        done(f"lost: {loss.reason}")

    @expose
    async def say(text: str) -> int:
        return await worker.send(text)

    @expose
    async def conversation() -> list[str]:
        return [each.type for each in await worker.events.so_far()]

    @expose
    async def signal(how: str) -> int:
        return (await worker.exec(f"kill -{how} $(cat pid)")).exit_code

    await worker.send("begin")
    return await wait()


@agent_process
async def replayed(mode: str) -> Any:
    return await conduct(mode)


@agent_process(resume="restart")
async def restarted(mode: str) -> Any:
    return await conduct(mode)


@pytest.mark.parametrize("type_", [replayed, restarted], ids=["replay", "restart"])
async def test_an_agent_works_and_is_ended(rt: Runtime, type_: Any) -> None:
    """It reads what it is sent, calls tools, and its call of `finish` ends the process, and with it all that it had."""
    process = await rt.start(type_, "echo")
    assert (await event(process, "note")).data == "begin"
    await process.call("say", text="more")
    await event(process, "note", 2)
    await until(lambda: _knows(process, {"message", "call", "result", "registered"}), "the conversation")
    await process.call("say", text="finish: ok")
    assert await process.result(30) == "ok"
    await until(lambda: all_over(rt), "agents and machines to end")


async def _knows(process: Any, types: set[str]) -> bool:
    return types <= set(await process.call("conversation"))


@pytest.mark.parametrize("type_", [replayed, restarted], ids=["replay", "restart"])
async def test_a_killed_harness_goes_on(rt: Runtime, type_: Any) -> None:
    """Killed in the middle, it is started again and reads on where it was."""
    process = await rt.start(type_, "echo")
    await event(process, "note")
    assert await process.call("signal", how="KILL") == 0
    await event(process, "agent_restarted")
    await process.call("say", text="finish: after all")
    assert await process.result(30) == "after all"
    await until(lambda: all_over(rt), "agents and machines to end")


async def test_hosts_and_gateways_may_die(rt: Runtime, gateway: Gateway) -> None:
    """A message sent while neither was there arrives; the harness is the same all the while."""
    process = await rt.start(replayed, "echo")
    await event(process, "note")
    await rt.kill_host()
    gateway.kill()
    saying = asyncio.ensure_future(process.call("say", text="one", timeout=60))
    await gateway.start_async()
    await saying
    assert (await event(process, "note", 2)).data == "one"
    await process.call("say", text="finish: ok")
    assert await process.result(30) == "ok"
    assert "agent_restarted" not in [e.type async for e in process.events()]


async def test_a_cancelled_process_ends_its_agent(rt: Runtime) -> None:
    """Harness, machine and token go with it."""
    process = await rt.start(replayed, "echo")
    await event(process, "note")
    await process.cancel()
    await until(lambda: all_over(rt), "agents and machines to end")


@agent_process
async def hopeless(mode: str, start_timeout: float) -> Any:
    try:
        await program(mode=mode, start_timeout=start_timeout)
    except AgentNotStarted as error:
        return [error.exit_code, str(error)]
    return "started"


@pytest.mark.parametrize(
    ("mode", "start_timeout", "text"),
    [("broken", 60, "no such thing here"), ("mute", 2, "did not come to the gateway")],
)
async def test_what_does_not_start_says_why(rt: Runtime, mode: str, start_timeout: float, text: str) -> None:
    """The error shows the exit code and the last output, and nothing is left."""
    code, shown = await rt.run(hopeless, mode, start_timeout)
    assert text in shown
    assert code == 3 or mode == "mute"
    await until(lambda: all_over(rt), "agents and machines to end")


@agent_process
async def mourning() -> str:
    losses: asyncio.Queue[AgentLoss] = asyncio.Queue()
    first = await program(mode="dying", restarts=1)
    first.on_lost(losses.put_nowait)
    loss = await losses.get()
    second = await program()
    await first.stop()
    assert current_runtime().agents == {"worker": second}
    return f"{loss.reason}, {loss.session} times"


async def test_one_that_keeps_dying_is_lost(rt: Runtime) -> None:
    """After its restarts the owner is told, and may make another one of that name."""
    assert await rt.run(mourning) == "it ended with exit code 5, 2 times"
    await until(lambda: all_over(rt), "agents and machines to end")


@agent_process
async def team() -> None:
    member = await agent("member", harness="none")
    tasks: list[str] = []

    @expose
    async def add(task: str) -> int:
        """Add a task."""
        tasks.append(task)
        await member.send(f"task {len(tasks)}: {task}")
        return len(tasks)

    @expose
    async def listed() -> list[str]:
        return tasks

    await wait()


@agent_process
async def lead() -> None:
    monitor = await agent("monitor", harness="none")
    pool = spawn(team)
    await pool.events.listen_for("agent_started")
    member = pool.agents["member"]
    connect(monitor, member, "forward")
    grant = await pool.attach(monitor, only=["add"], prefix="pool_")

    @expose
    async def doors() -> list[str]:
        return [monitor.url, monitor.token]

    @expose
    async def revoke() -> None:
        await grant.revoke()

    @expose
    async def heard() -> list[str]:
        return [each.data["text"] for each in await member.events.so_far() if each.type == "message"]

    await wait()


async def test_agents_reach_what_they_were_given(rt: Runtime, nats_url: str) -> None:
    """Endpoints of another process are tools until they are revoked; a connected agent hears what it is told."""
    registry = Registry(nats_url)
    try:
        await asyncio.to_thread(registry.start)
        process = await rt.start(lead)
        url, token = await process.call("doors", wait=True)

        async def call(tool: str, **args: str) -> Any:
            return await asyncio.to_thread(knock, url, token, f"/tools/{tool}", args)

        async def names() -> set[str]:
            return {tool["name"] for tool in (await asyncio.to_thread(knock, url, token, "/tools"))["tools"]}

        await until(lambda: _has(names, "pool_add", "message"), "the tools to be there")
        assert "pool_listed" not in await names()
        assert await call("pool_add", task="look") == 1
        assert await call("pool_listed") == 404
        await call("message", to="member", text="hurry")
        assert [text.partition(": ")[0] for text in await process.call("heard")][:1] == ["task 1"]
        assert any("hurry" in text for text in await process.call("heard"))
        await process.call("revoke")
        await until(lambda: _lacks(names, "pool_add"), "the grant to be gone")
        assert await call("pool_add", task="more") == 404
        await process.cancel()
        await until(lambda: all_over(rt), "the agents to end")
    finally:
        registry.close()


async def _has(names: Any, *wanted: str) -> bool:
    return set(wanted) <= await names()


async def _lacks(names: Any, name: str) -> bool:
    return name not in await names()


async def hello(name: str) -> str:
    """Greet.

    Args:
        name: of whom.
    """
    return f"hello {name}"


@agent_process
async def host_of_many(n: int) -> None:
    box = await machine(LocalImage())
    names = [f"a{i}" for i in range(n)]
    await asyncio.gather(*(agent(name, harness="none", tools=[hello]) for name in names))
    stopped = await program("stopped", machine=box)
    await stopped.stop()

    @expose
    async def doors() -> list[list[str]]:
        return [[each.url, each.token] for each in current_runtime().agents.values()]

    await wait()


async def test_a_hundred_agents_that_come_by_themselves(rt: Runtime) -> None:
    """Each door opens to its own token, shows its tools, and is closed when the process ends."""
    process = await rt.start(host_of_many, 100)
    doors = await process.call("doors", wait=True, timeout=60)
    assert len(doors) == 100
    url, token = doors[7]
    (tool,) = (await asyncio.to_thread(knock, url, token, "/tools"))["tools"]
    assert tool["schema"]["properties"]["name"]["description"] == "of whom."
    assert await asyncio.to_thread(knock, url, token, "/tools/hello", {"name": "you"}) == "hello you"
    assert await asyncio.to_thread(knock, url, doors[8][1], "/tools") == 401
    found = await records(rt, "regrow_agents", AgentRecord, "agent.*")
    (record,) = (each for each in found if each.name == "a7")
    async with acting(rt.client, rt.app):
        one = Agent.of(record)
        await one.send("from outside")
        said = [each.data for each in await one.events.so_far() if each.type == "message"]
        assert said == [{"text": "from outside", "sender": "operator"}]
    await process.cancel()
    await until(lambda: all_over(rt), "the agents to end")
    assert await asyncio.to_thread(knock, url, token, "/tools") in (401, 403)
