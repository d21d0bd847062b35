"""The WebSocket door: calls and messages over one connection, resumed after cuts; what is refused; slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from agentkit import Socket, bearer, owned
from gatewaykit import Caller, tool
from regrow.apps import ensure_app
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway
from regrow_agent_gateway.results import LOOK_FIRST
from regrow_protocol.agents import Connect, Enrolled, Relaunch, Send, Tools
from regrow_protocol.bus import Bus
from regrow_protocol.ids import PROCESS, new_id
from regrow_protocol.machines import MachineRef, Nothing

pytestmark = pytest.mark.usefixtures("gateway")
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


async def test_calls_messages_and_entries_go_over_one_connection(rt: Runtime) -> None:
    """Each is answered by its id, in whatever order that comes."""
    process, caller, agent = await owned(rt)
    async with Socket(agent) as it:
        hello = await it.next("hello")
        assert {each["name"] for each in hello["tools"]} == {"add", "echo", "fault", "patient"}
        assert hello["session"] == 1
        await it.say(type="call", id="slow", tool="patient", args={"seconds": 100})
        assert (await it.call("quick", "add", a=1, b=2))["value"] == 3
        assert (await it.call("wrong", "fault", why="so"))["error"]["message"] == "ValueError: so"
        await process.call("release")
        assert (await it.next("result", id="slow"))["value"] == "done"
        seq = await caller.ask("send", Send("hi", sender="boss"), agent.id)
        message = await it.next("message")
        assert (message["seq"], message["text"], message["sender"]) == (seq, "hi", "boss")
        await it.say(type="entry", entry={"type": "turn", "id": "t1", "data": {"state": "ended"}})
        assert (await it.next("ack", id="t1"))["seq"] > seq
        await it.say(type="ping", id=7)
        assert await it.next("pong", id=7)
    assert await process.call("called") == [["patient", 100], ["add", 1, 2], ["fault", "so"]]


async def test_after_a_cut_the_agent_goes_on_where_it_was(rt: Runtime) -> None:
    """Messages after the last that it has, and the answer to what it asked before; nothing is done twice."""
    process, caller, agent = await owned(rt)
    one = await caller.ask("send", Send("one"), agent.id)
    async with Socket(agent) as it:
        assert (await it.next("message"))["seq"] == one
        await it.say(type="call", id="c", tool="patient", args={"seconds": 0.6})
        it.socket.transport.abort()
    two = await caller.ask("send", Send("two"), agent.id)
    async with Socket(agent, after=one) as it:
        assert (await it.next("message"))["seq"] == two
        assert (await it.call("c", "patient", seconds=0.6))["value"] == "done"
    async with Socket(agent, after=two) as it:
        assert (await it.call("c", "patient", seconds=0.6))["value"] == "done"
        assert not [frame for frame in it.frames if frame["type"] == "message"]
    assert await process.call("called") == [["patient", 0.6]]


async def test_no_more_messages_come_than_the_agent_has_room_for(caller: Caller) -> None:
    """With a window, the next one comes when an earlier one is acknowledged."""
    agent = await caller.enrol("a")
    seqs = [await caller.ask("send", Send(str(n)), agent.id) for n in range(5)]
    async with Socket(agent, window=2) as it:
        await it.say(type="ping", id=1)
        await it.next("pong", id=1)
        assert [(await it.next("message"))["seq"] for _ in range(2)] == seqs[:2]
        for seq in seqs[:3]:
            assert not [frame for frame in it.frames if frame["type"] == "message"]
            await it.say(type="ack", seq=seq)
            assert (await it.next("message"))["seq"] == seqs[seqs.index(seq) + 2]


async def test_tools_that_are_given_later_reach_a_connected_agent(caller: Caller) -> None:
    """Its own, and those of a connection to another agent."""
    agent, other = await caller.enrol("a"), await caller.enrol("b")
    async with Socket(agent) as it:
        assert (await it.next("hello"))["tools"] == []
        await caller.ask("tools", Tools(1, [tool("add")]), agent.id)
        assert [each["name"] for each in (await it.next("tools"))["tools"]] == ["add"]
        await caller.ask("connect", Connect(other.id, "forward"), agent.id)
        assert [each["name"] for each in (await it.next("tools"))["tools"]] == ["add", "message"]
        assert (await it.call("m", "message", to="c", text="hi"))["error"]["code"] == "invalid-arguments"
        assert (await it.call("m2", "message", to="b", text="hi"))["value"] == "sent to b"
        assert (await it.call("m2", "message", to="b", text="hi"))["value"] == "sent to b"
    async with Socket(other) as it:
        assert (await it.next("hello"))["tools"] == [], "it was connected forward only"
        message = await it.next("message")
        assert (message["text"], message["sender"]) == ("hi", "a")
    assert len(await caller.conversation(other.id, "message")) == 1


async def test_an_app_may_have_any_name(bus: Bus) -> None:
    """Its answers are heard when they come, not found when they are looked for."""
    caller = Caller(bus, new_id("my shop/€."), new_id(PROCESS))
    await ensure_app(bus, caller.app)
    agent, other = await caller.enrol("a"), await caller.enrol("b ü")
    await caller.ask("connect", Connect(other.id), agent.id)
    async with Socket(agent) as it:
        assert (await it.call("m", "message", to="b ü", text="hi"))["value"] == "sent to b ü"
        took: list[float] = []
        while not took or (min(took) >= LOOK_FIRST and len(took) < 5):  # one may be slow for other reasons
            begun = time.monotonic()
            assert (await it.call(f"n{len(took)}", "message", to="b ü", text="hi"))["value"] == "sent to b ü"
            took.append(time.monotonic() - begun)
        assert min(took) < LOOK_FIRST


async def test_nobody_else_gets_in(caller: Caller) -> None:
    """No token, a wrong one, another agent's, an ended agent's, an old session's: refused before the upgrade."""
    machine = MachineRef("m_1", caller.app, "nowhere", "local")
    agent, other, over = [await caller.enrol(name) for name in ("a", "b", "c")]
    await caller.ask("stop", Nothing(), over.id)
    again = await caller.enrol("d", machine=machine, harness="command", options={"command": "true"})
    await caller.ask("relaunch", Relaunch(1), again.id)

    async def status(url: str, headers: dict[str, str]) -> int:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url.replace("http", "ws", 1), additional_headers=headers, proxy=None)
        assert json.loads(refused.value.response.body)["error"]["message"]
        return refused.value.response.status_code

    assert await status(f"{agent.url}/ws", {}) == 401
    assert await status(f"{agent.url}/ws", {"authorization": "Bearer rga_x"}) == 401
    assert await status(f"{agent.url}/ws", bearer(other)) == 401
    assert await status(f"{over.url}/ws", bearer(over)) == 403
    assert await status(f"{again.url}/ws?session=1", bearer(again)) == 409
    assert await status(f"{agent.url}/ws?after=-1", bearer(agent)) == 400
    offered = [websockets.Subprotocol("regrow"), websockets.Subprotocol(agent.token)]
    async with websockets.connect(f"{agent.url.replace('http', 'ws')}/ws", subprotocols=offered, proxy=None) as it:
        assert it.subprotocol == "regrow"


async def test_an_agent_that_has_ended_or_is_started_again_is_told_and_let_go(caller: Caller) -> None:
    """With a reason in a frame and in the close."""
    machine = MachineRef("m_1", caller.app, "nowhere", "local")
    agent = await caller.enrol("a", machine=machine, harness="command", options={"command": "true"})
    async with Socket(agent, session=1) as it:
        await caller.ask("relaunch", Relaunch(1), agent.id)
        assert (await it.next("bye"))["code"] == "session-over"
        await it.socket.wait_closed()
        assert it.socket.close_code == 4001
    async with Socket(agent, session=2) as it:
        await caller.ask("stop", Nothing(), agent.id)
        assert (await it.next("bye"))["code"] == "agent-ended"


async def test_broken_frames_harm_nobody(caller: Caller, rt: Runtime) -> None:
    """What is no frame ends the connection; a frame that asks for nonsense is answered; the others go on."""
    _, _, good = await owned(rt)
    agent = await caller.enrol("a")
    async with Socket(good) as steady:
        for wrong in ("", "{", "[]", "7", b"\x00\xff", "[" * 200_000):
            async with Socket(agent) as it:
                await it.socket.send(wrong)
                assert (await it.next("error"))["code"] == "invalid-request"
                await it.socket.wait_closed()
                assert it.socket.close_code == 4002
        async with Socket(agent) as it:
            for frame in (
                {},
                {"type": "dance"},
                {"type": "call"},
                {"type": "call", "id": 7, "tool": "x"},
                {"type": "call", "id": "a", "tool": 7},
                {"type": "call", "id": "a", "tool": "x", "args": []},
                {"type": "entry", "entry": {"type": "call", "data": {}}},
                {"type": "entry", "entry": {"type": "text", "data": 7}},
            ):
                await it.say(**frame)
                assert (await it.next("error"))["code"] == "invalid-request"
            assert (await it.call("c", "nothing"))["error"]["code"] == "tool-not-found"
        async with Socket(agent) as it:
            await it.next("hello")
            with contextlib.suppress(websockets.ConnectionClosed):
                await it.socket.send("x" * (10 * 1024 * 1024))
            await it.socket.wait_closed()
            assert it.socket.close_code in (1009, 1006), "too big; a reset may overtake the reason"
        assert (await steady.call("one", "add", a=1, b=1))["value"] == 2


@pytest.fixture(scope="module")
def strict(nats_url: str) -> Iterator[Gateway]:
    """A gateway with little patience and room."""
    env = {"REGROW_GATEWAY_MAX_CALLS": "2", "REGROW_GATEWAY_SLOW": "0.5", "REGROW_GATEWAY_HEARTBEAT": "60"}
    made = Gateway(nats_url, env=env)
    try:
        made.start()
        yield made
    finally:
        made.close()


def at(gateway: Gateway, agent: Enrolled) -> Enrolled:
    """An agent whose doors are at another gateway."""
    return Enrolled(agent.id, f"{gateway.url}/agents/{agent.id}", agent.token)


async def test_one_agent_may_not_have_too_many_calls_under_way(strict: Gateway, rt: Runtime) -> None:
    """What is more is refused at once, to be called again, and is not done."""
    process, _, agent = await owned(rt)
    async with Socket(at(strict, agent)) as it:
        for number in range(3):
            await it.say(type="call", id=str(number), tool="patient", args={"seconds": 100})
        assert (await it.next("error", id="2"))["code"] == "too-many"
        await process.call("release")
        assert (await it.next("result", id="0"))["value"] == "done"
        assert (await it.next("result", id="1"))["value"] == "done"
        assert (await it.call("2", "patient", seconds=100))["value"] == "done"
    assert len(await process.call("called")) == 3


@pytest.mark.parametrize(
    ("door", "path", "headers"),
    [("websocket", "ws", UPGRADE), ("http", "messages", "Accept: text/event-stream\r\n")],
    ids=["websocket", "events"],
)
async def test_a_slow_reader_is_cut_and_resumes(
    strict: Gateway, caller: Caller, until: Any, door: str, path: str, headers: str
) -> None:
    """What it does not take waits in the stream, not in memory; it is cut without a farewell, and loses nothing."""
    agent = at(strict, await caller.enrol("a"))
    url = urllib.parse.urlsplit(agent.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((url.hostname, url.port))
        slow.sendall(
            f"GET {url.path}/{path} HTTP/1.1\r\nHost: x\r\n{headers}"
            f"Authorization: Bearer {agent.token}\r\n\r\n".encode()
        )
        sent = [await caller.send(caller.command("send", Send("x" * 100_000)), agent.id) for _ in range(100)]
        seqs = sorted([await caller.answer(each) for each in sent])
        cut = f'regrow_agent_connections_cut_total{{door="{door}"}} 1.0'
        await until(lambda: cut in strict.metrics(), "the cut")
    got: list[int] = []
    while len(got) < len(seqs):
        with contextlib.suppress(websockets.ConnectionClosed):  # cut again, where this test is slow, too
            async with Socket(agent, after=got[-1] if got else 0) as it:
                while len(got) < len(seqs):
                    got.append((await it.next("message"))["seq"])
    assert got == seqs


async def test_a_gateway_that_stops_says_so_and_the_agent_goes_on_elsewhere(nats_url: str, rt: Runtime) -> None:
    """Streams and sockets end with a reason; the call that was under way is answered by the next gateway."""
    gateway = Gateway(nats_url)
    process, _, agent = await owned(rt)
    try:
        await gateway.start_async()
        async with Socket(at(gateway, agent)) as it:
            await it.say(type="call", id="c", tool="patient", args={"seconds": 100})
            await it.next("hello")
            await asyncio.to_thread(gateway.stop)
            assert (await it.next("bye"))["code"] == "not-now"
            await it.socket.wait_closed()
            assert it.socket.close_code == 1012
        assert gateway.stop() == 0
        await process.call("release")
        async with Socket(agent) as it:
            assert (await it.call("c", "patient", seconds=100))["value"] == "done"
        assert await process.call("called") == [["patient", 100]]
    finally:
        gateway.close()
